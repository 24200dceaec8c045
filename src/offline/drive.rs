//! Sequences on a backend without an engine: block tables and steps, one after the other.
//!
//! The simplest caller of [`Backend`]: it has all the memory it asks for and nobody waits. `eval`
//! and the tests of models run on it.

use std::ops::Range;
use std::time::Duration;

use crate::backend::{Backend, BackendError, Output};
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::batch::{Batch, NO_BLOCK};
use crate::plan::cache::CacheGroup;
use crate::plan::op::CacheId;

/// Longest wait for a step.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Tokens of one sequence in a step.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The sequence; it occurs once in a step.
    pub sequence: usize,
    /// Its next tokens.
    pub tokens: &'a [u32],
    /// Which of them need logits.
    pub outputs: Range<usize>,
}

/// Runs steps of several sequences on a backend.
pub struct Driver {
    backend: Box<dyn Backend>,
    groups: Vec<CacheGroup>,
    /// For each group blocks that no sequence uses.
    free: Vec<Vec<u32>>,
    sequences: Vec<Sequence>,
    batch: Batch,
}

struct Sequence {
    /// Tokens in the cache.
    len: usize,
    /// For each group its block table.
    tables: Vec<Vec<u32>>,
}

impl Driver {
    /// A driver without sequences; `groups` are the caches of the backend's plan.
    pub fn new(backend: Box<dyn Backend>, groups: Vec<CacheGroup>) -> Self {
        let free = vec![Vec::new(); groups.len()];
        Self { backend, groups, free, sequences: Vec::new(), batch: Batch::default() }
    }

    /// Device of the backend.
    pub fn device(&self) -> String {
        self.backend.device()
    }

    /// A new, empty sequence.
    pub fn add(&mut self) -> usize {
        self.sequences.push(Sequence { len: 0, tables: vec![Vec::new(); self.groups.len()] });
        self.sequences.len() - 1
    }

    /// Makes a sequence empty again.
    pub fn clear(&mut self, sequence: usize) {
        let s = &mut self.sequences[sequence];
        s.len = 0;
        for (table, free) in s.tables.iter_mut().zip(&mut self.free) {
            free.extend(table.drain(..).filter(|b| *b != NO_BLOCK));
        }
    }

    /// Runs a step and waits for it.
    ///
    /// # Errors
    /// Whatever the backend says; the sequences are useless then.
    pub fn step(&mut self, parts: &[Part]) -> Result<Output<'_>, BackendError> {
        for group in 0..self.groups.len() {
            for part in parts {
                self.cover(group, part)?;
            }
        }
        self.batch.clear();
        for part in parts {
            let len = self.sequences[part.sequence].len;
            self.batch.push(part.tokens, len as u32, part.outputs.clone());
        }
        for group in 0..self.groups.len() {
            for part in parts {
                self.batch.push_table(&self.sequences[part.sequence].tables[group]);
            }
        }
        for part in parts {
            self.sequences[part.sequence].len += part.tokens.len();
        }
        self.backend.submit(&self.batch, &[])?;
        self.backend.poll(PATIENCE)?.ok_or_else(|| BackendError::Lost("no answer within an hour".to_owned()))
    }

    /// Gives a sequence blocks for its next tokens; takes those back that its window has left.
    fn cover(&mut self, group: usize, part: &Part) -> Result<(), BackendError> {
        let sequence = &mut self.sequences[part.sequence];
        let table = &mut sequence.tables[group];
        if let Some(window) = self.groups[group].window {
            // The next token sees keys of positions above `len - window`.
            let hidden = (sequence.len + 1).saturating_sub(window as usize) / KV_BLOCK_TOKENS;
            for block in table.iter_mut().take(hidden).filter(|b| **b != NO_BLOCK) {
                self.free[group].push(std::mem::replace(block, NO_BLOCK));
            }
        }
        let needed = (sequence.len + part.tokens.len()).div_ceil(KV_BLOCK_TOKENS);
        while table.len() < needed {
            if self.free[group].is_empty() {
                let first = self.backend.add_slab(CacheId(group as u32))?;
                let blocks = self.groups[group].slab_blocks() as u32;
                self.free[group].extend((first..first + blocks).rev());
            }
            table.extend(self.free[group].pop());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::plan::cache::KvType;

    /// A backend that keeps tokens where their keys would be and gives, as the only logit, the
    /// sum of `token` over what the last group lets a token see.
    #[derive(Default)]
    struct Cells {
        windows: Vec<Option<u32>>,
        cells: HashMap<(usize, u32), (u32, u32)>,
        n_blocks: Vec<u32>,
        logits: Vec<f32>,
    }

    const SLAB: u32 = 2;

    fn group(window: Option<u32>) -> CacheGroup {
        CacheGroup {
            name: "test".to_owned(),
            n_layer: 1,
            n_head_kv: 1,
            // Two blocks fill a slab.
            head_dim: (crate::base::limits::KV_SLAB_BYTES as usize / 2 / SLAB as usize / KV_BLOCK_TOKENS) / 4,
            head_dim_v: (crate::base::limits::KV_SLAB_BYTES as usize / 2 / SLAB as usize / KV_BLOCK_TOKENS) / 4,
            window,
            kv_type: KvType::F32,
            part: 0,
        }
    }

    impl Backend for Cells {
        fn device(&self) -> String {
            "cells".to_owned()
        }

        fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
            let n = &mut self.n_blocks[group.0 as usize];
            *n += SLAB;
            Ok(*n - SLAB)
        }

        fn remove_slab(&mut self, _: CacheId, _: u32) {}

        fn submit(&mut self, batch: &Batch, _input: &[f32]) -> Result<(), BackendError> {
            self.logits.clear();
            for (group, window) in self.windows.clone().into_iter().enumerate() {
                for (i, span) in batch.spans.iter().enumerate() {
                    let table = batch.table(group, i);
                    let cell = |pos: u32| table[pos as usize / KV_BLOCK_TOKENS] * 32 + pos % 32;
                    for t in span.start..span.start + span.len {
                        let pos = batch.positions[t];
                        assert!(table[pos as usize / KV_BLOCK_TOKENS] < self.n_blocks[group]);
                        self.cells.insert((group, cell(pos)), (batch.tokens[t], pos));
                    }
                    for &t in
                        batch.outputs.iter().filter(|t| (span.start..span.start + span.len).contains(&(**t as usize)))
                    {
                        let pos = batch.positions[t as usize];
                        let first = window.map_or(0, |w| (pos + 1).saturating_sub(w));
                        let sum = (first..=pos).map(|p| {
                            let (token, at) = self.cells[&(group, cell(p))];
                            assert_eq!(at, p, "another position's key");
                            token
                        });
                        let sum = sum.sum::<u32>() as f32;
                        if group + 1 == self.windows.len() {
                            self.logits.push(sum);
                        }
                    }
                }
            }
            Ok(())
        }

        fn poll(&mut self, _: Duration) -> Result<Option<Output<'_>>, BackendError> {
            Ok(Some(Output { rows: &self.logits, width: 1 }))
        }
    }

    #[test]
    fn tokens_see_their_own_sequence_and_windows_give_blocks_back() {
        assert_eq!(group(None).slab_blocks(), SLAB as usize);
        let groups = vec![group(None), group(Some(40))];
        let cells = Cells { windows: vec![None, Some(40)], n_blocks: vec![0; 2], ..Cells::default() };
        let mut driver = Driver::new(Box::new(cells), groups);
        let sequences = [driver.add(), driver.add()];
        let tokens: Vec<u32> = (0..300).collect();
        let mut at = [0usize; 2];
        for (i, step) in [5, 1, 30, 1, 33, 1, 37, 1, 64, 90].into_iter().enumerate() {
            let ends = [at[0] + step, at[1] + 1 + i % 2];
            let part = |s: usize| {
                let tokens = &tokens[at[s]..ends[s]];
                Part { sequence: sequences[s], tokens, outputs: tokens.len() - 1..tokens.len() }
            };
            let (a, b) = (part(0), part(1));
            let logits = driver.step(&[a, b]).expect("a step").rows.to_vec();
            let visible = |end: usize| tokens[end.saturating_sub(40)..end].iter().sum::<u32>() as f32;
            assert_eq!(logits, [visible(ends[0]), visible(ends[1])]);
            at = ends;
        }
        // 263 tokens need nine blocks; of a window of 40 most of them are free again or reused.
        let hidden = driver.sequences[0].tables[1].iter().filter(|b| **b == NO_BLOCK).count();
        assert_eq!(hidden, (at[0] - 90 + 1 - 40) / 32);
        driver.clear(sequences[0]);
        driver.clear(sequences[1]);
        let logits = driver.step(&[Part { sequence: sequences[1], tokens: &[7], outputs: 0..1 }]).expect("a step").rows;
        assert_eq!(logits, [7.0]);
        let taken: usize = driver.sequences[1].tables.iter().map(Vec::len).sum();
        assert_eq!(taken, 2);
    }
}
