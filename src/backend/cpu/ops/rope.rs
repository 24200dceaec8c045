//! Rotary position embeddings: angles once a step, then rotations.

use super::math::fma;
use super::{for_rows, tiered};
use crate::backend::cpu::workers::Team;
use crate::plan::op::{Rope, RopeStyle};

/// A rotary embedding ready to run: its angle a position, and the step's cosines and sines.
pub struct Rotation {
    style: RopeStyle,
    /// Pairs that turn.
    half: usize,
    /// Angle of each pair at position 1.
    angles: Vec<f64>,
    /// Factor of cosine and sine.
    magnitude: f64,
    /// For each token of the step `half` cosines, then `half` sines.
    table: Vec<f32>,
}

impl Rotation {
    /// Prepares `rope` for steps of up to `max_tokens` tokens; `factors` are the values of
    /// `rope.factors`.
    pub fn new(rope: &Rope, factors: Option<&[f32]>, max_tokens: usize) -> Self {
        let half = rope.n_rot / 2;
        Self {
            style: rope.style,
            half,
            angles: rope.angles(factors),
            magnitude: rope.magnitude(),
            table: vec![0.0; max_tokens * half * 2],
        }
    }

    /// Bytes of the table that [`Rotation::new`] allocates.
    pub fn bytes(rope: &Rope, max_tokens: usize) -> usize {
        max_tokens * (rope.n_rot / 2) * 2 * size_of::<f32>()
    }

    /// Computes cosines and sines for the positions of a step's tokens.
    pub fn prepare(&mut self, team: &mut Team<'_>, positions: &[u32]) {
        let (half, angles, magnitude) = (self.half, &self.angles, self.magnitude);
        let table = &mut self.table[..positions.len() * half * 2];
        // A sine and a cosine in f64 cost some hundred additions.
        for_rows(team, table, half * 2, 100, |row, table| {
            for (token, &position) in table.chunks_exact_mut(half * 2).zip(&positions[row..]) {
                let (cos, sin) = token.split_at_mut(half);
                for ((c, s), angle) in cos.iter_mut().zip(sin).zip(angles) {
                    let (sine, cosine) = (angle * f64::from(position)).sin_cos();
                    *c = (cosine * magnitude) as f32;
                    *s = (sine * magnitude) as f32;
                }
            }
        });
    }

    /// Rotates each head of `x`, rows of `width` made of heads of `head_dim`, for the tokens of
    /// the last [`Rotation::prepare`].
    pub fn rotate(&self, team: &mut Team<'_>, x: &mut [f32], width: usize, head_dim: usize) {
        let (tier, half) = (team.tier(), self.half);
        let kernel = match self.style {
            RopeStyle::Halves => rotate_halves,
            RopeStyle::Pairs => rotate_pairs,
        };
        for_rows(team, x, width, 4, |row, x| {
            for (t, x) in x.chunks_exact_mut(width).enumerate() {
                let (cos, sin) = self.table[(row + t) * half * 2..][..half * 2].split_at(half);
                for head in x.chunks_exact_mut(head_dim) {
                    kernel(tier, &mut head[..2 * half], cos, sin);
                }
            }
        });
    }
}

tiered!(
    /// Turns the pairs `(x[i], x[i + n/2])`.
    fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_halves_body
);

#[inline(always)]
fn rotate_halves_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = fma::<FUSED>(x, *c, -(y * s));
        *b = fma::<FUSED>(x, *s, y * c);
    }
}

tiered!(
    /// Turns the pairs `(x[2i], x[2i + 1])`.
    fn rotate_pairs(x: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_pairs_body
);

#[inline(always)]
fn rotate_pairs_body<const FUSED: bool>(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (([a, b], c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = fma::<FUSED>(x, *c, -(y * s));
        *b = fma::<FUSED>(x, *s, y * c);
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::super::testing::{each_team, random, worst};
    use super::*;
    use crate::plan::op::Yarn;

    fn rope(style: RopeStyle, yarn: Option<Yarn>) -> Rope {
        Rope {
            style,
            n_rot: 24,
            freq_base: 10_000.0,
            freq_scale: if yarn.is_some() { 0.25 } else { 0.5 },
            factors: None,
            yarn,
            attn_factor: 1.1,
        }
    }

    const YARN: Yarn = Yarn { original_context: 4096, ext_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0 };

    /// ggml's `rope_yarn`, in f64, for pair `i` at position `pos`: angle and magnitude.
    fn reference(r: &Rope, factors: Option<&[f32]>, pos: f64, i: usize) -> (f64, f64) {
        let base = f64::from(r.freq_base);
        let n = r.n_rot as f64;
        let extrapolated = pos * base.powf(-2.0 * i as f64 / n) / factors.map_or(1.0, |f| f64::from(f[i]));
        let interpolated = f64::from(r.freq_scale) * extrapolated;
        let Some(y) = r.yarn else { return (interpolated, f64::from(r.attn_factor)) };
        let dim = |turns: f32| n * (f64::from(y.original_context) / (f64::from(turns) * TAU)).ln() / (2.0 * base.ln());
        let (low, high) = (dim(y.beta_fast).floor().max(0.0), dim(y.beta_slow).ceil().min(n - 1.0));
        let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        let mix = ramp * f64::from(y.ext_factor);
        let magnitude = f64::from(r.attn_factor) * (1.0 + 0.1 * (1.0 / f64::from(r.freq_scale)).ln());
        (interpolated * (1.0 - mix) + extrapolated * mix, magnitude)
    }

    #[test]
    fn all_kinds_match_f64() {
        const HEADS: usize = 3;
        const DIM: usize = 32;
        let positions = [0, 1, 17, 4095, 100_000];
        let factors: Vec<f32> = random(9, 12, 0.5).iter().map(|x| x + 1.5).collect();
        each_team(|team| {
            for style in [RopeStyle::Pairs, RopeStyle::Halves] {
                for (yarn, factors) in [(None, None), (None, Some(&factors[..])), (Some(YARN), None)] {
                    let rope = rope(style, yarn);
                    let x = random(1, positions.len() * HEADS * DIM, 1.0);
                    let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                    for (t, head) in want.chunks_mut(DIM).enumerate() {
                        for i in 0..rope.n_rot / 2 {
                            let (a, b) = match style {
                                RopeStyle::Pairs => (2 * i, 2 * i + 1),
                                RopeStyle::Halves => (i, i + rope.n_rot / 2),
                            };
                            let (angle, magnitude) = reference(&rope, factors, f64::from(positions[t / HEADS]), i);
                            let (x, y) = (head[a], head[b]);
                            head[a] = (x * angle.cos() - y * angle.sin()) * magnitude;
                            head[b] = (x * angle.sin() + y * angle.cos()) * magnitude;
                        }
                    }
                    let mut out = x.clone();
                    let mut rotation = Rotation::new(&rope, factors, positions.len());
                    rotation.prepare(team, &positions);
                    rotation.rotate(team, &mut out, HEADS * DIM, DIM);
                    assert!(worst(&out, &want) < 1e-6, "{style:?} {yarn:?}: {}", worst(&out, &want));
                }
            }
        });
    }

    #[test]
    fn yarn_mixes() {
        // Fast pairs keep their angle, slow ones are stretched by the scale, some lie between.
        let r = Rotation::new(&rope(RopeStyle::Pairs, Some(YARN)), None, 1);
        let plain = |i: usize| 10_000_f64.powf(-2.0 * i as f64 / 24.0);
        let ratio: Vec<f64> = (0..12).map(|i| r.angles[i] / plain(i)).collect();
        assert!((ratio[0] - 1.0).abs() < 1e-9 && (ratio[11] - 0.25).abs() < 1e-9);
        assert!(ratio.iter().any(|r| *r > 0.3 && *r < 0.95) && ratio.is_sorted_by(|a, b| a >= b));
    }
}
