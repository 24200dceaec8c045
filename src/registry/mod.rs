//! The registry: which models there are, which are loaded, and who may use one.
//!
//! One actor owns the state of all models. It decides with the pure functions of `policy`, has the
//! work done by a [`loader::Loader`], and answers every question with a value or a reason. A model
//! is absent, queued, loading, ready, draining, or failed.
//!
//! * A [`Lease`] keeps a model loaded; eviction waits for leases unless it is told not to.
//! * Memory is admitted before a byte is read: [`loader::Grant`].
//! * What fails, fails one model, visibly, and is tried again after a while.

mod actor;
mod bench;
pub mod catalog;
mod command;
mod core;
mod entry;
pub mod error;
mod facts;
mod forecast;
pub mod gpu;
mod handle;
mod lease;
pub mod load;
mod loaded;
pub mod loader;
mod memory;
mod needs;
mod outcome;
mod room;
#[cfg(test)]
mod tests;
mod verbs;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

pub use command::Reload;
pub use error::RegistryError;
pub use handle::{Handle, Loading, admin_error};
pub use lease::{Acquired, Lease, Pending};
pub use loaded::Loaded;
pub use loader::Progress;

use crate::base::limits::{LOAD_RETRY_AFTER, REGISTRY_QUEUE};
use crate::policy::placement::{SiteKind, Use};
use crate::policy::swap::Rules;
use crate::pool::budget::Budget;
use crate::proto::admin::{Evicted, ModelState, ModelStats};
use crate::telemetry::events::DecisionLog;
use loader::{Loader, Resident};

/// A device that models can go to.
#[derive(Clone, Debug)]
pub struct Site {
    /// `cpu`, `gpu0`.
    pub id: String,
    /// Kind.
    pub kind: SiteKind,
    /// What models on it say they run on: `cpu avx512`, `gpu gfx1100`.
    pub name: String,
    /// `AMD EPYC 9454P, 2 cores, avx512`.
    pub description: String,
    /// PCI address of a GPU.
    pub pci: Option<String>,
    /// Its ledger; an integrated GPU has the CPU's, as their memory is one.
    pub budget: Arc<Budget>,
    /// Most bytes of the ledger that may be on it, if that is less than all.
    pub most: Option<u64>,
    /// Bytes a second at which it reads its memory, where that was measured.
    pub bandwidth: Option<f64>,
    /// Why it is used: `no GPU: /dev/kfd is absent`.
    pub reason: String,
    /// Why it cannot be used, if so.
    pub unusable: Option<String>,
    /// What tells whether it can be used at the moment, where that changes.
    pub condition: Option<Arc<dyn Condition>>,
}

/// How a device is at the moment.
pub trait Condition: std::fmt::Debug + Send + Sync {
    /// Why models cannot run on it now, though loads may be tried. Does not block.
    fn lost(&self) -> Option<String>;
}

/// What the registry is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// `models.dirs`.
    pub dirs: Vec<PathBuf>,
    /// `models.preload`: names or paths.
    pub preload: Vec<String>,
    /// `models.autoload`.
    pub autoload: bool,
    /// Devices, at least one.
    pub sites: Vec<Site>,
    /// `device.use`.
    pub device: Use,
    /// Turns of models that do not fit together.
    pub rules: Rules,
    /// A failed model is not tried again by requests for this long.
    pub retry_after: Duration,
    /// Version of the daemon, for status.
    pub version: String,
    /// Addresses it serves on, for status.
    pub listen: Vec<String>,
    /// Gives memory that a model freed back to the system; called by a thread that may take a while.
    pub trim: fn(),
}

impl Options {
    /// Defaults, for the devices given.
    pub fn new(sites: Vec<Site>) -> Self {
        Self {
            dirs: Vec::new(),
            preload: Vec::new(),
            autoload: true,
            sites,
            device: Use::Auto,
            rules: Rules::default(),
            retry_after: LOAD_RETRY_AFTER,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: Vec::new(),
            trim: || {},
        }
    }
}

/// Starts the actor on the current tokio runtime.
pub struct Registry;

impl Registry {
    /// Starts it. Preloading begins at once; [`Handle::unready`] says how far it is.
    pub fn start<M: Resident>(options: Options, loader: Arc<dyn Loader<M>>, log: Arc<DecisionLog>) -> Handle<M> {
        let (commands, inbox) = mpsc::channel(REGISTRY_QUEUE);
        let bell = Arc::new(Notify::new());
        loader.attach(Arc::clone(&bell));
        let core = core::Core::new(options, Arc::clone(&log), Arc::clone(&bell), Instant::now());
        tokio::spawn(actor::run(core, loader, bell, inbox));
        Handle { commands, log }
    }
}

/// Name of a state as JSON has it.
pub fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Absent => "absent",
        ModelState::Queued => "queued",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Draining => "draining",
        ModelState::Failed => "failed",
    }
}

/// An eviction that found nothing in memory.
fn nothing_evicted(id: &str) -> Evicted {
    Evicted { id: id.to_owned(), private_before: 0, private_after: 0, device_freed: 0, ledger_freed: 0 }
}
