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
use crate::proto::admin::{ModelBytes, Outcome, Planned};

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
        let mut rooms: Vec<Room> = (0..self.options.sites.len()).map(room).collect();
        let ids = names.iter().map(|name| self.resolve(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(ids.iter().map(|id| self.forecast_one(&self.entries[id], &mut rooms)).collect())
    }

    fn forecast_one(&self, entry: &Entry<M>, rooms: &mut [Room]) -> Planned {
        let planned = |outcome: Outcome, reason: String| Planned {
            id: entry.id.clone(),
            outcome,
            reason,
            device: None,
            bytes: ModelBytes::default(),
            free: 0,
            evicts: Vec::new(),
            load_s: entry.reload().as_secs_f64(),
        };
        if let Some(live) = entry.ready() {
            return Planned {
                device: Some(self.options.sites[live.site].id.clone()),
                bytes: self.bytes(live.site, &entry.id),
                load_s: 0.0,
                ..planned(Outcome::Ready, live.device_reason.clone())
            };
        }
        if let Some(problem) = &entry.problem {
            return planned(Outcome::Refused, problem.clone());
        }
        let Some(needs) = &entry.needs else {
            return planned(Outcome::Refused, "its file was not looked at yet: ask again in a moment".to_owned());
        };
        let place = match self.admit(&entry.id, needs, entry) {
            Ok(place) => place,
            Err(e) => return planned(Outcome::Refused, e.to_string()),
        };
        let (need, room) = (needs[place.site], &mut rooms[place.site]);
        let mut result = Planned {
            device: Some(self.options.sites[place.site].id.clone()),
            bytes: bytes(need),
            free: room.free,
            ..planned(Outcome::Fits, place.reason)
        };
        match room.make(need.total()) {
            None => {
                result.outcome = Outcome::Refused;
                result.reason = "there is no room beside what is pinned, busy or planned before it".to_owned();
            }
            Some(evicts) if !evicts.is_empty() => (result.outcome, result.evicts) = (Outcome::Evicts, evicts),
            Some(_) => {}
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
        let freed: u64 = victims.iter().map(|&v| self.candidates[v].bytes).sum();
        for &v in &victims {
            self.candidates[v].standing = Standing::Fixed;
        }
        self.slabs -= of_slabs;
        self.free = (self.free + of_slabs + freed).saturating_sub(total);
        Some(victims.into_iter().map(|v| self.ids[v].clone()).collect())
    }
}

fn bytes(need: Need) -> ModelBytes {
    ModelBytes { weights: need.weights, cache: need.cache, activations: need.activations, tables: need.tables }
}
