//! What loading models would do, without doing it: `forgectl plan`.
//!
//! The same arithmetic as a load's: placement, admission and eviction on the ledgers as they are,
//! each model after those named before it. Nothing is reserved and nobody is asked to go.

use std::time::{Duration, Instant};

use super::core::Core;
use super::entry::Entry;
use super::error::RegistryError;
use super::loader::Resident;
use crate::policy::admission::Need;
use crate::policy::evict::{self, Candidate, Standing};
use crate::policy::placement::{Placement, Share};
use crate::proto::admin::{ModelBytes, ModelShare, Outcome, Planned, PlannedShare};

/// A device as it would be by then.
struct Room {
    free: u64,
    /// Bytes of caches that their models would give back first.
    slabs: u64,
    ids: Vec<String>,
    candidates: Vec<Candidate>,
}

impl<M: Resident> Core<M> {
    /// What loading `names` one after the other would do.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn forecast(&self, names: &[String], now: Instant) -> Result<Vec<Planned>, RegistryError> {
        let mut rooms = self.rooms(now);
        let ids = names.iter().map(|name| self.resolve(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(ids.iter().map(|id| self.forecast_one(&self.entries[id], &mut rooms)).collect())
    }

    /// What loading one model would do.
    pub fn forecast_alone(&self, entry: &Entry<M>, now: Instant) -> Planned {
        self.forecast_one(entry, &mut self.rooms(now))
    }

    fn rooms(&self, now: Instant) -> Vec<Room> {
        let room = |site: usize| {
            let (ids, candidates, _) = self.candidates(site, Duration::ZERO, true, now);
            let unclaimed = self.unclaimed(site);
            Room {
                free: unclaimed.free.saturating_add(unclaimed.coming),
                slabs: self.idle_slabs(site),
                ids,
                candidates,
            }
        };
        (0..self.options.sites.len()).map(room).collect()
    }

    fn forecast_one(&self, entry: &Entry<M>, rooms: &mut [Room]) -> Planned {
        let planned = |outcome: Outcome, reason: String| Planned {
            id: entry.id.clone(),
            outcome,
            reason,
            device: None,
            shares: Vec::new(),
            evicts: Vec::new(),
            load_s: entry.reload().as_secs_f64(),
        };
        let name = |site: usize| self.options.sites[site].id.clone();
        if let Some(live) = entry.ready() {
            let share = |s: ModelShare| PlannedShare { device: s.device, bytes: s.bytes, free: 0 };
            return Planned {
                device: Some(self.device_of(entry)),
                shares: self.shares(&live.way, &entry.id).into_iter().map(share).collect(),
                load_s: 0.0,
                ..planned(Outcome::Ready, live.device_reason.clone())
            };
        }
        if let Some(problem) = &entry.problem {
            return planned(Outcome::Refused, problem.clone());
        }
        let Some(needs) = &entry.needs else {
            let unknown = || "its file was not looked at yet: ask again in a moment".to_owned();
            return planned(Outcome::Refused, entry.blind.clone().unwrap_or_else(unknown));
        };
        let Placement { way, reason } = match self.admit(&entry.id, needs, entry) {
            Ok(place) => place,
            Err(e) => return planned(Outcome::Refused, e.to_string()),
        };
        let share = |s: &Share| PlannedShare { device: name(s.site), bytes: bytes(s.need), free: rooms[s.site].free };
        let mut result = Planned {
            device: Some(self.label(&way, needs.n_layer)),
            shares: way.shares.iter().map(share).collect(),
            ..planned(Outcome::Fits, reason)
        };
        for share in &way.shares {
            match rooms[share.site].make(share.need.total()) {
                None => {
                    result.outcome = Outcome::Refused;
                    result.reason = format!(
                        "there is no room on {} beside what is pinned, busy or planned before it",
                        name(share.site)
                    );
                    return result;
                }
                Some(evicts) => {
                    for id in evicts {
                        // Who goes leaves all of its devices.
                        rooms.iter_mut().for_each(|room| room.gone(&id));
                        result.evicts.push(id);
                    }
                }
            }
        }
        if !result.evicts.is_empty() {
            result.outcome = Outcome::Evicts;
        }
        result
    }
}

impl Room {
    /// Takes `total` bytes; who has to go for them.
    fn make(&mut self, total: u64) -> Option<Vec<String>> {
        let mut short = total.saturating_sub(self.free);
        let of_slabs = short.min(self.slabs);
        short -= of_slabs;
        let victims = evict::victims(&self.candidates, short)?;
        let victims: Vec<String> = victims.into_iter().map(|v| self.ids[v].clone()).collect();
        victims.iter().for_each(|id| self.gone(id));
        self.slabs -= of_slabs;
        self.free = (self.free + of_slabs).saturating_sub(total);
        Some(victims)
    }

    /// A model has gone, if it was here.
    fn gone(&mut self, id: &str) {
        let Some(v) = self.ids.iter().position(|i| i == id) else { return };
        let candidate = &mut self.candidates[v];
        if candidate.standing != Standing::Fixed {
            candidate.standing = Standing::Fixed;
            self.free += candidate.bytes;
        }
    }
}

fn bytes(need: Need) -> ModelBytes {
    ModelBytes { weights: need.weights, cache: need.cache, activations: need.activations, tables: need.tables }
}
