//! The ledger of one device: who holds how many bytes of what, against a budget.
//!
//! What fits is decided here, before the first byte moves. A [`Reservation`] gives its bytes back
//! when it is dropped, so that no path can forget to.

use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// What reserved bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Weights; mapped ones at the size of their file.
    Weights,
    /// KV caches.
    Cache,
    /// Activations and logits of a step.
    Activations,
    /// Vocabulary, tokenizer, tables.
    Tables,
}

/// Bytes held by one owner for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The model's id.
    pub owner: String,
    /// What for.
    pub kind: Kind,
    /// How many bytes.
    pub bytes: u64,
}

/// A reservation that did not fit.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{needed} bytes are needed, {free} of {total} are free")]
pub struct Shortage {
    /// Bytes asked for.
    pub needed: u64,
    /// Bytes that were free.
    pub free: u64,
    /// The budget.
    pub total: u64,
}

/// The ledger of one device.
#[derive(Debug)]
pub struct Budget {
    // A std mutex: held for a few instructions, never across I/O or a step.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    total: u64,
    used: u64,
    holdings: Vec<Holding>,
}

impl Budget {
    /// An empty ledger with a budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { total, used: 0, holdings: Vec::new() }) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `bytes` for `owner`, all or nothing.
    ///
    /// # Errors
    /// [`Shortage`] if they do not fit.
    pub fn reserve(self: &Arc<Self>, owner: &str, kind: Kind, bytes: u64) -> Result<Reservation, Shortage> {
        let mut s = self.lock();
        let free = s.total.saturating_sub(s.used);
        if bytes > free {
            return Err(Shortage { needed: bytes, free, total: s.total });
        }
        s.used += bytes;
        match s.holdings.iter_mut().find(|h| h.owner == owner && h.kind == kind) {
            Some(h) => h.bytes += bytes,
            None if bytes == 0 => {}
            None => s.holdings.push(Holding { owner: owner.to_owned(), kind, bytes }),
        }
        drop(s);
        Ok(Reservation { budget: Arc::clone(self), owner: owner.to_owned(), kind, bytes })
    }

    /// Bytes that `owner` holds, of every kind.
    pub fn held_by(&self, owner: &str) -> u64 {
        self.lock().holdings.iter().filter(|h| h.owner == owner).map(|h| h.bytes).sum()
    }

    /// The budget in bytes.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Bytes reserved.
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// Bytes that can still be reserved.
    pub fn free(&self) -> u64 {
        let s = self.lock();
        s.total.saturating_sub(s.used)
    }

    /// Changes the budget; what is reserved stays, even if it is more.
    pub fn resize(&self, total: u64) {
        self.lock().total = total;
    }

    /// Who holds what.
    pub fn holdings(&self) -> Vec<Holding> {
        self.lock().holdings.clone()
    }

    fn give_back(&self, owner: &str, kind: Kind, bytes: u64) {
        let mut s = self.lock();
        s.used -= bytes;
        if let Some(i) = s.holdings.iter().position(|h| h.owner == owner && h.kind == kind) {
            s.holdings[i].bytes -= bytes;
            if s.holdings[i].bytes == 0 {
                s.holdings.swap_remove(i);
            }
        }
    }
}

/// Bytes that were granted; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    owner: String,
    kind: Kind,
    bytes: u64,
}

impl Reservation {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` out as a reservation of their own; `None` if there are not so many.
    pub fn split(&mut self, bytes: u64) -> Option<Reservation> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Reservation { budget: Arc::clone(&self.budget), owner: self.owner.clone(), kind: self.kind, bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(&self.owner, self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reservation_is_all_or_nothing_and_comes_back() {
        let b = Budget::new(100);
        let r = b.reserve("a", Kind::Weights, 60).expect("fits");
        let e = b.reserve("b", Kind::Cache, 41).expect_err("does not fit");
        assert_eq!(e, Shortage { needed: 41, free: 40, total: 100 });
        let r2 = b.reserve("a", Kind::Weights, 40).expect("fits exactly");
        assert_eq!((b.held_by("a"), b.held_by("b")), (100, 0));
        assert_eq!(b.holdings(), [Holding { owner: "a".into(), kind: Kind::Weights, bytes: 100 }]);
        drop(r);
        assert_eq!((b.used(), b.free()), (40, 60));
        drop(r2);
        assert!(b.holdings().is_empty());
    }

    proptest! {
        #[test]
        fn the_sum_is_right_whatever_happens(ops in prop::collection::vec((any::<bool>(), 0usize..3, 0usize..2, 0u64..60), 1..200)) {
            let b = Budget::new(200);
            let mut held: Vec<Reservation> = Vec::new();
            for (take, owner, kind, bytes) in ops {
                if take {
                    held.extend(b.reserve(["a", "b", "c"][owner], [Kind::Weights, Kind::Cache][kind], bytes));
                } else if !held.is_empty() {
                    drop(held.swap_remove(bytes as usize % held.len()));
                }
                prop_assert!(b.used() <= b.total());
                prop_assert_eq!(b.used(), held.iter().map(Reservation::bytes).sum::<u64>());
                prop_assert_eq!(b.used(), ["a", "b", "c"].iter().map(|o| b.held_by(o)).sum::<u64>());
            }
            drop(held);
            prop_assert!(b.holdings().is_empty());
        }
    }

    #[test]
    fn a_reservation_can_be_split() {
        let b = Budget::new(100);
        let mut r = b.reserve("a", Kind::Cache, 60).expect("fits");
        assert!(r.split(61).is_none());
        let part = r.split(20).expect("has them");
        assert_eq!((r.bytes(), part.bytes(), b.used()), (40, 20, 60));
        drop(r);
        assert_eq!(b.used(), 20);
        drop(part);
        assert_eq!(b.used(), 0);
    }
}
