//! What the registry is asked, and how it answers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::catalog::Found;
use super::command::{Command, Reload, Reply, Watched};
use super::core::Core;
use super::entry::{Entry, Stage};
use super::error::RegistryError;
use super::lease::{Acquired, Pending};
use super::loader::{Resident, Source, Wanted};
use crate::base::limits::LOAD_WAITERS_MAX;
use crate::policy::human;
use crate::policy::placement::Use;
use crate::proto::admin::{LoadRequest, Model, ModelState};

impl<M: Resident> Core<M> {
    /// Answers a command, now or when its outcome is known.
    pub fn command(&mut self, command: Command<M>, now: Instant) {
        match command {
            Command::Acquire { name, reply } => self.acquire(name, reply, now),
            Command::Load { request, source, uid, reply } => self.load(request, source, uid, reply, now),
            Command::Evict { name, now: at_once, uid, reply } => self.evict(name, at_once, uid, reply, now),
            Command::Pin { name, pinned, uid, reply } => {
                let result = self.resolve(&name).map(|id| self.pin(&id, pinned, uid));
                reply.send(result).ok();
            }
            Command::List { reply } => {
                if self.scan.running && self.scan.last.is_none() {
                    self.scan.parked.push(Command::List { reply });
                    return;
                }
                self.refresh(now);
                reply.send(Ok(self.entries.values().map(|e| self.view(e)).collect())).ok();
            }
            Command::Show { name, reply } => self.show(name, reply, now),
            Command::Status { reply } => {
                reply.send(Ok(self.status(now))).ok();
            }
            Command::Devices { reply } => {
                reply.send(Ok(self.devices())).ok();
            }
            Command::Plan { names, reply } => {
                reply.send(self.forecast(&names, now)).ok();
            }
            Command::Stats { reply } => {
                reply.send(Ok(self.residents().map(|(id, m)| super::ModelStats { id, ..m.stats() }).collect())).ok();
            }
            Command::Requests { reply } => {
                reply.send(Ok(self.residents().flat_map(|(_, m)| m.requests()).collect())).ok();
            }
            Command::Cancel { id, uid, reply } => {
                let hit = self.residents().find(|(_, m)| m.cancel(&id)).map(|(model, _)| model);
                if let Some(model) = &hit {
                    self.log.record("cancel", Some(model), uid, format!("request {id} was cancelled"));
                }
                reply.send(hit.map(|_| ()).ok_or(RegistryError::NoRequest { id })).ok();
            }
            Command::NameOf { name, reply } => {
                reply.send(Ok(self.resolve(&name).ok())).ok();
            }
            Command::Late { reply } => {
                let late =
                    |(id, m): (String, Arc<M>)| m.late().map(|l| format!("{id}: its step is {} s late", l.as_secs()));
                reply.send(Ok(self.residents().filter_map(late).collect())).ok();
            }
            Command::Unready { reply } => {
                reply.send(Ok(self.unready())).ok();
            }
            Command::Reload { changes, uid, reply } => {
                reply.send(self.reload(changes, uid)).ok();
            }
            Command::Drain { deadline, uid, reply } => self.begin_drain(deadline, uid, now, reply),
        }
    }

    fn residents(&self) -> impl Iterator<Item = (String, Arc<M>)> {
        self.entries.values().filter_map(|e| Some((e.id.clone(), Arc::clone(e.live.as_ref()?.model.as_ref()?))))
    }

    fn acquire(&mut self, name: String, reply: Reply<Acquired<M>>, now: Instant) {
        if self.drain.is_some() {
            reply.send(Err(RegistryError::Draining)).ok();
            return;
        }
        let id = match self.resolve(&name) {
            Ok(id) => id,
            Err(_) if !self.scan.answering => return self.park(Command::Acquire { name, reply }),
            Err(e) => {
                reply.send(Err(e)).ok();
                return;
            }
        };
        if let Err((e, reply)) = self.acquire_known(&id, reply, now) {
            reply.send(Err(e)).ok();
        }
    }

    fn acquire_known(
        &mut self,
        id: &str,
        reply: Reply<Acquired<M>>,
        now: Instant,
    ) -> Result<(), (RegistryError, Reply<Acquired<M>>)> {
        if let Some(live) = self.entries.get_mut(id).and_then(|e| e.live.as_mut()).filter(|l| l.leaving.is_none()) {
            // A model that failed is noticed here at the latest, not by the request.
            match live.model.as_ref().and_then(|m| m.failed()) {
                Some(reason) => self.fail(id, reason, now),
                None => {
                    if let Some(lease) = live.lease(now) {
                        if let Some(entry) = self.entries.get_mut(id) {
                            entry.last_use = Some(SystemTime::now());
                        }
                        reply.send(Ok(Acquired::Ready(lease))).ok();
                        return Ok(());
                    }
                }
            }
        }
        if self.entries.get(id).is_some_and(|e| e.load.is_none())
            && let Err(e) = self.may_load(id, now).and_then(|()| self.want(id, now, false, None))
        {
            return Err((e, reply));
        }
        let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) else {
            return Err((RegistryError::Draining, reply));
        };
        if let Some(error) = &load.cancelled {
            return Err((error.clone(), reply));
        }
        if load.waiting() >= LOAD_WAITERS_MAX {
            let eta = load.reporter.watch().borrow().eta_s;
            let what = format!("{LOAD_WAITERS_MAX} requests wait for `{id}` already");
            return Err((RegistryError::Busy { what, retry_after_s: eta.clamp(1.0, 600.0).ceil() as u64 }, reply));
        }
        if matches!(load.stage, Stage::Waiting | Stage::Inspecting) {
            load.undecided.push(reply);
        } else {
            let (waiter, outcome) = oneshot::channel();
            load.waiters.push(waiter);
            let progress = load.reporter.watch();
            let device = self.entries.get(id).map(|e| self.device_of(e)).unwrap_or_default();
            reply.send(Ok(Acquired::Loading(Pending { device, progress, outcome }))).ok();
        }
        Ok(())
    }

    /// Whether a request may have the model loaded. What is known to be hopeless is refused at
    /// once, with the numbers.
    fn may_load(&mut self, id: &str, now: Instant) -> Result<(), RegistryError> {
        let Some(entry) = self.entries.get(id) else { return Ok(()) };
        let failed = |reason: &str, retry_after_s| RegistryError::Failed {
            model: id.to_owned(),
            reason: reason.to_owned(),
            retry_after_s,
        };
        if let Some(problem) = &entry.problem {
            return Err(failed(problem, None));
        }
        if let Some(failure) = &entry.failure {
            let wait = self.options.retry_after.saturating_sub(now.saturating_duration_since(failure.at));
            if wait > Duration::ZERO {
                return Err(failed(&failure.reason, Some(wait.as_secs_f64().ceil() as u64)));
            }
        }
        if !self.options.autoload {
            return Err(RegistryError::AutoloadOff { model: id.to_owned() });
        }
        if let Some(needs) = &entry.needs
            && let Err(e) = self.admit(id, needs, entry)
        {
            self.log.record("refuse", Some(id), None, e.to_string());
            return Err(e);
        }
        Ok(())
    }

    fn load(
        &mut self,
        request: LoadRequest,
        source: Option<(Source, Found)>,
        uid: Option<u32>,
        reply: Reply<Watched>,
        now: Instant,
    ) {
        if self.drain.is_some() {
            reply.send(Err(RegistryError::Draining)).ok();
            return;
        }
        let id = match source {
            Some((source, found)) => Ok(self.adopt(source, found)),
            None => match self.resolve(&request.model) {
                // A name may turn up, and whether a loaded model's file was replaced must be known.
                Err(_) if !self.scan.answering => {
                    return self.park(Command::Load { request, source: None, uid, reply });
                }
                Ok(id) if self.entries[&id].ready().is_some() && !self.scan.answering => {
                    return self.park(Command::Load { request, source: None, uid, reply });
                }
                other => other,
            },
        };
        reply.send(id.and_then(|id| self.load_known(&id, request, uid, now))).ok();
    }

    fn load_known(
        &mut self,
        id: &str,
        request: LoadRequest,
        uid: Option<u32>,
        now: Instant,
    ) -> Result<Watched, RegistryError> {
        let wanted = self.apply(id, &request)?;
        self.log.record("load", Some(id), uid, format!("{id}: a load was asked for"));
        if request.pin {
            self.pin(id, true, uid);
        }
        let Some(entry) = self.entries.get_mut(id) else { return Err(RegistryError::Draining) };
        entry.wanted = wanted;
        // An explicit load tries again at once, and looks at the file anew.
        entry.failure = None;
        entry.problem = None;
        let replaced = entry.ready().is_some_and(|l| l.stamp != entry.stamp);
        if entry.ready().is_some() && !replaced {
            let (watcher, outcome) = oneshot::channel();
            watcher.send(Ok(self.view(&self.entries[id]))).ok();
            return Ok((super::loader::Reporter::new().watch(), outcome));
        }
        self.want(id, now, true, uid)?;
        if replaced {
            self.log.record("evict", Some(id), uid, format!("{id}: the file was replaced; the new one is loaded"));
            self.part(id, false, now, None);
        }
        let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) else {
            return Err(RegistryError::Draining);
        };
        let (watcher, outcome) = oneshot::channel();
        load.watchers.push(watcher);
        Ok((load.reporter.watch(), outcome))
    }

    /// Takes a load's wishes over; nothing is changed if one of them cannot be.
    fn apply(&mut self, id: &str, request: &LoadRequest) -> Result<Wanted, RegistryError> {
        let device = match request.device.as_deref() {
            None => None,
            Some(d) => Some(
                Use::parse(d).ok_or_else(|| RegistryError::Invalid(format!("device `{d}`: it is auto, gpu or cpu")))?,
            ),
        };
        if request.ctx == Some(0) {
            return Err(RegistryError::Invalid("a context of 0 tokens".to_owned()));
        }
        if let Some(name) = &request.name
            && let Some(other) = self.entries.values().find(|e| e.id != id && e.named(name))
        {
            return Err(RegistryError::Conflict(format!("the name `{name}` is taken by {}", other.source.display())));
        }
        let Some(entry) = self.entries.get_mut(id) else { return Err(RegistryError::Draining) };
        let mut wanted = entry.wanted.clone();
        wanted.context = request.ctx.or(wanted.context);
        wanted.kv_type = request.kv_type.clone().or(wanted.kv_type);
        wanted.device = device.or(wanted.device);
        wanted.gpu_layers = request.gpu_layers.or(wanted.gpu_layers);
        let under_way = entry.load.as_ref().is_some_and(|l| !matches!(l.stage, Stage::Waiting));
        let loaded_otherwise = entry.ready().is_some_and(|l| l.wanted != wanted);
        if loaded_otherwise || under_way && entry.wanted != wanted {
            let text = format!("`{id}` is loaded, or being loaded, with other settings: evict it first");
            return Err(RegistryError::Conflict(text));
        }
        if let Some(name) = &request.name
            && !entry.named(name)
        {
            entry.aliases.push(name.clone());
        }
        if let Some(seconds) = request.ttl_s {
            entry.ttl = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
        Ok(wanted)
    }

    fn evict(&mut self, name: String, cancel: bool, uid: Option<u32>, reply: Reply<super::Evicted>, now: Instant) {
        let id = match self.resolve(&name) {
            Ok(id) => id,
            Err(e) => {
                reply.send(Err(e)).ok();
                return;
            }
        };
        let loading = self.cancel_load(&id, &RegistryError::Cancelled { model: id.clone() });
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.forget_wishes();
        }
        if self.entries.get(&id).is_some_and(|e| e.live.is_some()) {
            let how = if cancel { "its requests are cancelled" } else { "its requests are finished first" };
            self.log.record("evict", Some(&id), uid, format!("{id}: an eviction was asked for; {how}"));
            self.part(&id, cancel, now, Some(reply));
        } else if loading {
            self.log.record("evict", Some(&id), uid, format!("{id}: its load was cancelled"));
            match self.entries.get_mut(&id).and_then(|e| e.load.as_mut()) {
                Some(starting) => starting.evictors.push(reply),
                None => {
                    reply.send(Ok(super::nothing_evicted(&id))).ok();
                }
            }
        } else {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.failure = None;
            }
            // A file that was given by its path and is not in memory is forgotten with this.
            let dirs = &self.options.dirs;
            let by_path = |e: &Entry<M>| match &e.source {
                Source::Path(path) => !dirs.iter().any(|d| path.starts_with(d)),
                Source::Files(_) => true,
            };
            let forgotten = self.entries.get(&id).is_some_and(by_path);
            if forgotten {
                self.entries.remove(&id);
            }
            reply.send(Err(RegistryError::NotLoaded { model: id })).ok();
        }
    }

    fn pin(&mut self, id: &str, pinned: bool, uid: Option<u32>) -> Model {
        let word = if pinned { "pinned" } else { "unpinned" };
        if self.entries[id].pinned != pinned {
            self.log.record("pin", Some(id), uid, format!("{id} was {word}"));
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.pinned = pinned;
        }
        self.view(&self.entries[id])
    }

    /// What of the preload set is not there, with the reason. A model that was ready once counts
    /// for good: whether it is evicted later is the policy's business.
    fn unready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for name in &self.options.preload {
            if self.preloaded.contains(name) {
                continue;
            }
            missing.push(match self.by_name_or_path(name).map(|e| (e.state(), self.view(e).reason)) {
                None => format!("{name} is not in the catalog"),
                Some((ModelState::Failed, reason)) => format!("{name} failed: {}", reason.unwrap_or_default()),
                Some((state, _)) => format!("{name} is {}", super::state_name(state)),
            });
        }
        missing
    }

    fn reload(&mut self, changes: Reload, uid: Option<u32>) -> Result<(), RegistryError> {
        for (id, _) in &changes.budgets {
            if !self.options.sites.iter().any(|s| s.id == *id) {
                return Err(RegistryError::Invalid(format!("no device `{id}`")));
            }
        }
        for (id, bytes) in &changes.budgets {
            for site in self.options.sites.iter().filter(|s| s.id == *id && s.budget.total() != *bytes) {
                let text = format!("budget of {id}: {} instead of {}", human(*bytes), human(site.budget.total()));
                self.log.record("config", None, uid, text);
                site.budget.resize(*bytes);
            }
        }
        if let Some(autoload) = changes.autoload.filter(|a| *a != self.options.autoload) {
            self.log.record("config", None, uid, format!("models.autoload is {autoload}"));
            self.options.autoload = autoload;
        }
        if let Some(listen) = changes.listen {
            self.options.listen = listen;
        }
        if let Some(dirs) = changes.dirs.filter(|d| *d != self.options.dirs) {
            let names: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
            self.log.record("config", None, uid, format!("models.dirs: {}", names.join(", ")));
            self.options.dirs = dirs;
        }
        self.rescan();
        Ok(())
    }
}
