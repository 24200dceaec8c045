//! The protocol of the actor: what it is asked, what it has done for it, and what it hears back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::catalog::{Found, Scan};
use super::error::RegistryError;
use super::lease::Acquired;
use super::loader::{Facts, Grant, Job, LoadError, Prepared, Progress, Reporter, Source};
use crate::policy::placement::Needs;
use crate::pool::budget::Budget;
use crate::proto::admin::{Device, Evicted, LoadRequest, Model, ModelDetail, ModelStats, Planned, RequestInfo, Status};

/// Where an answer goes. Nobody may be there any more: that is no error.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RegistryError>>;

/// What a load answers at once: its progress, and its outcome to come.
pub(super) type Watched = (watch::Receiver<Progress>, oneshot::Receiver<Result<Model, RegistryError>>);

/// What the registry is asked.
pub(super) enum Command<M> {
    Acquire { name: String, reply: Reply<Acquired<M>> },
    Load { request: LoadRequest, source: Option<(Source, Found)>, uid: Option<u32>, reply: Reply<Watched> },
    Evict { name: String, now: bool, uid: Option<u32>, reply: Reply<Evicted> },
    Pin { name: String, pinned: bool, uid: Option<u32>, reply: Reply<Model> },
    List { reply: Reply<Vec<Model>> },
    Show { name: String, reply: Reply<ModelDetail> },
    Status { reply: Reply<Status> },
    Devices { reply: Reply<Vec<Device>> },
    Plan { names: Vec<String>, reply: Reply<Vec<Planned>> },
    Stats { reply: Reply<Vec<ModelStats>> },
    Requests { reply: Reply<Vec<RequestInfo>> },
    Cancel { id: String, uid: Option<u32>, reply: Reply<()> },
    NameOf { name: String, reply: Reply<Option<String>> },
    Late { reply: Reply<Vec<String>> },
    Unready { reply: Reply<Vec<String>> },
    Reload { changes: Reload, uid: Option<u32>, reply: Reply<()> },
    Drain { deadline: Duration, uid: Option<u32>, reply: Reply<()> },
}

/// Options that can change while models are loaded; `None` leaves one as it is.
#[derive(Clone, Debug, Default)]
pub struct Reload {
    /// `models.dirs`.
    pub dirs: Option<Vec<PathBuf>>,
    /// `models.autoload`.
    pub autoload: Option<bool>,
    /// Budgets by device id (`cpu`), in bytes. What is reserved stays; idle models leave until the
    /// rest fits.
    pub budgets: Vec<(String, u64)>,
    /// `http.listen`, for status.
    pub listen: Option<Vec<String>>,
}

/// Work that the actor has done by others, and hears of as [`Done`].
pub(super) enum Effect<M> {
    /// Look through the folders, and at files that were loaded by path.
    Scan { dirs: Vec<PathBuf>, files: Vec<(String, PathBuf)> },
    /// Open and check a file for a load.
    Inspect { number: u64, job: Job, reporter: Reporter },
    /// Open and check a file for its facts only.
    Describe { job: Job },
    /// Load it.
    Start { id: String, number: u64, prepared: Box<dyn Prepared<M>>, grant: Grant, reporter: Reporter },
    /// Cancel its requests.
    Abort { model: Arc<M> },
    /// Tear it down: nobody uses it any more (or was given time enough).
    Stop { id: String, model: Arc<M>, budgets: Vec<Arc<Budget>>, trim: fn() },
}

/// What came of an [`Effect`].
pub(super) enum Done<M> {
    Scanned { scan: Scan, files: Vec<(String, Option<Found>)> },
    Inspected { id: String, number: u64, found: Option<Found>, result: Result<Box<dyn Prepared<M>>, LoadError> },
    Described { id: String, found: Option<Found>, result: Result<(Arc<Facts>, Arc<Needs>), LoadError> },
    Started { id: String, number: u64, result: Result<M, LoadError> },
    Gone { id: String, evicted: Evicted },
}
