//! An engine that decodes does not allocate: not per token, not per step.
//!
//! A counting allocator counts for each thread. The backend below runs in the engine's thread and
//! reads the count at each step. This file is `unsafe` only to implement the allocator, which
//! passes everything on to the system's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rocmforge::backend::{Backend, BackendError, Output};
use rocmforge::engine::message::{Event, Generate, Sampling};
use rocmforge::engine::{Options, Vocabulary, start};
use rocmforge::plan::batch::Batch;
use rocmforge::plan::cache::{CacheGroup, KvType};
use rocmforge::plan::op::CacheId;
use rocmforge::pool::budget::Budget;

thread_local! {
    static N_ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is ending has no counter any more.
    let _ = N_ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call goes to the system allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the system's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const N_VOCAB: usize = 1000;
const N_STEPS: usize = 600;
const N_SEQUENCES: usize = 4;

struct Counter {
    logits: Vec<f32>,
    n_outputs: usize,
    n_slabs: u32,
    /// Allocations of this thread before each step, and the step's sequences.
    counts: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Backend for Counter {
    fn device(&self) -> String {
        "counter".to_owned()
    }

    fn add_slab(&mut self, _: CacheId) -> Result<u32, BackendError> {
        self.n_slabs += 1;
        Ok((self.n_slabs - 1) * 4096)
    }

    fn remove_slab(&mut self, _: CacheId, _: u32) {}

    fn submit(&mut self, batch: &Batch, _input: &[f32]) -> Result<(), BackendError> {
        self.n_outputs = batch.outputs.len();
        self.counts.lock().expect("not poisoned").push((N_ALLOCATIONS.get(), batch.spans.len()));
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Result<Option<Output<'_>>, BackendError> {
        Ok(Some(Output { rows: &self.logits[..self.n_outputs * N_VOCAB], width: N_VOCAB }))
    }
}

struct Words;

impl Vocabulary for Words {
    fn piece(&self, id: u32) -> &[u8] {
        // Also a part of a character, and beginnings of the stop string.
        [&b" word"[..], b"\xf0\x9f", b"\xa6\x80", b"sto", b"x"][id as usize % 5]
    }

    fn is_eog(&self, _: u32) -> bool {
        false
    }
}

#[test]
fn decoding_does_not_allocate() {
    let group = |window| CacheGroup {
        name: "test".to_owned(),
        n_layer: 1,
        n_head_kv: 1,
        head_dim: 32,
        head_dim_v: 32,
        window,
        kv_type: KvType::F16,
        part: 0,
    };
    let counts = Arc::new(Mutex::new(Vec::with_capacity(4 * N_STEPS)));
    let backend = Counter {
        logits: (0..N_SEQUENCES * N_VOCAB).map(|i| (i * 7919 % 1000) as f32 / 200.0).collect(),
        n_outputs: 0,
        n_slabs: 0,
        counts: Arc::clone(&counts),
    };
    let options = Options::new("counted", 4096, Budget::new(1 << 30));
    let handle =
        start(options, Box::new(backend), &[group(None), group(Some(100))], N_VOCAB, Arc::new(Words)).expect("starts");
    let settings = [
        Sampling::default(),
        Sampling { temperature: 0.0, ..Sampling::default() },
        Sampling { top_k: 0, repeat_penalty: 1.1, presence_penalty: 0.5, repeat_last_n: -1, ..Sampling::default() },
        Sampling { top_k: 0, top_p: 1.0, min_p: 0.0, logit_bias: vec![(3, 1.0)], ..Sampling::default() },
    ];
    let all: Vec<_> = (0..N_SEQUENCES)
        .map(|i| {
            let generate = Generate {
                id: "a".to_owned(),
                prompt: vec![i as u32; 50],
                sampling: settings[i].clone(),
                max_tokens: Some(N_STEPS as u32),
                stop: vec!["stop".to_owned(), "nowhere".to_owned()],
                logprobs: None,
                ignore_eos: false,
                cache_prompt: true,
            };
            handle.submit(generate).expect("accepted")
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for mut events in all {
            while let Some(event) = events.recv().await {
                assert!(!matches!(event, Event::Failed(_)), "{event:?}");
            }
        }
    });
    let counts = counts.lock().expect("not poisoned");
    // Between two steps with all sequences nothing arrived and nothing ended.
    let full: Vec<_> = counts.windows(2).filter(|w| w[0].1 == N_SEQUENCES && w[1].1 == N_SEQUENCES).collect();
    assert!(full.len() > N_STEPS / 2, "{} steps with all sequences", full.len());
    let allocating = full.iter().filter(|w| w[0].0 != w[1].0).count();
    assert_eq!(allocating, 0, "of {} steps", full.len());
    // The counter counts: the first steps have allocated.
    assert!(counts[0].0 > 0);
}
