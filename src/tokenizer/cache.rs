//! Words met before and their ids: text repeats itself, and most of the time of encoding is merging.

use super::table::hash;
use std::sync::{Mutex, PoisonError};

/// Longest word that is remembered, in bytes, and most ids of one.
const KEY: usize = 27;
const IDS: usize = 8;
/// Words remembered: a power of two. With 64 bytes each the cache stays in a core's L2.
const SLOTS: usize = 8192;
/// Caches kept for later calls: as many calls may encode at once without starting cold.
const KEPT: usize = 4;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Slot {
    ids: [u32; IDS],
    /// Bytes of the word; 0 is a free slot.
    len: u8,
    n: u8,
    key: [u8; KEY],
}

/// A cache of words: direct-mapped, so bounded, and a new word takes the place of an old one.
pub(super) struct Cache {
    slots: Box<[Slot]>,
}

impl Cache {
    fn new() -> Self {
        Self { slots: vec![Slot { ids: [0; IDS], len: 0, n: 0, key: [0; KEY] }; SLOTS].into_boxed_slice() }
    }

    #[inline]
    fn at(word: &[u8]) -> usize {
        hash(0x5851_F42D_4C95_7F2D, word) as usize & (SLOTS - 1)
    }

    /// The ids of `word`, if it is remembered.
    #[inline]
    pub fn get(&self, word: &[u8]) -> Option<&[u32]> {
        if word.is_empty() || word.len() > KEY {
            return None;
        }
        let slot = &self.slots[Self::at(word)];
        (slot.len as usize == word.len() && slot.key[..word.len()] == *word).then(|| &slot.ids[..slot.n as usize])
    }

    /// Remembers the ids of `word`, if both are short.
    #[inline]
    pub fn put(&mut self, word: &[u8], ids: &[u32]) {
        if word.is_empty() || word.len() > KEY || ids.len() > IDS {
            return;
        }
        let slot = &mut self.slots[Self::at(word)];
        slot.len = word.len() as u8;
        slot.key[..word.len()].copy_from_slice(word);
        slot.n = ids.len() as u8;
        slot.ids[..ids.len()].copy_from_slice(ids);
    }
}

/// Caches that no call uses at the moment.
#[derive(Default)]
pub(super) struct Caches(Mutex<Vec<Cache>>);

impl Caches {
    /// Runs `f` with a cache of its own; the lock is not held meanwhile.
    pub fn with<R>(&self, f: impl FnOnce(&mut Cache) -> R) -> R {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut cache = kept.unwrap_or_else(Cache::new);
        let result = f(&mut cache);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(cache);
        }
        result
    }
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caches")
    }
}
