//! Cache groups: what a sequence keeps between steps, as sizes.
//!
//! Layers whose keys live equally long share a group (all full-attention layers; all layers of
//! one window). A group is divided into blocks of [`KV_BLOCK_TOKENS`] tokens that hold all of the
//! group's layers, so that one block table serves them all; blocks come in slabs.
//!
//! Layout of a block: for each layer, first its keys, then its values; each is
//! `[n_head_kv][KV_BLOCK_TOKENS][head_dim]`, so that a head's keys are contiguous.

use crate::base::limits::{KV_BLOCK_TOKENS, KV_SLAB_BYTES};

/// Element type of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
}

impl KvType {
    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [KvType::F32, KvType::F16].into_iter().find(|t| t.name() == name)
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// Keys and values of some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// For people: `full`, `window 512`.
    pub name: String,
    /// Layers in this group; `slot` of an op counts them from 0.
    pub n_layer: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Elements of a key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Tokens after which a position is never read again.
    pub window: Option<u32>,
    /// Element type.
    pub kv_type: KvType,
    /// Which part of the model has it ([`super::Plan::part`]): its memory is on that part's device.
    pub part: usize,
}

impl CacheGroup {
    /// Bytes of one token in all layers of the group.
    pub fn token_bytes(&self) -> u64 {
        (self.n_layer * self.n_head_kv * (self.head_dim + self.head_dim_v) * self.kv_type.bytes()) as u64
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> u64 {
        self.token_bytes() * KV_BLOCK_TOKENS as u64
    }

    /// Blocks of a slab: as many as fit in [`KV_SLAB_BYTES`], at least one.
    pub fn slab_blocks(&self) -> usize {
        (KV_SLAB_BYTES / self.block_bytes()).max(1) as usize
    }

    /// Bytes of a slab.
    pub fn slab_bytes(&self) -> u64 {
        self.slab_blocks() as u64 * self.block_bytes()
    }
}
