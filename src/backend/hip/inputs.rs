//! The arrays of a step: one piece of pinned memory that goes to the device in one copy.
//!
//! All but the block tables lie at fixed places, which recorded steps rely on. The tables come
//! last, so that no more is copied than a step has.

use super::Options;
use super::places::ALIGNMENT;
use super::program::{TILE_QUERIES, Target};
use crate::backend::BackendError;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::batch::Batch;

/// Bytes of a span on the device: start, length, position, first table entry.
const SPAN: usize = 16;
/// Bytes of a tile: span, first query.
const TILE: usize = 8;

/// Where the arrays lie.
#[derive(Clone, Debug)]
pub struct Inputs {
    tokens: usize,
    positions: usize,
    outputs: usize,
    tiles: usize,
    /// A cache group's spans, by group.
    spans: Vec<usize>,
    /// A cache group's slots, by group.
    slots: Vec<usize>,
    tables: usize,
    max_spans: usize,
    table_entries: usize,
    /// Bytes of all arrays.
    bytes: usize,
}

/// What a filled step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Bytes to copy.
    pub bytes: usize,
    /// Spans of one token at the batch's start.
    pub decodes: u32,
    /// Tiles of the other spans.
    pub tiles: u32,
    /// Most keys of one of the `decodes` spans.
    pub keys: u32,
}

impl Inputs {
    /// Arrays for steps within `options` on `n_groups` cache groups.
    pub fn new(options: &Options, n_groups: usize) -> Self {
        let mut end = 0;
        let mut array = |bytes: usize| {
            let start = end;
            end += bytes.next_multiple_of(ALIGNMENT as usize);
            start
        };
        let max_tiles = options.max_tokens.div_ceil(TILE_QUERIES as usize) + options.max_spans;
        let tokens = array(4 * options.max_tokens);
        let positions = array(4 * options.max_tokens);
        let outputs = array(4 * options.max_outputs);
        let tiles = array(TILE * max_tiles);
        let spans = (0..n_groups).map(|_| array(SPAN * options.max_spans)).collect();
        let slots = (0..n_groups).map(|_| array(8 * options.max_tokens)).collect();
        let table_entries = options.table_entries * n_groups;
        let tables = array(8 * table_entries);
        let max_spans = options.max_spans;
        Self { tokens, positions, outputs, tiles, spans, slots, tables, max_spans, table_entries, bytes: end }
    }

    /// Bytes of all arrays.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the array that `target` names begins; `None` if it names none.
    pub fn offset(&self, target: Target) -> Option<usize> {
        Some(match target {
            Target::Tokens => self.tokens,
            Target::Positions => self.positions,
            Target::Outputs => self.outputs,
            Target::Tiles => self.tiles,
            Target::Spans(group) => self.spans[group as usize],
            Target::Slots(group) => self.slots[group as usize],
            Target::Tables => self.tables,
            _ => return None,
        })
    }

    /// Writes the arrays of `batch`, which was checked, to `to`; `address(group, block)` is where
    /// a block lies.
    ///
    /// # Errors
    /// [`BackendError::Batch`] for more spans or table entries than there is room for.
    pub fn fill(
        &self,
        to: &mut [u8],
        batch: &Batch,
        address: impl Fn(usize, u32) -> u64,
    ) -> Result<Filled, BackendError> {
        if batch.spans.len() > self.max_spans {
            let what = format!("{} spans, most {}", batch.spans.len(), self.max_spans);
            return Err(BackendError::Batch(what));
        }
        words(to, self.tokens, &batch.tokens);
        words(to, self.positions, &batch.positions);
        words(to, self.outputs, &batch.outputs);
        let decodes = batch.spans.iter().take_while(|s| s.len == 1).count();
        let keys = batch.spans[..decodes].iter().map(|s| s.pos + 1).max().unwrap_or(0);
        let mut tiles = 0;
        for (i, span) in batch.spans.iter().enumerate().skip(decodes) {
            for first in (0..span.len as u32).step_by(TILE_QUERIES as usize) {
                words(to, self.tiles + TILE * tiles, &[i as u32, first]);
                tiles += 1;
            }
        }
        let mut entry = 0;
        for group in 0..self.spans.len() {
            for (i, span) in batch.spans.iter().enumerate() {
                let table = batch.table(group, i);
                // Tables cover at least the span; what is beyond it is of no interest.
                let used = (span.pos as usize + span.len).div_ceil(KV_BLOCK_TOKENS).min(table.len());
                if entry + used > self.table_entries {
                    let what = format!("block tables of over {} entries", self.table_entries);
                    return Err(BackendError::Batch(what));
                }
                let numbers = [span.start as u32, span.len as u32, span.pos, entry as u32];
                words(to, self.spans[group] + SPAN * i, &numbers);
                for (j, block) in table[..used].iter().enumerate() {
                    long(to, self.tables + 8 * (entry + j), address(group, *block));
                }
                for t in 0..span.len {
                    let block = table[(span.pos as usize + t) / KV_BLOCK_TOKENS];
                    long(to, self.slots[group] + 8 * (span.start + t), address(group, block));
                }
                entry += used;
            }
        }
        Ok(Filled { bytes: self.tables + 8 * entry, decodes: decodes as u32, tiles: tiles as u32, keys })
    }
}

fn words(to: &mut [u8], at: usize, words: &[u32]) {
    for (to, word) in to[at..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
}

fn long(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::batch::NO_BLOCK;

    fn options() -> Options {
        Options { max_tokens: 64, max_outputs: 8, max_spans: 4, table_entries: 12, ..Options::default() }
    }

    fn batch() -> Batch {
        let mut batch = Batch::default();
        batch.push(&[7], 40, [0]);
        batch.push(&[8], 3, [0]);
        batch.push(&(0..20).collect::<Vec<u32>>(), 30, [19]);
        for group in 0..2u32 {
            batch.push_table(&[if group == 1 { NO_BLOCK } else { 1 }, 2]);
            batch.push_table(&[3]);
            batch.push_table(&[4, 5]);
        }
        batch
    }

    fn address(group: usize, block: u32) -> u64 {
        if block == NO_BLOCK { 0 } else { (group as u64 + 1) << 32 | u64::from(block) }
    }

    #[test]
    fn arrays_hold_what_kernels_read() {
        let inputs = Inputs::new(&options(), 2);
        let mut to = vec![0xff; inputs.bytes()];
        let filled = inputs.fill(&mut to, &batch(), address).expect("fits");
        assert_eq!(filled, Filled { bytes: inputs.tables + 8 * 10, decodes: 2, tiles: 2, keys: 41 });
        let word = |target, i: usize| {
            let at = inputs.offset(target).expect("an array") + 4 * i;
            u32::from_le_bytes(*to[at..].first_chunk().expect("inside"))
        };
        let long = |target, i| u64::from(word(target, 2 * i)) | u64::from(word(target, 2 * i + 1)) << 32;
        assert_eq!([0, 1, 2, 21].map(|i| word(Target::Tokens, i)), [7, 8, 0, 19]);
        assert_eq!([0, 1, 2, 21].map(|i| word(Target::Positions, i)), [40, 3, 30, 49]);
        assert_eq!([0, 1, 2].map(|i| word(Target::Outputs, i)), [0, 1, 21]);
        assert_eq!([0, 1, 2, 3].map(|i| word(Target::Tiles, i)), [2, 0, 2, 16]);
        for group in 0..2 {
            let span = |i: usize| [0, 1, 2, 3].map(|j| word(Target::Spans(group), 4 * i + j));
            let tables = 5 * group;
            assert_eq!([0, 1, 2].map(span), [[0, 1, 40, tables], [1, 1, 3, tables + 2], [2, 20, 30, tables + 3]]);
            // Token 0 is in the second block of its table, 2 and 3 in the first of theirs, 4 in the next.
            let block = |i| long(Target::Slots(group), i);
            let of = |b| address(group as usize, b);
            assert_eq!([0, 1, 2, 3, 4].map(block), [2, 3, 4, 4, 5].map(of));
            assert_eq!(long(Target::Tables, tables as usize + 1), of(2));
        }
        assert_eq!(long(Target::Tables, 0), address(0, 1));
        assert_eq!(long(Target::Tables, 5), 0, "a block before the window");
    }

    #[test]
    fn too_much_is_refused() {
        let small = |change: &dyn Fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            let inputs = Inputs::new(&options, 2);
            inputs.fill(&mut vec![0; inputs.bytes()], &batch(), address).expect_err("too much").to_string()
        };
        assert!(small(&|o| o.max_spans = 2).contains("3 spans, most 2"));
        assert!(small(&|o| o.table_entries = 4).contains("block tables of over 8 entries"));
    }
}
