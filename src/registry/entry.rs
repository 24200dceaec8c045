//! One model of the registry: what is known of it, what of it is loaded, and the load on its way.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::catalog::Stamp;
use super::command::Reply;
use super::error::RegistryError;
use super::lease::{Acquired, Lease, Seat};
use super::loader::{Facts, Job, Prepared, Reporter, Source, Wanted};
use crate::policy::placement::{Needs, Use, Way, Wish};
use crate::proto::admin::{Evicted, Model, ModelDetail, ModelState};

/// A model that is in the catalog, or was loaded by path.
pub(super) struct Entry<M> {
    pub id: String,
    pub aliases: Vec<String>,
    pub source: Source,
    /// Bytes of its files.
    pub bytes: u64,
    /// Of its first file, as last seen; `None` for passed descriptors.
    pub stamp: Option<Stamp>,
    /// Whether its file was there at the last look.
    pub present: bool,
    /// What is wrong with its file; another stamp clears it.
    pub problem: Option<String>,
    pub pinned: bool,
    pub ttl: Option<Duration>,
    /// What the next load is asked for.
    pub wanted: Wanted,
    /// The same of the last load that went well: wishes of one that failed are not kept.
    pub proven: Wanted,
    pub live: Option<Live<M>>,
    pub load: Option<Load<M>>,
    pub failure: Option<Failure>,
    /// When its device was lost under it.
    pub lost: Option<Instant>,
    /// Devices that this load was tried on in vain, with the reason.
    pub passed: Vec<(usize, String)>,
    /// What this load goes without, as a device had less memory than its ledger says.
    pub spared: Spared,
    /// Known once the file was opened; another stamp clears both.
    pub facts: Option<Arc<Facts>>,
    /// How it can be run, as it is wanted.
    pub needs: Option<Arc<Needs>>,
    /// Why neither could be found out, though the file may be sound: another look has to have a reason.
    pub blind: Option<String>,
    /// What its last load took, waiting excluded.
    pub load_time: Option<Duration>,
    pub last_use: Option<SystemTime>,
    /// Who waits for its facts.
    pub shows: Vec<Reply<ModelDetail>>,
}

/// What a load goes without on its second try.
#[derive(Clone, Debug, Default)]
pub(super) struct Spared {
    /// Tokens of cache that it starts with at most.
    pub cache_most: Option<u32>,
    /// By device: layers there at most.
    pub layers: Vec<(usize, u32)>,
}

/// Why and when a model failed.
pub(super) struct Failure {
    pub reason: String,
    pub at: Instant,
}

/// A model in memory.
pub(super) struct Live<M> {
    /// Taken out when it is torn down.
    pub model: Option<Arc<M>>,
    pub seat: Arc<Seat>,
    /// How it is run.
    pub way: Way,
    pub device_reason: String,
    pub wanted: Wanted,
    /// Of the file that was loaded.
    pub stamp: Option<Stamp>,
    /// Whether it was said that the file is another one by now.
    pub replaced: bool,
    pub since: Instant,
    pub used: Instant,
    /// Leases at the last look: fewer now means that it was used until now.
    pub seen: u32,
    pub load_time: Duration,
    pub leaving: Option<Leaving>,
    /// Its device was lost: it is loaded again once it is gone.
    pub again: bool,
}

/// A model on its way out.
pub(super) struct Leaving {
    /// Requests were cancelled; their handlers have until then to let go.
    pub cancelled: Option<Instant>,
    /// Its memory is being given back.
    pub stopping: bool,
    pub replies: Vec<Reply<Evicted>>,
}

impl<M> Live<M> {
    pub fn idle(&self, now: Instant) -> Duration {
        if self.seat.count() > 0 { Duration::ZERO } else { now.saturating_duration_since(self.used) }
    }

    pub fn lease(&mut self, now: Instant) -> Option<Lease<M>> {
        let model = self.model.as_ref()?;
        self.used = now;
        let lease = Lease::new(model, &self.seat);
        self.seen = self.seat.count();
        Some(lease)
    }
}

/// A load that is wanted or on its way.
pub(super) struct Load<M> {
    /// Tells the answers of an earlier load from this one's.
    pub number: u64,
    /// When the first one asked for it.
    pub since: Instant,
    /// An operator asked for it: it takes its turn at once.
    pub explicit: bool,
    pub uid: Option<u32>,
    pub stage: Stage<M>,
    pub reporter: Reporter,
    /// Requests that do not know yet whether the model can be had.
    pub undecided: Vec<Reply<Acquired<M>>>,
    /// Requests that wait for it.
    pub waiters: Vec<oneshot::Sender<Result<Lease<M>, RegistryError>>>,
    /// Operators that wait for it.
    pub watchers: Vec<Reply<Model>>,
    /// Operators that want it gone as soon as it can be interrupted.
    pub evictors: Vec<Reply<Evicted>>,
    /// It is not wanted any more: what to tell those who come.
    pub cancelled: Option<RegistryError>,
    /// Engines were asked for idle slabs; they have until then.
    pub slabs: Option<Instant>,
    /// Idle models were asked to go for it.
    pub evicting: bool,
}

/// Where a load stands.
pub(super) enum Stage<M> {
    /// For an inspection.
    Waiting,
    /// The file is being opened and checked.
    Inspecting,
    /// Checked; there is not enough free memory yet, or others load first.
    Room { prepared: Box<dyn Prepared<M>>, way: Way, reason: String },
    /// Being read.
    Starting { way: Way, reason: String, began: Instant },
}

impl<M> Stage<M> {
    /// How the model is to be run.
    pub fn way(&self) -> Option<&Way> {
        match self {
            Stage::Waiting | Stage::Inspecting => None,
            Stage::Room { way, .. } | Stage::Starting { way, .. } => Some(way),
        }
    }
}

impl<M> Load<M> {
    /// Tells everybody who waits that it will not be.
    pub fn refuse(&mut self, error: &RegistryError) {
        for reply in self.undecided.drain(..) {
            reply.send(Err(error.clone())).ok();
        }
        for waiter in self.waiters.drain(..) {
            waiter.send(Err(error.clone())).ok();
        }
        for watcher in self.watchers.drain(..) {
            watcher.send(Err(error.clone())).ok();
        }
    }

    /// Requests that wait and whose clients are still there.
    pub fn waiting(&mut self) -> usize {
        self.waiters.retain(|w| !w.is_closed());
        self.undecided.retain(|u| !u.is_closed());
        self.waiters.len() + self.undecided.len()
    }

    pub fn starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }
}

impl<M> Entry<M> {
    pub fn new(id: String, source: Source, bytes: u64, stamp: Option<Stamp>) -> Self {
        Self {
            id,
            aliases: Vec::new(),
            source,
            bytes,
            stamp,
            present: true,
            problem: None,
            pinned: false,
            ttl: None,
            wanted: Wanted::default(),
            proven: Wanted::default(),
            live: None,
            load: None,
            failure: None,
            lost: None,
            passed: Vec::new(),
            spared: Spared::default(),
            facts: None,
            needs: None,
            blind: None,
            load_time: None,
            last_use: None,
            shows: Vec::new(),
        }
    }

    /// An operator unloads it: the next load is as the configuration says, not as `load` asked.
    /// Names that it was given stay: clients know it by them.
    pub fn forget_wishes(&mut self) {
        self.wanted = Wanted::default();
        self.proven = Wanted::default();
        self.needs = None;
        self.blind = None;
        self.ttl = None;
    }

    /// Why this load was given up on a device. Another load begins anew.
    pub fn passed_over(&self, site: usize) -> Option<String> {
        self.load.as_ref()?;
        self.passed.iter().find(|p| p.0 == site).map(|p| p.1.clone())
    }

    /// Whether all was found out that can be without loading it, or why it could not.
    pub fn described(&self) -> bool {
        let reason = self.problem.is_some() || self.failure.is_some() || self.blind.is_some();
        reason || self.live.is_some() || self.facts.is_some() && self.needs.is_some()
    }

    /// What is to be loaded.
    pub fn job(&self) -> Job {
        let cache_most = self.load.as_ref().and(self.spared.cache_most);
        Job { id: self.id.clone(), source: self.source.clone(), wanted: self.wanted.clone(), cache_most }
    }

    /// Where it is wanted; `otherwise` is the device for those that ask for none.
    pub fn wish(&self, otherwise: Use) -> Wish {
        Wish { device: self.wanted.device.unwrap_or(otherwise), gpu_layers: self.wanted.gpu_layers }
    }

    /// Layers that this load may have on a device at most, if there is a limit.
    pub fn layers_max(&self, site: usize) -> Option<u32> {
        self.load.as_ref()?;
        self.spared.layers.iter().filter(|l| l.0 == site).map(|l| l.1).min()
    }

    /// How it is run, or will be.
    pub fn way(&self) -> Option<&Way> {
        let loading = || self.load.as_ref().and_then(|l| l.stage.way());
        self.live.as_ref().map(|l| &l.way).or_else(loading)
    }

    /// Loaded, and not on its way out.
    pub fn ready(&self) -> Option<&Live<M>> {
        self.live.as_ref().filter(|l| l.leaving.is_none())
    }

    pub fn state(&self) -> ModelState {
        match (&self.live, &self.load) {
            (Some(live), _) if live.leaving.is_none() => ModelState::Ready,
            (Some(_), _) if self.failure.is_some() => ModelState::Failed,
            (Some(_), _) => ModelState::Draining,
            (None, Some(load)) => match load.stage {
                Stage::Waiting | Stage::Room { .. } if !load.evicting => ModelState::Queued,
                _ => ModelState::Loading,
            },
            (None, None) if self.failure.is_some() || self.problem.is_some() => ModelState::Failed,
            (None, None) => ModelState::Absent,
        }
    }

    /// Estimate of what loading it again would take: as last time, or its bytes at 1 GB/s.
    pub fn reload(&self) -> Duration {
        self.load_time.unwrap_or(Duration::from_nanos(self.bytes))
    }

    pub fn named(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|a| a == name)
    }

    pub fn named_loosely(&self, name: &str) -> bool {
        self.id.eq_ignore_ascii_case(name) || self.aliases.iter().any(|a| a.eq_ignore_ascii_case(name))
    }

    /// The file is another one now: what was known of the old one is void.
    pub fn look_again(&mut self, bytes: u64, stamp: Stamp, problem: Option<String>) {
        self.present = true;
        if self.stamp == Some(stamp) && self.bytes == bytes {
            return;
        }
        self.stamp = Some(stamp);
        self.bytes = bytes;
        self.problem = problem;
        self.needs = None;
        self.blind = None;
        if self.live.is_none() {
            self.facts = None;
            self.failure = None;
        }
    }
}
