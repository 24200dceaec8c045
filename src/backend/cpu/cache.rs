//! Keys and values: slabs of zeroed memory, and how the ops find a block in them.

use half::f16;
use memmap2::{Advice, MmapMut};

use crate::backend::BackendError;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::cache::{CacheGroup, KV_GROUP, KvType};
use crate::quant::quantize;
use crate::simd::Tier;
use crate::simd::convert::f32_to_f16;

/// One cache group's memory.
pub struct Cache {
    group: CacheGroup,
    /// Slab `i` holds blocks `i * slab_blocks ..`.
    slabs: Vec<Option<MmapMut>>,
    slab_blocks: usize,
    block_bytes: usize,
}

impl Cache {
    /// An empty cache.
    pub fn new(group: CacheGroup) -> Self {
        let (slab_blocks, block_bytes) = (group.slab_blocks(), group.block_bytes() as usize);
        Self { group, slabs: Vec::new(), slab_blocks, block_bytes }
    }

    /// What it holds.
    pub fn group(&self) -> &CacheGroup {
        &self.group
    }

    /// Adds a slab; returns its first block.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] if the system does not map it.
    pub fn add_slab(&mut self) -> Result<u32, BackendError> {
        let slab = MmapMut::map_anon(self.slab_blocks * self.block_bytes).map_err(|_| BackendError::OutOfMemory {
            device: "cpu".to_owned(),
            bytes: self.group.slab_bytes(),
            what: format!("a slab of the {} cache", self.group.name),
        })?;
        // Refused where huge pages are off: slower, not wrong.
        let _ = slab.advise(Advice::HugePage);
        let index = match self.slabs.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.slabs.push(None);
                self.slabs.len() - 1
            }
        };
        self.slabs[index] = Some(slab);
        Ok((index * self.slab_blocks) as u32)
    }

    /// Gives a slab back to the system.
    pub fn remove_slab(&mut self, first: u32) {
        if let Some(slab) = self.slabs.get_mut(first as usize / self.slab_blocks) {
            *slab = None;
        }
    }

    /// Whether `block` lies in a slab.
    pub fn has(&self, block: u32) -> bool {
        self.slabs.get(block as usize / self.slab_blocks).is_some_and(Option::is_some)
    }

    /// Bytes of a layer in a block.
    fn layer_bytes(&self) -> usize {
        self.block_bytes / self.group.n_layer
    }

    /// Keys and values of head `head` of layer `slot` in `block`, each [`KV_BLOCK_TOKENS`] rows and what
    /// belongs to them.
    ///
    /// # Panics
    /// If there is no such block: the batch's tables were checked.
    pub fn head(&self, block: u32, slot: u32, head: usize) -> (&[u8], &[u8]) {
        let (slab, at) = (block as usize / self.slab_blocks, block as usize % self.slab_blocks);
        let Some(slab) = &self.slabs[slab] else { panic!("block {block} of the {} cache is gone", self.group.name) };
        let layer = &slab[at * self.block_bytes + slot as usize * self.layer_bytes()..][..self.layer_bytes()];
        let (keys, values) = layer.split_at(self.group.key_bytes());
        let k = keys.len() / self.group.n_head_kv;
        let v = values.len() / self.group.n_head_kv;
        (&keys[head * k..][..k], &values[head * v..][..v])
    }

    /// Writes the keys and values of one token, all heads, at `position` of `block`.
    ///
    /// # Panics
    /// As [`Cache::head`].
    pub fn store(&mut self, tier: Tier, block: u32, slot: u32, position: usize, k: &[f32], v: &[f32]) {
        let (slab, at) = (block as usize / self.slab_blocks, block as usize % self.slab_blocks);
        let start = at * self.block_bytes + slot as usize * self.layer_bytes();
        let (len, key_bytes) = (self.layer_bytes(), self.group.key_bytes());
        let Some(slab) = &mut self.slabs[slab] else {
            panic!("block {block} of the {} cache is gone", self.group.name)
        };
        let (keys, values) = slab[start..start + len].split_at_mut(key_bytes);
        put(tier, self.group.kv_type, keys, position, k, self.group.head_dim);
        put(tier, self.group.kv_type, values, position, v, self.group.head_dim_v);
    }
}

/// Writes each head of `x` to its row `position` in `to`, a layer's keys or values.
fn put(tier: Tier, kv_type: KvType, to: &mut [u8], position: usize, x: &[f32], dim: usize) {
    let bytes = kv_type.head_bytes(dim);
    for (rows, head) in to.chunks_exact_mut(KV_BLOCK_TOKENS * bytes).zip(x.chunks_exact(dim)) {
        match kv_type {
            KvType::F32 => {
                let row = &mut rows[position * bytes..][..bytes];
                for (to, x) in row.as_chunks_mut::<4>().0.iter_mut().zip(head) {
                    *to = x.to_le_bytes();
                }
            }
            KvType::F16 => {
                let row = &mut rows[position * bytes..][..bytes];
                let mut halves = [f16::ZERO; 64];
                for (row, head) in row.chunks_mut(128).zip(head.chunks(64)) {
                    let halves = &mut halves[..head.len()];
                    f32_to_f16(tier, head, halves);
                    for (to, x) in row.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
                        *to = x.to_le_bytes();
                    }
                }
            }
            KvType::Q8_0 => {
                let (codes, scales) = rows.split_at_mut(KV_BLOCK_TOKENS * dim);
                let codes = codes[position * dim..][..dim].chunks_mut(8 * KV_GROUP);
                let scales = scales.chunks_mut(8 * KV_BLOCK_TOKENS * 2);
                for ((codes, scales), x) in codes.zip(scales).zip(head.chunks(8 * KV_GROUP)) {
                    put_q8_0(tier, codes, scales, position, x);
                }
            }
        }
    }
}

/// Writes up to eight groups of a row: their codes, and their scales to place `position` of each group.
fn put_q8_0(tier: Tier, codes: &mut [u8], scales: &mut [u8], position: usize, x: &[f32]) {
    let (mut q, mut d, mut sums) = ([0_i8; 8 * KV_GROUP], [0.0; 8], [0.0; 16]);
    let groups = x.len() / KV_GROUP;
    quantize(tier, x, &mut q[..x.len()], &mut d[..groups], &mut sums[..groups * 2]);
    for (to, q) in codes.iter_mut().zip(q) {
        *to = q.cast_unsigned();
    }
    let mut halves = [f16::ZERO; 8];
    f32_to_f16(tier, &d, &mut halves);
    for (scales, half) in scales.chunks_exact_mut(KV_BLOCK_TOKENS * 2).zip(halves) {
        scales[position * 2..][..2].copy_from_slice(&half.to_le_bytes());
    }
}
