//! Products of many activation rows with a weight matrix: one GEMM for all formats.
//!
//! A worker claims a panel of output rows and goes through `k` in chunks. Of each chunk it
//! unpacks [`ROWS`] rows at a time into a [`Panel`] that stays in the first-level cache, then
//! multiplies it with the chunk of every [`TOKENS`] tokens; the sums wait in scratch memory.
//! Both stages are chosen apart: a tier that wants another panel (tiles of bf16) brings its own
//! pair. The order of additions of a result depends on `k` alone, so a token's row is the same
//! in every batch.

mod coded;
pub(super) mod float;
#[cfg(test)]
mod tests;
mod tiles;

pub use coded::ActBlock;

use crate::backend::cpu::workers::{DisjointTiles, PerWorker, Team, Tile, Worker};
use crate::quant::{Format, GROUP, SUB, quantize};
use crate::simd::Tier;
use crate::simd::amx;

/// Tokens multiplied at once: with [`ROWS`] rows their sums fill the vector registers.
pub const TOKENS: usize = 6;
/// Rows of a vector.
pub const LANES: usize = 16;
/// Rows multiplied at once.
pub const ROWS: usize = 2 * LANES;
/// Weights of a row unpacked at a time: a whole number of blocks of every format, and few
/// enough that [`ROWS`] rows of them stay in a first-level cache of 32 KiB.
const CHUNK: usize = 512;
/// The same for float weights, which take four times the space.
const FLOAT_CHUNK: usize = 128;
/// Most rows of a claimed panel: its sums for a full batch stay in the second-level cache.
const PANEL_ROWS: usize = 128;

/// Sums of [`ROWS`] rows by [`TOKENS`] tokens: for each half of the rows and each token.
pub(super) type Sums = [[[f32; LANES]; TOKENS]; 2];

/// A weight matrix as it lies in the file.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Its type's kernels.
    pub format: &'static Format,
    /// `n_rows` rows of `k` weights.
    pub rows: &'a [u8],
    /// Weights of a row.
    pub k: usize,
}

impl<'a> Matrix<'a> {
    /// Weights `from .. from + len` of row `row`.
    fn part(&self, row: usize, from: usize, len: usize) -> &'a [u8] {
        let start = row * self.format.row_bytes(self.k) + self.format.row_bytes(from);
        &self.rows[start..][..self.format.row_bytes(len)]
    }

    /// [`Matrix::part`], if the matrix has that row.
    fn piece(&self, row: usize, from: usize, len: usize) -> Option<&'a [u8]> {
        let start = row * self.format.row_bytes(self.k) + self.format.row_bytes(from);
        self.rows.get(start..)?.get(..self.format.row_bytes(len))
    }
}

/// Memory of the GEMM: made at load for the largest product.
pub struct Gemm {
    /// Quantized activations: for each tile of tokens its blocks along `k`.
    coded: Vec<ActBlock>,
    /// Activations as they are, for float weights: for each tile of tokens its `k` columns.
    float: Vec<[f32; TOKENS]>,
    /// Activations in bf16, instead of quantized ones where there are matrix tiles.
    bf16: Vec<amx::Tile>,
    scratch: PerWorker<Scratch>,
}

/// One worker's memory.
struct Scratch {
    coded: coded::Panel,
    float: float::Panel,
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<f32>,
    sums: Vec<Sums>,
    tiles: Option<tiles::Scratch>,
}

/// What a GEMM has to be able to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Longest row of a coded matrix; 0 if there is none.
    pub coded_k: usize,
    /// Longest row of a float matrix; 0 if there is none.
    pub float_k: usize,
    /// Tokens of the largest batch.
    pub tokens: usize,
    /// Products with coded matrices run on matrix tiles ([`Tier::amx`]).
    pub matrix_tiles: bool,
}

impl Extent {
    fn tiles(&self) -> usize {
        self.tokens.div_ceil(TOKENS)
    }

    /// Longest row of a matrix whose products run on vectors of codes.
    fn vector_k(&self) -> usize {
        if self.matrix_tiles { 0 } else { self.coded_k }
    }

    /// Tiles of packed activations.
    fn packed_tiles(&self) -> usize {
        if self.matrix_tiles { tiles::packed(self.tokens, self.coded_k) } else { 0 }
    }

    /// Bytes that [`Gemm::new`] allocates for `threads` workers.
    pub fn bytes(&self, threads: usize) -> usize {
        let k = self.vector_k();
        let shared = self.tiles() * (k / GROUP * size_of::<ActBlock>() + self.float_k * size_of::<[f32; TOKENS]>())
            + self.packed_tiles() * size_of::<amx::Tile>();
        let row = k + k / GROUP * 4 + k / SUB * 4;
        let sums = self.tiles() * (PANEL_ROWS / ROWS) * size_of::<Sums>();
        let tiles = if self.matrix_tiles { tiles::Scratch::bytes(self.tokens) } else { 0 };
        shared + threads * (row + sums + coded::Panel::BYTES + float::Panel::BYTES + tiles)
    }
}

impl Gemm {
    /// Memory for products up to `extent` on `threads` workers.
    pub fn new(extent: Extent, threads: usize) -> Self {
        let (tiles, k) = (extent.tiles(), extent.vector_k());
        Self {
            coded: vec![ActBlock::default(); tiles * k / GROUP],
            float: vec![[0.0; TOKENS]; tiles * extent.float_k],
            bf16: vec![amx::Tile::ZERO; extent.packed_tiles()],
            scratch: PerWorker::new(threads, || Scratch {
                coded: coded::Panel::new(),
                float: float::Panel::new(),
                q: vec![0; k],
                d: vec![0.0; k / GROUP],
                s: vec![0.0; k / SUB],
                sums: vec![[[[0.0; LANES]; TOKENS]; 2]; tiles * (PANEL_ROWS / ROWS)],
                tiles: extent.matrix_tiles.then(|| tiles::Scratch::new(extent.tokens)),
            }),
        }
    }

    /// Packs rows of `x` (each `k` long) for products with coded matrices.
    pub fn pack_coded(&mut self, team: &mut Team<'_>, x: &[f32], k: usize) {
        let tier = team.tier();
        let (n, blocks) = (x.len() / k, k / GROUP);
        if let Some(amx) = tier.amx() {
            let depth = k / amx::DEPTH;
            let halves = DisjointTiles::new(&mut self.bf16[..tiles::packed(n, k)], depth, 1, depth);
            team.run(&|_| {
                while let Some(mut half) = halves.take() {
                    let rows = x.get(half.index() * amx::SIDE * k..).unwrap_or_default();
                    tiles::pack(amx, &rows[..rows.len().min(amx::SIDE * k)], k, half.all());
                }
            });
            return;
        }
        let tiles = DisjointTiles::new(&mut self.coded[..n.div_ceil(TOKENS) * blocks], blocks, 1, blocks);
        let scratch = &self.scratch;
        team.run(&|worker| {
            scratch.with(worker, |s| {
                let (q, d, sums) = (&mut s.q[..k], &mut s.d[..k / GROUP], &mut s.s[..k / SUB]);
                while let Some(mut tile) = tiles.take() {
                    let first = tile.index() * TOKENS;
                    for (i, row) in x[first * k..].chunks_exact(k).take(TOKENS).enumerate() {
                        quantize(tier, row, q, d, sums);
                        coded::pack_token(tile.all(), i, q, d, sums);
                    }
                }
            });
        });
    }

    /// Packs rows of `x` (each `k` long) for products with float matrices.
    pub fn pack_float(&mut self, team: &mut Team<'_>, x: &[f32], k: usize) {
        let n = x.len() / k;
        let tiles = DisjointTiles::new(&mut self.float[..n.div_ceil(TOKENS) * k], k, 1, k);
        team.run(&|_| {
            while let Some(mut tile) = tiles.take() {
                let first = tile.index() * TOKENS;
                for (i, row) in x[first * k..].chunks_exact(k).take(TOKENS).enumerate() {
                    for (to, from) in tile.all().iter_mut().zip(row) {
                        to[i] = *from;
                    }
                }
            }
        });
    }

    /// Rows of a panel so that each of `threads` workers finds several among `n_rows`.
    pub fn panel_rows(tier: Tier, format: &Format, n_rows: usize, threads: usize) -> usize {
        let most = if tier.amx().is_some() && !format.is_float() { tiles::ROWS } else { PANEL_ROWS };
        let fair = n_rows / (threads * 4);
        if threads == 1 || fair >= most { most } else { (fair / ROWS * ROWS).max(ROWS) }
    }

    /// One panel: `out` (all tokens by some columns, whose first is a multiple of [`ROWS`]) =
    /// packed activations times the rows of `weight` with the columns' numbers, plus `bias`.
    pub fn panel(&self, tier: Tier, worker: &Worker, weight: Matrix<'_>, bias: Option<&[f32]>, mut out: Tile<'_, f32>) {
        let (n_tokens, cols) = (out.rows().len(), out.cols());
        let tiles = n_tokens.div_ceil(TOKENS);
        let groups = cols.len().div_ceil(ROWS);
        self.scratch.with(worker, |s| {
            if let (Some(amx), Some(scratch), false) = (tier.amx(), &mut s.tiles, weight.format.is_float()) {
                return tiles::panel(amx, scratch, &self.bf16, weight, bias, out);
            }
            let sums = &mut s.sums[..groups * tiles];
            sums.fill([[[0.0; LANES]; TOKENS]; 2]);
            for group in 0..groups {
                let sums = &mut sums[group * tiles..][..tiles];
                let first = cols.start + group * ROWS;
                let rows = first..(first + ROWS).min(cols.end);
                let tokens = |tile: usize| TOKENS.min(n_tokens - tile * TOKENS);
                if weight.format.is_float() {
                    for from in (0..weight.k).step_by(FLOAT_CHUNK) {
                        let len = FLOAT_CHUNK.min(weight.k - from);
                        s.float.unpack(tier, weight, rows.clone(), from, len);
                        for (tile, sums) in sums.iter_mut().enumerate() {
                            let x = &self.float[tile * weight.k + from..][..len];
                            s.float.multiply(tier, x, tokens(tile), sums);
                        }
                    }
                } else {
                    let blocks = weight.k / GROUP;
                    for from in (0..weight.k).step_by(CHUNK) {
                        let len = CHUNK.min(weight.k - from);
                        s.coded.unpack(tier, weight, rows.clone(), from, len);
                        for (tile, sums) in sums.iter_mut().enumerate() {
                            let x = &self.coded[tile * blocks + from / GROUP..][..len / GROUP];
                            s.coded.multiply(tier, x, tokens(tile), sums);
                        }
                    }
                }
            }
            for token in out.rows() {
                let row = out.row(token);
                let (tile, i) = (token / TOKENS, token % TOKENS);
                for (c, out) in row.chunks_mut(LANES).enumerate() {
                    let sums = &s.sums[c / 2 * tiles + tile][c % 2][i];
                    out.copy_from_slice(&sums[..out.len()]);
                }
                if let Some(bias) = bias {
                    row.iter_mut().zip(&bias[cols.clone()]).for_each(|(x, b)| *x += b);
                }
            }
        });
    }
}
