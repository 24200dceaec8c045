//! The registry's state as the admin API shows it.

use std::time::{Instant, UNIX_EPOCH};

use super::command::{Command, Reply};
use super::core::Core;
use super::entry::Entry;
use super::loader::Resident;
use super::memory;
use crate::policy::placement::{Share, SiteKind, Way};
use crate::pool::budget::Kind;
use crate::proto::admin::{Device, LedgerEntry, Model, ModelBytes, ModelDetail, ModelShare, ModelState, Status};

/// Name of a kind of bytes as JSON has it.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Weights => "weights",
        Kind::Cache => "cache",
        Kind::Activations => "activations",
        Kind::Tables => "tables",
    }
}

/// The bytes on all devices.
pub(super) fn total(shares: &[ModelShare]) -> ModelBytes {
    shares.iter().fold(ModelBytes::default(), |sum, s| ModelBytes {
        weights: sum.weights + s.bytes.weights,
        cache: sum.cache + s.bytes.cache,
        activations: sum.activations + s.bytes.activations,
        tables: sum.tables + s.bytes.tables,
    })
}

impl<M: Resident> Core<M> {
    /// A model.
    pub fn view(&self, entry: &Entry<M>) -> Model {
        let live = entry.live.as_ref();
        let model = live.and_then(|l| l.model.as_ref());
        let facts = entry.facts.as_deref();
        let failed = entry.failure.as_ref().map(|f| f.reason.clone()).or_else(|| entry.problem.clone());
        let state = entry.state();
        Model {
            id: entry.id.clone(),
            aliases: entry.aliases.clone(),
            path: entry.source.display(),
            state,
            reason: failed.filter(|_| state == ModelState::Failed),
            file_bytes: entry.bytes,
            architecture: facts.map(|f| f.architecture.clone()),
            n_params: facts.map(|f| f.n_params),
            quantization: facts.map(|f| f.quantization.clone()),
            n_ctx_train: facts.map(|f| f.n_ctx_train),
            n_vocab: facts.map(|f| f.n_vocab),
            device: model.map(|m| m.device()),
            device_reason: live.map(|l| l.device_reason.clone()),
            context: model.map(|m| m.context()),
            bytes: live.map(|l| total(&self.shares(&l.way, &entry.id))),
            shares: live.map(|l| self.shares(&l.way, &entry.id)).unwrap_or_default(),
            pinned: entry.pinned,
            leases: live.map_or(0, |l| l.seat.count()),
            last_use: entry.last_use.and_then(|t| Some(t.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())),
        }
    }

    /// What models run in this way say they run on: `gpu gfx1100 20/28 + cpu avx512`.
    pub fn label(&self, way: &Way, n_layer: u32) -> String {
        let name = |s: &Share| self.options.sites[s.site].name.as_str();
        let cpu = self.options.sites.iter().find(|s| s.kind == SiteKind::Cpu);
        match (way.layers, cpu) {
            (Some(n), Some(cpu)) => format!("{} {n}/{n_layer} + {}", name(&way.shares[0]), cpu.name),
            _ => name(&way.shares[0]).to_owned(),
        }
    }

    /// What a model runs on or will run on; nothing if that is not decided.
    pub fn device_of(&self, entry: &Entry<M>) -> String {
        let n_layer = entry.needs.as_ref().map_or(0, |n| n.n_layer);
        entry.way().map_or_else(String::new, |way| self.label(way, n_layer))
    }

    /// What a model holds of each of its devices.
    pub fn shares(&self, way: &Way, id: &str) -> Vec<ModelShare> {
        let share =
            |s: &Share| ModelShare { device: self.options.sites[s.site].id.clone(), bytes: self.bytes(s.site, id) };
        way.shares.iter().map(share).collect()
    }

    fn bytes(&self, site: usize, id: &str) -> ModelBytes {
        let mut bytes = ModelBytes::default();
        for h in self.options.sites[site].budget.holdings().iter().filter(|h| h.owner == id) {
            match h.kind {
                Kind::Weights => bytes.weights += h.bytes,
                Kind::Cache => bytes.cache += h.bytes,
                Kind::Activations => bytes.activations += h.bytes,
                Kind::Tables => bytes.tables += h.bytes,
            }
        }
        bytes
    }

    /// Shows a model; one of which nothing is known yet is looked at first.
    pub fn show(&mut self, name: String, reply: Reply<ModelDetail>, now: Instant) {
        match self.resolve(&name) {
            Ok(id) => {
                let Some(entry) = self.entries.get_mut(&id) else { return };
                if entry.described() {
                    reply.send(Ok(self.detail(&self.entries[&id], now))).ok();
                } else {
                    entry.shows.push(reply);
                    if entry.load.is_none() {
                        self.describe_next();
                    }
                }
            }
            Err(_) if !self.scan.answering => self.park(Command::Show { name, reply }),
            Err(e) => {
                reply.send(Err(e)).ok();
            }
        }
    }

    /// Answers those who waited for a model's facts.
    pub fn answer_shows(&mut self, id: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        for reply in std::mem::take(&mut entry.shows) {
            reply.send(Ok(self.detail(&self.entries[id], now))).ok();
        }
    }

    fn detail(&self, entry: &Entry<M>, now: Instant) -> ModelDetail {
        let facts = entry.facts.as_deref().cloned().unwrap_or_default();
        let mut notes = facts.notes;
        if entry.live.as_ref().is_some_and(|l| l.replaced) {
            notes.push("the file was replaced on disk since it was loaded; the next load takes the new one".to_owned());
        }
        ModelDetail {
            model: self.view(entry),
            hparams: facts.hparams,
            tensor_types: facts.tensor_types,
            ignored_tensors: facts.ignored_tensors,
            tokenizer: facts.tokenizer,
            chat_template: facts.chat_template,
            notes,
            plan: entry.live.is_none().then(|| self.forecast_alone(entry, now)),
        }
    }

    /// Devices and who holds what of them.
    pub fn devices(&self) -> Vec<Device> {
        let lost = |site: &super::Site| site.condition.as_ref().and_then(|c| c.lost());
        let why_not = |site: &super::Site| site.unusable.clone().or_else(|| lost(site));
        let device = |site: &super::Site| Device {
            id: site.id.clone(),
            description: site.description.clone(),
            pci: site.pci.clone(),
            usable: why_not(site).is_none(),
            budget: site.budget.total(),
            used: site.budget.used(),
            ledger: site
                .budget
                .holdings()
                .into_iter()
                .map(|h| LedgerEntry { owner: h.owner, kind: kind_name(h.kind).to_owned(), bytes: h.bytes })
                .collect(),
            reason: why_not(site).unwrap_or_else(|| site.reason.clone()),
        };
        self.options.sites.iter().map(device).collect()
    }

    /// The daemon. Its private memory is filled in by the handle, which may take its time.
    pub fn status(&self, now: Instant) -> Status {
        let usable = self.options.sites.iter().find(|s| s.unusable.is_none());
        Status {
            version: self.options.version.clone(),
            pid: std::process::id(),
            uptime_s: now.saturating_duration_since(self.started).as_secs_f64(),
            state: if self.drain.is_some() { "draining" } else { "running" }.to_owned(),
            listen: self.options.listen.clone(),
            device: usable.map_or_else(String::new, |s| format!("{}: {}", s.description, s.reason)),
            devices: self.devices(),
            models: self
                .entries
                .values()
                .filter(|e| e.state() != ModelState::Absent && (e.problem.is_none() || e.live.is_some()))
                .map(|e| self.view(e))
                .collect(),
            private_bytes: memory::UNKNOWN,
        }
    }
}
