//! A naive executor of plans: one token after the other, plain loops, f32 throughout.
//!
//! The oracle between a model's plan and a backend: if it agrees with the goldens the plan is
//! right, and whoever differs from it is wrong.

use std::collections::HashMap;

use rocmforge::plan::memory::Layout;
use rocmforge::plan::op::{Activation, Attention, BufId, NormKind, Op, Rope, RopeStyle, Rows, WeightId};
use rocmforge::plan::{Plan, Weight};

/// Keys and values of the positions so far.
type Cache = Vec<(Vec<f32>, Vec<f32>)>;

/// One sequence on its way through a plan.
pub struct Reference<'a> {
    plan: &'a Plan,
    /// Buffers share memory as in a backend, so that a wrong layout shows.
    layout: Layout,
    weights: Vec<Vec<f32>>,
    caches: HashMap<(u32, u32), Cache>,
    position: usize,
}

impl<'a> Reference<'a> {
    /// A sequence without tokens; dequantizes all weights.
    pub fn new(plan: &'a Plan) -> Self {
        plan.check().expect("a sound plan");
        let weights = plan.weights.iter().map(dequantize).collect();
        Self { plan, layout: Layout::new(plan), weights, caches: HashMap::new(), position: 0 }
    }

    /// Appends a token; gives its logits.
    pub fn push(&mut self, token: u32) -> Vec<f32> {
        let mut slots = vec![Vec::new(); self.layout.slots.len()];
        for op in &self.plan.ops {
            self.op(op, token, &mut slots);
        }
        self.position += 1;
        assert_eq!(self.plan.buffer(self.plan.output).rows, Rows::Outputs);
        slots.swap_remove(self.slot(self.plan.output))
    }

    fn slot(&self, id: BufId) -> usize {
        self.layout.slot(id)
    }

    fn read(&self, slots: &[Vec<f32>], id: &BufId) -> Vec<f32> {
        let values = &slots[self.slot(*id)];
        assert_eq!(values.len(), self.plan.buffer(*id).width, "`{}` was overwritten", self.plan.buffer(*id).name);
        values.clone()
    }

    fn weight(&self, id: WeightId) -> &[f32] {
        &self.weights[id.0 as usize]
    }

    fn op(&mut self, op: &Op, token: u32, slots: &mut [Vec<f32>]) {
        match op {
            Op::Embed { table, scale, out } => {
                let width = self.plan.buffer(*out).width;
                let row = &self.weight(*table)[token as usize * width..][..width];
                slots[self.slot(*out)] = row.iter().map(|x| x * scale).collect();
            }
            Op::Norm { kind, x, weight, bias, group, eps, out } => {
                let mut x = self.read(slots, x);
                for group in x.chunks_exact_mut(*group) {
                    let n = group.len() as f64;
                    let mean = match kind {
                        NormKind::Rms => 0.0,
                        NormKind::Layer => group.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
                    };
                    let square = group.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
                    let scale = 1.0 / (square + f64::from(*eps)).sqrt();
                    for (i, x) in group.iter_mut().enumerate() {
                        let gain = weight.map_or(1.0, |w| self.weight(w)[i]);
                        let offset = bias.map_or(0.0, |b| self.weight(b)[i]);
                        *x = ((f64::from(*x) - mean) * scale) as f32 * gain + offset;
                    }
                }
                slots[self.slot(*out)] = x;
            }
            Op::Linear { x, projections } => {
                let x = self.read(slots, x);
                for p in projections {
                    let rows = self.weight(p.weight).chunks_exact(x.len());
                    let mut out: Vec<f32> = rows.map(|row| dot(row, &x)).collect();
                    if let Some(bias) = p.bias {
                        out.iter_mut().zip(self.weight(bias)).for_each(|(o, b)| *o += b);
                    }
                    slots[self.slot(p.out)] = out;
                }
            }
            Op::Rope { x, head_dim, rope } => {
                let rope = &self.plan.ropes[rope.0 as usize];
                let factors = rope.factors.map(|id| self.weight(id));
                for head in slots[self.slot(*x)].chunks_exact_mut(*head_dim) {
                    rotate(head, rope, factors, self.position);
                }
            }
            Op::Store { cache, slot, k, v } => {
                let entry = (self.read(slots, k), self.read(slots, v));
                self.caches.entry((cache.0, *slot)).or_default().push(entry);
            }
            Op::Attention(a) => slots[self.slot(a.out)] = self.attend(a, &slots[self.slot(a.q)]),
            Op::Glu { gate, up, act, out } => {
                let up = self.read(slots, up);
                let gate = self.read(slots, gate);
                slots[self.slot(*out)] = gate.iter().zip(&up).map(|(g, u)| activate(*act, *g) * u).collect();
            }
            Op::Add { a, b, out } => {
                let (a, b) = (self.read(slots, a), self.read(slots, b));
                slots[self.slot(*out)] = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            }
            Op::Scale { x, factor } => slots[self.slot(*x)].iter_mut().for_each(|x| *x *= factor),
            Op::Softcap { x, cap } => slots[self.slot(*x)].iter_mut().for_each(|x| *x = cap * (*x / cap).tanh()),
            Op::Select { x, out } => slots[self.slot(*out)] = self.read(slots, x),
        }
    }

    fn attend(&self, a: &Attention, q: &[f32]) -> Vec<f32> {
        let group = &self.plan.caches[a.cache.0 as usize];
        let cache = &self.caches[&(a.cache.0, a.slot)];
        let first = a.window.map_or(0, |w| (self.position + 1).saturating_sub(w as usize));
        let mut out = Vec::new();
        for (i, q) in q.chunks_exact(group.head_dim).enumerate() {
            let head = i / (a.n_head / group.n_head_kv);
            let seen = &cache[first..];
            let mut scores: Vec<f32> =
                seen.iter().map(|(k, _)| dot(q, &k[head * group.head_dim..][..group.head_dim]) * a.scale).collect();
            if let Some(cap) = a.softcap {
                scores.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
            }
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            scores.iter_mut().for_each(|s| *s = (*s - most).exp());
            let sum: f32 = scores.iter().sum();
            for d in 0..group.head_dim_v {
                let at = head * group.head_dim_v + d;
                out.push(scores.iter().zip(seen).map(|(s, (_, v))| s * v[at]).sum::<f32>() / sum);
            }
        }
        out
    }
}

fn dequantize(w: &Weight) -> Vec<f32> {
    let format = w.ty.format().expect("a type with kernels");
    let mut out = vec![0.0; w.n_rows * w.n_cols];
    let rows = w.data.bytes().chunks_exact(w.data.len() / w.n_rows);
    for (row, out) in rows.zip(out.chunks_exact_mut(w.n_cols)) {
        format.dequantize(row, out);
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

fn activate(act: Activation, x: f32) -> f32 {
    match act {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
    }
}

fn rotate(head: &mut [f32], rope: &Rope, factors: Option<&[f32]>, position: usize) {
    let half = rope.n_rot / 2;
    for i in 0..half {
        let plain = f64::from(rope.freq_base).powf(-2.0 * i as f64 / rope.n_rot as f64);
        let plain = plain / factors.map_or(1.0, |f| f64::from(f[i]));
        let mut frequency = plain * f64::from(rope.freq_scale);
        let mut magnitude = f64::from(rope.attn_factor);
        if let Some(y) = rope.yarn {
            let dimension = |rotations: f32| {
                let n = f64::from(y.original_context) / (f64::from(rotations) * std::f64::consts::TAU);
                rope.n_rot as f64 * n.ln() / (2.0 * f64::from(rope.freq_base).ln())
            };
            let low = dimension(y.beta_fast).floor().max(0.0);
            let high = dimension(y.beta_slow).ceil().min(rope.n_rot as f64 - 1.0);
            let ramp = 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let mix = ramp * f64::from(y.ext_factor);
            frequency = frequency * (1.0 - mix) + plain * mix;
            magnitude *= 1.0 - 0.1 * f64::from(rope.freq_scale).ln();
        }
        let (sin, cos) = (frequency * position as f64).sin_cos();
        let (sin, cos) = ((sin * magnitude) as f32, (cos * magnitude) as f32);
        let (a, b) = match rope.style {
            RopeStyle::Pairs => (2 * i, 2 * i + 1),
            RopeStyle::Halves => (i, i + half),
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos - y * sin;
        head[b] = x * sin + y * cos;
    }
}
