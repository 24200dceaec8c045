//! Device memory: what is counted beforehand is what is taken, and all of it comes back.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rocmforge::backend::hip::{HipBackend, Options, StartError};
use rocmforge::backend::{Backend, BackendError};
use rocmforge::plan::batch::Batch;
use rocmforge::plan::cache::KvType;
use rocmforge::plan::op::CacheId;
use rocmforge::quant::GgmlType;

use super::device::{Gpu, gpu};
use super::faults::alone;
use super::plan::plan;

/// In a process of its own: other tests take memory of the same device.
#[test]
fn bytes_are_exact_and_come_back() {
    alone("memory::counted", &[]);
}

#[test]
#[ignore = "run by bytes_are_exact_and_come_back"]
fn counted() {
    let Some(gpu) = gpu() else { return };
    let plan = Arc::new(plan(GgmlType::Q4_K, KvType::F16));
    let used = || {
        let (free, total) = gpu.device.memory().expect("told");
        total - free
    };
    let before = used();
    for chunk_bytes in [0, 100_000, 1 << 30] {
        let options = Options { chunk_bytes, ..Gpu::options(40) };
        let mut told = Vec::new();
        let mut progress = |done, total| {
            told.push((done, total));
            ControlFlow::Continue(())
        };
        let mut backend = HipBackend::new(&gpu.device, &gpu.kernels, Arc::clone(&plan), options.clone(), &mut progress)
            .expect("all kernels exist");
        let counted = HipBackend::weight_bytes(&plan, &options)
            + HipBackend::activation_bytes(&plan, &options, gpu.device.properties.compute_units);
        assert_eq!(used() - before, counted, "chunks of {chunk_bytes}");
        let file: u64 = plan.weights.iter().map(|w| w.data.len() as u64).sum();
        let rotations = plan.ropes.iter().map(|r| 4 * r.n_rot as u64).sum::<u64>();
        // Rope factors are used on the host only.
        let factors = 4 * plan.ropes[1].n_rot as u64 / 2;
        assert_eq!(told.last(), Some(&(file + rotations - factors, file + rotations - factors)));
        assert!(told.is_sorted());
        let slab = backend.add_slab(CacheId(1)).expect("memory");
        assert_eq!(used() - before, counted + plan.caches[1].slab_bytes());
        backend.remove_slab(CacheId(1), slab);
        drop(backend);
        assert_eq!(used(), before);
    }
}

#[test]
fn a_load_can_be_given_up() {
    let Some(gpu) = gpu() else { return };
    let plan = Arc::new(plan(GgmlType::F32, KvType::F32));
    let stop = &mut |_, _| ControlFlow::Break(());
    let stopped = HipBackend::new(&gpu.device, &gpu.kernels, Arc::clone(&plan), Gpu::options(8), stop);
    assert!(matches!(stopped, Err(StartError::Cancelled)));
}

#[test]
fn batches_that_do_not_fit_are_refused_and_the_backend_goes_on() {
    let Some(gpu) = gpu() else { return };
    let plan = Arc::new(plan(GgmlType::F32, KvType::F32));
    let mut backend = gpu.start(&plan, Options { max_spans: 1, ..Gpu::options(8) }).expect("all kernels exist");
    assert_eq!(backend.device(), "gpu gfx1100");
    for group in 0..2 {
        assert_eq!(backend.add_slab(CacheId(group)).expect("memory"), 0);
    }
    let batch = |spans: &[u32], block| {
        let mut batch = Batch::default();
        for &token in spans {
            batch.push(&[token], 0, [0]);
        }
        for _ in 0..2 * spans.len() {
            batch.push_table(&[block]);
        }
        batch
    };
    for (bad, says) in [
        (batch(&[1, 2], 0), "2 spans, most 1"),
        (batch(&[50], 0), "token 50 of a vocabulary of 50"),
        (batch(&[1], 1 << 20), "blocks 0 to 0 of span 0"),
    ] {
        let Err(BackendError::Batch(why)) = backend.submit(&bad, &[]) else { panic!("accepted: {says}") };
        assert!(why.contains(says), "{why}");
    }
    assert!(backend.poll(Duration::ZERO).expect("no step failed").is_none());
    backend.submit(&batch(&[1], 0), &[]).expect("a good batch");
    assert!(matches!(backend.submit(&batch(&[1], 0), &[]), Err(BackendError::Batch(_))), "one is in flight");
    let out = backend.poll(Duration::from_secs(60)).expect("a good step").expect("done");
    assert_eq!(out.rows.len(), 50);
    backend.submit(&Batch::default(), &[]).expect("an empty batch");
    assert_eq!(backend.poll(Duration::ZERO).expect("nothing to do").expect("done").rows.len(), 0);
}
