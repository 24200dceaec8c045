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
    /// Bytes that are counted in `used` and `holdings` already and wait for their owner to
    /// reserve them: see [`Budget::promise`].
    promises: Vec<Holding>,
}

impl State {
    fn hold(&mut self, owner: &str, kind: Kind, bytes: u64) {
        self.used += bytes;
        match self.holdings.iter_mut().find(|h| h.owner == owner && h.kind == kind) {
            Some(h) => h.bytes += bytes,
            None if bytes > 0 => self.holdings.push(Holding { owner: owner.to_owned(), kind, bytes }),
            None => {}
        }
    }

    fn promised(&mut self, owner: &str, kind: Kind) -> Option<&mut Holding> {
        self.promises.iter_mut().find(|h| h.owner == owner && h.kind == kind)
    }
}

impl Budget {
    /// An empty ledger with a budget of `total` bytes.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { total, used: 0, holdings: Vec::new(), promises: Vec::new() }) })
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
        let promised = s.promised(owner, kind).map_or(0, |p| p.bytes.min(bytes));
        if bytes - promised > free {
            return Err(Shortage { needed: bytes, free: free + promised, total: s.total });
        }
        if let Some(p) = s.promised(owner, kind) {
            p.bytes -= promised;
        }
        s.hold(owner, kind, bytes - promised);
        drop(s);
        Ok(Reservation { budget: Arc::clone(self), owner: owner.to_owned(), kind, bytes })
    }

    /// Sets `bytes` aside that `owner` will reserve later, in pieces: its reservations of that
    /// kind are served from the promise first, so that what admission granted cannot be taken by
    /// another model's growth in between. An owner has at most one promise of a kind at a time;
    /// a second one adds to it.
    ///
    /// # Errors
    /// [`Shortage`] if they do not fit.
    pub fn promise(self: &Arc<Self>, owner: &str, kind: Kind, bytes: u64) -> Result<Promise, Shortage> {
        let mut s = self.lock();
        let free = s.total.saturating_sub(s.used);
        if bytes > free {
            return Err(Shortage { needed: bytes, free, total: s.total });
        }
        s.hold(owner, kind, bytes);
        match s.promised(owner, kind) {
            Some(p) => p.bytes += bytes,
            None => s.promises.push(Holding { owner: owner.to_owned(), kind, bytes }),
        }
        drop(s);
        Ok(Promise { budget: Arc::clone(self), owner: owner.to_owned(), kind })
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
        Self::release(&mut self.lock(), owner, kind, bytes);
    }

    fn end_promise(&self, owner: &str, kind: Kind) {
        let mut s = self.lock();
        if let Some(i) = s.promises.iter().position(|h| h.owner == owner && h.kind == kind) {
            let left = s.promises.swap_remove(i).bytes;
            Self::release(&mut s, owner, kind, left);
        }
    }

    fn release(s: &mut State, owner: &str, kind: Kind, bytes: u64) {
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

/// Bytes set aside for an owner; dropping it gives back what the owner did not reserve.
#[derive(Debug)]
pub struct Promise {
    budget: Arc<Budget>,
    owner: String,
    kind: Kind,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.budget.end_promise(&self.owner, self.kind);
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
        assert_eq!(b.holdings(), [Holding { owner: "a".into(), kind: Kind::Weights, bytes: 100 }]);
        drop(r);
        assert_eq!((b.used(), b.free()), (40, 60));
        drop(r2);
        assert!(b.holdings().is_empty());
    }

    #[test]
    fn a_promise_is_kept_for_its_owner_and_its_rest_comes_back() {
        let b = Budget::new(100);
        let p = b.promise("a", Kind::Cache, 50).expect("fits");
        assert_eq!((b.used(), b.held_by("a")), (50, 50));
        b.reserve("b", Kind::Cache, 51).expect_err("the promise is not for b");
        b.reserve("a", Kind::Weights, 51).expect_err("nor for another kind");
        let r = b.reserve("a", Kind::Cache, 30).expect("from the promise");
        assert_eq!(b.used(), 50, "counted once");
        let more = b.reserve("a", Kind::Cache, 60).expect("20 promised, 40 free");
        assert_eq!(b.used(), 90);
        drop(more);
        drop(p);
        assert_eq!((b.used(), b.held_by("a")), (30, 30));
        let p = b.promise("a", Kind::Cache, 70).expect("fits exactly");
        let r2 = b.reserve("a", Kind::Cache, 10).expect("from the promise");
        drop(p);
        assert_eq!(b.used(), 40, "60 of 70 were not reserved");
        drop((r, r2));
        assert!(b.holdings().is_empty());
    }

    proptest! {
        #[test]
        fn the_sum_is_right_whatever_happens(ops in prop::collection::vec((0u8..4, 0usize..3, 0usize..2, 0u64..60), 1..200)) {
            let b = Budget::new(200);
            let (mut held, mut promised) = (Vec::new(), Vec::new());
            for (op, owner, kind, bytes) in ops {
                let owner = ["a", "b", "c"][owner];
                let kind = [Kind::Weights, Kind::Cache][kind];
                match op {
                    0 | 1 => held.extend(b.reserve(owner, kind, bytes)),
                    2 if promised.iter().all(|(o, k, _)| (*o, *k) != (owner, kind)) => {
                        promised.extend(b.promise(owner, kind, bytes).map(|p| (owner, kind, p)));
                    }
                    2 => promised.retain(|(o, k, _)| (*o, *k) != (owner, kind)),
                    _ if !held.is_empty() => drop(held.swap_remove(bytes as usize % held.len())),
                    _ => {}
                }
                prop_assert!(b.used() <= b.total());
                prop_assert_eq!(b.holdings().iter().map(|h| h.bytes).sum::<u64>(), b.used());
                let reserved: u64 = held.iter().map(Reservation::bytes).sum();
                prop_assert!(reserved <= b.used());
                if promised.is_empty() {
                    prop_assert_eq!(reserved, b.used());
                }
            }
            drop((held, promised));
            prop_assert_eq!(b.used(), 0);
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
