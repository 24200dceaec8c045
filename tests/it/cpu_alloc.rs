//! A step of the CPU backend allocates nothing, and a backend as much as it says.

#[path = "cpu/plan.rs"]
#[allow(dead_code)]
mod plan;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rocmforge::backend::Backend;
use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::plan::batch::Batch;
use rocmforge::plan::cache::KvType;
use rocmforge::plan::op::CacheId;
use rocmforge::quant::GgmlType;
use rocmforge::simd::Tier;

/// The system's allocator, counting calls and bytes in use.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test: what runs beside it would be counted too.
#[test]
fn steps_allocate_nothing_and_backends_what_they_say() {
    for (ty, kv_type, threads) in [
        (GgmlType::Q4_K, KvType::F16, 1),
        (GgmlType::Q4_K, KvType::F16, 3),
        (GgmlType::F32, KvType::F16, 2),
        (GgmlType::Q4_K, KvType::Q8_0, 2),
    ] {
        let plan = Arc::new(plan::plan(ty, kv_type));
        let pool = CpuPool::new(threads, Tier::detect());
        let said = CpuBackend::activation_bytes(&plan, &pool, 512, 16) as usize;
        let before = IN_USE.load(Ordering::Relaxed);
        let mut backend = CpuBackend::new(Arc::clone(&plan), pool, 512, 16).unwrap();
        let took = IN_USE.load(Ordering::Relaxed) - before;
        let slack = 64 << 10;
        assert!(took <= said + slack && said <= took + slack, "took {took}, said {said}");
        backend.add_slab(CacheId(0)).unwrap();
        backend.add_slab(CacheId(1)).unwrap();
        let mut batch = Batch::default();
        let tokens = [7; 512];
        let blocks: Vec<u32> = (0..40).collect();
        // Prefill, a few rows, decode with a context that is split.
        for (n, pos) in [(500, 0), (3, 500), (1, 503), (512, 504), (1, 1016)] {
            batch.clear();
            batch.push(&tokens[..n], pos, [n - 1]);
            batch.push_table(&blocks);
            batch.push_table(&blocks);
            let before = CALLS.load(Ordering::Relaxed);
            backend.submit(&batch, &[]).unwrap();
            assert!(backend.poll(Duration::ZERO).unwrap().is_some());
            assert_eq!(CALLS.load(Ordering::Relaxed), before, "a step of {n} tokens allocates");
        }
    }
}
