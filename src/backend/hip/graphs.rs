//! Recorded decode steps: one launch for all of a step's kernels.
//!
//! Addresses never change and a step's numbers are in its arrays, so that a recording serves every
//! step of as many tokens whose keys are split into as many parts.

use super::program::GEMV_MAX;
use super::stream::Graph;
use crate::base::limits::GPU_SPLITS_MAX;

/// Powers of two up to the most parts.
const BUCKETS: usize = GPU_SPLITS_MAX.ilog2() as usize + 2;

/// Recordings, made when a step is first needed.
#[derive(Default)]
pub struct Graphs {
    /// The runtime cannot record: everything is launched one by one.
    off: bool,
    graphs: [[Option<Graph>; BUCKETS]; GEMV_MAX as usize],
}

/// Which recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    tokens: usize,
    bucket: usize,
}

impl Graphs {
    /// The recording that a step takes: only steps of a few single tokens that all want logits.
    /// `keys` is the length on which the parts depend, see [`bucket`].
    pub fn key(&self, tokens: u32, outputs: u32, decodes: u32, keys: u32) -> Option<Key> {
        let plain = tokens == outputs && tokens == decodes && (1..=GEMV_MAX).contains(&tokens);
        (plain && !self.off).then(|| Key { tokens: tokens as usize - 1, bucket: bucket(keys) })
    }

    /// The recording, if it was made.
    pub fn get(&self, key: Key) -> Option<&Graph> {
        self.graphs[key.tokens][key.bucket].as_ref()
    }

    /// Keeps a recording.
    pub fn put(&mut self, key: Key, graph: Graph) {
        self.graphs[key.tokens][key.bucket] = Some(graph);
    }

    /// Makes no more recordings and uses none.
    pub fn turn_off(&mut self) {
        self.off = true;
        self.graphs = Default::default();
    }
}

/// Steps whose longest sequence has so many keys share a recording.
pub fn bucket(keys: u32) -> usize {
    let parts = keys.div_ceil(super::buffers::PART_KEYS).max(1).next_power_of_two();
    (parts.ilog2() as usize).min(BUCKETS - 1)
}

/// The most keys of a bucket: the number from which parts are computed, so that they are the same
/// for all its steps.
pub fn bucket_keys(bucket: usize) -> u32 {
    if bucket + 1 >= BUCKETS { u32::MAX } else { super::buffers::PART_KEYS << bucket }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::hip::buffers::splits;

    #[test]
    fn steps_of_a_bucket_have_the_same_parts() {
        for keys in [1, 100, 128, 129, 256, 257, 5000, 8192, 8193, 200_000, u32::MAX] {
            let most = bucket_keys(bucket(keys));
            assert!(most >= keys);
            for n_q in 1..9 {
                // Rounded up to a power of two both are the same, except that a window may lie between.
                assert_eq!(splits(keys, n_q, 2, 48), splits(most, n_q, 2, 48), "{keys} keys of {n_q}");
            }
        }
    }

    #[test]
    fn only_plain_decode_steps_are_recorded() {
        let graphs = Graphs::default();
        assert!(graphs.key(3, 3, 3, 10).is_some());
        assert!(graphs.key(3, 2, 3, 10).is_none());
        assert!(graphs.key(3, 3, 2, 10).is_none());
        assert!(graphs.key(9, 9, 9, 10).is_none());
        assert!(graphs.key(0, 0, 0, 0).is_none());
        let mut off = graphs;
        off.turn_off();
        assert!(off.key(3, 3, 3, 10).is_none());
    }
}
