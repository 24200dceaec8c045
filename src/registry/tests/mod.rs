//! Tests of the registry with simulated models: bytes in a ledger, delays, failures.

mod actor;
mod devices;
mod sim;
mod stories;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::loader::{Facts, Grant, LoadError, Prepared, Reporter, Resident};
use super::{Options, Site};
use crate::policy::admission::Need;
use crate::policy::placement::{Needs, Share, SiteKind, Way};
use crate::pool::budget::{Budget, Kind, Reservation};
use crate::proto::admin::{ModelStats, RequestInfo};

/// A model that computes nothing and holds what it was granted.
#[derive(Debug)]
pub(super) struct Fake {
    pub id: String,
    pub failed: Mutex<Option<String>>,
    pub aborted: AtomicBool,
    budget: Arc<Budget>,
    grown: Mutex<Vec<Reservation>>,
    _grant: Grant,
}

impl Fake {
    pub fn new(id: &str, grant: Grant) -> Self {
        Self {
            id: id.to_owned(),
            failed: Mutex::default(),
            aborted: AtomicBool::new(false),
            budget: Arc::clone(&grant.ledgers[0].budget),
            grown: Mutex::default(),
            _grant: grant,
        }
    }

    /// Its caches grow, if the ledger lets them.
    pub fn grow(&self, bytes: u64) {
        self.grown.lock().expect("no panic").extend(self.budget.reserve(&self.id, Kind::Cache, bytes));
    }
}

impl Resident for Fake {
    fn facts(&self) -> Arc<Facts> {
        Arc::default()
    }
    fn device(&self) -> String {
        "fake".to_owned()
    }
    fn context(&self) -> u32 {
        1024
    }
    fn stats(&self) -> ModelStats {
        ModelStats::default()
    }
    fn requests(&self) -> Vec<RequestInfo> {
        Vec::new()
    }
    fn cancel(&self, _: &str) -> bool {
        false
    }
    fn failed(&self) -> Option<String> {
        self.failed.lock().expect("no panic").clone()
    }
    fn device_lost(&self) -> bool {
        self.failed().as_deref() == Some(LOST)
    }
    fn late(&self) -> Option<Duration> {
        None
    }
    fn fail(&self, reason: &str) {
        self.failed.lock().expect("no panic").get_or_insert_with(|| reason.to_owned());
    }
    fn device_freed(&self) -> u64 {
        0
    }
    fn release_idle(&self) {
        self.grown.lock().expect("no panic").clear();
    }
    fn stop(&self, drain: bool) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.aborted.fetch_or(!drain, Ordering::Relaxed);
        self.grown.lock().expect("no panic").clear();
        Box::pin(async {})
    }
}

/// A checked file of the simulation.
pub(super) struct FakeFile {
    pub id: String,
    pub needs: Needs,
    pub delay: Duration,
    /// What goes wrong while it is read.
    pub error: Option<LoadError>,
}

impl Prepared<Fake> for FakeFile {
    fn needs(&self) -> Arc<Needs> {
        Arc::new(self.needs.clone())
    }
    fn facts(&self) -> Arc<Facts> {
        Arc::default()
    }
    fn start(self: Box<Self>, grant: Grant, reporter: &Reporter) -> Result<Fake, LoadError> {
        let (steps, weights) = (10, grant.way.shares[0].need.weights);
        for i in 0..=steps {
            if reporter.bytes(i * weights / steps, weights).is_break() {
                return Err(LoadError::Cancelled);
            }
            if !self.delay.is_zero() {
                std::thread::sleep(self.delay / steps as u32);
            }
        }
        match self.error {
            Some(LoadError::Device(why)) if why == ON_THE_FIRST && grant.way.site() > 0 => {
                Ok(Fake::new(&self.id, grant))
            }
            Some(LoadError::OutOfMemory(_)) if grant.way.site() > 0 => Ok(Fake::new(&self.id, grant)),
            Some(error) => Err(error),
            None => Ok(Fake::new(&self.id, grant)),
        }
    }
}

/// Why a model fails whose device is lost.
pub(super) const LOST: &str = "its device is lost";
/// Text of an error that only the first device gives.
pub(super) const ON_THE_FIRST: &str = "only the first device says this";

/// Text of an error that comes before anything is known of a file.
pub(super) const UNSEEN: &str = "heads of 20 elements cannot be kept in q8_0";

pub(super) fn need(weights: u64) -> Need {
    Need { weights, cache: weights / 10, activations: 2, tables: 1 }
}

/// A model that takes `need` on any one of so many devices.
pub(super) fn anywhere(sites: usize, need: Need) -> Needs {
    Needs { ways: (0..sites).map(|site| Way::whole(site, need)).collect(), n_layer: 4 }
}

/// A model of four layers that a GPU, device 0, and the CPU, device 1, can share.
pub(super) fn divided(weights: u64) -> Needs {
    let mut needs = anywhere(2, need(weights));
    let split = |n: u32| {
        let part = |site, n: u32| Share { site, need: need(weights * u64::from(n) / 4) };
        Way { shares: vec![part(0, n), part(1, 4 - n)], layers: Some(n) }
    };
    needs.ways.splice(0..0, (1..4).map(split));
    needs
}

pub(super) fn options(budget: &Arc<Budget>) -> Options {
    Options::new(vec![Site {
        id: "cpu".to_owned(),
        name: "cpu avx2".to_owned(),
        kind: SiteKind::Cpu,
        description: "simulated".to_owned(),
        pci: None,
        budget: Arc::clone(budget),
        most: None,
        bandwidth: None,
        reason: "there is nothing else".to_owned(),
        unusable: None,
        condition: None,
    }])
}
