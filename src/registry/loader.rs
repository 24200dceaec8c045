//! The seam between the registry, which decides, and what loads and runs models on a device.
//!
//! The actor knows only these traits: the CPU's loader is [`super::load::ModelLoader`], a GPU's
//! starts workers, and tests bring one that simulates models of N bytes.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::Site;
use crate::engine::Ledger;
use crate::policy::placement::{Needs, Share, Use, Way};
use crate::pool::budget::{Kind, Reservation, Shortage};
use crate::proto::admin::{ModelStats, Phase, RequestInfo};

/// Where a model's bytes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file (the first part of a split model), opened at each load: a replaced file is taken new.
    Path(PathBuf),
    /// Descriptors of all parts with their names, passed by a client, kept for later loads.
    Files(Arc<Vec<(File, String)>>),
}

impl Source {
    /// The (first) file, for people.
    pub fn display(&self) -> String {
        match self {
            Source::Path(path) => path.display().to_string(),
            Source::Files(files) => files.first().map(|f| f.1.clone()).unwrap_or_default(),
        }
    }
}

/// How a model is wanted; kept for later loads of the same model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Largest context of a request.
    pub context: Option<u32>,
    /// `f16`, `f32`.
    pub kv_type: Option<String>,
    /// Device, if another than `device.use`.
    pub device: Option<Use>,
    /// Layers on the GPU: the last ones.
    pub gpu_layers: Option<u32>,
}

/// What is to be loaded.
#[derive(Clone, Debug)]
pub struct Job {
    /// The model's id: the owner in the ledger.
    pub id: String,
    /// Its bytes.
    pub source: Source,
    /// How.
    pub wanted: Wanted,
    /// Tokens of cache to start with at most, after a device had less memory than its ledger says.
    pub cache_most: Option<u32>,
}

/// Why a load failed. The text stands in the model's state and in every answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoadError {
    /// The file is not one that can be run: only another file helps.
    #[error("{0}")]
    Invalid(String),
    /// The device, or the system, failed.
    #[error("{0}")]
    Device(String),
    /// The device had less memory than its ledger says.
    #[error("{0}")]
    OutOfMemory(String),
    /// The ledger had less than was granted.
    #[error("{0}")]
    Memory(#[from] Shortage),
    /// Given up on request.
    #[error("cancelled")]
    Cancelled,
}

/// What is worth knowing about a model besides its state; see `proto::admin`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `general.architecture`.
    pub architecture: String,
    /// Parameters.
    pub n_params: u64,
    /// Type of most weights.
    pub quantization: String,
    /// Context the model was trained for.
    pub n_ctx_train: u32,
    /// Tokens of the vocabulary.
    pub n_vocab: u32,
    /// Hyperparameters, in the order to print.
    pub hparams: Vec<(String, String)>,
    /// (type, tensors, bytes).
    pub tensor_types: Vec<(String, u64, u64)>,
    /// Tensors that are knowingly not used.
    pub ignored_tensors: Vec<String>,
    /// Tokenizer and pre-tokenizer.
    pub tokenizer: String,
    /// Where the chat template is from.
    pub chat_template: String,
    /// Template problems, clamped values.
    pub notes: Vec<String>,
}

/// A loaded model, as the registry sees it. None of these may block.
pub trait Resident: Send + Sync + 'static {
    /// What is known about it.
    fn facts(&self) -> Arc<Facts>;
    /// Where it runs: `cpu avx512`.
    fn device(&self) -> String;
    /// Largest context of a request.
    fn context(&self) -> u32;
    /// Speed and queue.
    fn stats(&self) -> ModelStats;
    /// Requests in flight.
    fn requests(&self) -> Vec<RequestInfo>;
    /// Cancels a request; whether it was there.
    fn cancel(&self, request: &str) -> bool;
    /// Why it failed, if it did.
    fn failed(&self) -> Option<String>;
    /// Whether it failed because its device went away: it is loaded again then.
    fn device_lost(&self) -> bool;
    /// How far its step is past its deadline, if it is.
    fn late(&self) -> Option<Duration>;
    /// Declares it failed, if it is not yet: its step is late. Its requests end with an error.
    fn fail(&self, reason: &str);
    /// Asks it to give idle cache slabs back; it does so between two steps. Called on the actor's
    /// runtime.
    fn release_idle(&self);
    /// Bytes of its devices that were free again when it had ended, as they were measured.
    fn device_freed(&self) -> u64;
    /// Ends it: with `drain` after the requests it has, else after cancelling them. May be called
    /// again. When it is done, all memory but the value itself is given back.
    fn stop(&self, drain: bool) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Makes models. Both steps run on a blocking thread; a panic counts as an error.
pub trait Loader<M>: Send + Sync + 'static {
    /// Opens and checks the file and finds out what it needs, without touching its weights.
    ///
    /// # Errors
    /// [`LoadError`].
    fn inspect(&self, job: &Job, reporter: &Reporter) -> Result<Box<dyn Prepared<M>>, LoadError>;

    /// Takes over the bell to ring when a device goes away.
    fn attach(&self, bell: Arc<Notify>);
}

/// A checked file that can be loaded.
pub trait Prepared<M>: Send {
    /// How it can be run on the devices of `Options::sites`, with the bytes it needs to serve at all.
    fn needs(&self) -> Arc<Needs>;
    /// What is known by now.
    fn facts(&self) -> Arc<Facts>;
    /// Loads it into the memory that was granted; the value keeps the grant while it lives.
    ///
    /// # Errors
    /// [`LoadError`]; the grant is given back then.
    fn start(self: Box<Self>, grant: Grant, reporter: &Reporter) -> Result<M, LoadError>;
}

/// Memory in the ledgers that admission granted to a load.
#[derive(Debug)]
pub struct Grant {
    /// How the model is run.
    pub way: Way,
    /// Weights, activations and tables: kept while the model lives.
    pub held: Vec<Reservation>,
    /// For each share the device's ledger, with the smallest caches there, for the engine.
    pub ledgers: Vec<Ledger>,
}

impl Grant {
    /// Reserves all that `way` needs on `sites`, or nothing.
    ///
    /// # Errors
    /// [`Shortage`] if it does not fit, with the device.
    pub fn new(way: &Way, sites: &[Site], owner: &str) -> Result<Self, (usize, Shortage)> {
        let mut grant = Self { way: way.clone(), held: Vec::with_capacity(6), ledgers: Vec::with_capacity(2) };
        for &Share { site, need } in &way.shares {
            let budget = &sites[site].budget;
            let short = |_| (site, Shortage { needed: need.total(), free: budget.free(), total: budget.total() });
            for (kind, bytes) in
                [(Kind::Weights, need.weights), (Kind::Activations, need.activations), (Kind::Tables, need.tables)]
            {
                if bytes > 0 {
                    grant.held.push(budget.reserve(owner, kind, bytes).map_err(short)?);
                }
            }
            let reserved = match need.cache {
                0 => None,
                bytes => Some(budget.reserve(owner, Kind::Cache, bytes).map_err(short)?),
            };
            grant.ledgers.push(Ledger { budget: Arc::clone(budget), reserved });
        }
        Ok(grant)
    }
}

/// How far a load is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The phase's name: `queued`, `map`, `plan`, `evict`, `read`, `upload`, `warmup`.
    pub phase: &'static str,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes in all; 0 where the phase counts none.
    pub total: u64,
    /// Bytes a second.
    pub rate: f64,
    /// Seconds left.
    pub eta_s: f64,
    /// All phases so far, this one last.
    pub phases: Vec<Phase>,
}

/// Name of a phase as JSON has it.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Map => "map",
        Phase::Plan => "plan",
        Phase::Evict => "evict",
        Phase::Read => "read",
        Phase::Upload => "upload",
        Phase::Warmup => "warmup",
    }
}

/// Where a load reports its progress, and hears that it is not wanted any more.
#[derive(Clone, Debug)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    progress: watch::Sender<Progress>,
    // A std mutex: held for a copy.
    phase_began: Mutex<Instant>,
    cancelled: AtomicBool,
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl Reporter {
    /// For one load.
    pub fn new() -> Self {
        let shared = Shared {
            progress: watch::Sender::new(Progress::default()),
            phase_began: Mutex::new(Instant::now()),
            cancelled: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A phase begins (again: nothing happens).
    pub fn phase(&self, phase: Phase) {
        if self.shared.progress.borrow().phases.last() == Some(&phase) {
            return;
        }
        *self.shared.phase_began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.shared.progress.send_modify(|p| {
            let mut phases = std::mem::take(&mut p.phases);
            phases.push(phase);
            *p = Progress { phase: phase_name(phase), phases, ..Progress::default() };
        });
    }

    /// So many bytes of the phase are done; `Break` if the load should be given up.
    pub fn bytes(&self, done: u64, total: u64) -> ControlFlow<()> {
        let began = *self.shared.phase_began.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = began.elapsed().as_secs_f64();
        let rate = if elapsed > 0.0 { done as f64 / elapsed } else { 0.0 };
        let eta_s = if rate > 0.0 { total.saturating_sub(done) as f64 / rate } else { 0.0 };
        self.shared.progress.send_modify(|p| (p.done, p.total, p.rate, p.eta_s) = (done, total, rate, eta_s));
        if self.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Gives the load up at its next chance.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether it was given up.
    pub fn cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }

    /// The progress, now and as it changes.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }
}
