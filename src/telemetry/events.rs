//! The decision log: why something was loaded, evicted, refused or placed, with numbers.
//!
//! A bounded ring in memory that `forgectl why` and `events` read; every entry is written to the
//! log as well, so that nothing is lost when the ring turns over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use crate::base::limits::DECISIONS_MAX;

/// Decisions a slow follower may be behind before it loses the oldest ones.
const FOLLOW_AHEAD: usize = 256;

/// A decision that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Unix time in seconds.
    pub time: f64,
    /// `load`, `evict`, `refuse`, `device`, `config`, …
    pub kind: String,
    /// Model it is about.
    pub model: Option<String>,
    /// For people: what and why, with numbers.
    pub message: String,
    /// Uid that asked for it.
    pub uid: Option<u32>,
}

/// What became of a model's loads since the daemon started, for `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcomes {
    /// Loads that succeeded.
    pub loaded: u64,
    /// Loads that failed.
    pub failed: u64,
    /// Time of the loads that succeeded, seconds in all.
    pub load_seconds: f64,
    /// Times it was unloaded.
    pub evicted: u64,
}

/// The last [`DECISIONS_MAX`] decisions, a feed of new ones, and what the ring forgets in numbers.
#[derive(Debug)]
pub struct DecisionLog {
    // A std mutex: held for a push or a copy, never across an await.
    ring: Mutex<VecDeque<Decision>>,
    feed: broadcast::Sender<Decision>,
    // By model; as many as the catalog has had.
    outcomes: Mutex<BTreeMap<String, Outcomes>>,
}

impl Default for DecisionLog {
    fn default() -> Self {
        Self { ring: Mutex::default(), feed: broadcast::channel(FOLLOW_AHEAD).0, outcomes: Mutex::default() }
    }
}

impl DecisionLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a decision taken now, tells followers, and logs it.
    pub fn record(&self, kind: &str, model: Option<&str>, uid: Option<u32>, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(target: "rocmforge::decision", kind, model, uid, "{message}");
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let decision = Decision { time, kind: kind.to_owned(), model: model.map(str::to_owned), message, uid };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == DECISIONS_MAX {
            ring.pop_front();
        }
        ring.push_back(decision.clone());
        // Sent under the lock, so that `follow` neither misses nor repeats one. An error only
        // says that nobody follows.
        self.feed.send(decision).ok();
    }

    /// Counts a load that succeeded, and its time.
    pub fn count_load(&self, model: &str, time: Duration) {
        self.count(model, |o| (o.loaded, o.load_seconds) = (o.loaded + 1, o.load_seconds + time.as_secs_f64()));
    }

    /// Counts a load that failed.
    pub fn count_failure(&self, model: &str) {
        self.count(model, |o| o.failed += 1);
    }

    /// Counts an unloading, whoever wanted it.
    pub fn count_eviction(&self, model: &str) {
        self.count(model, |o| o.evicted += 1);
    }

    fn count(&self, model: &str, change: impl FnOnce(&mut Outcomes)) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        change(outcomes.entry(model.to_owned()).or_default());
    }

    /// What became of each model's loads.
    pub fn outcomes(&self) -> Vec<(String, Outcomes)> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().map(|(model, o)| (model.clone(), *o)).collect()
    }

    /// Decisions, oldest first; with `model`, only those about it.
    pub fn recent(&self, model: Option<&str>) -> Vec<Decision> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().filter(|d| model.is_none_or(|m| d.model.as_deref() == Some(m))).cloned().collect()
    }

    /// All remembered decisions and a feed that goes on exactly where they end.
    pub fn follow(&self) -> (Vec<Decision>, broadcast::Receiver<Decision>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.iter().cloned().collect(), self.feed.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest() {
        let log = DecisionLog::new();
        for i in 0..DECISIONS_MAX + 3 {
            log.record("load", Some(if i % 2 == 0 { "a" } else { "b" }), None, i.to_string());
        }
        let all = log.recent(None);
        assert_eq!(all.len(), DECISIONS_MAX);
        assert_eq!(all[0].message, "3");
        assert_eq!(all.last().map(|d| d.message.clone()), Some((DECISIONS_MAX + 2).to_string()));
        assert!(log.recent(Some("a")).iter().all(|d| d.model.as_deref() == Some("a")));
        assert!(log.recent(Some("c")).is_empty());
    }

    #[test]
    fn outcomes_are_counted_by_model() {
        let log = DecisionLog::new();
        log.count_load("a", Duration::from_millis(500));
        log.count_load("a", Duration::from_millis(250));
        log.count_eviction("a");
        log.count_failure("b");
        let a = Outcomes { loaded: 2, load_seconds: 0.75, evicted: 1, failed: 0 };
        let b = Outcomes { failed: 1, ..Outcomes::default() };
        assert_eq!(log.outcomes(), [("a".to_owned(), a), ("b".to_owned(), b)]);
    }

    #[test]
    fn a_follower_gets_each_decision_once() {
        let log = DecisionLog::new();
        log.record("load", None, Some(0), "before");
        let (past, mut feed) = log.follow();
        log.record("evict", None, None, "after");
        assert_eq!(past.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(), ["before"]);
        assert_eq!(feed.try_recv().expect("one").message, "after");
        assert!(feed.try_recv().is_err());
    }
}
