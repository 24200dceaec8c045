//! A GPU, as models are loaded onto it: its worker process, started again when it died.

use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::loader::{LoadError, Reporter};
use crate::backend::Backend;
use crate::backend::hip::{HipBackend, Options};
use crate::backend::remote::mailbox::Shape;
use crate::backend::remote::process::{Process, Wish};
use crate::backend::remote::wire::{DeviceInfo, LoadFailure, NotUsable};
use crate::base::limits::{GPU_RETRY_FIRST, GPU_RETRY_MAX, KV_BLOCK_TOKENS, MODEL_PARTS_MAX};
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::plan::cache::KvType;
use crate::policy::admission::Need;

/// A GPU and its worker.
pub struct Gpu {
    /// The device, as its first worker found it.
    pub info: DeviceInfo,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    worker: Mutex<Worker>,
    /// Rung when the worker dies.
    bell: Arc<OnceLock<Arc<Notify>>>,
}

/// The worker, or how long it has been gone.
struct Worker {
    process: Option<Arc<Process>>,
    /// Starts that failed, one after the other.
    failures: u32,
    /// Not started again before.
    not_before: Option<Instant>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.info.arch)
    }
}

impl Gpu {
    /// Starts a worker by `command` and asks it for its device.
    ///
    /// # Errors
    /// Why the device cannot be used.
    pub fn open(command: impl Fn() -> Command + Send + Sync + 'static) -> Result<Arc<Self>, NotUsable> {
        let bell = Arc::default();
        let process = Process::start(command(), ring(&bell))?;
        let worker = Worker { process: Some(Arc::clone(&process)), failures: 0, not_before: None };
        let info = process.info().clone();
        Ok(Arc::new(Self { info, command: Box::new(command), worker: Mutex::new(worker), bell }))
    }

    /// Takes over the bell to ring when the worker dies.
    pub(super) fn attach(&self, bell: Arc<Notify>) {
        // There is one registry.
        let _ = self.bell.set(bell);
    }

    /// What models on it say they run on: `gpu gfx1100`.
    pub fn name(&self) -> String {
        format!("gpu {}", self.info.arch)
    }

    /// The worker; one that died is replaced, later and later if that fails.
    fn process(&self) -> Result<Arc<Process>, LoadError> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = worker.process.as_ref().filter(|p| p.dead().is_none()) {
            return Ok(Arc::clone(process));
        }
        if let Some(left) = worker.not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            let text = format!("{} is lost; it is tried again in {} s", self.name(), left.as_secs() + 1);
            return Err(LoadError::Device(text));
        }
        worker.process = None;
        match Process::start((self.command)(), ring(&self.bell)) {
            Ok(process) => {
                tracing::info!(device = self.name(), pid = process.pid(), "the GPU worker was started again");
                (worker.failures, worker.not_before) = (0, None);
                worker.process = Some(Arc::clone(&process));
                Ok(process)
            }
            Err(NotUsable { reason: why, .. }) => {
                let wait = retry_after(worker.failures);
                worker.failures += 1;
                worker.not_before = Some(Instant::now() + wait);
                Err(LoadError::Device(format!("{}: {why}; it is tried again in {} s", self.name(), wait.as_secs())))
            }
        }
    }

    /// Bytes that a model takes on it, with `cache` bytes for the smallest caches.
    pub(super) fn need(&self, plan: &Plan, steps: &Steps, cache: u64) -> Need {
        let options = steps.options();
        Need {
            weights: HipBackend::weight_bytes(plan, &options),
            cache,
            activations: HipBackend::activation_bytes(plan, &options, self.info.compute_units),
            tables: 0,
        }
    }

    /// Copies a model's weights onto it and makes ready to run steps.
    pub(super) fn load(
        &self,
        model: &str,
        gguf: &Gguf,
        plan: &Plan,
        kv_type: KvType,
        steps: &Steps,
        reporter: &Reporter,
    ) -> Result<(Box<dyn Backend>, Arc<Process>), LoadError> {
        if gguf.maps.len() > MODEL_PARTS_MAX {
            let text = format!("{} parts are too many for a GPU worker: {MODEL_PARTS_MAX}", gguf.maps.len());
            return Err(LoadError::Device(text));
        }
        let n = gguf.maps.len();
        let name = |i: usize| if n == 1 { model.to_owned() } else { format!("{model}, part {} of {n}", i + 1) };
        let wish = Wish {
            model,
            files: gguf.maps.iter().enumerate().map(|(i, map)| (map.file().as_fd(), name(i))).collect(),
            kv_type: kv_type.name(),
            shape: Shape {
                max_tokens: steps.tokens,
                max_outputs: steps.sequences,
                max_spans: steps.sequences,
                table_entries: steps.table_entries(),
                groups: plan.caches.len(),
                n_vocab: plan.n_vocab,
            },
        };
        let mut progress = |done, total| reporter.bytes(done, total) == ControlFlow::Continue(());
        let process = self.process()?;
        match process.load(wish, &mut progress) {
            Ok(backend) => Ok((Box::new(backend), process)),
            Err(LoadFailure::Cancelled) => Err(LoadError::Cancelled),
            Err(LoadFailure::Invalid(why)) => Err(LoadError::Invalid(why)),
            Err(LoadFailure::Unsupported(why) | LoadFailure::OutOfMemory(why) | LoadFailure::Device(why)) => {
                Err(LoadError::Device(format!("{}: {why}", self.name())))
            }
        }
    }
}

/// What a worker's death is to do.
fn ring(bell: &Arc<OnceLock<Arc<Notify>>>) -> Box<dyn Fn() + Send + Sync> {
    let bell = Arc::clone(bell);
    Box::new(move || {
        if let Some(bell) = bell.get() {
            bell.notify_one();
        }
    })
}

/// How long a device is left alone after so many failed starts of its worker.
fn retry_after(failures: u32) -> Duration {
    GPU_RETRY_FIRST.saturating_mul(1 << failures.min(10)).min(GPU_RETRY_MAX)
}

/// The largest step of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    /// Most tokens.
    pub tokens: usize,
    /// Most sequences, each with one output.
    pub sequences: usize,
    /// Most tokens of a sequence.
    pub context: u32,
}

impl Steps {
    /// Most block table entries of a cache group.
    fn table_entries(&self) -> usize {
        self.sequences * (self.context as usize).div_ceil(KV_BLOCK_TOKENS)
    }

    fn options(&self) -> Options {
        Options {
            max_tokens: self.tokens,
            max_outputs: self.sequences,
            max_spans: self.sequences,
            table_entries: self.table_entries(),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_tried_later_and_later() {
        let waits: Vec<u64> = (0..9).map(|n| retry_after(n).as_secs()).collect();
        assert!(waits.is_sorted() && waits[0] == GPU_RETRY_FIRST.as_secs() && waits[8] == GPU_RETRY_MAX.as_secs());
        assert_eq!(retry_after(u32::MAX), GPU_RETRY_MAX);
    }

    #[test]
    fn a_worker_that_is_none_is_refused_with_its_end() {
        let why = Gpu::open(|| Command::new("/bin/false")).expect_err("no worker").reason;
        assert!(why.contains("died at its start") && why.contains("exit status: 1"), "{why}");
        let why = Gpu::open(|| Command::new("/nonexistent/rocmforged")).expect_err("no program").reason;
        assert!(why.contains("cannot be started"), "{why}");
    }
}
