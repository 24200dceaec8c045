//! The CPU backend on a small plan: however a sequence is cut and batched, the logits agree.

#![allow(clippy::unwrap_used)]

mod plan;
mod speed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plan::{VOCAB, plan};
use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::backend::{Backend, BackendError};
use rocmforge::base::limits::KV_BLOCK_TOKENS;
use rocmforge::base::storage::{Slice, Storage};
use rocmforge::plan::batch::{Batch, NO_BLOCK};
use rocmforge::plan::cache::KvType;
use rocmforge::plan::op::CacheId;
use rocmforge::quant::GgmlType;
use rocmforge::simd::Tier;

const MAX_TOKENS: usize = 80;

fn backend(ty: GgmlType, tier: Tier, threads: usize) -> CpuBackend {
    let pool = CpuPool::new(threads, tier);
    let mut backend = CpuBackend::new(Arc::new(plan(ty, KvType::F32)), pool, MAX_TOKENS, MAX_TOKENS).expect("kernels");
    for group in 0..2 {
        assert_eq!(backend.add_slab(CacheId(group)).expect("memory"), 0);
    }
    backend
}

fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 17 + i * i * 3 + seed * 7) % VOCAB as u32).collect()
}

/// Blocks of sequence `s`, in no order.
fn table(s: usize) -> Vec<u32> {
    (0..4).map(|b| (s * 4 + (b * 3) % 4) as u32).collect()
}

/// One step: `(sequence, tokens, position)` each; logits of all tokens.
fn step(backend: &mut CpuBackend, parts: &[(usize, &[u32], usize)]) -> Vec<f32> {
    let mut batch = Batch::default();
    for &(_, tokens, pos) in parts {
        batch.push(tokens, pos as u32, 0..tokens.len());
    }
    for group in 0..2 {
        for &(s, tokens, pos) in parts {
            let mut table = table(s);
            table.truncate((pos + tokens.len()).div_ceil(KV_BLOCK_TOKENS));
            if group == 1 {
                // What lies before the window was given back.
                let first = (pos + 1).saturating_sub(plan::WINDOW as usize) / KV_BLOCK_TOKENS;
                table[..first].fill(NO_BLOCK);
            }
            batch.push_table(&table);
        }
    }
    backend.submit(&batch, &[]).expect("a good batch");
    let out = backend.poll(Duration::ZERO).expect("a good step").expect("done");
    assert_eq!(out.width, VOCAB);
    out.rows.to_vec()
}

/// Root mean square of the differences, in standard deviations of `a`.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let n = a.len() as f32;
    let mean = a.iter().sum::<f32>() / n;
    let var = a.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / n;
    assert!(var > 0.01, "logits say nothing: variance {var}");
    (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / n / var).sqrt()
}

/// How far runs may differ: by roundings of f32; with codes, where such a rounding can move an
/// activation to the neighbouring code, by some of these.
fn bound(ty: GgmlType) -> f32 {
    if ty == GgmlType::F32 { 1e-5 } else { 0.02 }
}

/// Runs of one sequence in chunks, alone.
fn chunked(backend: &mut CpuBackend, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for (i, part) in tokens.chunks(chunk).enumerate() {
        out.extend(step(backend, &[(0, part, i * chunk)]));
    }
    out
}

#[test]
fn steps_of_one_chunks_and_one_prefill_agree() {
    let cases = [GgmlType::F32, GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::Q8_0];
    for tier in Tier::available() {
        for ty in cases {
            let bound = bound(ty);
            for threads in 1..=3 {
                let mut backend = backend(ty, tier, threads);
                let tokens = tokens(1, 70);
                let whole = step(&mut backend, &[(0, &tokens, 0)]);
                for chunk in [1, 3, 32, 37] {
                    let cut = chunked(&mut backend, &tokens, chunk);
                    let off = difference(&whole, &cut);
                    assert!(off <= bound, "{} {} in chunks of {chunk}: {off}", tier.name(), ty.name());
                }
            }
        }
    }
}

#[test]
fn tiers_and_workers_agree() {
    for ty in [GgmlType::F32, GgmlType::Q4_K] {
        let tokens = tokens(2, 60);
        let want = step(&mut backend(ty, Tier::Scalar, 1), &[(0, &tokens, 0)]);
        for tier in Tier::available() {
            for threads in 1..=3 {
                let got = step(&mut backend(ty, tier, threads), &[(0, &tokens, 0)]);
                assert!(difference(&want, &got) <= bound(ty), "{} {}", tier.name(), difference(&want, &got));
            }
        }
    }
}

#[test]
fn the_number_of_workers_changes_no_bit() {
    let tokens = tokens(2, 60);
    for tier in Tier::available() {
        let runs: Vec<_> = (1..=3).map(|n| chunked(&mut backend(GgmlType::Q4_K, tier, n), &tokens, 20)).collect();
        assert!(runs[0] == runs[1] && runs[0] == runs[2]);
    }
}

#[test]
fn sequences_do_not_feel_each_other() {
    for tier in Tier::available() {
        for ty in [GgmlType::F32, GgmlType::Q4_K] {
            let bound = bound(ty);
            let (a, b) = (tokens(3, 40), tokens(4, 33));
            let alone_a = chunked(&mut backend(ty, tier, 2), &a, 40);
            let alone_b = chunked(&mut backend(ty, tier, 2), &b, 33);
            let mut together = backend(ty, tier, 2);
            // One prefills while the other has started; then both decode.
            let first = step(&mut together, &[(2, &a[..30], 0)]);
            let both = step(&mut together, &[(2, &a[30..31], 30), (5, &b[..30], 0)]);
            assert!(difference(&alone_a[..30 * VOCAB], &first) <= bound);
            assert!(difference(&alone_a[30 * VOCAB..31 * VOCAB], &both[..VOCAB]) <= bound);
            assert!(difference(&alone_b[..30 * VOCAB], &both[VOCAB..]) <= bound);
            for i in 0..3 {
                let (at, bt) = (31 + i, 30 + i);
                let both = step(&mut together, &[(5, &b[bt..=bt], bt), (2, &a[at..=at], at)]);
                assert!(difference(&alone_b[bt * VOCAB..][..VOCAB], &both[..VOCAB]) <= bound);
                assert!(difference(&alone_a[at * VOCAB..][..VOCAB], &both[VOCAB..]) <= bound);
            }
        }
    }
}

#[test]
fn only_the_wanted_rows_come_back() {
    let mut backend = backend(GgmlType::F32, Tier::detect(), 2);
    let tokens = tokens(1, 10);
    let all = step(&mut backend, &[(0, &tokens, 0)]);
    for wanted in [&[][..], &[9], &[0, 4]] {
        let mut batch = Batch::default();
        batch.push(&tokens, 0, wanted.iter().copied());
        batch.push_table(&[3]);
        batch.push_table(&[3]);
        backend.submit(&batch, &[]).unwrap();
        let out = backend.poll(Duration::ZERO).unwrap().unwrap();
        let want: Vec<f32> = wanted.iter().flat_map(|&i| all[i * VOCAB..][..VOCAB].to_vec()).collect();
        if want.is_empty() {
            assert!(out.rows.is_empty());
        } else {
            assert!(difference(&want, out.rows) < 1e-5);
        }
    }
}

#[test]
fn slabs_come_and_go() {
    let mut backend = backend(GgmlType::F32, Tier::detect(), 1);
    let per_slab = plan(GgmlType::F32, KvType::F32).caches[0].slab_blocks() as u32;
    assert_eq!(backend.add_slab(CacheId(0)).unwrap(), per_slab);
    assert_eq!(backend.add_slab(CacheId(0)).unwrap(), 2 * per_slab);
    let run = |backend: &mut CpuBackend, block: u32| {
        let mut batch = Batch::default();
        batch.push(&tokens(1, 9), 0, [8]);
        batch.push_table(&[block]);
        batch.push_table(&[1]);
        backend.submit(&batch, &[])?;
        Ok::<_, BackendError>(backend.poll(Duration::ZERO)?.unwrap().rows.to_vec())
    };
    let first = run(&mut backend, 0).unwrap();
    assert_eq!(run(&mut backend, per_slab + 5).unwrap(), first);
    backend.remove_slab(CacheId(0), per_slab);
    let gone = run(&mut backend, per_slab + 5).unwrap_err();
    assert!(matches!(&gone, BackendError::Batch(what) if what.contains("full")), "{gone}");
    assert_eq!(run(&mut backend, 2 * per_slab + 1).unwrap(), first);
    // The gap is filled first.
    assert_eq!(backend.add_slab(CacheId(0)).unwrap(), per_slab);
    assert_eq!(run(&mut backend, per_slab + 5).unwrap(), first);
}

#[test]
fn bad_batches_are_refused() {
    let mut backend = backend(GgmlType::F32, Tier::Scalar, 1);
    let mut refused = |tokens: &[u32], outputs: Vec<usize>, blocks: &[u32], what: &str| {
        let mut batch = Batch::default();
        batch.push(tokens, 0, outputs);
        batch.push_table(blocks);
        batch.push_table(&[0, 1, 2]);
        let e = backend.submit(&batch, &[]).unwrap_err().to_string();
        assert!(e.contains(what), "{e}");
        assert!(backend.poll(Duration::ZERO).unwrap().is_none());
    };
    refused(&[VOCAB as u32], vec![], &[0], "token 50");
    refused(&vec![1; MAX_TOKENS + 1], vec![], &[0, 1, 2], "81 tokens");
    refused(&[1, 2], vec![2], &[0], "output of token 2");
    refused(&[1; 33], vec![], &[0], "blocks 0 to 1");
    refused(&[1], vec![], &[NO_BLOCK], "blocks 0 to 0");
}

#[test]
fn a_tensor_without_kernels_is_named() {
    let mut plan = plan(GgmlType::F32, KvType::F16);
    let bad = plan.weights.iter_mut().find(|w| w.name == "down").unwrap();
    bad.ty = GgmlType::I32;
    let pool = CpuPool::new(1, Tier::Scalar);
    let Err(e) = CpuBackend::new(Arc::new(plan), pool, 4, 1) else { panic!("accepted") };
    assert!(e.to_string().contains("`down`") && e.to_string().contains("I32"), "{e}");
}

struct Breakable(Vec<u8>, AtomicBool);

impl Storage for Breakable {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn poisoned(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }
}

#[test]
fn damaged_weights_fail_the_step() {
    let mut plan = plan(GgmlType::F32, KvType::F16);
    let weight = plan.weights.iter_mut().find(|w| w.name == "down").unwrap();
    let storage = Arc::new(Breakable(weight.data.bytes().to_vec(), AtomicBool::new(false)));
    weight.data = Slice::new(Arc::clone(&storage) as Arc<dyn Storage>, 0, weight.data.len());
    let nan = plan.weights.iter_mut().find(|w| w.name == "output.weight").unwrap();
    let healthy = nan.data.clone();
    let mut bytes = healthy.bytes().to_vec();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let len = bytes.len();
    nan.data = Slice::new(Arc::new(bytes), 0, len);
    let run = |plan: rocmforge::plan::Plan| {
        let mut backend = CpuBackend::new(Arc::new(plan), CpuPool::new(2, Tier::detect()), 4, 2).unwrap();
        backend.add_slab(CacheId(0)).unwrap();
        backend.add_slab(CacheId(1)).unwrap();
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], 0, [1, 2]);
        batch.push_table(&[0]);
        batch.push_table(&[0]);
        backend.submit(&batch, &[]).unwrap();
        backend.poll(Duration::ZERO).map(|o| o.unwrap().rows.len())
    };
    assert!(matches!(run(plan.clone()), Err(BackendError::NotFinite { output: 0 })));
    plan.weights.iter_mut().find(|w| w.name == "output.weight").unwrap().data = healthy;
    assert_eq!(run(plan.clone()).unwrap(), 2 * VOCAB);
    storage.1.store(true, Ordering::Relaxed);
    assert!(matches!(run(plan), Err(BackendError::Poisoned)));
}
