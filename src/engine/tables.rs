//! The block tables of one sequence.

use super::prefix::NodeId;
use crate::base::limits::KV_BLOCK_TOKENS;

/// Blocks of one sequence, for each group.
#[derive(Debug, Default)]
pub struct Tables {
    /// For each group the block of each `KV_BLOCK_TOKENS` positions.
    pub(super) blocks: Vec<Vec<u32>>,
    /// For each group the first block that was not given up for lying before the window.
    pub(super) first: Vec<u32>,
    /// Tokens in the cache.
    pub(super) len: u32,
    /// Full blocks that stand in the tree.
    pub(super) registered: u32,
    /// The node of the last of them.
    pub(super) node: NodeId,
    /// Whether this sequence's blocks go into the tree.
    pub(super) share: bool,
}

impl Tables {
    /// Tokens in the cache.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The block table of `group`, for `Batch::push_table`.
    pub fn table(&self, group: usize) -> &[u32] {
        &self.blocks[group]
    }

    /// Tokens there are blocks for, beyond those in the cache.
    pub(super) fn spare(&self, group: usize) -> u32 {
        self.blocks[group].len() as u32 * KV_BLOCK_TOKENS as u32 - self.len
    }
}
