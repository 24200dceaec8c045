//! A GPU, as models are loaded onto it: its worker process, started again when it died.

mod selftest;

use std::fmt;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Condition;
use super::loader::{LoadError, Reporter};
use crate::backend::Backend;
use crate::backend::hip::{HipBackend, Options};
use crate::backend::remote::mailbox::Shape;
use crate::backend::remote::process::{Process, Wish};
use crate::backend::remote::selftest::{Records, start};
use crate::backend::remote::wire::{DeviceInfo, LoadFailure, NotUsable};
use crate::base::limits::{GPU_RETRY_FIRST, GPU_RETRY_MAX, KV_BLOCK_TOKENS, MODEL_PARTS_MAX, WORKER_GONE};
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
    /// Results of self-tests.
    records: Option<Arc<Records>>,
}

/// A model, or a part of one, on a GPU.
pub(super) struct OnGpu {
    /// Runs it.
    pub backend: Box<dyn Backend>,
    /// The process that it lives in.
    pub worker: Arc<Process>,
    /// Bytes that the device got back, once it has gone.
    pub freed: Arc<AtomicU64>,
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
    /// Starts a worker by `command` and asks it for its device. With `records` its kernels are not tested
    /// at each start.
    ///
    /// # Errors
    /// Why the device cannot be used.
    pub fn open(
        command: impl Fn() -> Command + Send + Sync + 'static,
        records: Option<Arc<Records>>,
    ) -> Result<Arc<Self>, NotUsable> {
        let bell = Arc::default();
        let process = start(&command, &|| ring(&bell), records.as_deref())?;
        let worker = Worker { process: Some(Arc::clone(&process)), failures: 0, not_before: None };
        let info = process.info().clone();
        Ok(Arc::new(Self { info, command: Box::new(command), worker: Mutex::new(worker), bell, records }))
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
        if let Some(process) = &worker.process {
            match process.dead() {
                None => return Ok(Arc::clone(process)),
                // Its memory is free once it has ended.
                Some(why) if !process.gone_within(WORKER_GONE) => {
                    return Err(LoadError::Device(format!("{}: {why}, and does not end", self.name())));
                }
                Some(_) => {}
            }
        }
        if let Some(left) = worker.not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            let text = format!("{} is lost; it is tried again in {} s", self.name(), left.as_secs() + 1);
            return Err(LoadError::Device(text));
        }
        worker.process = None;
        let started = start(&self.command, &|| ring(&self.bell), self.records.as_deref()).and_then(|p| self.mine(p));
        match started {
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

    /// A worker, if its device is this one.
    fn mine(&self, worker: Arc<Process>) -> Result<Arc<Process>, NotUsable> {
        let of = |i: &DeviceInfo| (i.pci.clone(), i.arch.clone(), i.name.clone());
        match of(worker.info()) == of(&self.info) {
            true => Ok(worker),
            // Its number went to another one: that one's memory is in another ledger.
            false => Err(format!("{} is in its place now", worker.info().name).into()),
        }
    }

    /// Ends the worker: the daemon stops. One that is just being started sees that by itself.
    pub fn end(&self) {
        if let Ok(Some(process)) = self.worker.try_lock().as_deref().map(|w| w.process.as_ref()) {
            process.kill("the daemon stops");
        }
    }

    /// Has `load` done by the worker; if that is lost meanwhile, once more by another. Whose fault
    /// it was is not known: another model's step may have failed.
    fn with_worker<T>(&self, mut load: impl FnMut(&Arc<Process>) -> Result<T, LoadFailure>) -> Result<T, LoadError> {
        let mut first = true;
        loop {
            let why = match load(&self.process()?) {
                Ok(loaded) => return Ok(loaded),
                Err(LoadFailure::Cancelled) => return Err(LoadError::Cancelled),
                Err(LoadFailure::Invalid(why)) => return Err(LoadError::Invalid(why)),
                Err(LoadFailure::Lost(why)) if first => {
                    tracing::warn!(device = self.name(), "the load is tried in another worker: {why}");
                    first = false;
                    continue;
                }
                Err(LoadFailure::OutOfMemory(why)) => return Err(LoadError::OutOfMemory(why)),
                Err(LoadFailure::Unsupported(why)) => why,
                Err(LoadFailure::Device(why) | LoadFailure::Lost(why)) => why,
            };
            return Err(LoadError::Device(format!("{}: {why}", self.name())));
        }
    }

    /// Bytes of its memory that a model takes, with `cache` bytes for the smallest caches.
    pub(super) fn need(&self, plan: &Plan, steps: &Steps, cache: u64) -> Need {
        let options = steps.options();
        Need {
            weights: HipBackend::weight_bytes(plan, &options),
            cache,
            activations: HipBackend::activation_bytes(plan, &options, self.info.compute_units),
            tables: 0,
        }
    }

    /// Bytes of the host's memory that a model on it takes, mapped files aside.
    pub(super) fn host_bytes(plan: &Plan, steps: &Steps) -> u64 {
        HipBackend::host_bytes(plan, &steps.options()) + steps.shape(plan).bytes() as u64
    }

    /// Copies the weights of `plan` onto it and makes ready to run steps: all of a model, or its
    /// layers from `first_layer` on.
    pub(super) fn load(
        &self,
        model: &str,
        gguf: &Gguf,
        (plan, first_layer): (&Plan, Option<usize>),
        kv_type: KvType,
        steps: &Steps,
        reporter: &Reporter,
    ) -> Result<OnGpu, LoadError> {
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
            first_layer,
            shape: steps.shape(plan),
        };
        let mut progress = |done, total| reporter.bytes(done, total) == ControlFlow::Continue(());
        self.with_worker(|process| {
            let backend = process.load(&wish, &mut progress)?;
            Ok(OnGpu { freed: backend.freed(), backend: Box::new(backend), worker: Arc::clone(process) })
        })
    }
}

impl Condition for Gpu {
    fn lost(&self) -> Option<String> {
        // Held while another worker is being started.
        let Ok(worker) = self.worker.try_lock() else { return Some("its worker is being started".to_owned()) };
        let why = worker.process.as_ref().and_then(|p| p.dead());
        // No times: a text that changes makes new series of metrics.
        match (why, worker.not_before) {
            (_, Some(_)) => Some("it is lost, and could not be had again yet".to_owned()),
            (Some(why), None) => Some(format!("{why}; the next load starts another one")),
            (None, None) => None,
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

    /// The mailbox of a model that runs `plan`.
    fn shape(&self, plan: &Plan) -> Shape {
        Shape {
            max_tokens: self.tokens,
            max_outputs: self.sequences,
            max_spans: self.sequences,
            table_entries: self.table_entries(),
            groups: plan.caches.len(),
            input_width: plan.input.map_or(0, |id| plan.buffer(id).width),
            n_vocab: plan.n_vocab,
        }
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::backend::remote::wire::FromWorker;

    #[test]
    fn a_lost_device_is_tried_later_and_later() {
        let waits: Vec<u64> = (0..9).map(|n| retry_after(n).as_secs()).collect();
        assert!(waits.is_sorted() && waits[0] == GPU_RETRY_FIRST.as_secs() && waits[8] == GPU_RETRY_MAX.as_secs());
        assert_eq!(retry_after(u32::MAX), GPU_RETRY_MAX);
    }

    /// A command for a script that says it is the device at `pci` and does `rest`.
    fn script(pci: &str, rest: &str) -> Command {
        let info = DeviceInfo::of_script(Some(pci));
        let ready = serde_json::to_string(&FromWorker::Ready(info)).expect("JSON");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("printf '{ready}' >&0; {rest}")]);
        command
    }

    /// Loads nothing, in a worker that takes it or dies of it.
    fn load(gpu: &Gpu) -> Result<u32, LoadError> {
        let shape = Shape {
            max_tokens: 1,
            max_outputs: 1,
            max_spans: 1,
            table_entries: 1,
            groups: 1,
            input_width: 0,
            n_vocab: 1,
        };
        let wish = Wish { model: "m", files: Vec::new(), kv_type: "f16", first_layer: None, shape };
        gpu.with_worker(|process| {
            let loaded = process.load(&wish, &mut |_, _| true);
            let pid = process.pid();
            process.kill("it was seen");
            loaded.map(|_| pid)
        })
    }

    #[test]
    fn a_load_whose_worker_is_lost_is_tried_once_more() {
        for (deaths, well) in [(1, true), (2, false)] {
            let started = AtomicU32::new(0);
            let gpu = Gpu::open(
                move || {
                    let loaded = FromWorker::Loaded { id: 0, device: "gpu gfx0".into() };
                    let loaded = serde_json::to_string(&loaded).expect("JSON");
                    match started.fetch_add(1, Ordering::Relaxed) {
                        n if n < deaths => script("1", "sleep 0.2; exit 3"),
                        _ => script("1", &format!("sleep 0.2; printf '{loaded}' >&0; exec sleep 1000")),
                    }
                },
                None,
            )
            .expect("a worker");
            let result = load(&gpu);
            assert_eq!(result.is_ok(), well, "{result:?}");
            assert!(well || result.is_err_and(|e| e.to_string().contains("exit status: 3")));
        }
    }

    #[test]
    fn a_load_waits_for_the_end_of_a_worker_that_was_given_up() {
        let gpu = Gpu::open(|| script("1", "exec sleep 1000"), None).expect("a worker");
        let first = gpu.process().expect("runs");
        assert_eq!(gpu.lost(), None);
        first.kill("given up");
        assert!(gpu.lost().is_some_and(|why| why.contains("given up")), "{:?}", gpu.lost());
        let second = gpu.process().expect("another");
        assert!(first.pid() != second.pid() && first.gone_within(Duration::ZERO));
        gpu.end();
        assert!(second.gone_within(Duration::from_secs(10)));
    }

    #[test]
    fn another_device_in_its_place_is_not_taken_for_it() {
        let started = AtomicU32::new(0);
        let gpu =
            Gpu::open(move || script(&started.fetch_add(1, Ordering::Relaxed).to_string(), "exec sleep 1000"), None);
        let gpu = gpu.expect("a worker");
        gpu.process().expect("runs").kill("given up");
        let why = gpu.process().err().expect("refused").to_string();
        assert!(why.contains("in its place"), "{why}");
    }

    #[test]
    fn a_worker_that_is_none_is_refused_with_its_end() {
        let why = Gpu::open(|| Command::new("/bin/false"), None).expect_err("no worker").reason;
        assert!(why.contains("died at its start") && why.contains("exit status: 1"), "{why}");
        let why = Gpu::open(|| Command::new("/nonexistent/rocmforged"), None).expect_err("no program").reason;
        assert!(why.contains("cannot be started"), "{why}");
    }
}
