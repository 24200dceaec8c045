//! Passes over a row of logits, written so that the compiler vectorizes them: largest, the k
//! largest, and sums of exponentials.
//!
//! A vocabulary has up to 262,144 tokens and this runs once for each token generated, so that a
//! sort, or a library exponential for each logit, would cost more than the rest of the engine.

/// Logits that share one maximum or one sum.
const BLOCK: usize = 64;
const LANES: usize = 16;
/// Parts of a logit's unit that [`Scratch::nucleus`] tells apart.
const FINENESS: f32 = 32.0;
/// Distances from the largest that it looks at: beyond 24 a token weighs less than 4e-11.
const N_DISTANCES: usize = 24 * FINENESS as usize;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scored {
    pub(super) logit: f32,
    pub(super) token: u32,
}

/// Memory that is reused from token to token.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// One number for each block of logits.
    per_block: Vec<f32>,
    order: Vec<f32>,
    /// Weight of the logits at each distance from the largest.
    distances: Vec<f64>,
    /// Result of [`Scratch::top`] and [`Scratch::nucleus`].
    pub(super) best: Vec<Scored>,
}

impl Scratch {
    pub(super) fn new(n_vocab: usize) -> Self {
        let n = n_vocab.div_ceil(BLOCK);
        Self {
            per_block: Vec::with_capacity(n),
            order: Vec::with_capacity(n),
            distances: vec![0.0; N_DISTANCES],
            best: Vec::with_capacity(n_vocab),
        }
    }

    /// Puts the `k` largest logits of the row into `best`, largest first, ties by lower token.
    /// Logits that are NaN or minus infinity are never among them.
    pub(super) fn top(&mut self, row: &[f32], k: usize) {
        self.best.clear();
        if k == 0 {
            return;
        }
        self.per_block.clear();
        self.per_block.extend(row.chunks(BLOCK).map(max));
        // The k-th largest of the blocks' maxima: at least k logits are as large.
        let mut threshold = f32::NEG_INFINITY;
        if k <= self.per_block.len() {
            self.order.clear();
            self.order.extend_from_slice(&self.per_block);
            threshold = *self.order.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1;
        }
        self.collect(row, threshold);
        if self.best.len() > k {
            self.best.select_nth_unstable_by(k - 1, descending);
            self.best.truncate(k);
        }
        self.best.sort_unstable_by(descending);
    }

    /// Puts the largest logits into `best` like [`Scratch::top`]: as many as weigh `enough`
    /// together (sum of `exp(logit - max)`), and a few more.
    pub(super) fn nucleus(&mut self, row: &[f32], max: f32, enough: f64) {
        self.distances.fill(0.0);
        for &x in row {
            // NaN becomes 0 here, and weighs nothing.
            let distance = ((max - x) * FINENESS) as usize;
            if let Some(sum) = self.distances.get_mut(distance) {
                *sum += f64::from(exp(x - max));
            }
        }
        let mut rest = enough;
        let last = self.distances.iter().position(|&sum| {
            rest -= sum;
            rest <= 0.0
        });
        let floor = last.map_or(f32::NEG_INFINITY, |i| max - (i + 1) as f32 / FINENESS);
        self.best.clear();
        self.per_block.clear();
        self.per_block.extend(row.chunks(BLOCK).map(self::max));
        self.collect(row, floor);
        self.best.sort_unstable_by(descending);
    }

    /// Adds the logits from `threshold` on to `best`; `per_block` has the blocks' maxima.
    fn collect(&mut self, row: &[f32], threshold: f32) {
        for (i, block) in row.chunks(BLOCK).enumerate() {
            if self.per_block[i] >= threshold {
                for (j, &logit) in block.iter().enumerate() {
                    if logit >= threshold && logit > f32::NEG_INFINITY {
                        self.best.push(Scored { logit, token: (i * BLOCK + j) as u32 });
                    }
                }
            }
        }
    }

    /// Draws a token with probability in proportion to `exp((logit - max) * scale)`, among those
    /// with a logit of at least `floor`; `u` in [0, 1) decides.
    pub(super) fn draw(&mut self, row: &[f32], max: f32, scale: f32, floor: f32, u: f64) -> Option<u32> {
        self.per_block.clear();
        self.per_block.extend(row.chunks(BLOCK).map(|b| sum_block(b, max, scale, floor)));
        let total: f64 = self.per_block.iter().map(|&s| f64::from(s)).sum();
        let mut rest = u * total;
        let mut last = None;
        for (i, block) in row.chunks(BLOCK).enumerate() {
            let sum = f64::from(self.per_block[i]);
            if sum == 0.0 {
                continue;
            }
            if rest < sum {
                for (j, &x) in block.iter().enumerate() {
                    let w = weight(x, max, scale, floor);
                    if w > 0.0 {
                        last = Some((i * BLOCK + j) as u32);
                        rest -= f64::from(w);
                        if rest < 0.0 {
                            return last;
                        }
                    }
                }
                // The lanes of the sum rounded differently: the last one it is.
                return last;
            }
            rest -= sum;
            let at = block.iter().rposition(|&x| weight(x, max, scale, floor) > 0.0);
            last = at.map(|j| (i * BLOCK + j) as u32).or(last);
        }
        last
    }
}

fn descending(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The largest number of the row; NaN counts as nothing, an empty row gives minus infinity.
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |m: f32, x: f32| if x > m { x } else { m };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (m, &x) in lanes.iter_mut().zip(chunk) {
            *m = larger(*m, x);
        }
    }
    let m = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    rest.iter().copied().fold(m, larger)
}

/// Where `x` is first in the row.
pub(super) fn first(row: &[f32], x: f32) -> Option<usize> {
    // A block is looked at as a whole, without a question for each logit.
    let has = |block: &[f32]| block.iter().fold(false, |found, &y| found | (y == x));
    let start = BLOCK * row.chunks(BLOCK).position(has)?;
    Some(start + row[start..].iter().position(|&y| y == x)?)
}

/// Sum of `exp(logit - max)` over the row, where `max` is its largest.
pub(super) fn sum_exp(row: &[f32], max: f32) -> f64 {
    row.chunks(BLOCK).map(|b| f64::from(sum_block(b, max, 1.0, f32::NEG_INFINITY))).sum()
}

fn sum_block(block: &[f32], max: f32, scale: f32, floor: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (s, &x) in lanes.iter_mut().zip(chunk) {
            *s += weight(x, max, scale, floor);
        }
    }
    lanes.into_iter().sum::<f32>() + rest.iter().map(|&x| weight(x, max, scale, floor)).sum::<f32>()
}

#[inline(always)]
fn weight(x: f32, max: f32, scale: f32, floor: f32) -> f32 {
    let w = exp((x - max) * scale);
    if x >= floor { w } else { 0.0 }
}

/// `e^x` for `x <= 0`, within 2 units in the last place; 0 below -87 (where a result would not be
/// a normal number) and for NaN. Cephes' `expf` (Moshier): reduce by ln 2, a polynomial of degree 5.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a call.
    const ROUND: f32 = 12_582_912.0;
    let c = if x > LOWEST { x } else { LOWEST };
    let n = (c * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = c - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = p * r * r + r + 1.0;
    // n is in -126 ..= 0: the sum is the exponent field of a normal number. The bits of
    // n + ROUND hold n, so that no float-to-integer conversion is needed.
    let bits = (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let e = y * f32::from_bits(bits);
    if x > LOWEST { e } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_is_exact_to_two_units() {
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(f32::NAN), exp(-100.0)), (1.0, 0.0, 0.0, 0.0));
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
        }
    }

    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            8 => -20f32..20.0,
            // Many ties.
            4 => (-3i32..3).prop_map(|i| i as f32),
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::NAN),
        ];
        prop::collection::vec(logit, 1..700)
    }

    proptest! {
        #[test]
        fn top_is_what_a_sort_gives(row in rows(), k in 0usize..200) {
            let mut want: Vec<Scored> = row.iter().enumerate()
                .map(|(i, &logit)| Scored { logit, token: i as u32 })
                .filter(|s| s.logit > f32::NEG_INFINITY)
                .collect();
            want.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
            want.truncate(k);
            let mut scratch = Scratch::new(row.len());
            scratch.top(&row, k);
            prop_assert_eq!(&scratch.best, &want);
            if k > 0 {
                prop_assert_eq!(max(&row), want.first().map_or(f32::NEG_INFINITY, |s| s.logit));
            }
        }

        #[test]
        fn nucleus_weighs_enough_and_little_more(row in rows(), share in 0f64..1.0) {
            let m = max(&row);
            prop_assume!(m.is_finite());
            let weight = |x: f32| if x.is_nan() { 0.0 } else { f64::from(x - m).exp() };
            let enough = share * row.iter().map(|&x| weight(x)).sum::<f64>();
            let mut scratch = Scratch::new(row.len());
            scratch.nucleus(&row, m, enough);
            let sums: Vec<f64> = scratch.best.iter().scan(0.0, |sum, s| { *sum += weight(s.logit); Some(*sum) }).collect();
            prop_assert!(sums[sums.len() - 1] >= enough * (1.0 - 1e-6));
            let n = sums.iter().position(|&s| s >= enough).unwrap_or(sums.len() - 1);
            let least = scratch.best[n].logit - 1.1 / FINENESS;
            prop_assert!(scratch.best.iter().all(|s| s.logit >= least));
            let best = scratch.best.clone();
            scratch.top(&row, best.len());
            prop_assert_eq!(best, scratch.best);
        }

        #[test]
        fn draw_follows_the_cumulative_sum(row in rows(), u in 0f64..1.0, scale in 0.2f32..3.0, share in 0f32..1.0) {
            let m = max(&row);
            prop_assume!(m.is_finite());
            let floor = m + share.ln();
            let weight = |x: f32| if x >= floor { f64::from((x - m) * scale).exp() } else { 0.0 };
            let total: f64 = row.iter().map(|&x| weight(x)).sum();
            let token = Scratch::new(row.len()).draw(&row, m, scale, floor, u).expect("a finite logit") as usize;
            let before: f64 = row[..token].iter().map(|&x| weight(x)).sum();
            prop_assert!(weight(row[token]) > 0.0);
            prop_assert!(before / total <= u + 1e-5 && (before + weight(row[token])) / total > u - 1e-5);
        }
    }
}
