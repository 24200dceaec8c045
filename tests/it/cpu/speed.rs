//! How fast a real model runs: prefill, decode and decode of eight sequences. Not a test of
//! correctness: `MODEL=… cargo test --release --test cpu speed -- --ignored --nocapture`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rocmforge::backend::Backend;
use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::base::limits::KV_BLOCK_TOKENS;
use rocmforge::gguf::Gguf;
use rocmforge::model::{Model, PlanOptions};
use rocmforge::plan::batch::Batch;
use rocmforge::plan::cache::KvType;
use rocmforge::plan::op::CacheId;
use rocmforge::simd::Tier;

/// Tokens of a sequence's block table.
const CONTEXT: usize = 1024;

/// The clock: this thread's own CPU time if it works alone, so that others on the machine count
/// less.
fn now(threads: usize) -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    if threads > 1 {
        return START.get_or_init(Instant::now).elapsed();
    }
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with schedstat");
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds on a CPU"))
}

#[test]
#[ignore = "measures; needs MODEL"]
fn speed() {
    let path = std::env::var("MODEL").expect("MODEL is the path of a GGUF file");
    let gguf = Gguf::open(path.as_ref()).unwrap();
    let model = Model::from_gguf(&gguf).unwrap();
    let plan = Arc::new(model.plan(&PlanOptions { kv_type: KvType::F16 }));
    for threads in std::env::var("THREADS").map_or(vec![1, 2], |t| vec![t.parse().unwrap()]) {
        let pool = CpuPool::new(threads, Tier::detect());
        let mut backend = CpuBackend::new(Arc::clone(&plan), pool, 512, 8).unwrap();
        let blocks = CONTEXT / KV_BLOCK_TOKENS;
        for (group, cache) in plan.caches.iter().enumerate() {
            for _ in 0..(8 * blocks).div_ceil(cache.slab_blocks()) {
                backend.add_slab(CacheId(group as u32)).unwrap();
            }
        }
        let mut step = |sequences: usize, tokens: usize, pos: u32| {
            let mut batch = Batch::default();
            let ids: Vec<u32> = (0..tokens as u32).map(|i| 1000 + i * 37 % 5000).collect();
            for _ in 0..sequences {
                batch.push(&ids, pos, [tokens - 1]);
            }
            for _ in &plan.caches {
                for s in 0..sequences {
                    let table: Vec<u32> = (s * blocks..(s + 1) * blocks).map(|b| b as u32).collect();
                    batch.push_table(&table);
                }
            }
            let start = now(threads);
            backend.submit(&batch, &[]).unwrap();
            backend.poll(Duration::ZERO).unwrap().unwrap();
            (now(threads) - start).as_secs_f64()
        };
        // Others use the machine too: the best of several.
        let mut best =
            |n: usize, sequences, tokens, pos| (0..n).map(|_| step(sequences, tokens, pos)).fold(f64::MAX, f64::min);
        best(1, 8, 64, 64);
        println!("{threads} threads: prefill 512 {:.1} tok/s", 512.0 / best(3, 1, 512, 0));
        println!("{threads} threads: prefill 64 {:.1} tok/s", 64.0 / best(3, 1, 64, 0));
        println!("{threads} threads: decode {:.1} tok/s", 1.0 / best(8, 1, 1, 128));
        for n in [2, 4, 8] {
            println!("{threads} threads: decode of {n} {:.1} tok/s", n as f64 / best(4, n, 1, 128));
        }
    }
}
