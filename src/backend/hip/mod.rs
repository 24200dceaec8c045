//! The HIP backend: a plan run by a GPU through libamdhip64, opened at run time.
//!
//! At load the plan is lowered to launches (`lower`), its weights are copied, and everything a
//! step needs is allocated. A step fills one piece of pinned memory, copies it, launches (or
//! replays a recording), and copies the logits back; it allocates nothing and takes no lock.

pub mod bandwidth;
mod bound;
mod buffers;
mod cache;
pub mod device;
mod exec;
mod graphs;
mod inputs;
mod launch;
mod lower;
mod memory;
pub mod metadata;
pub mod module;
pub mod objects;
mod places;
mod program;
pub mod selftest;
mod stream;
pub mod sys;
mod weights;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use self::bound::Bound;
use self::buffers::Buffers;
use self::cache::Cache;
use self::device::Device;
use self::exec::Flight;
use self::graphs::Graphs;
use self::inputs::Inputs;
use self::lower::Chip;
use self::memory::Pinned;
use self::module::Kernels;
use self::program::Target;
use self::stream::{Event, Stream};
use self::weights::Weights;
use super::{Backend, BackendError, Output};
use crate::base::limits::{GPU_CHUNK_BYTES, MAX_BATCH, STEP_TOKENS};
use crate::plan::Plan;
use crate::plan::batch::Batch;
use crate::plan::op::CacheId;
use crate::simd::Tier;

/// The largest step, and how memory is taken.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most tokens of a step.
    pub max_tokens: usize,
    /// Most outputs of a step.
    pub max_outputs: usize,
    /// Most sequences of a step.
    pub max_spans: usize,
    /// Most block table entries of a step for each cache group, all sequences together.
    pub table_entries: usize,
    /// Device memory is allocated in chunks of up to so many bytes.
    pub chunk_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: STEP_TOKENS,
            max_outputs: MAX_BATCH,
            max_spans: MAX_BATCH,
            // 8192 tokens each.
            table_entries: MAX_BATCH * 256,
            chunk_bytes: GPU_CHUNK_BYTES,
        }
    }
}

/// Why a backend was not made.
#[derive(Debug, Error)]
pub enum StartError {
    /// Given up on request.
    #[error("cancelled")]
    Cancelled,
    /// The device, or the plan.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Runs one model's plan on a GPU.
pub struct HipBackend {
    // Fields are dropped in this order: what uses memory before the memory.
    graphs: Graphs,
    stream: Stream,
    event: Event,
    bound: Bound,
    buffers: Buffers,
    caches: Vec<Cache>,
    _weights: Weights,
    /// The step's arrays on the host.
    arrays: Pinned,
    /// What the part before this one came to, where there is one.
    given: Pinned,
    /// Logits of the step.
    logits: Pinned,
    inputs: Inputs,
    /// Parts for each cache group in the step.
    splits: Vec<u32>,
    plan: Arc<Plan>,
    options: Options,
    device: Device,
    tier: Tier,
    flight: Flight,
}

impl HipBackend {
    /// Makes ready to run steps of `plan` within `options` on `device` with its `kernels`: lowers
    /// the plan, allocates, and copies the weights. `progress` is told (bytes done, bytes of all)
    /// while weights are copied and may stop it.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays on the device then.
    pub fn new(
        device: &Device,
        kernels: &Kernels,
        plan: Arc<Plan>,
        options: Options,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Self, StartError> {
        plan.check().map_err(|e| BackendError::Unsupported(e.to_string()))?;
        assert!(plan.gives_logits(), "a GPU has the last part of a model");
        device.select()?;
        let units = device.properties.compute_units;
        let (has, left_out) = (|name: &str| kernels.get(name).is_some(), |name: &str| kernels.is_left_out(name));
        let program = lower::lower(&plan, &Chip { units, has: &has, left_out: &left_out })?;
        let inputs = Inputs::new(&options, plan.caches.len());
        let failed = |e| device.error(e, 0, "a queue");
        let mut stream = Stream::new(device).map_err(failed)?;
        let event = Event::new(device).map_err(failed)?;
        let arrays = Pinned::new(device, inputs.bytes(), "the arrays of a step")?;
        let given = Pinned::new(device, given_bytes(&plan, &options), "a step's input")?;
        let logits = Pinned::new(device, 4 * options.max_outputs * plan.n_vocab, "logits")?;
        let buffers = Buffers::new(device, buffers::Layout::new(&plan, &options, &inputs, units), &mut stream)?;
        let weights = Weights::upload(device, &plan, weights::Layout::new(&plan, options.chunk_bytes), progress)?;
        let address = |target: Target| {
            let array = || inputs.offset(target).map(|at| buffers.arrays().address() + at as u64);
            weights.address(target).or_else(|| Some(buffers.region(target)?.address())).or_else(array)
        };
        let bound = Bound::new(&program, kernels, &address)?;
        Ok(Self {
            graphs: Graphs::default(),
            stream,
            event,
            bound,
            buffers,
            caches: plan.caches.iter().cloned().map(Cache::new).collect(),
            _weights: weights,
            arrays,
            given,
            logits,
            inputs,
            splits: vec![1; plan.caches.len()],
            plan,
            options,
            device: device.clone(),
            tier: Tier::detect(),
            flight: Flight::default(),
        })
    }

    /// Bytes of device memory that [`HipBackend::new`] takes for weights.
    pub fn weight_bytes(plan: &Plan, options: &Options) -> u64 {
        weights::Layout::new(plan, options.chunk_bytes).bytes()
    }

    /// Bytes of device memory that [`HipBackend::new`] takes for steps.
    pub fn activation_bytes(plan: &Plan, options: &Options, compute_units: u32) -> u64 {
        let inputs = Inputs::new(options, plan.caches.len());
        buffers::Layout::new(plan, options, &inputs, compute_units).bytes()
    }

    /// Bytes of the host's memory that [`HipBackend::new`] takes: arrays and logits.
    pub fn host_bytes(plan: &Plan, options: &Options) -> u64 {
        let arrays = Inputs::new(options, plan.caches.len()).bytes();
        (arrays + given_bytes(plan, options) + 4 * options.max_outputs * plan.n_vocab) as u64
    }
}

/// Bytes of the input of the largest step.
fn given_bytes(plan: &Plan, options: &Options) -> usize {
    plan.input.map_or(0, |id| 4 * options.max_tokens * plan.buffer(id).width)
}

impl Backend for HipBackend {
    fn device(&self) -> String {
        self.device.label()
    }

    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
        self.device.select()?;
        self.caches[group.0 as usize].add_slab(&self.device, &mut self.stream)
    }

    fn remove_slab(&mut self, group: CacheId, first: u32) {
        self.caches[group.0 as usize].remove_slab(first);
    }

    fn submit(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        self.start(batch, input)
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        if !self.wait(wait)? {
            return Ok(None);
        }
        let width = self.plan.n_vocab;
        Ok(Some(Output { rows: self.logits.floats(self.flight.outputs() * width), width }))
    }
}
