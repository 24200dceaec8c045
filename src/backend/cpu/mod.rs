//! The CPU backend: a plan run by the workers of the [`CpuPool`] on weights that stay where they
//! lie in the file.
//!
//! Everything a step needs is allocated when the backend is made; a step allocates nothing.

mod bandwidth;
mod buffers;
mod cache;
mod exec;
mod ops;
mod resolve;
pub mod topology;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use self::buffers::Buffers;
use self::cache::Cache;
use self::ops::attention::Attend;
pub(super) use self::ops::finite::all_finite;
use self::ops::matmul::Matmul;
use self::ops::rope::Rotation;
use self::resolve::Weights;
pub use self::workers::CpuPool;
use super::batch::{self, Limits};
use super::{Backend, BackendError, Output};
use crate::plan::Plan;
use crate::plan::batch::Batch;
use crate::plan::memory::Layout;
use crate::plan::op::CacheId;

/// Runs one model's plan on the CPU.
pub struct CpuBackend {
    plan: Arc<Plan>,
    pool: Arc<CpuPool>,
    weights: Weights,
    buffers: Buffers,
    caches: Vec<Cache>,
    rotations: Vec<Rotation>,
    matmul: Matmul,
    attend: Attend,
    max_tokens: usize,
    max_outputs: usize,
    /// How the step in flight ended, until it is polled.
    done: Option<Result<(), BackendError>>,
}

impl CpuBackend {
    /// Makes ready to run steps of `plan` of up to `max_tokens` tokens and `max_outputs` outputs
    /// on `pool`: finds every kernel and allocates all activations.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] naming the tensor or op that cannot be computed.
    pub fn new(
        plan: Arc<Plan>,
        pool: Arc<CpuPool>,
        max_tokens: usize,
        max_outputs: usize,
    ) -> Result<Self, BackendError> {
        plan.check().map_err(|e| BackendError::Unsupported(e.to_string()))?;
        let weights = Weights::new(&plan, pool.tier())?;
        resolve::check_widths(&plan)?;
        let threads = pool.threads();
        let rotations = plan.ropes.iter().map(|r| Rotation::new(r, weights.vector(r.factors), max_tokens)).collect();
        Ok(Self {
            buffers: Buffers::new(&plan, max_tokens, max_outputs),
            caches: plan.caches.iter().cloned().map(Cache::new).collect(),
            rotations,
            matmul: Matmul::new(resolve::extent(&plan, max_tokens.max(max_outputs), pool.tier()), threads),
            attend: Attend::new(&resolve::all_heads(&plan), threads, max_tokens),
            weights,
            plan,
            pool,
            max_tokens,
            max_outputs,
            done: None,
        })
    }

    /// Bytes that [`CpuBackend::new`] will allocate: activations, logits, the workers' scratch
    /// memory, and vectors converted to f32.
    pub fn activation_bytes(plan: &Plan, pool: &CpuPool, max_tokens: usize, max_outputs: usize) -> u64 {
        let threads = pool.threads();
        let ropes: usize = plan.ropes.iter().map(|r| Rotation::bytes(r, max_tokens)).sum();
        let rest = ropes
            + Weights::bytes(plan)
            + Matmul::bytes(resolve::extent(plan, max_tokens.max(max_outputs), pool.tier()), threads)
            + Attend::bytes(&resolve::all_heads(plan), threads, max_tokens);
        Layout::new(plan).bytes(max_tokens, max_outputs) + rest as u64
    }

    /// What is wrong with the step just run, if anything.
    fn judge(&self) -> Result<(), BackendError> {
        if self.plan.weights.iter().any(|w| w.data.poisoned()) {
            return Err(BackendError::Poisoned);
        }
        // What is not finite stays so: the logits show it.
        if !self.plan.gives_logits() {
            return Ok(());
        }
        let rows = self.buffers.get(self.plan.output).chunks_exact(self.plan.n_vocab);
        match rows.into_iter().position(|row| !all_finite(self.pool.tier(), row)) {
            Some(output) => Err(BackendError::NotFinite { output }),
            None => Ok(()),
        }
    }
}

impl Backend for CpuBackend {
    fn device(&self) -> String {
        format!("cpu {}", self.pool.tier().name())
    }

    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
        self.caches[group.0 as usize].add_slab()
    }

    fn remove_slab(&mut self, group: CacheId, first: u32) {
        self.caches[group.0 as usize].remove_slab(first);
    }

    fn submit(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        let limits = Limits { max_tokens: self.max_tokens, max_outputs: self.max_outputs };
        batch::check(batch, input, &self.plan, limits, |group, block| self.caches[group].has(block))?;
        let (plan, pool) = (Arc::clone(&self.plan), Arc::clone(&self.pool));
        let mut team = pool.acquire();
        self.run(&mut team, &plan, batch, input);
        drop(team);
        self.done = Some(self.judge());
        Ok(())
    }

    fn poll(&mut self, _wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        match self.done.take() {
            None => Ok(None),
            Some(Err(e)) => Err(e),
            Some(Ok(())) => {
                let output = self.plan.output;
                Ok(Some(Output { rows: self.buffers.get(output), width: self.buffers.width(output) }))
            }
        }
    }
}
