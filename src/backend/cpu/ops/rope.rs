//! Rotary position embeddings: angles once a step, then rotations.

use std::f64::consts::TAU;

use super::math::fma;
use super::{for_rows, tiered};
use crate::backend::cpu::workers::Team;
use crate::plan::op::{Rope, RopeStyle};

/// A rotary embedding ready to run: its angle a position, and the step's cosines and sines.
pub struct Rotation {
    style: RopeStyle,
    /// Pairs that turn.
    half: usize,
    /// Angle of each pair at position 1. In f64: at position 100,000 an f32 would be off by
    /// more than a hundredth of a turn's precision.
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
        let scale = f64::from(rope.freq_scale);
        let mut magnitude = f64::from(rope.attn_factor);
        let mut ramp = (0.0, 0.0);
        if let Some(y) = rope.yarn {
            // ggml's rope_yarn_corr_dims: dimensions that turn beta_fast and beta_slow times
            // over the original context.
            let dim = |turns: f32| {
                let n = f64::from(y.original_context) / (f64::from(turns) * TAU);
                rope.n_rot as f64 * n.ln() / (2.0 * f64::from(rope.freq_base).ln())
            };
            ramp = (dim(y.beta_fast).floor().max(0.0), dim(y.beta_slow).ceil().min(rope.n_rot as f64 - 1.0));
            if y.ext_factor != 0.0 {
                magnitude *= 1.0 + 0.1 * (1.0 / scale).ln();
            }
        }
        let angle = |i: usize| {
            let exponent = -2.0 * i as f64 / rope.n_rot as f64;
            let plain = f64::from(rope.freq_base).powf(exponent) / factors.map_or(1.0, |f| f64::from(f[i]));
            let scaled = plain * scale;
            let mix = rope.yarn.map_or(0.0, |y| {
                let at = (i as f64 - ramp.0) / (ramp.1 - ramp.0).max(0.001);
                (1.0 - at.clamp(0.0, 1.0)) * f64::from(y.ext_factor)
            });
            scaled * (1.0 - mix) + plain * mix
        };
        Self {
            style: rope.style,
            half,
            angles: (0..half).map(angle).collect(),
            magnitude,
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
