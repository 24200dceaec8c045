//! What came of the work that the actor had done for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::catalog::{self, Found, Scan};
use super::command::{Done, Effect};
use super::core::Core;
use super::entry::{Entry, Failure, Live, Stage};
use super::error::RegistryError;
use super::lease::{Acquired, Pending, Seat};
use super::loader::{LoadError, Prepared, Resident, Source};
use crate::base::limits::CACHE_SPARED_TOKENS;
use crate::policy::human;
use crate::policy::placement::{SiteKind, Wish};
use crate::proto::admin::{Evicted, Phase};

impl<M: Resident> Core<M> {
    /// Takes a result.
    pub fn done(&mut self, done: Done<M>, now: Instant) {
        match done {
            Done::Scanned { scan, files } => self.scanned(scan, files, now),
            Done::Inspected { id, number, found, result } => {
                self.looked(&id, found);
                self.inspected(&id, number, result, now);
            }
            Done::Described { id, found, result } => {
                self.describing = false;
                self.looked(&id, found);
                if let Some(entry) = self.entries.get_mut(&id) {
                    match result {
                        Ok((facts, needs)) => (entry.facts, entry.needs) = (Some(facts), Some(needs)),
                        Err(LoadError::Invalid(why)) => entry.problem = Some(why),
                        Err(e) => {
                            tracing::warn!(model = id, "looking at it failed: {e}");
                            entry.blind = Some(e.to_string());
                        }
                    }
                }
                self.answer_shows(&id, now);
                self.describe_next();
            }
            Done::Started { id, number, result } => self.started(&id, number, result, now),
            Done::Gone { id, evicted } => self.gone(&id, evicted, now),
        }
    }

    fn looked(&mut self, id: &str, found: Option<Found>) {
        if let (Some(entry), Some(f)) = (self.entries.get_mut(id), found) {
            entry.look_again(f.bytes, f.stamp, f.problem);
        }
    }

    fn scanned(&mut self, scan: Scan, files: Vec<(String, Option<Found>)>, now: Instant) {
        let first = self.scan.last.is_none();
        (self.scan.running, self.scan.last) = (false, Some(now));
        for problem in &scan.problems {
            if !self.scan.problems.contains(problem) {
                tracing::warn!("models.dirs: {problem}");
            }
        }
        self.scan.problems = scan.problems;
        for entry in self.entries.values_mut() {
            entry.present &= matches!(entry.source, Source::Files(_));
        }
        for (id, found) in files {
            self.looked(&id, found);
        }
        for found in scan.found {
            let source = Source::Path(found.path.clone());
            self.adopt(source, found);
        }
        // A file that is gone takes its model from the catalog, unless it is in use.
        self.entries.retain(|_, e| e.present || e.live.is_some() || e.load.is_some());
        for entry in self.entries.values_mut() {
            let stamp = entry.stamp;
            let Some(live) = entry.live.as_mut().filter(|l| !l.replaced && l.stamp != stamp) else { continue };
            live.replaced = true;
            let text = "its file was replaced on disk: the loaded one goes on, the next load takes the new one";
            self.log.record("catalog", Some(&entry.id), None, format!("{}: {text}", entry.id));
        }
        if first {
            for name in self.options.preload.clone() {
                match self.by_name_or_path(&name).map(|e| e.id.clone()) {
                    Some(id) => {
                        self.want(&id, now, true, None).ok();
                    }
                    None => tracing::error!("models.preload: no model `{name}`"),
                }
            }
        }
        self.scan.answering = true;
        for command in std::mem::take(&mut self.scan.parked) {
            self.command(command, now);
        }
        self.scan.answering = false;
        // Those that came meanwhile need another scan only if this one did not show their names.
        for command in std::mem::take(&mut self.scan.late) {
            self.command(command, now);
        }
        self.describe_next();
    }

    /// A model by one of its names or by its path.
    pub fn by_name_or_path(&self, name: &str) -> Option<&Entry<M>> {
        let by_path = || self.entries.values().find(|e| e.source.display() == name);
        self.resolve(name).ok().and_then(|id| self.entries.get(&id)).or_else(by_path)
    }

    /// Looks into the next file of which nothing is known, so that lists can say what it is.
    pub fn describe_next(&mut self) {
        if self.describing || self.drain.is_some() {
            return;
        }
        let unknown = |e: &&Entry<M>| !e.described() && e.load.is_none();
        let asked = self.entries.values().find(|e| !e.shows.is_empty());
        let Some(entry) = asked.or_else(|| self.entries.values().find(unknown)) else {
            return;
        };
        let job = entry.job();
        self.describing = true;
        self.effects.push(Effect::Describe { job });
    }

    fn failure(&self, error: &LoadError, now: Instant, id: &str) -> (RegistryError, Failure) {
        let reason = error.to_string();
        // Only a failure that is kept holds requests off.
        let kept = self.entries.get(id).is_some_and(|e| e.wanted == e.proven);
        let retry =
            (kept && !matches!(error, LoadError::Invalid(_))).then(|| self.options.retry_after.as_secs().max(1));
        let told = RegistryError::Failed { model: id.to_owned(), reason: reason.clone(), retry_after_s: retry };
        (told, Failure { reason, at: now })
    }

    fn inspected(&mut self, id: &str, number: u64, result: Result<Box<dyn Prepared<M>>, LoadError>, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.load.as_ref().is_none_or(|l| l.number != number) {
            return;
        }
        let prepared = match result {
            Ok(prepared) => prepared,
            Err(error) => {
                self.load_failed(id, &error, now);
                return;
            }
        };
        let needs = prepared.needs();
        entry.needs = Some(Arc::clone(&needs));
        entry.facts = Some(prepared.facts());
        entry.problem = None;
        let admitted = self.entries.get(id).map(|entry| self.admit(id, &needs, entry));
        let place = match admitted {
            Some(Ok(place)) => place,
            Some(Err(RegistryError::Memory(refusal))) => {
                self.refuse(id, refusal);
                return;
            }
            Some(Err(error)) => {
                self.log.record("refuse", Some(id), None, error.to_string());
                self.give_up(id, error, None);
                return;
            }
            None => return,
        };
        let device = self.label(&place.way, needs.n_layer);
        self.log.record("device", Some(id), None, format!("{id} goes to {device}: {}", place.reason));
        let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) else { return };
        load.stage = Stage::Room { prepared, way: place.way, reason: place.reason };
        load.reporter.phase(Phase::Plan);
        for reply in std::mem::take(&mut load.undecided) {
            let (waiter, outcome) = tokio::sync::oneshot::channel();
            load.waiters.push(waiter);
            let device = device.clone();
            reply.send(Ok(Acquired::Loading(Pending { device, progress: load.reporter.watch(), outcome }))).ok();
        }
    }

    fn load_failed(&mut self, id: &str, error: &LoadError, now: Instant) {
        let (told, failure) = self.failure(error, now, id);
        self.log.record("failed", Some(id), None, format!("loading {id} failed: {error}"));
        self.log.count_failure(id);
        if let (LoadError::Invalid(why), Some(entry)) = (error, self.entries.get_mut(id)) {
            entry.problem = Some(why.clone());
        }
        self.give_up(id, told, Some(failure));
        self.answer_shows(id, now);
    }

    /// Has a load that failed on a GPU tried again: with smaller caches, with fewer layers there, on
    /// the next device; each of them only where the wishes allow it, and only after the one before.
    fn fall_back(&mut self, id: &str, error: &LoadError) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        let Some(Stage::Starting { way, .. }) = entry.load.as_ref().map(|l| &l.stage) else { return false };
        let (site, n_layer) = (way.site(), entry.needs.as_ref().map_or(0, |n| n.n_layer));
        let layers = way.layers.unwrap_or(n_layer);
        let device = &self.options.sites[site];
        let failed = matches!(error, LoadError::Device(_) | LoadError::Memory(_) | LoadError::OutOfMemory(_));
        if !failed || device.kind != SiteKind::Gpu {
            return false;
        }
        let wish = entry.wish(self.options.device);
        let short = matches!(error, LoadError::OutOfMemory(_));
        let next = if short && entry.spared.cache_most.is_none() {
            entry.spared.cache_most = Some(CACHE_SPARED_TOKENS);
            format!("again with {CACHE_SPARED_TOKENS} tokens of cache to start with")
        } else if wish != Wish::default() {
            return false;
        } else if short && layers > 1 {
            let fewer = layers - layers.div_ceil(4);
            entry.spared.layers.push((site, fewer));
            format!("again with {fewer} of {n_layer} layers at most")
        } else {
            entry.passed.push((site, error.to_string()));
            "the next device is tried".to_owned()
        };
        tracing::warn!(model = id, device = device.id, "loading failed, {next}: {error}");
        let text = format!("{id} could not be loaded onto {}, {next}: {error}", device.id);
        self.log.record("device", Some(id), None, text);
        if let Some(load) = &mut entry.load {
            (load.stage, load.slabs, load.evicting) = (Stage::Waiting, None, false);
        }
        true
    }

    fn started(&mut self, id: &str, number: u64, result: Result<M, LoadError>, now: Instant) {
        let shutting_down = self.drain.is_some();
        let Some(entry) = self.entries.get_mut(id).filter(|e| e.load.as_ref().is_some_and(|l| l.number == number))
        else {
            return;
        };
        let model = match result {
            Ok(model) => Arc::new(model),
            Err(error) => {
                match entry.load.as_ref().and_then(|l| l.cancelled.clone()) {
                    Some(told) => self.give_up(id, told, None),
                    None if self.fall_back(id, &error) => {}
                    None => self.load_failed(id, &error, now),
                }
                return;
            }
        };
        let Some(mut load) = entry.load.take() else { return };
        let Stage::Starting { way, reason, began } = load.stage else { return };
        let load_time = now.saturating_duration_since(began);
        self.log.count_load(id, load_time);
        let mut live = Live {
            model: Some(Arc::clone(&model)),
            seat: Seat::new(&self.bell),
            way: way.clone(),
            device_reason: reason,
            wanted: entry.wanted.clone(),
            stamp: entry.stamp,
            replaced: false,
            since: now,
            used: now,
            seen: 0,
            load_time,
            leaving: None,
            again: false,
        };
        entry.proven = entry.wanted.clone();
        entry.facts = Some(model.facts());
        entry.failure = None;
        entry.load_time = Some(load_time.max(Duration::from_millis(1)));
        entry.last_use = Some(std::time::SystemTime::now());
        // Every waiter gets its own lease now, before anybody can evict the model again.
        for waiter in load.waiters.drain(..) {
            if let Some(lease) = live.lease(now) {
                waiter.send(Ok(lease)).ok();
            }
        }
        entry.live = Some(live);
        let waited = began.saturating_duration_since(load.since);
        let held = way.shares.iter().map(|s| self.options.sites[s.site].budget.held_by(id)).sum();
        let text = format!(
            "{id} is ready on {}: {} in {:.2} s, after waiting {:.2} s",
            model.device(),
            human(held),
            load_time.as_secs_f64(),
            waited.as_secs_f64()
        );
        self.log.record("load", Some(id), load.uid, text);
        let named = |n: &&String| self.entries.get(id).is_some_and(|e| e.named(n) || e.source.display() == **n);
        let done: Vec<String> = self.options.preload.iter().filter(named).cloned().collect();
        self.preloaded.extend(done);
        let view = self.entries.get(id).map(|e| self.view(e));
        for watcher in load.watchers.drain(..) {
            watcher.send(view.clone().ok_or(RegistryError::Draining)).ok();
        }
        self.answer_shows(id, now);
        if load.cancelled.is_some() || shutting_down {
            self.part(id, false, now, None);
        }
        for reply in load.evictors.drain(..) {
            self.part(id, false, now, Some(reply));
        }
    }

    fn gone(&mut self, id: &str, evicted: Evicted, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(live) = entry.live.take() else { return };
        let text = format!(
            "{id} is unloaded: {} given back in the ledger, private memory {} -> {}",
            human(evicted.ledger_freed),
            human(evicted.private_before),
            human(evicted.private_after)
        );
        if !entry.present {
            // Its file went while it was loaded.
            self.rescan();
        }
        self.log.record("evict", Some(id), None, text);
        self.log.count_eviction(id);
        let replies = live.leaving.map(|l| l.replies).unwrap_or_default();
        let wanted = live.again && replies.is_empty() && self.drain.is_none();
        for reply in replies {
            reply.send(Ok(evicted.clone())).ok();
        }
        if wanted {
            self.log.record("load", Some(id), None, format!("{id} is loaded again: its device was lost"));
            // Refused only if too much is wanted already: then requests will ask for it.
            self.want(id, now, true, None).ok();
        }
        // As it is configured it may need something else than as it was loaded.
        self.describe_next();
    }
}

/// Looks at the file of a load, off the actor's thread.
pub(super) fn look(source: &Source) -> Option<Found> {
    match source {
        Source::Path(path) => catalog::look(path).ok(),
        Source::Files(_) => None,
    }
}
