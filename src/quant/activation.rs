//! Activations in 8 bits: one format for the weights of every type.
//!
//! A row of `k` values becomes codes in -127..=127, one f32 scale for each [`GROUP`] of them
//! (`x = d * q`), and for each [`SUB`] the value `s = d * (sum of its codes)`, which meets the
//! weights' mins: `sum (scale*code - min) * x = scale*d * sum code*q - min*s`.

use super::SUB;
use crate::simd::Tier;

/// Activations that share a scale.
pub const GROUP: usize = 32;

/// Groups whose largest magnitude is below this count as zero: their scale would be denormal,
/// and its reciprocal might overflow.
const TINY: f32 = 1e-35;

/// One quantized activation row.
#[derive(Clone, Copy, Debug)]
pub struct Q8<'a> {
    /// `k` codes, -127..=127; `k` is a multiple of [`GROUP`].
    pub q: &'a [i8],
    /// `k / GROUP` scales. NaN or infinite where the group held such a value.
    pub d: &'a [f32],
    /// `k / SUB` values `d * (sum of the SUB codes)`.
    pub s: &'a [f32],
}

impl Q8<'_> {
    /// Panics unless the three parts belong together.
    pub(super) fn check(&self) {
        assert_eq!(self.q.len(), self.d.len() * GROUP, "activation scales");
        assert_eq!(self.q.len(), self.s.len() * SUB, "activation sums");
    }
}

/// Quantized activation rows, reused from step to step: it grows to the largest batch it has
/// seen and allocates no more after that.
#[derive(Clone, Debug, Default)]
pub struct Q8Buf {
    k: usize,
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<f32>,
}

impl Q8Buf {
    /// A buffer that can hold `elements` values (rows times their length) without allocating.
    pub fn with_capacity(elements: usize) -> Self {
        Self {
            k: 0,
            q: Vec::with_capacity(elements),
            d: Vec::with_capacity(elements / GROUP),
            s: Vec::with_capacity(elements / SUB),
        }
    }

    /// Bytes that [`Q8Buf::with_capacity`] allocates.
    pub const fn bytes(elements: usize) -> usize {
        elements + elements / GROUP * 4 + elements / SUB * 4
    }

    /// Makes room for `rows` rows of `k` values (contents are those of earlier use).
    ///
    /// # Panics
    /// If `k` is no multiple of [`GROUP`].
    pub fn resize(&mut self, rows: usize, k: usize) {
        assert!(k.is_multiple_of(GROUP), "activation rows of {k} are no multiple of {GROUP}");
        self.k = k;
        self.q.resize(rows * k, 0);
        self.d.resize(rows * k / GROUP, 0.0);
        self.s.resize(rows * k / SUB, 0.0);
    }

    /// Replaces the contents by the rows of `x`, each `k` long.
    ///
    /// # Panics
    /// If `k` is no multiple of [`GROUP`] or `x` no whole number of rows.
    pub fn quantize(&mut self, tier: Tier, x: &[f32], k: usize) {
        assert!(k > 0 && x.len().is_multiple_of(k));
        self.resize(x.len() / k, k);
        quantize(tier, x, &mut self.q, &mut self.d, &mut self.s);
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.q.len().checked_div(self.k).unwrap_or(0)
    }

    /// One row.
    ///
    /// # Panics
    /// If `i` is not below [`Q8Buf::rows`].
    pub fn row(&self, i: usize) -> Q8<'_> {
        let k = self.k;
        Q8 { q: &self.q[i * k..][..k], d: &self.d[i * k / GROUP..][..k / GROUP], s: &self.s[i * k / SUB..][..k / SUB] }
    }

    /// All rows' parts for writing with [`quantize`], so that several workers can fill them.
    pub fn parts_mut(&mut self) -> (&mut [i8], &mut [f32], &mut [f32]) {
        (&mut self.q, &mut self.d, &mut self.s)
    }
}

/// Quantizes `x` (one row or several, back to back) into codes, scales and sums, laid out as
/// [`Q8`] says. Every tier gives the same bits: `d = amax / 127`, codes rounded to nearest even.
///
/// A group that is zero or below 1e-35 gets zeros; one with NaN or infinity gets zero codes and
/// a scale that is not finite, so that every dot over it is NaN.
///
/// # Panics
/// If the lengths do not fit: `q` as long as `x`, `d` a 32nd, `s` a 16th of it.
pub fn quantize(_tier: Tier, x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
    assert!(x.len().is_multiple_of(GROUP) && q.len() == x.len());
    assert!(d.len() * GROUP == x.len() && s.len() * SUB == x.len());
    quantize_scalar(x, q, d, s);
}

fn quantize_scalar(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
    for (((x, q), d), s) in groups.zip(d).zip(s.as_chunks_mut::<{ GROUP / SUB }>().0) {
        // As integers, magnitudes of floats order as the floats do, with NaN above infinity.
        let amax = f32::from_bits(x.iter().map(|v| v.to_bits() & 0x7fff_ffff).fold(0, u32::max));
        *d = if amax < TINY { 0.0 } else { amax / 127.0 };
        let factor = if amax.is_finite() && amax >= TINY { 127.0 / amax } else { 0.0 };
        for (q, x) in q.iter_mut().zip(x) {
            *q = if factor == 0.0 { 0 } else { (x * factor).round_ties_even() as i8 };
        }
        for (s, q) in s.iter_mut().zip(q.as_chunks::<SUB>().0) {
            *s = *d * q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_tiers(x: &[f32]) -> Q8Buf {
        let mut scalar = Q8Buf::default();
        scalar.quantize(Tier::Scalar, x, x.len());
        for tier in Tier::available() {
            let mut other = Q8Buf::default();
            other.quantize(tier, x, x.len());
            assert_eq!(other.q, scalar.q, "{}", tier.name());
            let bits = |v: &[f32]| v.iter().map(|v| if v.is_nan() { 1 } else { v.to_bits() }).collect::<Vec<_>>();
            assert_eq!(bits(&other.d), bits(&scalar.d), "{}", tier.name());
            assert_eq!(bits(&other.s), bits(&scalar.s), "{}", tier.name());
        }
        scalar
    }

    #[test]
    fn codes_are_within_half_a_scale() {
        for size in [1e-20_f32, 1e-3, 1.0, 3e8, 1e37] {
            let x: Vec<f32> = (0..256).map(|i| size * (((i * i % 97) as f32 - 40.0) / 57.0)).collect();
            let buf = all_tiers(&x);
            let row = buf.row(0);
            for (i, x) in x.iter().enumerate() {
                let d = row.d[i / GROUP];
                assert!((x - d * f32::from(row.q[i])).abs() <= 0.5001 * d, "{x} at {i}");
            }
            assert!(row.q.iter().any(|q| q.abs() == 127));
            for (i, (s, q)) in row.s.iter().zip(row.q.chunks(SUB)).enumerate() {
                let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                assert_eq!(*s, row.d[i / 2] * sum as f32);
            }
        }
    }

    #[test]
    fn halves_go_to_even() {
        let mut x = [0.0; 32];
        x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        assert_eq!(all_tiers(&x).q[..6], [127, 0, 2, 2, 0, -2]);
    }

    #[test]
    fn sums_are_of_their_sixteen() {
        let mut x = [0.0; 64];
        x[..16].fill(1.0);
        x[16..32].fill(-0.5);
        x[63] = 2.0;
        let buf = all_tiers(&x);
        let expected = [16.0, -8.0, 0.0, 2.0];
        for (s, e) in buf.s.iter().zip(expected) {
            assert!((s - e).abs() < 0.1, "{s} is not {e}");
        }
    }

    #[test]
    fn extremes() {
        let zero = all_tiers(&[0.0; 32]);
        assert!(zero.q.iter().all(|q| *q == 0) && zero.d[0] == 0.0 && zero.s == [0.0; 2]);
        for tiny in [f32::from_bits(1), 1e-40, 9e-36] {
            let buf = all_tiers(&[tiny; 32]);
            assert!(buf.q.iter().all(|q| *q == 0) && buf.d[0] == 0.0, "{tiny:e}");
        }
        let large = all_tiers(&[f32::MAX; 32]);
        assert!(large.q.iter().all(|q| *q == 127) && large.d[0].is_finite());
        let small = all_tiers(&[-2e-35; 32]);
        assert!(small.q.iter().all(|q| *q == -127) && small.d[0].is_normal());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 64];
            x[5] = bad;
            let buf = all_tiers(&x);
            assert!(buf.q[..32].iter().all(|q| *q == 0) && !buf.d[0].is_finite() && buf.s[0].is_nan());
            assert!(buf.q[32..].iter().all(|q| *q == 127) && buf.d[1].is_finite());
        }
    }

    #[test]
    fn rows_of_a_buffer() {
        let x: Vec<f32> = (0..192).map(|i| (i / 64 + 1) as f32).collect();
        let mut buf = Q8Buf::with_capacity(192);
        let start = buf.q.as_ptr();
        buf.quantize(Tier::Scalar, &x, 64);
        assert!(buf.rows() == 3 && buf.q.as_ptr() == start);
        for i in 0..3 {
            let row = buf.row(i);
            assert_eq!((row.q.len(), row.d.len(), row.s.len()), (64, 2, 4));
            assert!((row.d[1] * 127.0 - (i + 1) as f32).abs() < 1e-5);
        }
        assert_eq!(Q8Buf::bytes(192), 192 + 6 * 4 + 12 * 4);
    }
}
