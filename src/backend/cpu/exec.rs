//! Running the ops of a plan on a batch.

use smallvec::SmallVec;

use super::CpuBackend;
use super::ops::matmul::Product;
use super::ops::norm::Norm;
use super::ops::{activation, add, gather, norm};
use super::resolve::heads;
use super::workers::Team;
use crate::base::limits::{KV_BLOCK_TOKENS, POOL_TURN};
use crate::plan::Plan;
use crate::plan::batch::Batch;
use crate::plan::op::{BufId, CacheId, Op, Projection};

impl CpuBackend {
    /// Runs all ops. The batch has been checked.
    pub(super) fn run(&mut self, team: &mut Team<'_>, plan: &Plan, batch: &Batch, input: &[f32]) {
        self.buffers.start(batch.tokens.len(), batch.outputs.len());
        if let Some(id) = plan.input {
            let mut to = self.buffers.lend(id);
            to.rows().copy_from_slice(input);
            self.buffers.put(to);
        }
        for rotation in &mut self.rotations {
            rotation.prepare(team, &batch.positions);
        }
        for op in &plan.ops {
            team.give_way(POOL_TURN);
            self.op(team, plan, batch, op);
        }
    }

    fn op(&mut self, team: &mut Team<'_>, plan: &Plan, batch: &Batch, op: &Op) {
        match op {
            Op::Embed { table, scale, out } => {
                let m = self.weights.matrix(plan, *table);
                let mut out = self.buffers.lend(*out);
                let width = out.width();
                gather::embed(team, m.format, m.rows, &batch.tokens, *scale, out.rows(), width);
                self.buffers.put(out);
            }
            Op::Norm { kind, x, weight, bias, group, eps, out } => {
                let (weight, bias) = (self.weights.vector(*weight), self.weights.vector(*bias));
                let n = Norm { kind: *kind, weight, bias, group: *group, eps: *eps };
                let mut to = self.buffers.lend(*out);
                let width = to.width();
                let from = (x != out).then(|| self.buffers.get(*x));
                norm::norm(team, n, from, to.rows(), width);
                self.buffers.put(to);
            }
            Op::Linear { x, projections } => self.linear(team, plan, *x, projections),
            Op::Rope { x, head_dim, rope } => {
                let mut x = self.buffers.lend(*x);
                let width = x.width();
                self.rotations[rope.0 as usize].rotate(team, x.rows(), width, *head_dim);
                self.buffers.put(x);
            }
            Op::Store { cache, slot, k, v } => self.store(team, batch, *cache, *slot, *k, *v),
            Op::Attention(a) => {
                let heads = heads(plan, a);
                let mut out = self.buffers.lend(a.out);
                let (q, group) = (self.buffers.get(a.q), a.cache.0 as usize);
                self.attend.attend(team, &heads, &self.caches[group], a.slot, batch, group, q, out.rows());
                self.buffers.put(out);
            }
            Op::Glu { gate, up, act, out } => {
                let mut to = self.write_from(*gate, *out);
                let width = to.width();
                let up = if up == gate { None } else { Some(self.buffers.get(*up)) };
                activation::glu(team, *act, to.rows(), up, width);
                self.buffers.put(to);
            }
            Op::Add { a, b, out } => {
                let mut to = self.write_from(*a, *out);
                let width = to.width();
                if a == b {
                    add::scale(team, to.rows(), 2.0, width);
                } else {
                    add::add(team, to.rows(), self.buffers.get(*b), width);
                }
                self.buffers.put(to);
            }
            Op::Scale { x, factor } => {
                let mut x = self.buffers.lend(*x);
                let width = x.width();
                add::scale(team, x.rows(), *factor, width);
                self.buffers.put(x);
            }
            Op::Softcap { x, cap } => {
                let mut x = self.buffers.lend(*x);
                let width = x.width();
                add::softcap(team, x.rows(), *cap, width);
                self.buffers.put(x);
            }
            Op::Select { x, out } => {
                let mut to = self.buffers.lend(*out);
                let width = to.width();
                gather::select(self.buffers.get(*x), &batch.outputs, to.rows(), width);
                self.buffers.put(to);
            }
        }
    }

    /// Takes `out` for writing with the contents of `x`, which may be the same buffer.
    fn write_from(&mut self, x: BufId, out: BufId) -> super::buffers::Lent {
        let mut lent = self.buffers.lend(out);
        if x != out {
            lent.rows().copy_from_slice(self.buffers.get(x));
        }
        lent
    }

    fn linear(&mut self, team: &mut Team<'_>, plan: &Plan, x: BufId, projections: &[Projection]) {
        if self.buffers.rows(x) == 0 {
            return;
        }
        let mut outs: SmallVec<[_; 8]> = projections.iter().map(|p| self.buffers.lend(p.out)).collect();
        let mut products: SmallVec<[_; 8]> = projections
            .iter()
            .zip(&mut outs)
            .map(|(p, out)| Product {
                weight: self.weights.matrix(plan, p.weight),
                bias: self.weights.vector(p.bias),
                width: out.width(),
                out: out.rows(),
            })
            .collect();
        self.matmul.linear(team, self.buffers.get(x), self.buffers.width(x), &mut products);
        drop(products);
        outs.into_iter().for_each(|out| self.buffers.put(out));
    }

    fn store(&mut self, team: &Team<'_>, batch: &Batch, cache: CacheId, slot: u32, k: BufId, v: BufId) {
        let group = cache.0 as usize;
        let (cache, tier) = (&mut self.caches[group], team.tier());
        let (width, width_v) = (self.buffers.width(k), self.buffers.width(v));
        let (k, v) = (self.buffers.get(k), self.buffers.get(v));
        for (i, span) in batch.spans.iter().enumerate() {
            let table = batch.table(group, i);
            for t in 0..span.len {
                let (row, position) = (span.start + t, span.pos as usize + t);
                let (k, v) = (&k[row * width..][..width], &v[row * width_v..][..width_v]);
                cache.store(tier, table[position / KV_BLOCK_TOKENS], slot, position % KV_BLOCK_TOKENS, k, v);
            }
        }
    }
}
