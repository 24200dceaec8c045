//! Slabs of one cache group: which exist, and which of their blocks are free.
//!
//! Blocks are numbers here; whoever owns the group's memory gives a slab its first number. Blocks
//! are taken from the slab with the lowest number that has one, so that the others become idle
//! and can be given back.

use std::ops::Range;

use super::budget::Reservation;

/// A set of slabs with the same number of blocks.
#[derive(Debug)]
pub struct Slabs {
    slab_blocks: u32,
    /// Sorted by `first`.
    slabs: Vec<Slab>,
    n_free: usize,
}

#[derive(Debug)]
struct Slab {
    first: u32,
    free: Vec<u32>,
    reservation: Reservation,
}

impl Slabs {
    /// No slabs yet; each will have `slab_blocks` blocks.
    pub fn new(slab_blocks: u32) -> Self {
        Self { slab_blocks, slabs: Vec::new(), n_free: 0 }
    }

    /// Blocks of all slabs.
    pub fn n_blocks(&self) -> usize {
        self.slabs.len() * self.slab_blocks as usize
    }

    /// Blocks that can be taken.
    pub fn n_free(&self) -> usize {
        self.n_free
    }

    /// Bytes reserved for all slabs.
    pub fn bytes(&self) -> u64 {
        self.slabs.iter().map(|s| s.reservation.bytes()).sum()
    }

    /// Adds the slab with the blocks `first .. first + slab_blocks`, whose memory `reservation`
    /// accounts for.
    pub fn add(&mut self, first: u32, reservation: Reservation) {
        // Highest first, so that `pop` hands out the lowest.
        let free: Vec<u32> = (first..first + self.slab_blocks).rev().collect();
        let at = self.slabs.partition_point(|s| s.first < first);
        self.slabs.insert(at, Slab { first, free, reservation });
        self.n_free += self.slab_blocks as usize;
    }

    /// Takes a free block.
    pub fn take(&mut self) -> Option<u32> {
        let block = self.slabs.iter_mut().find_map(|s| s.free.pop())?;
        self.n_free -= 1;
        Some(block)
    }

    /// Gives a block back.
    ///
    /// # Panics
    /// If no slab has this block: the caller's table is corrupt.
    pub fn put(&mut self, block: u32) {
        let at = self.slabs.partition_point(|s| s.first <= block);
        assert!(at > 0 && block - self.slabs[at - 1].first < self.slab_blocks, "block {block} is in no slab");
        self.slabs[at - 1].free.push(block);
        self.n_free += 1;
    }

    /// Number of slabs.
    pub fn n_slabs(&self) -> usize {
        self.slabs.len()
    }

    /// Blocks of the slab at `at` in ascending order.
    pub fn blocks(&self, at: usize) -> Range<u32> {
        let first = self.slabs[at].first;
        first..first + self.slab_blocks
    }

    /// Removes the slab that starts at `first` and returns its reservation; `None` if there is
    /// none or one of its blocks is taken.
    pub fn remove(&mut self, first: u32) -> Option<Reservation> {
        let at = self.slabs.binary_search_by_key(&first, |s| s.first).ok()?;
        if self.slabs[at].free.len() < self.slab_blocks as usize {
            return None;
        }
        self.n_free -= self.slab_blocks as usize;
        Some(self.slabs.remove(at).reservation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::budget::{Budget, Kind};

    #[test]
    fn blocks_come_from_the_lowest_slab_and_idle_slabs_can_go() {
        let budget = Budget::new(1000);
        let mut slabs = Slabs::new(2);
        assert_eq!(slabs.take(), None);
        for first in [4, 0] {
            slabs.add(first, budget.reserve("m", Kind::Cache, 100).expect("fits"));
        }
        assert_eq!((slabs.n_blocks(), slabs.n_free(), slabs.bytes()), (4, 4, 200));
        let taken: Vec<u32> = (0..3).filter_map(|_| slabs.take()).collect();
        assert_eq!(taken, [0, 1, 4]);
        assert!(slabs.remove(4).is_none(), "a block of it is taken");
        assert!(slabs.remove(2).is_none(), "there is none");
        slabs.put(1);
        slabs.put(4);
        assert_eq!(slabs.take(), Some(1), "the lowest slab is filled first");
        let reservation = slabs.remove(4).expect("idle");
        assert_eq!((slabs.n_slabs(), slabs.blocks(0)), (1, 0..2));
        drop(reservation);
        assert_eq!((budget.used(), slabs.n_blocks(), slabs.n_free()), (100, 2, 0));
    }

    #[test]
    #[should_panic(expected = "in no slab")]
    fn a_foreign_block_is_noticed() {
        let budget = Budget::new(1000);
        let mut slabs = Slabs::new(2);
        slabs.add(4, budget.reserve("m", Kind::Cache, 100).expect("fits"));
        slabs.put(6);
    }
}
