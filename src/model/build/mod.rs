//! Builders: from a model's weights and numbers to the ops of its plan.

mod attention;
pub(super) mod decoder;
mod ffn;

use super::weights::{Gain, Matrix};
use super::{Hparams, Model};
use crate::plan::cache::CacheGroup;
use crate::plan::op::{BufId, Op, Projection, Rope, RopeId, Rows};
use crate::plan::{Buffer, Plan};

/// A plan in the making.
struct Builder<'a> {
    model: &'a Model,
    h: &'a Hparams,
    plan: Plan,
}

impl Builder<'_> {
    /// The buffer of this name: layers use the same ones, one after the other.
    fn buffer(&mut self, name: &'static str, width: usize, rows: Rows) -> BufId {
        let buffer = Buffer { name, width, rows };
        let known = self.plan.buffers.iter().position(|b| *b == buffer);
        let id = known.unwrap_or_else(|| {
            self.plan.buffers.push(buffer);
            self.plan.buffers.len() - 1
        });
        BufId(id as u32)
    }

    /// A buffer with a row a token.
    fn tokens(&mut self, name: &'static str, width: usize) -> BufId {
        self.buffer(name, width, Rows::Tokens)
    }

    /// A buffer with rows like those of `like`; an output's has the second name.
    fn like(&mut self, like: BufId, names: [&'static str; 2], width: usize) -> BufId {
        match self.plan.buffer(like).rows {
            Rows::Tokens => self.buffer(names[0], width, Rows::Tokens),
            Rows::Outputs => self.buffer(names[1], width, Rows::Outputs),
        }
    }

    fn push(&mut self, op: Op) {
        self.plan.ops.push(op);
    }

    fn norm(&mut self, gain: Gain, x: BufId, group: usize, out: BufId) {
        let Gain { weight, bias } = gain;
        let (kind, eps) = (self.model.spec.norm, self.h.eps);
        self.push(Op::Norm { kind, x, weight: Some(weight), bias, group, eps, out });
    }

    /// Norm over the whole width; in place where there is one.
    fn post_norm(&mut self, gain: Option<Gain>, x: BufId) {
        if let Some(gain) = gain {
            self.norm(gain, x, self.h.n_embd, x);
        }
    }

    fn linear(&mut self, x: BufId, products: &[(Matrix, BufId)]) {
        let projection = |&(m, out): &(Matrix, BufId)| Projection { weight: m.weight, bias: m.bias, out };
        self.push(Op::Linear { x, projections: products.iter().map(projection).collect() });
    }

    fn cache(&mut self, group: CacheGroup) -> usize {
        self.plan.caches.push(group);
        self.plan.caches.len() - 1
    }

    /// The rotation of layers of a kind.
    fn rope(&mut self, local: bool) -> RopeId {
        let rope = match local {
            true => self.h.rope_local.clone(),
            false => Rope { factors: self.model.weights.rope_factors, ..self.h.rope.clone() },
        };
        let known = self.plan.ropes.iter().position(|r| *r == rope);
        let id = known.unwrap_or_else(|| {
            self.plan.ropes.push(rope);
            self.plan.ropes.len() - 1
        });
        RopeId(id as u32)
    }
}
