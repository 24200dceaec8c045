//! Cache groups: what a sequence keeps between steps, as sizes.
//!
//! Layers whose keys live equally long share a group (all full-attention layers; all layers of
//! one window). A group is divided into blocks of [`KV_BLOCK_TOKENS`] tokens that hold all of the
//! group's layers, so that one block table serves them all; blocks come in slabs.
//!
//! Layout of a block: for each layer, first its keys, then its values; each is
//! `[n_head_kv][KV_BLOCK_TOKENS][head_dim]`, so that a head's keys are contiguous.
//!
//! In `q8_0`, [`KV_GROUP`] neighbours of a head's row share a scale: `x = d * q` with
//! `d = amax / 127` in f16 and codes `q` in i8, as in ggml's blocks of that name (halves go to even,
//! as in its vector code). The bytes lie in another order than in ggml, so that all loads are
//! aligned: a head's part is its codes, `[KV_BLOCK_TOKENS][head_dim]`, then its scales,
//! `[head_dim / KV_GROUP][KV_BLOCK_TOKENS]`; neighbouring tokens' scales are read at once. Whatever
//! the sizes, a head's part is a multiple of 64 bytes.

use thiserror::Error;

use crate::base::limits::{KV_BLOCK_TOKENS, KV_SLAB_BYTES};

/// Elements that share a scale.
pub const KV_GROUP: usize = 32;

/// Element type of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Codes in i8, a scale in f16 for each [`KV_GROUP`] of them.
    Q8_0,
}

/// Heads whose size a type of caches does not take.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a head of this model has {dim} elements, and KV caches of type `{}` take multiples of {KV_GROUP}: use f16",
    kv_type.name()
)]
pub struct HeadSizeError {
    /// Elements of a head.
    pub dim: usize,
    /// The type.
    pub kv_type: KvType,
}

impl KvType {
    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [KvType::F32, KvType::F16, KvType::Q8_0].into_iter().find(|t| t.name() == name)
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// Bytes of one token's head of `dim` elements, with its scales.
    pub fn head_bytes(self, dim: usize) -> usize {
        match self {
            KvType::F32 => dim * 4,
            KvType::F16 => dim * 2,
            KvType::Q8_0 => dim.div_ceil(KV_GROUP) * (KV_GROUP + 2),
        }
    }

    /// Whether heads of `dim` elements can be kept.
    ///
    /// # Errors
    /// [`HeadSizeError`] if they cannot.
    pub fn takes(self, dim: usize) -> Result<(), HeadSizeError> {
        match self {
            KvType::Q8_0 if !dim.is_multiple_of(KV_GROUP) => Err(HeadSizeError { dim, kv_type: self }),
            KvType::F32 | KvType::F16 | KvType::Q8_0 => Ok(()),
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
        let head = self.kv_type.head_bytes(self.head_dim) + self.kv_type.head_bytes(self.head_dim_v);
        (self.n_layer * self.n_head_kv * head) as u64
    }

    /// Bytes of one layer's keys in a block.
    pub fn key_bytes(&self) -> usize {
        self.n_head_kv * KV_BLOCK_TOKENS * self.kv_type.head_bytes(self.head_dim)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_takes_34_bytes_for_32_elements() {
        let group = CacheGroup {
            name: "full".into(),
            n_layer: 3,
            n_head_kv: 2,
            head_dim: 96,
            head_dim_v: 64,
            window: None,
            kv_type: KvType::Q8_0,
            part: 0,
        };
        assert_eq!(group.token_bytes(), 3 * 2 * (3 + 2) * 34);
        assert_eq!(group.key_bytes(), 2 * 3 * 34 * 32);
        assert_eq!(group.block_bytes(), 3 * 2 * 5 * 34 * 32);
        assert!(group.key_bytes().is_multiple_of(64) && group.block_bytes().is_multiple_of(64));
    }

    #[test]
    fn q8_0_refuses_other_sizes() {
        let error = KvType::Q8_0.takes(80).expect_err("80 is no multiple of 32").to_string();
        assert!(error.contains("80") && error.contains("q8_0") && error.contains("f16"), "{error}");
        assert_eq!(KvType::Q8_0.takes(96), Ok(()));
        assert_eq!(KvType::F16.takes(80), Ok(()));
    }
}
