//! Normalization of rows or heads.

use super::math::{fma, sum16};
use super::{for_rows, tiered};
use crate::backend::cpu::workers::Team;
use crate::plan::op::NormKind;

/// What a normalization needs beside its operand.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Which.
    pub kind: NormKind,
    /// Gain, `group` long.
    pub weight: Option<&'a [f32]>,
    /// Offset, `group` long.
    pub bias: Option<&'a [f32]>,
    /// Elements normalized together; divides `width`.
    pub group: usize,
    /// Added under the root.
    pub eps: f32,
}

/// Normalizes each group of `out`, rows of `width`, after copying `x` there if given.
pub fn norm(team: &mut Team<'_>, norm: Norm<'_>, x: Option<&[f32]>, out: &mut [f32], width: usize) {
    let tier = team.tier();
    for_rows(team, out, width, 4, |row, out| {
        let mut at = row * width;
        for group in out.chunks_exact_mut(norm.group) {
            if let Some(x) = x {
                group.copy_from_slice(&x[at..][..norm.group]);
                at += norm.group;
            }
            let (shift, factor) = moments(tier, norm.kind, group, norm.eps);
            apply(tier, group, norm, shift, factor);
        }
    });
}

/// Mean to subtract, and factor.
fn moments(tier: crate::simd::Tier, kind: NormKind, x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => sum(tier, x) / n,
    };
    (mean, 1.0 / (sum_squares(tier, x, mean) / n + eps).sqrt())
}

fn apply(tier: crate::simd::Tier, x: &mut [f32], norm: Norm<'_>, shift: f32, factor: f32) {
    match (norm.weight, norm.bias) {
        (Some(w), None) if norm.kind == NormKind::Rms => scale_by(tier, x, factor, w),
        (w, b) => {
            for (i, x) in x.iter_mut().enumerate() {
                let y = (*x - shift) * factor * w.map_or(1.0, |w| w[i]);
                *x = y + b.map_or(0.0, |b| b[i]);
            }
        }
    }
}

tiered!(fn sum(x: &[f32]) -> f32 = sum_body);

#[inline(always)]
fn sum_body<const FUSED: bool>(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for c in chunks {
        for i in 0..16 {
            lanes[i] += c[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    sum16(lanes)
}

tiered!(
    /// Sum of `(x - shift)^2`.
    fn sum_squares(x: &[f32], shift: f32) -> f32 = sum_squares_body
);

#[inline(always)]
fn sum_squares_body<const FUSED: bool>(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for c in chunks {
        for i in 0..16 {
            let y = c[i] - shift;
            lanes[i] = fma::<FUSED>(y, y, lanes[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        let y = x - shift;
        *lane = fma::<FUSED>(y, y, *lane);
    }
    sum16(lanes)
}

tiered!(
    /// `x = x * factor * w`.
    fn scale_by(x: &mut [f32], factor: f32, w: &[f32]) = scale_by_body
);

#[inline(always)]
fn scale_by_body<const FUSED: bool>(x: &mut [f32], factor: f32, w: &[f32]) {
    for (x, w) in x.iter_mut().zip(w) {
        *x = *x * factor * w;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{each_team, random, worst};
    use super::*;

    fn reference(n: Norm<'_>, x: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        for g in x.chunks(n.group) {
            let len = g.len() as f64;
            let mean = match n.kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => g.iter().map(|&x| f64::from(x)).sum::<f64>() / len,
            };
            let var = g.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / len;
            for (i, &x) in g.iter().enumerate() {
                let y = (f64::from(x) - mean) / (var + f64::from(n.eps)).sqrt();
                out.push(y * n.weight.map_or(1.0, |w| f64::from(w[i])) + n.bias.map_or(0.0, |b| f64::from(b[i])));
            }
        }
        out
    }

    #[test]
    fn rows_and_heads_match_f64() {
        each_team(|team| {
            for (rows, width, group) in [(1, 5, 5), (3, 96, 32), (130, 210, 70), (2, 1536, 1536)] {
                let x: Vec<f32> = random(1, rows * width, 3.0).iter().map(|x| x + 0.5).collect();
                let (w, b) = (random(2, group, 2.0), random(3, group, 2.0));
                for kind in [NormKind::Rms, NormKind::Layer] {
                    for (weight, bias) in [(None, None), (Some(&w[..]), None), (Some(&w[..]), Some(&b[..]))] {
                        let n = Norm { kind, weight, bias, group, eps: 1e-3 };
                        let want = reference(n, &x);
                        let mut out = vec![0.0; x.len()];
                        norm(team, n, Some(&x), &mut out, width);
                        assert!(worst(&out, &want) < 3e-6, "{}", worst(&out, &want));
                        let mut in_place = x.clone();
                        norm(team, n, None, &mut in_place, width);
                        assert_eq!(in_place, out);
                    }
                }
            }
        });
    }
}
