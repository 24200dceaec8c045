//! Checks of a plan: what a backend may take for granted.

use thiserror::Error;

use super::op::{BufId, CacheId, Op, Projection, Rope, Rows, WeightId};
use super::{Buffer, Plan, Weight};
use crate::quant::GgmlType;

/// A plan that makes no sense: a mistake of whoever built it, never of a user.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("bad plan: {place}: {what}")]
pub struct PlanError {
    /// Where: an op with its index, or a weight's name.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl Plan {
    /// Checks that every id exists, every buffer is written before it is read, widths, rows and
    /// shapes agree, attention reads what was stored, and the output comes out.
    ///
    /// # Errors
    /// [`PlanError`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        for w in &self.weights {
            let row = w.ty.bytes_of(w.n_cols as u64);
            let bytes = row.and_then(|b| b.checked_mul(w.n_rows as u64));
            if bytes != Some(w.data.len() as u64) {
                let what = format!("{} x {} of {} in {} bytes", w.n_rows, w.n_cols, w.ty.name(), w.data.len());
                return Err(PlanError { place: w.name.clone(), what });
            }
        }
        for c in &self.caches {
            let takes = c.kv_type.takes(c.head_dim).and_then(|()| c.kv_type.takes(c.head_dim_v));
            takes.map_err(|e| PlanError { place: format!("cache `{}`", c.name), what: e.to_string() })?;
        }
        let stored = self.caches.iter().map(|c| vec![false; c.n_layer]).collect();
        let mut written = vec![false; self.buffers.len()];
        if let Some(input) = self.input {
            let fits = self.buffers.get(input.0 as usize).is_some_and(|b| b.rows == Rows::Tokens);
            let what = || "there is no such buffer, or it has no row a token".to_owned();
            require(fits, what).map_err(|what| PlanError { place: "input".to_owned(), what })?;
            written[input.0 as usize] = true;
        }
        let mut checker = Checker { plan: self, written, stored };
        for (i, op) in self.ops.iter().enumerate() {
            checker.op(op).map_err(|what| PlanError { place: format!("op {i} ({})", op.name()), what })?;
        }
        checker.output().map_err(|what| PlanError { place: "output".to_owned(), what })
    }
}

struct Checker<'a> {
    plan: &'a Plan,
    written: Vec<bool>,
    /// For each cache group: layers whose keys and values were stored.
    stored: Vec<Vec<bool>>,
}

type Check = Result<(), String>;

fn require(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl<'a> Checker<'a> {
    fn buffer(&self, id: BufId) -> Result<&'a Buffer, String> {
        self.plan.buffers.get(id.0 as usize).ok_or_else(|| format!("buffer {} does not exist", id.0))
    }

    fn weight(&self, id: WeightId) -> Result<&'a Weight, String> {
        self.plan.weights.get(id.0 as usize).ok_or_else(|| format!("weight {} does not exist", id.0))
    }

    fn vector(&self, id: Option<WeightId>, len: usize) -> Check {
        let Some(id) = id else { return Ok(()) };
        let w = self.weight(id)?;
        require((w.n_rows, w.n_cols) == (1, len), || {
            format!("`{}` is {} x {}, not a vector of {len}", w.name, w.n_rows, w.n_cols)
        })
    }

    fn matrix(&self, id: WeightId, n_rows: usize, n_cols: usize) -> Check {
        let w = self.weight(id)?;
        require((w.n_rows, w.n_cols) == (n_rows, n_cols), || {
            format!("`{}` is {} x {}, not {n_rows} x {n_cols}", w.name, w.n_rows, w.n_cols)
        })
    }

    fn same_shape(&self, a: BufId, b: BufId) -> Check {
        let (a, b) = (self.buffer(a)?, self.buffer(b)?);
        require((a.width, a.rows) == (b.width, b.rows), || format!("`{}` and `{}` differ in shape", a.name, b.name))
    }

    fn op(&mut self, op: &Op) -> Check {
        for id in op.reads() {
            let b = self.buffer(id)?;
            require(self.written[id.0 as usize], || format!("reads `{}`, which nobody has written", b.name))?;
        }
        for id in op.writes() {
            self.buffer(id)?;
        }
        match op {
            Op::Embed { table, out, .. } => self.embed(*table, *out)?,
            Op::Norm { x, weight, bias, group, eps, out, .. } => {
                self.same_shape(*x, *out)?;
                let width = self.buffer(*x)?.width;
                require(*group > 0 && width % group == 0, || format!("group {group} in a width of {width}"))?;
                require(*eps > 0.0 && eps.is_finite(), || format!("eps {eps}"))?;
                self.vector(*weight, *group)?;
                self.vector(*bias, *group)?;
            }
            Op::Linear { x, projections } => self.linear(*x, projections)?,
            Op::Rope { x, head_dim, rope } => {
                let rope = self.plan.ropes.get(rope.0 as usize).ok_or("no such rope")?;
                self.rope(*x, *head_dim, rope)?;
            }
            Op::Store { cache, slot, k, v } => {
                let (n_head, dim, dim_v, _) = self.cache(*cache, *slot)?;
                self.width(*k, n_head * dim)?;
                self.width(*v, n_head * dim_v)?;
                self.rows(*k, Rows::Tokens)?;
                self.rows(*v, Rows::Tokens)?;
                self.stored[cache.0 as usize][*slot as usize] = true;
            }
            Op::Attention(a) => {
                let (n_head_kv, dim, dim_v, window) = self.cache(a.cache, a.slot)?;
                require(self.stored[a.cache.0 as usize][a.slot as usize], || "reads before it stores".to_owned())?;
                require(a.n_head > 0 && a.n_head % n_head_kv == 0, || format!("{} heads on {n_head_kv}", a.n_head))?;
                self.width(a.q, a.n_head * dim)?;
                self.width(a.out, a.n_head * dim_v)?;
                self.rows(a.q, Rows::Tokens)?;
                self.rows(a.out, Rows::Tokens)?;
                require(a.q != a.out, || "not in place".to_owned())?;
                require(a.window == window, || format!("window {:?} on a cache of {window:?}", a.window))?;
            }
            Op::Glu { gate, up, out, .. } => {
                self.same_shape(*gate, *up)?;
                self.same_shape(*gate, *out)?;
                require(up != out || gate == out, || "in place on `gate` only".to_owned())?;
            }
            Op::Add { a, b, out } => {
                self.same_shape(*a, *b)?;
                self.same_shape(*a, *out)?;
                require(b != out || a == out, || "in place on `a` only".to_owned())?;
            }
            Op::Scale { factor, .. } => require(factor.is_finite(), || format!("factor {factor}"))?,
            Op::Softcap { cap, .. } => require(*cap > 0.0 && cap.is_finite(), || format!("cap {cap}"))?,
            Op::Select { x, out } => {
                self.rows(*x, Rows::Tokens)?;
                self.rows(*out, Rows::Outputs)?;
                self.width(*out, self.buffer(*x)?.width)?;
            }
        }
        for id in op.writes() {
            self.written[id.0 as usize] = true;
        }
        Ok(())
    }

    fn embed(&self, table: WeightId, out: BufId) -> Check {
        self.rows(out, Rows::Tokens)?;
        self.matrix(table, self.plan.n_vocab, self.buffer(out)?.width)
    }

    fn linear(&self, x: BufId, projections: &[Projection]) -> Check {
        require(!projections.is_empty(), || "no projection".to_owned())?;
        let input = self.buffer(x)?;
        for (i, p) in projections.iter().enumerate() {
            let out = self.buffer(p.out)?;
            require(p.out != x, || "not in place".to_owned())?;
            require(projections[..i].iter().all(|q| q.out != p.out), || format!("two products go to `{}`", out.name))?;
            require(out.rows == input.rows, || format!("`{}` has other rows than `{}`", out.name, input.name))?;
            self.matrix(p.weight, out.width, input.width)?;
            self.vector(p.bias, out.width)?;
        }
        Ok(())
    }

    fn rope(&self, x: BufId, head_dim: usize, rope: &Rope) -> Check {
        let width = self.buffer(x)?.width;
        self.rows(x, Rows::Tokens)?;
        require(head_dim > 0 && width % head_dim == 0, || format!("heads of {head_dim} in a width of {width}"))?;
        require(rope.n_rot > 0 && rope.n_rot.is_multiple_of(2) && rope.n_rot <= head_dim, || {
            format!("{} of {head_dim} elements rotated", rope.n_rot)
        })?;
        let numbers = [rope.freq_base, rope.freq_scale, rope.attn_factor];
        require(numbers.iter().all(|n| n.is_finite() && *n > 0.0), || format!("numbers {numbers:?}"))?;
        self.vector(rope.factors, rope.n_rot / 2)?;
        match rope.factors {
            Some(id) => require(self.weight(id)?.ty == GgmlType::F32, || "factors are not F32".to_owned()),
            None => Ok(()),
        }
    }

    /// (heads, key elements, value elements, window) of a layer of a cache group.
    fn cache(&self, id: CacheId, slot: u32) -> Result<(usize, usize, usize, Option<u32>), String> {
        let c = self.plan.caches.get(id.0 as usize).ok_or_else(|| format!("cache {} does not exist", id.0))?;
        require((slot as usize) < c.n_layer, || format!("layer {slot} of {} in cache `{}`", c.n_layer, c.name))?;
        Ok((c.n_head_kv, c.head_dim, c.head_dim_v, c.window))
    }

    fn width(&self, id: BufId, width: usize) -> Check {
        let b = self.buffer(id)?;
        require(b.width == width, || format!("`{}` is {} wide, not {width}", b.name, b.width))
    }

    fn rows(&self, id: BufId, rows: Rows) -> Check {
        let b = self.buffer(id)?;
        require(b.rows == rows, || format!("`{}` has rows of {:?}, not {rows:?}", b.name, b.rows))
    }

    fn output(&self) -> Check {
        if self.buffer(self.plan.output)?.rows == Rows::Outputs {
            self.width(self.plan.output, self.plan.n_vocab)?;
        }
        require(self.written[self.plan.output.0 as usize], || "nobody writes it".to_owned())?;
        let own = self.stored.iter().zip(&self.plan.caches).filter(|(_, c)| c.part == self.plan.part);
        let missing = own.flat_map(|(stored, _)| stored).filter(|s| !**s).count();
        require(missing == 0, || format!("{missing} cached layers are never stored"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::super::cache::{CacheGroup, KvType};
    use super::super::op::{Activation, Attention, NormKind, RopeId, RopeStyle};
    use super::*;
    use crate::base::storage::Slice;

    const VOCAB: usize = 10;

    /// One layer of a decoder, 8 wide, two heads of four on one of the cache.
    pub(crate) fn tiny_plan() -> Plan {
        let weight = |name: &str, n_rows: usize, n_cols: usize| Weight {
            name: name.to_owned(),
            ty: GgmlType::F32,
            n_rows,
            n_cols,
            data: Slice::new(Arc::new(vec![0u8; 4 * n_rows * n_cols]), 0, 4 * n_rows * n_cols),
        };
        let tokens = |name, width| Buffer { name, width, rows: Rows::Tokens };
        let outputs = |name, width| Buffer { name, width, rows: Rows::Outputs };
        let [x, h, q, k, v, attn, y, x_out, gate, up, y_out, logits] = std::array::from_fn(|i| BufId(i as u32));
        let [embd, norm, wq, wk, wv, wo, wgate, wup, wdown, factors] = std::array::from_fn(|i| WeightId(i as u32));
        let linear = |x, projections: &[(WeightId, BufId)]| Op::Linear {
            x,
            projections: projections.iter().map(|&(weight, out)| Projection { weight, bias: None, out }).collect(),
        };
        let norm =
            |x, out| Op::Norm { kind: NormKind::Rms, x, weight: Some(norm), bias: None, group: 8, eps: 1e-5, out };
        let rope = |x| Op::Rope { x, head_dim: 4, rope: RopeId(0) };
        Plan {
            ops: vec![
                Op::Embed { table: embd, scale: 1.0, out: x },
                norm(x, h),
                linear(h, &[(wq, q), (wk, k), (wv, v)]),
                rope(q),
                rope(k),
                Op::Store { cache: CacheId(0), slot: 0, k, v },
                Op::Attention(Attention {
                    q,
                    out: attn,
                    cache: CacheId(0),
                    slot: 0,
                    n_head: 2,
                    scale: 0.5,
                    window: None,
                    softcap: None,
                }),
                linear(attn, &[(wo, y)]),
                Op::Add { a: x, b: y, out: x },
                Op::Select { x, out: x_out },
                linear(x_out, &[(wgate, gate), (wup, up)]),
                Op::Glu { gate, up, act: Activation::Silu, out: gate },
                linear(gate, &[(wdown, y_out)]),
                Op::Add { a: x_out, b: y_out, out: x_out },
                norm(x_out, x_out),
                linear(x_out, &[(embd, logits)]),
                Op::Softcap { x: logits, cap: 30.0 },
            ],
            buffers: vec![
                tokens("x", 8),
                tokens("h", 8),
                tokens("q", 8),
                tokens("k", 4),
                tokens("v", 4),
                tokens("attn", 8),
                tokens("y", 8),
                outputs("x_out", 8),
                outputs("gate", 12),
                outputs("up", 12),
                outputs("y_out", 8),
                outputs("logits", VOCAB),
            ],
            weights: vec![
                weight("embd", VOCAB, 8),
                weight("norm", 1, 8),
                weight("wq", 8, 8),
                weight("wk", 4, 8),
                weight("wv", 4, 8),
                weight("wo", 8, 8),
                weight("gate", 12, 8),
                weight("up", 12, 8),
                weight("down", 8, 12),
                weight("factors", 1, 2),
            ],
            ropes: vec![Rope {
                style: RopeStyle::Pairs,
                n_rot: 4,
                freq_base: 10000.0,
                freq_scale: 1.0,
                factors: Some(factors),
                yarn: None,
                attn_factor: 1.0,
            }],
            caches: vec![CacheGroup {
                name: "full".to_owned(),
                n_layer: 1,
                n_head_kv: 1,
                head_dim: 4,
                head_dim_v: 4,
                window: None,
                kv_type: KvType::F16,
                part: 0,
            }],
            layers: vec![1],
            part: 0,
            input: None,
            output: logits,
            n_vocab: VOCAB,
        }
    }

    #[test]
    fn a_sound_plan_passes() {
        tiny_plan().check().expect("sound");
    }

    /// Breaks a plan in one place and expects the complaint to say so.
    #[track_caller]
    fn broken(says: &str, break_it: impl FnOnce(&mut Plan)) {
        let mut plan = tiny_plan();
        break_it(&mut plan);
        let error = plan.check().expect_err("must not pass").to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn each_mistake_is_named() {
        broken("op 0 (norm): reads `x`, which nobody has written", |p| drop(p.ops.remove(0)));
        broken("op 2 (linear): `wq` is 8 x 8, not 9 x 8", |p| p.buffers[2].width = 9);
        broken("wq: 7 x 8 of F32 in 256 bytes", |p| p.weights[2].n_rows = 7);
        broken("op 5 (store): `k` is 4 wide, not 8", |p| p.caches[0].head_dim = 8);
        broken("reads before it stores", |p| p.ops.swap(5, 6));
        broken("window None on a cache of Some(4)", |p| p.caches[0].window = Some(4));
        broken("cached layers are never stored", |p| p.caches[0].n_layer = 2);
        broken("layer 0 of 0", |p| p.caches[0].n_layer = 0);
        broken("op 3 (rope): 6 of 4 elements", |p| p.ropes[0].n_rot = 6);
        broken("`norm` is 1 x 8, not a vector of 2", |p| p.ropes[0].factors = Some(WeightId(1)));
        broken("output: nobody writes it", |p| p.ops.truncate(15));
        broken("input: there is no such buffer", |p| p.input = Some(p.output));
        broken("output: `logits` is 10 wide, not 11", |p| {
            p.n_vocab = 11;
            p.weights[0] = Weight { n_rows: 11, ..p.weights[0].clone() };
            p.weights[0].data = Slice::new(Arc::new(vec![0u8; 352]), 0, 352);
            p.ops.truncate(15);
        });
        broken("op 13 (add): `x_out` and `gate` differ in shape", |p| {
            p.ops[13] = Op::Add { a: BufId(7), b: BufId(8), out: BufId(7) };
        });
        broken("has other rows", |p| p.buffers[8].rows = Rows::Tokens);
        broken("buffer 99 does not exist", |p| p.ops[9] = Op::Select { x: BufId(0), out: BufId(99) });
        broken("not in place", |p| {
            let Op::Linear { projections, .. } = &mut p.ops[7] else { panic!() };
            projections[0].out = BufId(5);
        });
        broken("eps NaN", |p| {
            let Op::Norm { eps, .. } = &mut p.ops[1] else { panic!() };
            *eps = f32::NAN;
        });
        broken("2 heads on 3", |p| {
            p.caches[0].n_head_kv = 3;
            p.buffers[3].width = 12;
            p.buffers[4].width = 12;
            for w in [3, 4] {
                p.weights[w].n_rows = 12;
                p.weights[w].data = Slice::new(Arc::new(vec![0u8; 384]), 0, 384);
            }
        });
    }
}
