//! The decision log: why something was loaded, evicted, refused or placed, with numbers.
//!
//! A bounded ring in memory that `forgectl why` and `events` read; every entry is written to the
//! log as well, so that nothing is lost when the ring turns over.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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

/// The last [`DECISIONS_MAX`] decisions, and a feed of new ones.
#[derive(Debug)]
pub struct DecisionLog {
    // A std mutex: held for a push or a copy, never across an await.
    ring: Mutex<VecDeque<Decision>>,
    feed: broadcast::Sender<Decision>,
}

impl Default for DecisionLog {
    fn default() -> Self {
        Self { ring: Mutex::default(), feed: broadcast::channel(FOLLOW_AHEAD).0 }
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
