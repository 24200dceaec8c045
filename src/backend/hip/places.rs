//! Where things lie in device memory, as numbers: chunks that are allocated and freed as a whole,
//! and places in them. No device is needed to count bytes exactly.

use crate::base::limits::GPU_CHUNK_BYTES;

/// Every place starts at a multiple of this: whole cache lines and the widest loads.
pub const ALIGNMENT: u64 = 256;

/// A place in one of the chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which chunk.
    pub chunk: usize,
    /// Bytes from its start.
    pub offset: u64,
    /// Bytes of the place.
    pub bytes: u64,
}

/// Chunks in the making.
#[derive(Clone, Debug)]
pub struct Places {
    limit: u64,
    chunks: Vec<u64>,
}

impl Default for Places {
    fn default() -> Self {
        Self::new(GPU_CHUNK_BYTES)
    }
}

impl Places {
    /// No chunks yet; each will hold up to `limit` bytes, or one place that is larger.
    pub fn new(limit: u64) -> Self {
        Self { limit, chunks: Vec::new() }
    }

    /// A place for `bytes` bytes.
    pub fn add(&mut self, bytes: u64) -> Place {
        // A place of no bytes takes one, so that each has an address of its own.
        let room = bytes.max(1);
        let chunk = self.chunks.len();
        match self.chunks.last_mut() {
            Some(end) if end.next_multiple_of(ALIGNMENT) + room <= self.limit => {
                let offset = end.next_multiple_of(ALIGNMENT);
                *end = offset + room;
                Place { chunk: chunk - 1, offset, bytes }
            }
            _ => {
                self.chunks.push(room);
                Place { chunk, offset: 0, bytes }
            }
        }
    }

    /// Bytes of each chunk.
    pub fn chunks(&self) -> &[u64] {
        &self.chunks
    }

    /// Bytes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_do_not_meet_and_bytes_are_exact(sizes in prop::collection::vec(0u64..5000, 1..60), limit in 0u64..8192) {
            let mut places = Places::new(limit);
            let all: Vec<Place> = sizes.iter().map(|&s| places.add(s)).collect();
            for (i, a) in all.iter().enumerate() {
                prop_assert_eq!(a.offset % ALIGNMENT, 0);
                prop_assert!(a.offset + a.bytes <= places.chunks()[a.chunk]);
                for b in &all[..i] {
                    let apart = a.offset >= b.offset + b.bytes || b.offset >= a.offset + a.bytes;
                    prop_assert!(a.chunk != b.chunk || (apart && a.offset != b.offset));
                }
            }
            // No chunk is longer than what is in it.
            for (i, &bytes) in places.chunks().iter().enumerate() {
                let ends = all.iter().filter(|p| p.chunk == i).map(|p| p.offset + p.bytes.max(1));
                prop_assert_eq!(Some(bytes), ends.max());
            }
            // Only a place that is larger by itself makes a chunk larger than the limit.
            for (i, &bytes) in places.chunks().iter().enumerate() {
                prop_assert!(bytes <= limit || all.iter().filter(|p| p.chunk == i).count() == 1);
            }
        }
    }
}
