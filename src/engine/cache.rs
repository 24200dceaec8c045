//! The KV cache of an engine: block tables of its sequences, and prefixes kept for later ones.
//!
//! Each cache group has its own blocks. A block is *free*, *in use* by one or more sequences, or
//! *kept*: full, in use by nobody, findable through the [prefix tree](super::prefix). Only full
//! blocks are shared, so that nobody writes into a block that another reads and no copy on write
//! is needed. Kept blocks are evicted in the order in which they were last used; a sequence gives
//! its blocks up from the end, so that the end of a text goes before its beginning.
//!
//! Blocks that lie before a group's window are given up while the sequence runs. A prefix can be
//! used as far as every group has it: a windowed group needs only the blocks in the window before
//! the prefix's end.
//!
//! Slabs are added while half of a group's blocks are in use, within the ledger: a cache that
//! nobody uses never makes the engine grow.

use super::Ledger;
use super::blocks::Group;
use super::prefix::{NONE, NodeId, ROOT, Tree};
pub use super::tables::Tables;
use crate::backend::Backend;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::batch::NO_BLOCK;
use crate::plan::cache::CacheGroup;
use crate::plan::op::CacheId;
use crate::pool::budget::{Kind, Shortage};

const BLOCK: u32 = KV_BLOCK_TOKENS as u32;

/// What a cache is made from.
pub struct CacheOptions {
    /// The owner in the ledger: the model's id.
    pub owner: String,
    /// Ledgers of the parts' devices, with what was reserved for the minimum already (see
    /// [`minimum_bytes`]).
    pub ledgers: Vec<Ledger>,
    /// Tokens that always have room.
    pub min_tokens: u32,
    /// Most bytes; `None` = what the ledger gives.
    pub max_bytes: Option<u64>,
    /// Most tokens of one sequence that are computed in one step.
    pub step_tokens: u32,
}

/// Blocks and bytes of all groups together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks in use by sequences.
    pub used: u64,
    /// Blocks kept for later sequences.
    pub kept: u64,
    /// Blocks in all.
    pub total: u64,
    /// Bytes of all slabs.
    pub bytes: u64,
}

/// Whether a sequence can get the blocks it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It can.
    Yes,
    /// Not while the others have theirs.
    Later,
    /// Not even alone.
    Never {
        /// Bytes it needs.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
}

/// See the module.
pub struct Cache {
    groups: Vec<Group>,
    tree: Tree,
    ledgers: Vec<Ledger>,
    owner: String,
    max_bytes: u64,
    step_tokens: u32,
}

/// Bytes that [`Cache::new`] reserves for the groups of part `part`: slabs for `min_tokens` tokens
/// in each (a windowed group needs no more than its window and a step).
pub fn minimum_bytes(groups: &[CacheGroup], part: usize, min_tokens: u32, step_tokens: u32) -> u64 {
    let own = groups.iter().filter(|g| g.part == part);
    own.map(|g| minimum_slabs(g, min_tokens, step_tokens) as u64 * g.slab_bytes()).sum()
}

fn minimum_slabs(group: &CacheGroup, min_tokens: u32, step_tokens: u32) -> usize {
    (blocks_for(group.window, min_tokens, step_tokens) as usize).div_ceil(group.slab_blocks()).max(1)
}

/// Most blocks that a sequence of `tokens` tokens has at a time.
fn blocks_for(window: Option<u32>, tokens: u32, step_tokens: u32) -> u32 {
    let all = tokens.div_ceil(BLOCK);
    match window {
        // The window, a step, and a part of a block at either end.
        Some(w) => all.min((w.saturating_add(step_tokens)).div_ceil(BLOCK) + 1),
        None => all,
    }
}

/// The first block that a sequence of `len` tokens still reads for its next token.
fn first_needed(window: Option<u32>, len: u32) -> u32 {
    window.map_or(0, |w| (len + 1).saturating_sub(w) / BLOCK)
}

impl Cache {
    /// A cache with its minimum of slabs.
    ///
    /// # Errors
    /// [`Shortage`] if the minimum does not fit in the ledger, or the backend could not have it.
    pub fn new(groups: &[CacheGroup], options: CacheOptions, backend: &mut dyn Backend) -> Result<Self, Shortage> {
        let mut cache = Self {
            groups: groups.iter().map(Group::new).collect(),
            tree: Tree::new(groups.len()),
            ledgers: options.ledgers,
            owner: options.owner,
            max_bytes: u64::MAX,
            step_tokens: options.step_tokens,
        };
        for (i, g) in groups.iter().enumerate() {
            let n = minimum_slabs(g, options.min_tokens, options.step_tokens);
            for _ in 0..n {
                cache.add_slab(i, backend)?;
            }
            cache.groups[i].minimum = n * g.slab_blocks();
        }
        cache.ledgers.iter_mut().for_each(|l| l.reserved = None);
        cache.max_bytes = options.max_bytes.unwrap_or(u64::MAX);
        Ok(cache)
    }

    fn add_slab(&mut self, group: usize, backend: &mut dyn Backend) -> Result<(), Shortage> {
        let bytes = self.groups[group].slab_bytes;
        let held = self.bytes();
        if held.saturating_add(bytes) > self.max_bytes {
            return Err(Shortage { needed: bytes, free: self.max_bytes.saturating_sub(held), total: self.max_bytes });
        }
        let ledger = &mut self.ledgers[self.groups[group].part];
        let reservation = match ledger.reserved.as_mut().and_then(|r| r.split(bytes)) {
            Some(r) => r,
            None => ledger.budget.reserve(&self.owner, Kind::Cache, bytes)?,
        };
        let total = ledger.budget.total();
        let first = backend.add_slab(CacheId(group as u32)).map_err(|e| {
            tracing::warn!(model = self.owner, error = %e, "the ledger granted a slab that the device could not");
            Shortage { needed: bytes, free: 0, total }
        })?;
        self.groups[group].add_slab(first, reservation);
        // Twice the blocks: nodes before a window have no block any more and still lead the way.
        self.tree.reserve(2 * self.groups.iter().map(|g| g.slabs.n_blocks()).sum::<usize>());
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.groups.iter().map(|g| g.slabs.bytes()).sum()
    }

    /// Prepares empty tables for a sequence of at most `max_tokens`, so that they never allocate
    /// later, and takes the longest prefix of `tokens` that is kept, but not the last token: its
    /// logits must be computed. Returns the tokens taken. Without `share`, takes nothing and
    /// leaves nothing for others.
    pub fn attach(&mut self, tables: &mut Tables, tokens: &[u32], max_tokens: u32, share: bool) -> u32 {
        let n_groups = self.groups.len();
        tables.blocks.resize_with(n_groups, Vec::new);
        for table in &mut tables.blocks {
            debug_assert!(table.is_empty());
            table.reserve_exact(max_tokens.div_ceil(BLOCK) as usize + 1);
        }
        tables.first.clear();
        tables.first.resize(n_groups, 0);
        (tables.len, tables.registered, tables.node, tables.share) = (0, 0, ROOT, share);
        if !share {
            return 0;
        }
        let (n_blocks, end) = self.usable_prefix(tokens);
        let first_of = |g: &Group| first_needed(g.window, n_blocks * BLOCK).min(n_blocks);
        for (i, table) in tables.blocks.iter_mut().enumerate() {
            table.resize(n_blocks as usize, NO_BLOCK);
            tables.first[i] = first_of(&self.groups[i]);
        }
        let mut node = end;
        for at in (0..n_blocks).rev() {
            for (g, group) in self.groups.iter_mut().enumerate() {
                if at >= tables.first[g]
                    && let Some(block) = self.tree.block(node, g)
                {
                    group.hold(block);
                    tables.blocks[g][at as usize] = block;
                }
            }
            node = self.tree.parent(node);
        }
        self.tree.hold(end);
        (tables.len, tables.registered, tables.node) = (n_blocks * BLOCK, n_blocks, end);
        tables.len
    }

    /// Blocks of the longest usable prefix, and its last node.
    fn usable_prefix(&self, tokens: &[u32]) -> (u32, NodeId) {
        let mut best = (0, ROOT);
        let mut node = ROOT;
        // For each group how many blocks up to here are there without a gap; few groups exist.
        let mut runs: smallvec::SmallVec<[u32; 8]> = smallvec::smallvec![0; self.groups.len()];
        let (blocks, _) = tokens[..tokens.len().saturating_sub(1)].as_chunks::<KV_BLOCK_TOKENS>();
        for (i, block) in blocks.iter().enumerate() {
            let Some(child) = self.tree.child(node, block) else { break };
            node = child;
            let n = i as u32 + 1;
            let mut usable = true;
            for (g, group) in self.groups.iter().enumerate() {
                runs[g] = if self.tree.block(node, g).is_some() { runs[g] + 1 } else { 0 };
                usable &= runs[g] >= n - first_needed(group.window, n * BLOCK).min(n);
            }
            if usable {
                best = (n, node);
            }
        }
        best
    }

    /// Makes room for up to `want` more tokens and returns for how many there is room now: fewer,
    /// or none, if blocks ran out.
    pub fn grow(&mut self, tables: &mut Tables, want: u32, backend: &mut dyn Backend) -> u32 {
        let mut granted = want;
        for g in 0..self.groups.len() {
            let missing = granted.saturating_sub(tables.spare(g)).div_ceil(BLOCK);
            self.ensure(g, missing as usize, backend);
            // Taken at once: another group's need could take free blocks back to the ledger.
            for _ in 0..missing {
                match self.groups[g].take() {
                    Some(block) => tables.blocks[g].push(block),
                    None => break,
                }
            }
            granted = granted.min(tables.spare(g));
        }
        for g in 0..self.groups.len() {
            while tables.spare(g) >= granted + BLOCK {
                if let Some(block) = tables.blocks[g].pop().filter(|&b| b != NO_BLOCK) {
                    self.groups[g].unhold(block);
                }
            }
        }
        granted
    }

    /// Makes `n` blocks of a group free, as far as that can be.
    fn ensure(&mut self, group: usize, n: usize, backend: &mut dyn Backend) {
        loop {
            let g = &self.groups[group];
            if g.slabs.n_free() >= n {
                return;
            }
            let mostly_kept = g.n_kept * 2 > g.slabs.n_blocks();
            if (mostly_kept || self.add_slab(group, backend).is_err())
                && !self.evict(group)
                && !self.reclaim(group, backend)
            {
                return;
            }
        }
    }

    /// Gives idle slabs of the other groups on its device back, so that this one can grow.
    fn reclaim(&mut self, group: usize, backend: &mut dyn Backend) -> bool {
        let before = self.bytes();
        for other in (0..self.groups.len()).filter(|&g| g != group) {
            if self.groups[other].part == self.groups[group].part {
                self.release_idle_of(other, backend);
            }
        }
        self.bytes() < before
    }

    /// Frees the kept block that was not used for the longest time.
    fn evict(&mut self, group: usize) -> bool {
        let Some((block, node)) = self.groups[group].oldest() else { return false };
        self.forget(group, block, node);
        true
    }

    fn forget(&mut self, group: usize, block: u32, node: NodeId) {
        self.groups[group].free_kept(block);
        self.tree.clear_block(node, group);
    }

    /// `n` more tokens of the sequence were computed; `tokens` is its whole text.
    pub fn commit(&mut self, tables: &mut Tables, tokens: &[u32], n: u32) {
        tables.len += n;
        let (full, _) = tokens[..tables.len as usize].as_chunks::<KV_BLOCK_TOKENS>();
        while tables.share && (tables.registered as usize) < full.len() {
            let at = tables.registered as usize;
            let Some(node) = self.tree.child_or_insert(tables.node, &full[at]) else {
                // The tree is full: this sequence goes on without leaving more for others.
                tables.share = false;
                break;
            };
            for (g, group) in self.groups.iter_mut().enumerate() {
                let block = tables.blocks[g][at];
                if block != NO_BLOCK && self.tree.block(node, g).is_none() {
                    self.tree.set_block(node, g, block);
                    group.name(block, node);
                }
            }
            self.tree.hold(node);
            self.tree.unhold(tables.node);
            tables.node = node;
            tables.registered += 1;
        }
        for (g, group) in self.groups.iter_mut().enumerate() {
            let until = first_needed(group.window, tables.len).min(tables.blocks[g].len() as u32);
            for at in tables.first[g]..until {
                let block = std::mem::replace(&mut tables.blocks[g][at as usize], NO_BLOCK);
                if block != NO_BLOCK {
                    group.unhold(block);
                }
            }
            tables.first[g] = tables.first[g].max(until);
        }
    }

    /// Cuts the sequence back to at most `n` tokens and returns how many are left: fewer if a
    /// block would be written that others may read (full blocks are cut whole), none if a windowed
    /// group has given up what the shorter sequence would read.
    pub fn truncate(&mut self, tables: &mut Tables, n: u32) -> u32 {
        if n >= tables.len {
            return tables.len;
        }
        let mut keep = n.div_ceil(BLOCK);
        let mut len = n;
        if keep <= tables.registered && !n.is_multiple_of(BLOCK) {
            keep = n / BLOCK;
            len = keep * BLOCK;
        }
        let gone = self.groups.iter().zip(&tables.first).any(|(g, &first)| first > first_needed(g.window, len));
        if gone {
            (keep, len) = (0, 0);
        }
        while tables.registered > keep {
            let parent = self.tree.parent(tables.node);
            self.tree.hold(parent);
            self.tree.unhold(tables.node);
            tables.node = parent;
            tables.registered -= 1;
        }
        for (g, group) in self.groups.iter_mut().enumerate() {
            while tables.blocks[g].len() > keep as usize {
                if let Some(block) = tables.blocks[g].pop().filter(|&b| b != NO_BLOCK) {
                    group.unhold(block);
                }
            }
            tables.first[g] = tables.first[g].min(keep);
        }
        tables.len = len;
        len
    }

    /// Gives up all blocks of the sequence; full ones are kept for others.
    pub fn release(&mut self, tables: &mut Tables) {
        for (g, group) in self.groups.iter_mut().enumerate().take(tables.blocks.len()) {
            while let Some(block) = tables.blocks[g].pop() {
                if block != NO_BLOCK {
                    group.unhold(block);
                }
            }
        }
        if tables.registered > 0 {
            self.tree.unhold(tables.node);
        }
        (tables.len, tables.registered, tables.node) = (0, 0, ROOT);
    }

    /// Whether a sequence (its prefix attached) can become `total` tokens long, beside others
    /// that will become as long as `others` says. Nothing is taken.
    pub fn fits<'a>(
        &self,
        tables: &Tables,
        total: u32,
        others: impl Iterator<Item = (&'a Tables, u32)> + Clone,
    ) -> Fit {
        // Bytes of slabs to add on each device; for each group the blocks that it will not need.
        let mut grow: smallvec::SmallVec<[u64; 2]> = smallvec::smallvec![0; self.ledgers.len()];
        let mut spare: smallvec::SmallVec<[usize; 8]> = smallvec::SmallVec::new();
        let alone = others.clone().next().is_none();
        for (g, group) in self.groups.iter().enumerate() {
            let missing = |t: &Tables, total: u32| {
                let has = t.blocks[g].len() as u32 - t.first[g];
                blocks_for(group.window, total, self.step_tokens).saturating_sub(has) as usize
            };
            let want = missing(tables, total) + others.clone().map(|(t, total)| missing(t, total)).sum::<usize>();
            let has = group.slabs.n_free() + group.n_kept;
            let short = want.saturating_sub(has);
            spare.push(has.saturating_sub(want));
            grow[group.part] += short.div_ceil(group.slab_blocks) as u64 * group.slab_bytes;
        }
        let mut allowed = self.max_bytes.saturating_sub(self.bytes());
        let mut fits = true;
        for (part, (ledger, grow)) in self.ledgers.iter().zip(grow).enumerate() {
            let mut growable = ledger.budget.free().min(allowed);
            if grow > growable {
                let own = self.groups.iter().zip(&spare).filter(|(g, _)| g.part == part);
                growable += own.map(|(g, &n)| g.reclaimable(n)).sum::<u64>();
            }
            fits &= grow <= growable;
            allowed = allowed.saturating_sub(grow);
        }
        match (fits, alone) {
            (true, _) => Fit::Yes,
            (false, false) => Fit::Later,
            (false, true) => {
                let (needed, available) = self.shortage(total);
                Fit::Never { needed, available }
            }
        }
    }

    /// Bytes that a sequence of `total` tokens needs, and bytes that can be had, on the device that
    /// lacks most.
    pub fn shortage(&self, total: u32) -> (u64, u64) {
        let allowed = self.max_bytes.saturating_sub(self.bytes());
        let of = |(part, ledger): (usize, &Ledger)| {
            let (mut needed, mut held) = (0, 0);
            for g in self.groups.iter().filter(|g| g.part == part) {
                needed += u64::from(blocks_for(g.window, total, self.step_tokens)) * g.block_bytes;
                held += g.slabs.bytes();
            }
            (needed, held + ledger.budget.free().min(allowed))
        };
        let parts = self.ledgers.iter().enumerate().map(of);
        parts.max_by_key(|(needed, available)| i128::from(*needed) - i128::from(*available)).unwrap_or_default()
    }

    /// Gives back slabs that no sequence uses (forgetting the prefixes in them), down to the
    /// minimum. Returns the bytes given back.
    pub fn release_idle(&mut self, backend: &mut dyn Backend) -> u64 {
        let before = self.bytes();
        for g in 0..self.groups.len() {
            self.release_idle_of(g, backend);
        }
        before - self.bytes()
    }

    fn release_idle_of(&mut self, g: usize, backend: &mut dyn Backend) {
        // Highest first: blocks are taken from the lowest.
        for at in (0..self.groups[g].slabs.n_slabs()).rev() {
            let group = &self.groups[g];
            if group.slabs.n_blocks() < group.minimum + group.slab_blocks {
                return;
            }
            let blocks = group.slabs.blocks(at);
            if blocks.clone().any(|b| group.in_use(b)) {
                continue;
            }
            for block in blocks.clone() {
                let node = self.groups[g].node(block);
                if node != NONE {
                    self.forget(g, block, node);
                }
            }
            if let Some(reservation) = self.groups[g].slabs.remove(blocks.start) {
                backend.remove_slab(CacheId(g as u32), blocks.start);
                // The ledger learns of it after the device.
                drop(reservation);
            }
        }
    }

    /// Blocks and bytes now.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for g in &self.groups {
            usage.total += g.slabs.n_blocks() as u64;
            usage.kept += g.n_kept as u64;
            usage.used += (g.slabs.n_blocks() - g.slabs.n_free() - g.n_kept) as u64;
            usage.bytes += g.slabs.bytes();
        }
        usage
    }

    /// Checks that every block is free, kept or in use exactly as often as `tables` say.
    #[cfg(test)]
    pub(super) fn audit<'a>(&self, tables: impl Iterator<Item = &'a Tables> + Clone) {
        for (g, group) in self.groups.iter().enumerate() {
            let held = tables.clone().filter(|t| !t.blocks.is_empty()).flat_map(|t| t.blocks[g].iter().copied());
            group.audit(held.filter(|&b| b != NO_BLOCK));
        }
    }

    /// Nodes of the prefix tree.
    #[cfg(test)]
    pub(super) fn n_nodes(&self) -> usize {
        self.tree.len()
    }
}
