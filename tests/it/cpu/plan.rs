//! A small decoder of two layers, built by hand: every op, both kinds of cache.

use std::sync::Arc;

use half::f16;
use rocmforge::base::storage::Slice;
use rocmforge::plan::cache::{CacheGroup, KvType};
use rocmforge::plan::op::*;
use rocmforge::plan::{Buffer, Plan, Weight};
use rocmforge::quant::GgmlType;

pub const VOCAB: usize = 50;
pub const WIDTH: usize = 256;
const HEADS: usize = 4;
const HEADS_KV: usize = 2;
const DIM: usize = 64;
const FFN: usize = 512;
/// Window of the second layer.
pub const WINDOW: u32 = 20;

/// What grows while the plan is built.
struct Builder {
    plan: Plan,
    ty: GgmlType,
    seed: u64,
}

impl Builder {
    fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed >> 20
    }

    fn number(&mut self) -> f32 {
        (self.random() & 0xffff) as f32 / 32768.0 - 1.0
    }

    fn weight(&mut self, name: &str, ty: GgmlType, n_rows: usize, n_cols: usize, bytes: Vec<u8>) -> WeightId {
        let len = bytes.len();
        let data = Slice::new(Arc::new(bytes), 0, len);
        self.plan.weights.push(Weight { name: name.to_owned(), ty, n_rows, n_cols, data });
        WeightId(self.plan.weights.len() as u32 - 1)
    }

    fn vector(&mut self, name: &str, n: usize, middle: f32) -> WeightId {
        let bytes = (0..n).flat_map(|_| (middle + 0.3 * self.number()).to_le_bytes()).collect();
        self.weight(name, GgmlType::F32, 1, n, bytes)
    }

    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> WeightId {
        let ty = self.ty;
        let bytes = match ty {
            GgmlType::F32 => (0..n_rows * n_cols).flat_map(|_| (0.1 * self.number()).to_le_bytes()).collect(),
            _ => {
                // Any codes; the scales of Q4_K are at the start of its blocks, Q8_0's too, Q6_K's at the end.
                let len = n_rows * ty.bytes_of(n_cols as u64).expect("whole blocks") as usize;
                let mut bytes: Vec<u8> = (0..len).map(|_| self.random() as u8).collect();
                let scales: &[(usize, f32)] = match ty {
                    GgmlType::Q4_K => &[(0, 3e-4), (2, 2e-3)],
                    GgmlType::Q6_K => &[(208, 3e-5)],
                    GgmlType::Q8_0 => &[(0, 1e-3)],
                    _ => unreachable!(),
                };
                for block in bytes.chunks_mut(ty.block_bytes()) {
                    for &(at, d) in scales {
                        block[at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
                    }
                }
                bytes
            }
        };
        self.weight(name, ty, n_rows, n_cols, bytes)
    }

    fn buffer(&mut self, name: &'static str, width: usize, rows: Rows) -> BufId {
        self.plan.buffers.push(Buffer { name, width, rows });
        BufId(self.plan.buffers.len() as u32 - 1)
    }

    fn norm(&mut self, x: BufId, out: BufId, group: usize, kind: NormKind) {
        let weight = Some(self.vector("norm", group, 1.0));
        let bias = (kind == NormKind::Layer).then(|| self.vector("norm bias", group, 0.0));
        self.plan.ops.push(Op::Norm { kind, x, weight, bias, group, eps: 1e-5, out });
    }

    fn linear(&mut self, x: BufId, outs: &[(&str, BufId)], bias: bool) {
        let n_cols = self.plan.buffer(x).width;
        let projections = outs
            .iter()
            .map(|&(name, out)| {
                let n_rows = self.plan.buffer(out).width;
                let weight = self.matrix(name, n_rows, n_cols);
                Projection { weight, bias: bias.then(|| self.vector("bias", n_rows, 0.0)), out }
            })
            .collect();
        self.plan.ops.push(Op::Linear { x, projections });
    }

    fn layer(&mut self, layer: u32, x: BufId) {
        let windowed = layer == 1;
        let [h, q, k, v, a, y] = [
            ("h", WIDTH),
            ("q", HEADS * DIM),
            ("k", HEADS_KV * DIM),
            ("v", HEADS_KV * DIM),
            ("a", HEADS * DIM),
            ("y", WIDTH),
        ]
        .map(|(name, width)| self.buffer(name, width, Rows::Tokens));
        self.norm(x, h, WIDTH, if windowed { NormKind::Rms } else { NormKind::Layer });
        self.linear(h, &[("q", q), ("k", k), ("v", v)], !windowed);
        if windowed {
            self.norm(q, q, DIM, NormKind::Rms);
            self.norm(k, k, DIM, NormKind::Rms);
        }
        let (rope, cache) = (RopeId(layer), CacheId(layer));
        self.plan.ops.extend([
            Op::Rope { x: q, head_dim: DIM, rope },
            Op::Rope { x: k, head_dim: DIM, rope },
            Op::Store { cache, slot: 0, k, v },
            Op::Attention(Attention {
                q,
                out: a,
                cache,
                slot: 0,
                n_head: HEADS,
                scale: 0.125,
                window: windowed.then_some(WINDOW),
                softcap: windowed.then_some(5.0),
            }),
        ]);
        self.linear(a, &[("o", y)], false);
        self.plan.ops.push(Op::Add { a: x, b: y, out: x });
        let [gate, up] = [("gate", FFN), ("up", FFN)].map(|(n, w)| self.buffer(n, w, Rows::Tokens));
        self.norm(x, h, WIDTH, NormKind::Rms);
        self.linear(h, &[("gate", gate), ("up", up)], false);
        let act = if windowed { Activation::GeluTanh } else { Activation::Silu };
        self.plan.ops.push(Op::Glu { gate, up, act, out: gate });
        self.linear(gate, &[("down", y)], false);
        self.plan.ops.push(Op::Scale { x: y, factor: 0.7 });
        self.plan.ops.push(Op::Add { a: x, b: y, out: x });
    }
}

/// The decoder with matrices of `ty` and a cache of `kv_type`.
pub fn plan(ty: GgmlType, kv_type: KvType) -> Plan {
    let group = |name: &str, window| CacheGroup {
        name: name.to_owned(),
        n_layer: 1,
        n_head_kv: HEADS_KV,
        head_dim: DIM,
        head_dim_v: DIM,
        window,
        kv_type,
        part: 0,
    };
    let mut b = Builder {
        plan: Plan {
            ops: Vec::new(),
            buffers: Vec::new(),
            weights: Vec::new(),
            ropes: Vec::new(),
            caches: vec![group("full", None), group("window", Some(WINDOW))],
            layers: Vec::new(),
            part: 0,
            input: None,
            output: BufId(0),
            n_vocab: VOCAB,
        },
        ty,
        seed: 0x1234_5678_9abc_def1,
    };
    let factors = b.vector("rope_freqs.weight", DIM / 2, 1.5);
    let rope = |style, factors| Rope {
        style,
        n_rot: DIM,
        freq_base: 10_000.0,
        freq_scale: 1.0,
        factors,
        yarn: None,
        attn_factor: 1.0,
    };
    b.plan.ropes = vec![rope(RopeStyle::Pairs, None), rope(RopeStyle::Halves, Some(factors))];
    let x = b.buffer("x", WIDTH, Rows::Tokens);
    let table = b.matrix("token_embd.weight", VOCAB, WIDTH);
    b.plan.ops.push(Op::Embed { table, scale: 4.0, out: x });
    for i in 0..2 {
        b.plan.layers.push(b.plan.ops.len());
        b.layer(i, x);
    }
    let last = b.buffer("last", WIDTH, Rows::Outputs);
    let logits = b.buffer("logits", VOCAB, Rows::Outputs);
    b.plan.ops.push(Op::Select { x, out: last });
    b.norm(last, last, WIDTH, NormKind::Rms);
    b.linear(last, &[("output.weight", logits)], false);
    b.plan.ops.push(Op::Softcap { x: logits, cap: 30.0 });
    b.plan.output = logits;
    b.plan
}
