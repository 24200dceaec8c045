//! The state of all models and its rules, without a clock, a thread or a channel of its own.
//!
//! The actor feeds it commands and results with the time they came at ([`Core::command`],
//! [`Core::done`]), lets it look around ([`Core::step`], which says when it wants to look again),
//! and does the work it asks for ([`Effect`]). So all of it can be tested deterministically.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::Options;
use super::catalog::Found;
use super::command::{Command, Effect, Reply};
use super::entry::{Entry, Failure, Leaving, Load, Spared, Stage};
use super::error::RegistryError;
use super::loader::{Resident, Source};
use crate::base::limits::{CANCEL_WAIT, DEVICE_LOST_AGAIN, HEALTH_INTERVAL, MODELS_MAX, SCAN_INTERVAL};
use crate::base::name::nearest;
use crate::policy::placement::Share;
use crate::telemetry::events::DecisionLog;

/// All models.
pub(super) struct Core<M> {
    pub options: Options,
    pub entries: BTreeMap<String, Entry<M>>,
    pub log: Arc<DecisionLog>,
    pub bell: Arc<Notify>,
    pub effects: Vec<Effect<M>>,
    pub started: Instant,
    /// When to look again at the latest.
    pub wake: Option<Instant>,
    pub loads_made: u64,
    pub scan: ScanState<M>,
    /// An inspection for facts is on its way.
    pub describing: bool,
    pub drain: Option<Drain>,
    /// Preloaded models that were ready once.
    pub preloaded: Vec<String>,
}

/// Where the scan of the folders stands.
pub(super) struct ScanState<M> {
    pub running: bool,
    pub last: Option<Instant>,
    /// Commands about names that may turn up in the scan that runs.
    pub parked: Vec<Command<M>>,
    /// The same that came after it had begun: the next one answers them.
    pub late: Vec<Command<M>>,
    /// Parked commands are being answered from a scan that saw everything they may ask for.
    pub answering: bool,
    /// What was said about the folders already.
    pub problems: Vec<String>,
}

/// The daemon is shutting down.
pub(super) struct Drain {
    pub deadline: Instant,
    pub cancelled: bool,
    pub replies: Vec<Reply<()>>,
}

impl<M: Resident> Core<M> {
    pub fn new(options: Options, log: Arc<DecisionLog>, bell: Arc<Notify>, now: Instant) -> Self {
        let scan = ScanState {
            running: false,
            last: None,
            parked: Vec::new(),
            late: Vec::new(),
            answering: false,
            problems: Vec::new(),
        };
        let mut core = Self {
            options,
            entries: BTreeMap::new(),
            log,
            bell,
            effects: Vec::new(),
            started: now,
            wake: None,
            loads_made: 0,
            scan,
            describing: false,
            drain: None,
            preloaded: Vec::new(),
        };
        for site in &core.options.sites {
            core.log.record("device", None, None, format!("{}: {}; {}", site.id, site.description, site.reason));
        }
        core.rescan();
        core
    }

    /// Looks around: who is done, who may go, who may start. The result is when to look again.
    pub fn step(&mut self, now: Instant) -> Option<Instant> {
        self.wake = None;
        self.scan_for_the_late(now);
        self.sweep(now);
        self.pump(now);
        self.finish_drain(now);
        self.wake
    }

    pub fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// The id of the model that `name` means: exactly, or its only match in another case.
    pub fn resolve(&self, name: &str) -> Result<String, RegistryError> {
        if self.entries.contains_key(name) {
            return Ok(name.to_owned());
        }
        if let Some(e) = self.entries.values().find(|e| e.named(name)) {
            return Ok(e.id.clone());
        }
        let mut loose = self.entries.values().filter(|e| e.named_loosely(name));
        if let (Some(e), None) = (loose.next(), loose.next()) {
            return Ok(e.id.clone());
        }
        let names = self.entries.values().flat_map(|e| std::iter::once(&e.id).chain(&e.aliases)).map(String::as_str);
        let nearest = nearest(name, names).into_iter().map(str::to_owned).collect();
        Err(RegistryError::NotFound { name: name.to_owned(), nearest })
    }

    /// Leaves a command until a scan that begins from now on has ended, unless one has just ended
    /// for it ([`ScanState::answering`], to be asked before).
    pub fn park(&mut self, command: Command<M>) {
        self.scan.late.push(command);
    }

    /// Starts the scan that parked commands wait for, or says when it may start.
    fn scan_for_the_late(&mut self, now: Instant) {
        if self.scan.late.is_empty() || self.scan.running {
            return;
        }
        match self.scan.last.map(|at| at + SCAN_INTERVAL) {
            Some(due) if now < due => self.wake_at(due),
            _ => {
                self.scan.parked.append(&mut self.scan.late);
                self.rescan();
            }
        }
    }

    /// Has the folders looked at again, unless that was done just now.
    pub fn refresh(&mut self, now: Instant) {
        if self.scan.last.is_none_or(|at| now.saturating_duration_since(at) >= SCAN_INTERVAL) {
            self.rescan();
        }
    }

    pub fn rescan(&mut self) {
        if self.scan.running {
            return;
        }
        self.scan.running = true;
        let dirs = self.options.dirs.clone();
        let files = self.entries.values().filter_map(|e| match &e.source {
            Source::Path(path) if !dirs.iter().any(|d| path.starts_with(d)) => Some((e.id.clone(), path.clone())),
            _ => None,
        });
        self.effects.push(Effect::Scan { files: files.collect(), dirs: dirs.clone() });
    }

    /// The entry of a file, made if there is none.
    pub fn adopt(&mut self, source: Source, found: Found) -> String {
        let known = self.known();
        if let Some(id) = known.get(&found.path) {
            let id = id.clone();
            if let Some(e) = self.entries.get_mut(&id) {
                e.look_again(found.bytes, found.stamp, found.problem);
            }
            return id;
        }
        let (ids, renamed) = super::catalog::name_all(std::slice::from_ref(&found), &known);
        for text in renamed {
            self.log.record("catalog", None, None, text);
        }
        let id = ids.into_iter().next().unwrap_or(found.id);
        let mut entry = Entry::new(id.clone(), source, found.bytes, Some(found.stamp));
        entry.problem = found.problem;
        self.entries.insert(id.clone(), entry);
        id
    }

    /// Ids of the files that have one.
    pub fn known(&self) -> BTreeMap<PathBuf, String> {
        let of = |e: &Entry<M>| (PathBuf::from(e.source.display()), e.id.clone());
        self.entries.values().map(of).collect()
    }

    /// Makes sure that the model is being loaded.
    ///
    /// # Errors
    /// Too many models are loaded or wanted.
    pub fn want(&mut self, id: &str, now: Instant, explicit: bool, uid: Option<u32>) -> Result<(), RegistryError> {
        let busy = self.entries.values().filter(|e| e.live.is_some() || e.load.is_some()).count();
        let number = self.loads_made;
        let Some(entry) = self.entries.get_mut(id) else {
            return Err(RegistryError::NotFound { name: id.to_owned(), nearest: Vec::new() });
        };
        if let Some(load) = &mut entry.load {
            load.explicit |= explicit;
            return Ok(());
        }
        if busy >= MODELS_MAX && entry.live.is_none() {
            return Err(RegistryError::Busy { what: format!("{busy} models are loaded or wanted"), retry_after_s: 10 });
        }
        entry.passed.clear();
        entry.blind = None;
        entry.spared = Spared::default();
        entry.load = Some(Load {
            number,
            since: now,
            explicit,
            uid,
            stage: Stage::Waiting,
            reporter: super::loader::Reporter::new(),
            undecided: Vec::new(),
            waiters: Vec::new(),
            watchers: Vec::new(),
            evictors: Vec::new(),
            cancelled: None,
            slabs: None,
            evicting: false,
        });
        if let Some(load) = &entry.load {
            load.reporter.phase(crate::proto::admin::Phase::Queued);
        }
        self.loads_made += 1;
        Ok(())
    }

    /// Ends a load that will not be; `failure` stays visible as the model's state.
    pub fn give_up(&mut self, id: &str, error: RegistryError, failure: Option<Failure>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // What fails as it was wished for may well load as before.
        let as_before = entry.wanted == entry.proven;
        entry.wanted = entry.proven.clone();
        if let Some(mut load) = entry.load.take() {
            load.refuse(&error);
            for reply in load.evictors {
                reply.send(Ok(super::nothing_evicted(id))).ok();
            }
        }
        if failure.is_some() && as_before {
            entry.failure = failure;
        }
    }

    /// Begins to unload a model: it takes no new requests, and goes when those it has are done;
    /// with `cancel` they are cancelled.
    pub fn part(&mut self, id: &str, cancel: bool, now: Instant, reply: Option<Reply<super::Evicted>>) {
        let Some(live) = self.entries.get_mut(id).and_then(|e| e.live.as_mut()) else { return };
        let leaving =
            live.leaving.get_or_insert_with(|| Leaving { cancelled: None, stopping: false, replies: Vec::new() });
        leaving.replies.extend(reply);
        if cancel && leaving.cancelled.is_none() {
            leaving.cancelled = Some(now + CANCEL_WAIT);
            if let Some(model) = &live.model {
                self.effects.push(Effect::Abort { model: Arc::clone(model) });
            }
        }
    }

    /// A model failed while it ran: it leaves, the others go on.
    pub fn fail(&mut self, id: &str, reason: String, now: Instant) {
        self.log.record("failed", Some(id), None, format!("{id} failed: {reason}"));
        tracing::error!(model = id, "the model failed: {reason}");
        if let Some(entry) = self.entries.get_mut(id) {
            let mut lost = false;
            if let Some(model) = entry.live.as_ref().and_then(|l| l.model.as_ref()) {
                model.fail(&reason);
                lost = model.device_lost();
            }
            // A lost device is not the model's fault, unless it is lost again and again.
            let before = entry.lost.filter(|at| now.saturating_duration_since(*at) < DEVICE_LOST_AGAIN);
            match &mut entry.live {
                Some(live) if lost && before.is_none() => live.again = true,
                _ => entry.failure = Some(Failure { reason, at: now }),
            }
            if lost {
                entry.lost = Some(now);
            }
        }
        self.part(id, true, now, None);
    }

    /// Looks at the loaded models: leases that ended, failures, idle times, who can be torn down.
    fn sweep(&mut self, now: Instant) {
        let (mut failed, mut expired) = (Vec::new(), Vec::new());
        let mut wake: Vec<Instant> = Vec::new();
        for entry in self.entries.values_mut() {
            let Some(live) = &mut entry.live else { continue };
            let leases = live.seat.count();
            if leases < live.seen {
                live.used = now;
                entry.last_use = Some(SystemTime::now());
            }
            live.seen = leases;
            let Some(model) = &live.model else { continue };
            let ill = model
                .failed()
                .or_else(|| model.late().map(|late| format!("its step is {} s past its deadline", late.as_secs())));
            match &mut live.leaving {
                None => {
                    if let Some(reason) = ill {
                        failed.push((entry.id.clone(), reason));
                    } else if leases > 0 {
                        wake.push(now + HEALTH_INTERVAL);
                    } else if let Some(ttl) = entry.ttl {
                        if now.saturating_duration_since(live.used) >= ttl {
                            expired.push((entry.id.clone(), ttl));
                        } else {
                            wake.push(live.used + ttl);
                        }
                    }
                }
                Some(leaving) => {
                    if leases == 0 || leaving.cancelled.is_some_and(|until| now >= until) {
                        leaving.stopping = true;
                        let budget = |s: &Share| Arc::clone(&self.options.sites[s.site].budget);
                        let budgets = live.way.shares.iter().map(budget).collect();
                        if let Some(model) = live.model.take() {
                            let trim = self.options.trim;
                            self.effects.push(Effect::Stop { id: entry.id.clone(), model, budgets, trim });
                        }
                    } else {
                        wake.extend(leaving.cancelled);
                        if ill.is_some() && leaving.cancelled.is_none() {
                            failed.push((entry.id.clone(), ill.unwrap_or_default()));
                        }
                    }
                }
            }
        }
        for (id, reason) in failed {
            self.fail(&id, reason, now);
            wake.push(now);
        }
        for (id, ttl) in expired {
            self.log.record(
                "evict",
                Some(&id),
                None,
                format!("{id} was idle for its time to live of {} s", ttl.as_secs()),
            );
            self.part(&id, false, now, None);
            wake.push(now);
        }
        for at in wake {
            self.wake_at(at);
        }
    }

    /// Starts to shut down: nothing new, what runs may finish until the deadline.
    pub fn begin_drain(&mut self, within: Duration, uid: Option<u32>, now: Instant, reply: Reply<()>) {
        let deadline = now + within;
        if let Some(drain) = &mut self.drain {
            drain.deadline = drain.deadline.min(deadline);
            drain.replies.push(reply);
        } else {
            self.log.record("drain", None, uid, format!("draining: requests may finish within {} s", within.as_secs()));
            self.drain = Some(Drain { deadline, cancelled: false, replies: vec![reply] });
        }
        let ids: Vec<String> = self.entries.keys().cloned().collect();
        for id in &ids {
            self.cancel_load(id, &RegistryError::Draining);
            self.part(id, false, now, None);
        }
    }

    /// Gives a load up: at once, or where it can be interrupted.
    pub fn cancel_load(&mut self, id: &str, error: &RegistryError) -> bool {
        let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) else { return false };
        if load.starting() {
            load.reporter.cancel();
            load.refuse(error);
            load.cancelled = Some(error.clone());
        } else {
            self.give_up(id, error.clone(), None);
        }
        true
    }

    fn finish_drain(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        if self.entries.values().all(|e| e.live.is_none() && e.load.is_none()) {
            for reply in drain.replies.drain(..) {
                reply.send(Ok(())).ok();
            }
            return;
        }
        let deadline = drain.deadline;
        if now < deadline {
            self.wake_at(deadline);
        } else if !drain.cancelled {
            drain.cancelled = true;
            let ids: Vec<String> = self.entries.keys().cloned().collect();
            for id in ids {
                self.part(&id, true, now, None);
            }
            self.wake_at(now);
        }
    }
}
