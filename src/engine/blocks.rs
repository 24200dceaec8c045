//! The blocks of one cache group: who uses each, and the order in which kept ones are evicted.

use super::prefix::{NONE, NodeId};
use crate::plan::cache::CacheGroup;
use crate::pool::budget::Reservation;
use crate::pool::slab::Slabs;

/// Neither newer nor older: the end of the list of kept blocks.
const END: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Sequences that use it.
    users: u32,
    /// The prefix it holds, or [`NONE`].
    node: NodeId,
    /// Neighbours among the kept blocks.
    newer: u32,
    older: u32,
}

/// One cache group. A block is free (in `slabs`), in use (`users > 0`) or kept (listed).
#[derive(Debug)]
pub(super) struct Group {
    /// Which part of the model has it, and so which ledger.
    pub(super) part: usize,
    pub(super) window: Option<u32>,
    pub(super) block_bytes: u64,
    pub(super) slab_bytes: u64,
    pub(super) slab_blocks: usize,
    /// Blocks that are never given back.
    pub(super) minimum: usize,
    pub(super) slabs: Slabs,
    /// Blocks in use by nobody that hold a prefix.
    pub(super) n_kept: usize,
    /// By block number; backends number blocks densely.
    blocks: Vec<Block>,
    newest: u32,
    oldest: u32,
}

impl Group {
    pub(super) fn new(group: &CacheGroup) -> Self {
        Self {
            part: group.part,
            window: group.window,
            block_bytes: group.block_bytes(),
            slab_bytes: group.slab_bytes(),
            slab_blocks: group.slab_blocks(),
            minimum: 0,
            slabs: Slabs::new(group.slab_blocks() as u32),
            n_kept: 0,
            blocks: Vec::new(),
            newest: END,
            oldest: END,
        }
    }

    pub(super) fn add_slab(&mut self, first: u32, reservation: Reservation) {
        let end = first as usize + self.slab_blocks;
        if self.blocks.len() < end {
            self.blocks.resize(end, Block { users: 0, node: NONE, newer: END, older: END });
        }
        self.slabs.add(first, reservation);
    }

    /// Takes a free block for one user.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.slabs.take()?;
        self.blocks[block as usize].users = 1;
        Some(block)
    }

    /// One more sequence uses the block, which is kept or in use.
    pub(super) fn hold(&mut self, block: u32) {
        if self.blocks[block as usize].users == 0 {
            self.unlist(block);
        }
        self.blocks[block as usize].users += 1;
    }

    /// One sequence less uses the block: without any it is kept if it holds a prefix, else free.
    pub(super) fn unhold(&mut self, block: u32) {
        let b = &mut self.blocks[block as usize];
        b.users -= 1;
        if b.users > 0 {
            return;
        }
        if b.node == NONE {
            self.slabs.put(block);
            return;
        }
        (b.newer, b.older) = (END, self.newest);
        match self.newest {
            END => self.oldest = block,
            newest => self.blocks[newest as usize].newer = block,
        }
        self.newest = block;
        self.n_kept += 1;
    }

    fn unlist(&mut self, block: u32) {
        let Block { newer, older, .. } = self.blocks[block as usize];
        match newer {
            END => self.newest = older,
            n => self.blocks[n as usize].older = older,
        }
        match older {
            END => self.oldest = newer,
            o => self.blocks[o as usize].newer = newer,
        }
        self.n_kept -= 1;
    }

    /// The block now holds the prefix `node`.
    pub(super) fn name(&mut self, block: u32, node: NodeId) {
        self.blocks[block as usize].node = node;
    }

    /// The kept block to evict first, and its prefix.
    pub(super) fn oldest(&self) -> Option<(u32, NodeId)> {
        (self.oldest != END).then(|| (self.oldest, self.blocks[self.oldest as usize].node))
    }

    /// Frees a kept block; the caller tells the tree.
    pub(super) fn free_kept(&mut self, block: u32) {
        debug_assert_eq!(self.blocks[block as usize].users, 0);
        self.unlist(block);
        self.blocks[block as usize].node = NONE;
        self.slabs.put(block);
    }

    /// Whether a sequence uses the block.
    pub(super) fn in_use(&self, block: u32) -> bool {
        self.blocks[block as usize].users > 0
    }

    /// Bytes of idle slabs that could be given back if `spare` of the blocks not in use are not
    /// needed.
    pub(super) fn reclaimable(&self, spare: usize) -> u64 {
        let idle = |&at: &usize| self.slabs.blocks(at).all(|b| !self.in_use(b));
        let n_idle = (0..self.slabs.n_slabs()).filter(idle).count();
        let n_extra = self.slabs.n_blocks().saturating_sub(self.minimum) / self.slab_blocks;
        n_idle.min(n_extra).min(spare / self.slab_blocks) as u64 * self.slab_bytes
    }

    /// The prefix that the block holds, or [`NONE`].
    pub(super) fn node(&self, block: u32) -> NodeId {
        self.blocks[block as usize].node
    }

    /// Checks users, list and free blocks against each other.
    #[cfg(test)]
    pub(super) fn audit(&self, held: impl Iterator<Item = u32>) {
        let mut users = vec![0; self.blocks.len()];
        for b in held {
            users[b as usize] += 1;
        }
        let mut n_used = 0;
        for (i, b) in self.blocks.iter().enumerate() {
            assert_eq!(b.users, users[i], "users of block {i}");
            n_used += usize::from(b.users > 0);
        }
        let (mut listed, mut at, mut newer) = (0, self.newest, END);
        while at != END {
            let b = &self.blocks[at as usize];
            assert!(b.users == 0 && b.node != NONE && b.newer == newer, "kept block {at}");
            (listed, newer, at) = (listed + 1, at, b.older);
        }
        assert_eq!((listed, newer), (self.n_kept, self.oldest));
        assert_eq!(n_used + self.n_kept + self.slabs.n_free(), self.slabs.n_blocks());
    }
}
