//! Loads waiting for their turn and for room: who starts, who has to go for it, who is refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::Effect;
use super::core::Core;
use super::entry::{Entry, Stage};
use super::error::RegistryError;
use super::loader::{Grant, Resident};
use crate::base::limits::{INSPECTIONS_AT_ONCE, LOADS_AT_ONCE, SLAB_WAIT};
use crate::policy::admission::{self, Holder, Need, Refusal, Verdict};
use crate::policy::evict::{self, Candidate, Standing};
use crate::policy::placement::{self, Needs, Placement, Share, Way, Wish};
use crate::policy::{human, swap};
use crate::pool::budget::Kind;
use crate::proto::admin::Phase;

/// Memory of a device that loads in the order of their turns have not claimed yet.
pub(super) struct Unclaimed {
    pub free: u64,
    /// Held by models on their way out.
    pub coming: u64,
}

impl Unclaimed {
    /// Sets `bytes` aside: of what is coming first, so that free memory stays usable.
    fn claim(&mut self, bytes: u64) {
        let of_coming = bytes.min(self.coming);
        self.coming -= of_coming;
        self.free = self.free.saturating_sub(bytes - of_coming);
    }
}

impl<M: Resident> Core<M> {
    /// Starts what can start, oldest wish first.
    pub fn pump(&mut self, now: Instant) {
        self.inspect_next();
        let mut queue: Vec<(Duration, String)> = self
            .entries
            .values()
            // The same model's last instance must be gone first.
            .filter(|e| e.live.is_none())
            .filter_map(|e| e.load.as_ref().map(|l| (l, e)))
            .filter(|(l, _)| matches!(l.stage, Stage::Room { .. }))
            .map(|(l, e)| (now.saturating_duration_since(l.since), e.id.clone()))
            .collect();
        queue.sort_by(|a, b| a.1.cmp(&b.1));
        let waited: Vec<Duration> = queue.iter().map(|q| q.0).collect();
        let mut unclaimed: Vec<Unclaimed> = (0..self.options.sites.len()).map(|site| self.unclaimed(site)).collect();
        for i in swap::order(&waited) {
            let starting = self.entries.values().filter(|e| e.load.as_ref().is_some_and(|l| l.starting())).count();
            if starting >= LOADS_AT_ONCE {
                break;
            }
            self.make_room(&queue[i].1, waited[i], now, &mut unclaimed);
        }
        self.shrink(now);
    }

    fn inspect_next(&mut self) {
        let running = |e: &&Entry<M>| e.load.as_ref().is_some_and(|l| matches!(l.stage, Stage::Inspecting));
        let mut slots = INSPECTIONS_AT_ONCE.saturating_sub(self.entries.values().filter(running).count());
        let mut waiting: Vec<&mut Entry<M>> = self.entries.values_mut().filter(|e| e.load.is_some()).collect();
        waiting.sort_by_key(|e| e.load.as_ref().map(|l| l.since));
        for entry in waiting {
            let Some(load) = &mut entry.load else { continue };
            if slots == 0 {
                return;
            }
            if matches!(load.stage, Stage::Waiting) {
                slots -= 1;
                load.stage = Stage::Inspecting;
                let (number, reporter) = (load.number, load.reporter.clone());
                self.effects.push(Effect::Inspect { number, job: entry.job(), reporter });
            }
        }
    }

    pub fn unclaimed(&self, site: usize) -> Unclaimed {
        let budget = &self.options.sites[site].budget;
        let leaving = |e: &&Entry<M>| {
            e.live.as_ref().is_some_and(|l| l.leaving.is_some() && self.need_in(&l.way, site).is_some())
        };
        let coming = self.entries.values().filter(leaving).map(|e| budget.held_by(&e.id)).sum();
        Unclaimed { free: budget.free(), coming }
    }

    /// Who holds memory of a device, for a verdict and for people.
    pub fn holders(&self, site: usize) -> Vec<Holder> {
        let mut holders: Vec<Holder> = Vec::new();
        for h in self.options.sites[site].budget.holdings() {
            if let Some(known) = holders.iter_mut().find(|k| k.id == h.owner) {
                known.bytes += h.bytes;
                continue;
            }
            let entry = self.entries.get(&h.owner);
            holders.push(Holder {
                bytes: h.bytes,
                pinned: entry.is_some_and(|e| e.pinned),
                leases: entry.and_then(|e| e.live.as_ref()).map_or(0, |l| l.seat.count()),
                loading: entry.and_then(|e| e.load.as_ref()).is_some_and(|l| l.starting()),
                id: h.owner,
            });
        }
        holders
    }

    /// How a model is to be run, and whether it can be at all.
    pub fn admit(&self, id: &str, needs: &Needs, entry: &Entry<M>) -> Result<Placement, RegistryError> {
        let sites: Vec<placement::Site> = (0..self.options.sites.len())
            .map(|i| {
                let site = &self.options.sites[i];
                let fixed: u64 = self.holders(i).iter().filter(|h| h.pinned && h.id != id).map(|h| h.bytes).sum();
                placement::Site {
                    id: site.id.clone(),
                    kind: site.kind,
                    available: site.budget.total().saturating_sub(fixed).min(site.most.unwrap_or(u64::MAX)),
                    bandwidth: site.bandwidth,
                    layers_max: entry.layers_max(i),
                    unusable: site.unusable.clone().or_else(|| entry.passed_over(i)),
                }
            })
            .collect();
        let wish = entry.wish(self.options.device);
        let placed = placement::place(&sites, needs, wish);
        let mut place = placed.map_err(|e| RegistryError::Device(format!("{id}: {e}")))?;
        if wish == Wish::default() && sites.len() == 1 {
            place.reason.clone_from(&self.options.sites[place.way.site()].reason);
        }
        for share in &place.way.shares {
            if let Verdict::Refuse(refusal) = self.judge(id, share.need, share.site) {
                return Err(RegistryError::Memory(refusal));
            }
        }
        Ok(place)
    }

    fn judge(&self, id: &str, need: Need, site: usize) -> Verdict {
        let budget = &self.options.sites[site].budget;
        // What an earlier instance of the same model holds will be gone by then.
        let (own, others): (Vec<Holder>, Vec<Holder>) = self.holders(site).into_iter().partition(|h| h.id == id);
        let free = budget.free().saturating_add(own.iter().map(|h| h.bytes).sum());
        admission::judge(id, &self.options.sites[site].id, need, budget.total(), free, &others)
    }

    /// Starts the load of `id` if there is room, or sees to it that there will be.
    fn make_room(&mut self, id: &str, waited: Duration, now: Instant, unclaimed: &mut [Unclaimed]) {
        let stage = self.entries.get(id).and_then(|e| e.load.as_ref()).map(|l| &l.stage);
        let Some(Stage::Room { way, .. }) = stage else { return };
        let way = way.clone();
        if way.shares.iter().all(|s| s.need.total() <= unclaimed[s.site].free) {
            match Grant::new(&way, &self.options.sites, id) {
                Ok(grant) => {
                    way.shares.iter().for_each(|s| unclaimed[s.site].free -= s.need.total());
                    self.start(id, grant, now);
                    return;
                }
                // A cache grew in between: the ledger is asked again at the next look.
                Err((site, _)) => unclaimed[site].free = self.options.sites[site].budget.free(),
            }
        }
        for share in way.shares {
            self.make_room_on(share, id, waited, now, unclaimed);
        }
    }

    /// Sees to it that there will be room for `share` of a load, and claims it.
    fn make_room_on(
        &mut self,
        Share { site, need }: Share,
        id: &str,
        waited: Duration,
        now: Instant,
        unclaimed: &mut [Unclaimed],
    ) {
        // A refusal on another device may have ended the load.
        let Some(load) = self.entries.get(id).and_then(|e| e.load.as_ref()) else { return };
        let (explicit, asked, total) = (load.explicit, load.slabs, need.total());
        let left = &mut unclaimed[site];
        if total <= left.free.saturating_add(left.coming) {
            left.claim(total);
            return;
        }
        match asked {
            None if self.idle_slabs(site) > 0 => {
                let until = now + SLAB_WAIT;
                if let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) {
                    load.slabs = Some(until);
                    load.reporter.phase(Phase::Evict);
                }
                for model in self.entries.values().filter_map(|e| e.ready()).filter_map(|l| l.model.as_ref()) {
                    model.release_idle();
                }
                self.wake_at(until);
                return;
            }
            Some(until) if now < until => {
                self.wake_at(until);
                return;
            }
            _ => {}
        }
        let short = total - left.free - left.coming;
        let (ids, candidates, soonest) = self.candidates(site, waited, explicit, now);
        match evict::victims(&candidates, short) {
            Some(victims) => {
                for v in victims {
                    // Who goes leaves all of its devices.
                    for (site, left) in unclaimed.iter_mut().enumerate() {
                        left.coming += self.options.sites[site].budget.held_by(&ids[v]);
                    }
                    self.evict_for(id, &ids[v], &candidates[v], total, now);
                }
                unclaimed[site].claim(total);
                if let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) {
                    load.evicting = true;
                    load.reporter.phase(Phase::Evict);
                }
                // Those without leases can be torn down at once.
                self.wake_at(now);
            }
            None => match self.judge(id, need, site) {
                Verdict::Refuse(refusal) => self.refuse(id, refusal),
                _ => {
                    // Somebody in the way has its turn, or is being loaded. Others may use what is
                    // free meanwhile, but not once this one's wait is over: that would never end.
                    if waited >= self.options.rules.max_wait {
                        unclaimed[site].claim(total);
                    }
                    if let Some(wait) = soonest {
                        self.wake_at(now + wait);
                    }
                }
            },
        }
    }

    /// What `way` takes of the ledger of device `site`, if anything: it may be another device's, too.
    fn need_in(&self, way: &Way, site: usize) -> Option<Need> {
        let same = |s: &&Share| Arc::ptr_eq(&self.options.sites[s.site].budget, &self.options.sites[site].budget);
        way.shares.iter().find(same).map(|s| s.need)
    }

    /// Bytes of caches beyond what their models were admitted with.
    pub fn idle_slabs(&self, site: usize) -> u64 {
        let way = |id: &str| self.entries.get(id).and_then(|e| self.need_in(e.way()?, site));
        let minimum = |id: &str| way(id).map_or(0, |need| need.cache);
        let holdings = self.options.sites[site].budget.holdings();
        let caches = holdings.iter().filter(|h| h.kind == Kind::Cache);
        caches.map(|h| h.bytes.saturating_sub(minimum(&h.owner))).sum()
    }

    /// Who could go, and how long it takes until the next one may.
    pub fn candidates(
        &self,
        site: usize,
        waited: Duration,
        explicit: bool,
        now: Instant,
    ) -> (Vec<String>, Vec<Candidate>, Option<Duration>) {
        let (mut ids, mut candidates, mut soonest) = (Vec::new(), Vec::new(), None::<Duration>);
        for entry in self.entries.values() {
            let Some(live) = entry.ready().filter(|l| self.need_in(&l.way, site).is_some()) else { continue };
            let busy = live.seat.count() > 0;
            let holder = swap::Holder {
                busy,
                idle: live.idle(now),
                resident: now.saturating_duration_since(live.since),
                load_time: live.load_time,
            };
            let hold = if explicit { Duration::ZERO } else { swap::hold(&holder, waited, &self.options.rules) };
            if !entry.pinned && hold > Duration::ZERO {
                soonest = Some(soonest.map_or(hold, |s| s.min(hold)));
            }
            let standing = match (entry.pinned || hold > Duration::ZERO, busy) {
                (true, _) => Standing::Fixed,
                (_, true) => Standing::Busy,
                _ => Standing::Idle,
            };
            let bytes = self.options.sites[site].budget.held_by(&entry.id);
            candidates.push(Candidate { bytes, idle: holder.idle, reload: entry.reload(), standing });
            ids.push(entry.id.clone());
        }
        (ids, candidates, soonest)
    }

    fn evict_for(&mut self, id: &str, victim: &str, why: &Candidate, total: u64, now: Instant) {
        let state = match why.standing {
            Standing::Busy => "busy: its requests are finished first".to_owned(),
            _ => format!("idle for {:.1} s", why.idle.as_secs_f64()),
        };
        let text = format!(
            "{victim} ({}, {state}, reloads in {:.1} s) makes room for {id} ({})",
            human(why.bytes),
            why.reload.as_secs_f64(),
            human(total)
        );
        self.log.record("evict", Some(victim), None, text);
        self.part(victim, false, now, None);
    }

    /// Refuses a load with numbers.
    pub fn refuse(&mut self, id: &str, refusal: Box<Refusal>) {
        self.log.record("refuse", Some(id), None, refusal.to_string());
        self.give_up(id, RegistryError::Memory(refusal), None);
    }

    fn start(&mut self, id: &str, grant: Grant, now: Instant) {
        let Some(load) = self.entries.get_mut(id).and_then(|e| e.load.as_mut()) else { return };
        match std::mem::replace(&mut load.stage, Stage::Waiting) {
            Stage::Room { prepared, way, reason } => {
                load.stage = Stage::Starting { way, reason, began: now };
                let (number, reporter) = (load.number, load.reporter.clone());
                self.effects.push(Effect::Start { id: id.to_owned(), number, prepared, grant, reporter });
            }
            other => load.stage = other,
        }
    }

    /// After a budget was lowered: idle models leave until the rest fits.
    fn shrink(&mut self, now: Instant) {
        for site in 0..self.options.sites.len() {
            let budget = &self.options.sites[site].budget;
            let over = budget.used().saturating_sub(budget.total()).saturating_sub(self.unclaimed(site).coming);
            if over == 0 {
                continue;
            }
            let (ids, mut candidates, _) = self.candidates(site, Duration::ZERO, true, now);
            candidates.iter_mut().filter(|c| c.standing == Standing::Busy).for_each(|c| c.standing = Standing::Fixed);
            // If they do not suffice, as many as there are.
            let idle: u64 = candidates.iter().filter(|c| c.standing == Standing::Idle).map(|c| c.bytes).sum();
            for v in evict::victims(&candidates, over.min(idle)).unwrap_or_default() {
                let text = format!("{} leaves: the budget of {} was lowered", ids[v], self.options.sites[site].id);
                self.log.record("evict", Some(&ids[v]), None, text);
                self.part(&ids[v], false, now, None);
                self.wake_at(now);
            }
        }
    }
}
