//! Backends: what runs a plan. A backend knows ops, buffers and caches, and no model.

pub mod batch;
pub mod cpu;
pub mod hip;
pub mod remote;
pub mod split;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::plan::batch::Batch;
use crate::plan::op::CacheId;

/// Why a backend could not do a step. All of them fail the model, none the daemon.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendError {
    /// Memory that the ledger had granted could not be had.
    #[error("out of memory on {device}: {bytes} bytes for {what}")]
    OutOfMemory {
        /// Which device.
        device: String,
        /// How much was asked.
        bytes: u64,
        /// What for.
        what: String,
    },
    /// The weights' file was truncated or replaced in place under the mapping.
    #[error("the model's file changed on disk while it was loaded (truncated in place)")]
    Poisoned,
    /// The plan asks for something this backend does not have.
    #[error("{0}")]
    Unsupported(String),
    /// The batch does not fit the backend or its caches: a mistake of the engine.
    #[error("bad batch: {0}")]
    Batch(String),
    /// The model computed NaN or infinity: damaged weights, or a cache in the state of a failed
    /// step.
    #[error("the model computed logits that are not finite (output row {output})")]
    NotFinite {
        /// Which entry of `Batch::outputs`.
        output: usize,
    },
    /// The device was lost; only its worker can be replaced.
    #[error("device lost: {0}")]
    Lost(String),
}

/// What came out of a step.
#[derive(Debug)]
pub struct Output<'a> {
    /// One row of logits for each entry of `Batch::outputs`, in order; of a plan that is not the
    /// last part of its model, one row of the next part's input for each token.
    pub rows: &'a [f32],
    /// Width of a row.
    pub width: usize,
}

/// Runs a plan, or both parts of one ([`split`]). Owned by the model's engine.
pub trait Backend: Send {
    /// Device as users read it: `cpu avx512`, `gpu gfx1100`.
    fn device(&self) -> String;

    /// Adds a slab to a cache group and returns its first block's id; its blocks are
    /// `first .. first + slab_blocks`. The bytes were reserved in the ledger by the caller.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError>;

    /// Gives back the slab whose first block is `first`; none of its blocks is in use.
    fn remove_slab(&mut self, group: CacheId, first: u32);

    /// Starts a step. At most one step is in flight until [`Backend::poll`] has returned it.
    /// `input` is what the part of the model before this one came to, a row a token; nothing for
    /// a plan without an input.
    ///
    /// # Errors
    /// Any [`BackendError`]; the step did not happen then.
    fn submit(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError>;

    /// Waits up to `wait` for the step in flight; `None` if it is not ready.
    ///
    /// # Errors
    /// Any [`BackendError`] of the step.
    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError>;
}
