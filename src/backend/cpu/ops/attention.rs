//! Causal attention over the paged cache: an online softmax, block by block (Milakov &
//! Gimelshein 2018; Dao et al. 2022).
//!
//! The query heads that share a key head, for one token or several, are rows of one tile, so that
//! keys and values are read once for all of them. A block's keys become columns of f32, and both
//! products run on the float GEMM's kernel. Decode and prefill are the same code.
//!
//! A row's result is that of a fixed sequence of steps: its blocks in order within a part of
//! [`PART_BLOCKS`], then the parts in order. It does not depend on what else is in the batch, on
//! how a prompt was cut into chunks, or on how parts were given to workers.

mod block;
mod rows;
#[cfg(test)]
mod tests;

use super::gemm::TOKENS;
use super::gemm::float::Column;
use crate::backend::cpu::cache::Cache;
use crate::backend::cpu::workers::{DisjointTiles, PerWorker, Team};
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::batch::{Batch, Span};
use crate::simd::Tier;
use block::Head;
use rows::Rows;

/// Blocks of a part: 512 positions.
const PART_BLOCKS: usize = 16;
/// Most parts of a step that are worked on apart: 131,072 positions of one sequence.
const PARTS_MAX: usize = 256;
/// Rows (tokens times heads) of a tile: enough that turning a block's keys into columns costs
/// little beside the products.
const TILE_ROWS: usize = 48;

/// One layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Elements of a query or key.
    pub head_dim: usize,
    /// Elements of a value.
    pub head_dim_v: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// A key is hidden if it lies this far back or farther.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl Heads {
    /// Query heads of a key head.
    fn group(&self) -> usize {
        self.n_head / self.n_head_kv
    }

    /// Tokens of a tile.
    fn tile_tokens(&self) -> usize {
        (TILE_ROWS / self.group()).max(1)
    }

    /// Most tiles of [`TOKENS`] rows.
    fn row_tiles(&self) -> usize {
        (self.tile_tokens() * self.group()).div_ceil(TOKENS)
    }

    /// First block that a token at `position` sees.
    fn first_block(&self, position: u32) -> usize {
        let first = self.window.map_or(0, |w| (position + 1).saturating_sub(w));
        first as usize / KV_BLOCK_TOKENS
    }

    /// Numbers that a row of a part leaves: its values, maximum and sum.
    fn partial(&self) -> usize {
        self.head_dim_v + 2
    }

    /// Whether parts are ever worked on apart: not if there is nobody to share with.
    fn splits(threads: usize) -> bool {
        threads > 1
    }
}

/// Memory of attention: made at load for all layers of a plan.
pub struct Attend {
    scratch: PerWorker<Scratch>,
    /// Neighbouring tokens of one sequence that are worked on together.
    units: Vec<Unit>,
    /// First token of each unit, and the end of the last.
    cuts: Vec<usize>,
    /// Results of parts, if they are worked on apart: a row for each part, all heads in it.
    partials: Vec<f32>,
    /// For each of these rows its unit and part.
    parts: Vec<(usize, usize)>,
}

/// Tokens of one span.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// Index of the span in the batch.
    span: usize,
    /// First token in the batch.
    token: usize,
    /// Number of tokens.
    len: usize,
    /// Position of the first.
    position: u32,
}

/// One worker's memory.
struct Scratch {
    keys: Vec<Column>,
    values: Vec<Column>,
    rows: Rows,
}

impl Attend {
    /// Memory for layers like `layers` in steps of up to `max_tokens` tokens.
    pub fn new(layers: &[Heads], threads: usize, max_tokens: usize) -> Self {
        let partial = layers.iter().map(|h| h.n_head * h.partial()).max().unwrap_or(0);
        let split = Heads::splits(threads);
        let max = |f: fn(&Heads) -> usize| layers.iter().map(f).max().unwrap_or(0);
        let tiles = max(Heads::row_tiles);
        let (dim, dim_v) = (max(|h| h.head_dim), max(|h| h.head_dim_v));
        Self {
            scratch: PerWorker::new(threads, || Scratch {
                keys: vec![Column::default(); dim],
                values: vec![Column::default(); dim_v.div_ceil(32) * KV_BLOCK_TOKENS],
                rows: Rows::new(tiles, dim, dim_v),
            }),
            units: Vec::with_capacity(max_tokens),
            cuts: Vec::with_capacity(max_tokens + 1),
            partials: vec![0.0; if split { PARTS_MAX * partial } else { 0 }],
            parts: Vec::with_capacity(if split { PARTS_MAX } else { 0 }),
        }
    }

    /// Bytes that [`Attend::new`] allocates.
    pub fn bytes(layers: &[Heads], threads: usize, max_tokens: usize) -> usize {
        let max = |f: fn(&Heads) -> usize| layers.iter().map(f).max().unwrap_or(0);
        let (dim, dim_v) = (max(|h| h.head_dim), max(|h| h.head_dim_v));
        let columns = (dim + dim_v.div_ceil(32) * KV_BLOCK_TOKENS) * size_of::<Column>();
        let partials = match Heads::splits(threads) {
            true => PARTS_MAX * (max(|h| h.n_head * h.partial()) * 4 + size_of::<(usize, usize)>()),
            false => 0,
        };
        threads * (columns + Rows::bytes(max(Heads::row_tiles), dim, dim_v))
            + max_tokens * (size_of::<Unit>() + size_of::<usize>())
            + partials
    }

    /// Attends with the queries `q` (tokens of `batch`, `n_head * head_dim` wide) to layer `slot`
    /// of `cache`, whose block tables are those of group `group`; the tokens' own keys are in it.
    #[expect(clippy::too_many_arguments, reason = "the operands of the op")]
    pub fn attend(
        &mut self,
        team: &mut Team<'_>,
        heads: &Heads,
        cache: &Cache,
        slot: u32,
        batch: &Batch,
        group: usize,
        q: &[f32],
        out: &mut [f32],
    ) {
        self.plan(heads, batch, team.threads());
        let tier = team.tier();
        let width = heads.n_head * heads.head_dim_v;
        let layer = Layer { heads, cache, slot, batch, group, q, tier };
        let (units, scratch) = (&self.units[..], &self.scratch);
        let columns = heads.group() * heads.head_dim_v;
        let across = heads.n_head_kv;
        if self.parts.is_empty() {
            let tiles = DisjointTiles::at(out, width, &self.cuts, columns);
            team.run(&|worker| {
                scratch.with(worker, |s| {
                    while let Some(mut tile) = tiles.take() {
                        let (unit, head) = (units[tile.index() / across], tile.index() % across);
                        s.rows.load(&layer, unit, head);
                        for part in layer.parts(unit) {
                            layer.part(s, unit, head, part);
                            s.rows.end_part(tier);
                        }
                        for i in 0..unit.len {
                            s.rows.result(i, tile.row(unit.token + i));
                        }
                    }
                });
            });
            return;
        }
        let parts = &self.parts[..];
        let partial = heads.n_head * heads.partial();
        let partials = &mut self.partials[..parts.len() * partial];
        let tiles = DisjointTiles::new(partials, partial, 1, heads.group() * heads.partial());
        team.run(&|worker| {
            scratch.with(worker, |s| {
                while let Some(mut tile) = tiles.take() {
                    let ((unit, part), head) = (parts[tile.index() / across], tile.index() % across);
                    s.rows.load(&layer, units[unit], head);
                    layer.part(s, units[unit], head, part);
                    s.rows.save(tile.only_row());
                }
            });
        });
        let partials = &self.partials[..parts.len() * partial];
        let tiles = DisjointTiles::at(out, width, &self.cuts, columns);
        team.run(&|worker| {
            scratch.with(worker, |s| {
                while let Some(mut tile) = tiles.take() {
                    let (unit, head) = (tile.index() / across, tile.index() % across);
                    s.rows.load(&layer, units[unit], head);
                    let first = parts.partition_point(|&(u, _)| u < unit);
                    for (row, _) in parts[first..].iter().take_while(|&&(u, _)| u == unit).enumerate() {
                        let one = heads.group() * heads.partial();
                        s.rows.restore(&partials[(first + row) * partial + head * one..][..one]);
                        s.rows.end_part(tier);
                    }
                    s.rows.result(0, tile.row(units[unit].token));
                }
            });
        });
    }

    /// Divides the batch into units, and into parts if the units alone would leave workers idle.
    fn plan(&mut self, heads: &Heads, batch: &Batch, threads: usize) {
        self.units.clear();
        self.cuts.clear();
        self.parts.clear();
        for (span, &Span { start, len, pos }) in batch.spans.iter().enumerate() {
            for at in (0..len).step_by(heads.tile_tokens()) {
                let len = heads.tile_tokens().min(len - at);
                self.units.push(Unit { span, token: start + at, len, position: pos + at as u32 });
                self.cuts.push(start + at);
            }
        }
        self.cuts.push(batch.tokens.len());
        let single = self.units.iter().all(|u| u.len == 1);
        if !single || !Heads::splits(threads) || self.units.len() * heads.n_head_kv >= threads * 8 {
            return;
        }
        let count = |u: &Unit| parts_of(heads, *u).len();
        let all: usize = self.units.iter().map(count).sum();
        if all > PARTS_MAX || all == self.units.len() {
            return;
        }
        for (i, unit) in self.units.iter().enumerate() {
            self.parts.extend(parts_of(heads, *unit).map(|part| (i, part)));
        }
    }
}

/// Parts with a block that some token of `unit` sees.
fn parts_of(heads: &Heads, unit: Unit) -> std::ops::Range<usize> {
    let last = (unit.position as usize + unit.len - 1) / KV_BLOCK_TOKENS;
    heads.first_block(unit.position) / PART_BLOCKS..last / PART_BLOCKS + 1
}

/// What all workers read.
struct Layer<'a> {
    heads: &'a Heads,
    cache: &'a Cache,
    slot: u32,
    batch: &'a Batch,
    group: usize,
    q: &'a [f32],
    tier: Tier,
}

impl Layer<'_> {
    fn parts(&self, unit: Unit) -> std::ops::Range<usize> {
        parts_of(self.heads, unit)
    }

    /// Goes through the blocks of one part for key head `head`.
    fn part(&self, s: &mut Scratch, unit: Unit, head: usize, part: usize) {
        let heads = self.heads;
        let last = (unit.position as usize + unit.len - 1) / KV_BLOCK_TOKENS;
        let first = heads.first_block(unit.position).max(part * PART_BLOCKS);
        let table = self.batch.table(self.group, unit.span);
        let kv_type = self.cache.group().kv_type;
        let (dim, dim_v) = (heads.head_dim, heads.head_dim_v);
        let keys = &mut s.keys[..heads.head_dim];
        let values = &mut s.values[..heads.head_dim_v.div_ceil(32) * KV_BLOCK_TOKENS];
        let end = (last + 1).min((part + 1) * PART_BLOCKS);
        for (block, &id) in table.iter().enumerate().take(end).skip(first) {
            let (k, v) = self.cache.head(id, self.slot, head);
            block::keys(self.tier, Head { kv_type, dim, bytes: k }, keys);
            block::values(self.tier, Head { kv_type, dim: dim_v, bytes: v }, values);
            s.rows.block(self.tier, heads, (block * KV_BLOCK_TOKENS) as u32, keys, values);
        }
    }
}
