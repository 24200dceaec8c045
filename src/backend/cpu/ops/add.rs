//! Sums, factors and soft bounds, element by element.

use super::math::tanh;
use super::{for_rows, tiered};
use crate::backend::cpu::workers::Team;

/// `a += b`, rows of `width`.
pub fn add(team: &mut Team<'_>, a: &mut [f32], b: &[f32], width: usize) {
    let tier = team.tier();
    for_rows(team, a, width, 1, |row, a| add_row(tier, a, &b[row * width..][..a.len()]));
}

/// `x *= factor`, rows of `width`.
pub fn scale(team: &mut Team<'_>, x: &mut [f32], factor: f32, width: usize) {
    let tier = team.tier();
    for_rows(team, x, width, 1, |_, x| scale_row(tier, x, factor));
}

/// `x = cap * tanh(x / cap)`, rows of `width`.
pub fn softcap(team: &mut Team<'_>, x: &mut [f32], cap: f32, width: usize) {
    let tier = team.tier();
    for_rows(team, x, width, 24, |_, x| softcap_row(tier, x, cap));
}

tiered!(
    /// `a += b`.
    pub(super) fn add_row(a: &mut [f32], b: &[f32]) = add_body
);

#[inline(always)]
fn add_body<const FUSED: bool>(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

tiered!(
    /// `x *= factor`.
    pub(super) fn scale_row(x: &mut [f32], factor: f32) = scale_body
);

#[inline(always)]
fn scale_body<const FUSED: bool>(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

tiered!(
    /// `x = cap * tanh(x / cap)`.
    pub(super) fn softcap_row(x: &mut [f32], cap: f32) = softcap_body
);

#[inline(always)]
fn softcap_body<const FUSED: bool>(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for x in x {
        *x = cap * tanh::<FUSED>(*x * inverse);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{each_team, random, worst};
    use super::*;

    #[test]
    fn all_three_match_f64() {
        each_team(|team| {
            for (rows, width) in [(1, 1), (5, 33), (300, 100)] {
                let a = random(1, rows * width, 3.0);
                let b = random(2, rows * width, 3.0);
                let mut out = a.clone();
                add(team, &mut out, &b, width);
                let want: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) + f64::from(b)).collect();
                assert!(worst(&out, &want) < 1e-6);
                let mut out = a.clone();
                scale(team, &mut out, 1.7, width);
                let want: Vec<f64> = a.iter().map(|&a| f64::from(a) * f64::from(1.7_f32)).collect();
                assert!(worst(&out, &want) < 1e-6);
                let mut out = a.clone();
                softcap(team, &mut out, 2.5, width);
                let want: Vec<f64> = a.iter().map(|&a| 2.5 * (f64::from(a) / 2.5).tanh()).collect();
                assert!(worst(&out, &want) < 1e-6);
            }
        });
    }
}
