//! One engine for each loaded model: a thread that owns its plan, scheduler, caches and sampler.
//!
//! Nobody else touches them. Requests arrive and events leave as plain messages ([`message`]),
//! so that an engine can run in a thread of the daemon or in a GPU worker process.
//!
//! A request's way: [`handle::Handle::submit`] makes a [`sequence`] of it and puts it into the
//! bounded queue; [`run`] takes it out between two steps; [`schedule`] decides which tokens of
//! which sequences the next step computes, asking [`cache`] for blocks; the backend computes them;
//! [`sample`] chooses a token from each sequence's logits and [`emit`] turns it into text, which
//! goes through a [`ring`] to the client's [`events::Events`].

pub mod bench;
mod blocks;
pub mod cache;
pub mod emit;
pub mod events;
pub mod handle;
pub mod message;
mod prefix;
pub mod random;
mod ring;
mod run;
pub mod sample;
pub mod schedule;
mod select;
mod sequence;
pub mod stats;
mod tables;
#[cfg(test)]
mod tests;
pub mod vocabulary;

use std::sync::Arc;

use thiserror::Error;

use crate::backend::Backend;
use crate::base::limits::{CACHE_MIN_TOKENS, ENGINE_QUEUE, MAX_BATCH, MAX_BATCH_CAP, STEP_TOKENS, STEP_TOKENS_SHARED};
use crate::plan::cache::CacheGroup;
use crate::pool::budget::{Budget, Reservation, Shortage};
use handle::Handle;
pub use vocabulary::Vocabulary;

/// What an engine is made from, besides its backend.
pub struct Options {
    /// The model's id: the owner in the ledger, and for logs.
    pub model: String,
    /// Sequences worked on at a time (`engine.max_batch`).
    pub max_batch: usize,
    /// Requests that may wait (`engine.queue`).
    pub queue: usize,
    /// Most tokens of a sequence, prompt and text together.
    pub context: u32,
    /// Tokens of cache that always have room (`engine.cache_min`).
    pub cache_min: u32,
    /// Most bytes of cache; `None` = what the ledger gives.
    pub cache_max: Option<u64>,
    /// Ledgers of the devices that hold the caches, one for each part of the model.
    pub ledgers: Vec<Ledger>,
    /// Bytes that a step reads: those of the weights. Deadlines follow from it.
    pub step_bytes: u64,
    /// Tokens of a step; the backend was made for so many.
    pub step_tokens: usize,
    /// Tokens of prompts in a step that also decodes.
    pub step_tokens_shared: usize,
}

/// Where the caches of one part of a model are accounted for.
#[derive(Debug)]
pub struct Ledger {
    /// The device's ledger.
    pub budget: Arc<Budget>,
    /// The part's minimum of cache ([`cache::minimum_bytes`]), if it was reserved already.
    pub reserved: Option<Reservation>,
}

impl Options {
    /// The defaults.
    pub fn new(model: impl Into<String>, context: u32, budget: Arc<Budget>) -> Self {
        Self {
            model: model.into(),
            max_batch: MAX_BATCH,
            queue: ENGINE_QUEUE,
            context,
            cache_min: CACHE_MIN_TOKENS.min(context),
            cache_max: None,
            ledgers: vec![Ledger { budget, reserved: None }],
            step_bytes: 0,
            step_tokens: STEP_TOKENS,
            step_tokens_shared: STEP_TOKENS_SHARED,
        }
    }
}

/// Why an engine could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The minimum of cache does not fit.
    #[error("no room for the smallest KV cache: {0}")]
    Cache(#[from] Shortage),
    /// No thread could be had.
    #[error("no thread for the engine: {0}")]
    Thread(#[from] std::io::Error),
    /// An option is out of its bounds.
    #[error("{0}")]
    Option(String),
}

/// Starts an engine: its thread runs until it is stopped, fails, or all handles are gone.
/// `caches` are the plan's, `n_vocab` is the width of its logits. The backend must be made for
/// `step_tokens` tokens and `max_batch` outputs; it numbers the blocks of a group densely from 0.
///
/// # Errors
/// [`StartError`].
pub fn start(
    options: Options,
    backend: Box<dyn Backend>,
    caches: &[CacheGroup],
    n_vocab: usize,
    vocabulary: Arc<dyn Vocabulary>,
) -> Result<Handle, StartError> {
    if options.max_batch == 0 || options.max_batch > MAX_BATCH_CAP.min(options.step_tokens) {
        let most = MAX_BATCH_CAP.min(options.step_tokens);
        return Err(StartError::Option(format!("max_batch is {}; it can be 1 to {most}", options.max_batch)));
    }
    if options.context == 0 || options.step_tokens_shared == 0 {
        return Err(StartError::Option("context and step_tokens_shared must be at least 1".to_owned()));
    }
    run::start(options, backend, caches, n_vocab, vocabulary)
}
