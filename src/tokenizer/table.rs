//! The two look-up tables of a vocabulary: text to id, and pair of ids to merge.
//!
//! Both are sized once, probe linearly and hash with a seed of this process: a hostile file cannot
//! choose tokens that collide and so make loading quadratic.

use std::hash::{BuildHasher, Hasher, RandomState};

const K1: u64 = 0x9E37_79B9_7F4A_7C15;
const K2: u64 = 0xD6E8_FEB8_6659_FD93;

/// A random number that stays the same for one table.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

/// Multiplies into 128 bits and folds the halves: every input bit reaches every output bit.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

/// Hash of some bytes.
#[inline]
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut h = seed ^ (bytes.len() as u64).wrapping_mul(K1);
    let (chunks, tail) = bytes.as_chunks::<8>();
    for chunk in chunks {
        h = fold(h ^ u64::from_le_bytes(*chunk), K2 ^ seed);
    }
    let mut last = 0u64;
    for &b in tail {
        last = last << 8 | u64::from(b);
    }
    fold(h ^ last, K1 ^ seed)
}

/// Strings in one piece of memory, addressed by id.
#[derive(Debug, Default)]
pub(super) struct Blob {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Blob {
    /// An empty blob with room for `strings` strings of `bytes` bytes together.
    pub fn with_capacity(strings: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// Appends a string; `false` if the blob would pass 4 GiB.
    pub fn push(&mut self, s: &[u8]) -> bool {
        self.bytes.extend_from_slice(s);
        let end = u32::try_from(self.bytes.len());
        self.ends.push(end.unwrap_or(u32::MAX));
        end.is_ok()
    }

    /// String `id`; empty if there is none.
    #[inline]
    pub fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start as usize..end as usize]
    }
}

/// Text to id. The texts themselves lie in a [`Blob`].
#[derive(Debug)]
pub(super) struct Texts {
    seed: u64,
    mask: usize,
    /// Upper half: 32 bits of the hash, so that a probe rarely touches the blob; lower: id + 1.
    slots: Vec<u64>,
}

impl Texts {
    /// A table for `n` texts.
    pub fn with_capacity(n: usize) -> Self {
        let size = (n * 2).next_power_of_two().max(16);
        Self { seed: seed(), mask: size - 1, slots: vec![0; size] }
    }

    /// Enters string `id` of `blob`; the id of the same text if it is there already.
    pub fn insert(&mut self, blob: &Blob, id: u32) -> Option<u32> {
        let text = blob.get(id);
        let h = hash(self.seed, text);
        let mut at = h as usize & self.mask;
        while self.slots[at] != 0 {
            let found = self.slots[at] as u32 - 1;
            if self.slots[at] >> 32 == h >> 32 && blob.get(found) == text {
                return Some(found);
            }
            at = (at + 1) & self.mask;
        }
        self.slots[at] = (h >> 32 << 32) | u64::from(id + 1);
        None
    }

    /// The id of `text`.
    #[inline]
    pub fn get(&self, blob: &Blob, text: &[u8]) -> Option<u32> {
        let h = hash(self.seed, text);
        let mut at = h as usize & self.mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            let id = slot as u32 - 1;
            if slot >> 32 == h >> 32 && blob.get(id) == text {
                return Some(id);
            }
            at = (at + 1) & self.mask;
        }
    }
}

/// Pair of ids to the merge that joins them.
#[derive(Debug)]
pub(super) struct Pairs {
    seed: u64,
    mask: usize,
    slots: Vec<Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    key: u64,
    rank: u32,
    id: u32,
}

/// No pair of ids: both halves are above the largest vocabulary.
const FREE: u64 = u64::MAX;

impl Pairs {
    /// A table for `n` pairs.
    pub fn with_capacity(n: usize) -> Self {
        let size = (n * 2).next_power_of_two().max(16);
        Self { seed: seed(), mask: size - 1, slots: vec![Pair { key: FREE, rank: 0, id: 0 }; size] }
    }

    /// Enters a merge. Of two merges of one pair the first counts.
    pub fn insert(&mut self, left: u32, right: u32, rank: u32, id: u32) {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = fold(key ^ self.seed, K2) as usize & self.mask;
        while self.slots[at].key != FREE {
            if self.slots[at].key == key {
                return;
            }
            at = (at + 1) & self.mask;
        }
        self.slots[at] = Pair { key, rank, id };
    }

    /// Rank and merged id of a pair.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut at = fold(key ^ self.seed, K2) as usize & self.mask;
        loop {
            let slot = self.slots[at];
            if slot.key == key {
                return Some((slot.rank, slot.id));
            }
            if slot.key == FREE {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }
}
