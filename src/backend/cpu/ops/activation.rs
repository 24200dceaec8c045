//! Activations of feed-forward blocks: `act(gate) * up`.

use super::math::{exp, fma};
use super::{for_rows, tiered};
use crate::backend::cpu::workers::Team;
use crate::plan::op::Activation;

/// Work of an element in additions.
const COST: usize = 16;

/// `gate = act(gate) * up`, rows of `width`; without `up` the gate is the other factor too.
pub fn glu(team: &mut Team<'_>, act: Activation, gate: &mut [f32], up: Option<&[f32]>, width: usize) {
    let tier = team.tier();
    let kernel = match act {
        Activation::Silu => silu_mul,
        Activation::GeluTanh => gelu_mul,
    };
    for_rows(team, gate, width, COST, |row, gate| match up {
        Some(up) => kernel(tier, gate, &up[row * width..][..gate.len()]),
        None => {
            for gate in gate.chunks_mut(64) {
                let mut up = [0.0; 64];
                up[..gate.len()].copy_from_slice(gate);
                kernel(tier, gate, &up);
            }
        }
    });
}

tiered!(
    /// `gate = gate * sigmoid(gate) * up`.
    fn silu_mul(gate: &mut [f32], up: &[f32]) = silu_mul_body
);

#[inline(always)]
fn silu_mul_body<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<FUSED>(-*g)) * u;
    }
}

tiered!(
    /// `gate = gelu(gate) * up`, GELU by its tanh approximation (Hendrycks & Gimpel 2016).
    fn gelu_mul(gate: &mut [f32], up: &[f32]) = gelu_mul_body
);

#[inline(always)]
fn gelu_mul_body<const FUSED: bool>(gate: &mut [f32], up: &[f32]) {
    // x/2 (1 + tanh u) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
    const A: f32 = 2.0 * 0.797_884_6;
    for (g, u) in gate.iter_mut().zip(up) {
        let x = *g;
        let cubic = fma::<FUSED>(0.044_715 * x * x, x, x);
        *g = x / (1.0 + exp::<FUSED>(-A * cubic)) * u;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{each_team, random, worst};
    use super::*;

    fn reference(act: Activation, g: f32, u: f32) -> f64 {
        let (g, u) = (f64::from(g), f64::from(u));
        let a = match act {
            Activation::Silu => g / (1.0 + (-g).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g * g * g);
                0.5 * g * (1.0 + inner.tanh())
            }
        };
        a * u
    }

    #[test]
    fn both_match_f64() {
        each_team(|team| {
            for (rows, width) in [(1, 1), (3, 17), (70, 129)] {
                let mut gate = random(1, rows * width, 6.0);
                gate[0] = 40.0;
                let up = random(2, rows * width, 2.0);
                for act in [Activation::Silu, Activation::GeluTanh] {
                    let want: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| reference(act, g, u)).collect();
                    let mut out = gate.clone();
                    glu(team, act, &mut out, Some(&up), width);
                    assert!(worst(&out, &want) < 4e-6, "{act:?} {}", worst(&out, &want));
                    let want: Vec<f64> = gate.iter().map(|&g| reference(act, g, g)).collect();
                    let mut out = gate.clone();
                    glu(team, act, &mut out, None, width);
                    assert!(worst(&out, &want) < 4e-6, "{act:?} of itself");
                }
            }
        });
    }
}
