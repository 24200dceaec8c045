//! The gated feed-forward part of a layer (Shazeer 2020).

use super::super::weights::Layer;
use super::Builder;
use crate::plan::op::{BufId, Op};

/// `out = down(act(gate(x)) * up(x))`.
pub(super) fn build(b: &mut Builder, layer: &Layer, x: BufId, out: BufId) {
    let n_ff = b.h.n_ff;
    let gate = b.like(x, ["gate", "gate_out"], n_ff);
    let up = b.like(x, ["up", "up_out"], n_ff);
    b.linear(x, &[(layer.gate, gate), (layer.up, up)]);
    b.push(Op::Glu { gate, up, act: b.model.spec.act, out: gate });
    b.linear(gate, &[(layer.down, out)]);
}
