//! Attention against f64, and against itself in other batches.

use super::*;
use crate::backend::cpu::ops::testing::{each_team, random, worst};
use crate::backend::cpu::workers::CpuPool;
use crate::plan::cache::{CacheGroup, KvType};

/// A cache of one sequence, as the op sees it and as numbers.
struct World {
    heads: Heads,
    cache: Cache,
    table: Vec<u32>,
    /// `n x n_head_kv x dim`, as the cache rounds them.
    keys: Vec<f32>,
    values: Vec<f32>,
    q: Vec<f32>,
}

const SLOT: u32 = 1;

/// What a cache makes of numbers, by the definition.
fn rounded(kv_type: KvType, mut x: Vec<f32>) -> Vec<f32> {
    let half = |x: f32| half::f16::from_f32(x).to_f32();
    match kv_type {
        KvType::F32 => {}
        KvType::F16 => x.iter_mut().for_each(|x| *x = half(*x)),
        KvType::Q8_0 => {
            for group in x.chunks_exact_mut(32) {
                let amax = group.iter().map(|x| x.abs()).fold(0.0, f32::max);
                let d = half(amax / 127.0);
                group.iter_mut().for_each(|x| *x = (*x * (127.0 / amax)).round_ties_even() * d);
            }
        }
    }
    x
}

fn world(heads: Heads, kv_type: KvType, n: usize) -> World {
    let group = CacheGroup {
        name: "test".into(),
        n_layer: 2,
        n_head_kv: heads.n_head_kv,
        head_dim: heads.head_dim,
        head_dim_v: heads.head_dim_v,
        window: heads.window,
        kv_type,
        part: 0,
    };
    let mut cache = Cache::new(group);
    cache.add_slab().unwrap();
    let blocks = n.div_ceil(KV_BLOCK_TOKENS);
    // Blocks lie anywhere, and hold what others left there.
    let table: Vec<u32> = (0..blocks as u32).map(|b| (b * 7 + 3) % 101).collect();
    let garbage = vec![f32::INFINITY; heads.n_head_kv * heads.head_dim.max(heads.head_dim_v)];
    let (width, width_v) = (heads.n_head_kv * heads.head_dim, heads.n_head_kv * heads.head_dim_v);
    let (raw_keys, raw_values) = (random(1, n * width, 1.0), random(2, n * width_v, 1.0));
    for i in 0..blocks * KV_BLOCK_TOKENS {
        let (k, v) = match i < n {
            true => (&raw_keys[i * width..][..width], &raw_values[i * width_v..][..width_v]),
            false => (&garbage[..width], &garbage[..width_v]),
        };
        cache.store(Tier::detect(), table[i / KV_BLOCK_TOKENS], SLOT, i % KV_BLOCK_TOKENS, k, v);
    }
    let (keys, values) = (rounded(kv_type, raw_keys), rounded(kv_type, raw_values));
    let q = random(3, n * heads.n_head * heads.head_dim, 3.0);
    World { heads, cache, table, keys, values, q }
}

impl World {
    /// Attends with the tokens `from .. to`.
    fn run(&self, team: &mut Team<'_>, from: usize, to: usize) -> Vec<f32> {
        self.run_all(team, &[(from, to)])
    }

    /// Attends with several spans, as if they were sequences with the same contents.
    fn run_all(&self, team: &mut Team<'_>, spans: &[(usize, usize)]) -> Vec<f32> {
        let mut batch = Batch::default();
        let width = self.heads.n_head * self.heads.head_dim;
        let mut q = Vec::new();
        for &(from, to) in spans {
            batch.push(&vec![0; to - from], from as u32, []);
            q.extend_from_slice(&self.q[from * width..to * width]);
        }
        for _ in spans {
            batch.push_table(&self.table);
        }
        let tokens = batch.tokens.len();
        let mut out = vec![f32::NAN; tokens * self.heads.n_head * self.heads.head_dim_v];
        let mut attend = Attend::new(&[self.heads], team.threads(), tokens);
        attend.attend(team, &self.heads, &self.cache, SLOT, &batch, 0, &q, &mut out);
        out
    }

    fn reference(&self, token: usize) -> Vec<f64> {
        let h = &self.heads;
        let mut out = Vec::new();
        for head in 0..h.n_head {
            let kv = head / h.group();
            let q = &self.q[(token * h.n_head + head) * h.head_dim..][..h.head_dim];
            let first = h.window.map_or(0, |w| (token + 1).saturating_sub(w as usize));
            let scores: Vec<f64> = (first..=token)
                .map(|i| {
                    let k = &self.keys[(i * h.n_head_kv + kv) * h.head_dim..][..h.head_dim];
                    let s: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                    let s = s * f64::from(h.scale);
                    h.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for d in 0..h.head_dim_v {
                let value = |i: usize| f64::from(self.values[(i * h.n_head_kv + kv) * h.head_dim_v + d]);
                let weighted = scores.iter().enumerate().map(|(i, s)| (s - max).exp() * value(first + i));
                out.push(weighted.sum::<f64>() / sum);
            }
        }
        out
    }
}

fn heads(n_head: usize, n_head_kv: usize, head_dim: usize, head_dim_v: usize) -> Heads {
    Heads { n_head, n_head_kv, head_dim, head_dim_v, scale: 0.3, window: None, softcap: None }
}

#[test]
fn all_shapes_match_f64() {
    let shapes = [
        (heads(6, 1, 32, 32), KvType::F16, 70),
        (heads(4, 2, 16, 48), KvType::F32, 33),
        (heads(3, 3, 20, 12), KvType::F16, 40),
        (heads(14, 2, 64, 64), KvType::F32, 600),
        (Heads { window: Some(40), ..heads(4, 1, 32, 32) }, KvType::F16, 150),
        (Heads { window: Some(1), ..heads(2, 1, 32, 32) }, KvType::F32, 40),
        (Heads { softcap: Some(2.0), ..heads(4, 4, 32, 32) }, KvType::F32, 65),
        (heads(6, 1, 32, 96), KvType::Q8_0, 70),
        (heads(4, 4, 128, 64), KvType::Q8_0, 33),
        // Long sums round more, whatever the cache's type: scaled as models do it.
        (Heads { scale: 0.056, ..heads(3, 1, 320, 288) }, KvType::Q8_0, 40),
        (heads(14, 2, 64, 64), KvType::Q8_0, 600),
        (Heads { window: Some(40), ..heads(4, 1, 64, 32) }, KvType::Q8_0, 150),
    ];
    each_team(|team| {
        for (heads, kv_type, n) in shapes {
            let world = world(heads, kv_type, n);
            let out = world.run(team, 0, n);
            for token in [0, 1, n / 2, n - 1] {
                let width = heads.n_head * heads.head_dim_v;
                let error = worst(&out[token * width..][..width], &world.reference(token));
                assert!(error < 2e-6, "{} {heads:?} {kv_type:?} token {token}: {error}", team.tier().name());
            }
        }
    });
}

#[test]
fn a_token_is_the_same_in_every_batch() {
    each_team(|team| {
        for (window, kv_type) in [(None, KvType::F16), (Some(700), KvType::F16), (None, KvType::Q8_0)] {
            // Long enough for parts, few heads so that decode is split.
            let world = world(Heads { window, ..heads(4, 1, 32, 32) }, kv_type, 1300);
            let width = 4 * 32;
            let chunk = world.run(team, 1100, 1300);
            let whole = world.run(team, 900, 1300);
            assert!(whole[200 * width..] == chunk[..], "chunks");
            for token in [1100, 1211, 1299] {
                let alone = world.run(team, token, token + 1);
                assert!(alone[..] == chunk[(token - 1100) * width..][..width], "token {token} alone");
            }
            let both = world.run_all(team, &[(1100, 1101), (40, 55), (1211, 1212)]);
            assert!(both[..width] == chunk[..width], "beside others");
            assert!(both[16 * width..] == chunk[111 * width..][..width]);
        }
    });
}

#[test]
fn decoding_a_long_context_is_split_only_with_several_workers() {
    let heads = heads(4, 1, 32, 32);
    for threads in [1, 2] {
        let pool = CpuPool::new(threads, Tier::detect());
        let world = world(heads, KvType::F16, 1300);
        let mut batch = Batch::default();
        batch.push(&[0], 1299, []);
        batch.push_table(&world.table);
        let mut attend = Attend::new(&[heads], threads, 1);
        attend.plan(&heads, &batch, pool.threads());
        assert_eq!(attend.parts.len(), if threads == 1 { 0 } else { 3 });
    }
}
