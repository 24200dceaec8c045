//! Products of activations with weight matrices.
//!
//! A few rows (decode) are multiplied by dots with the weights as they lie in the file: reading
//! them is what takes the time, and each is read from memory once. Many rows go to the GEMM.

use smallvec::SmallVec;

use super::gemm::{Extent, Gemm, Matrix};
use crate::backend::cpu::workers::{DisjointTiles, Team, Tile, TripleTiles};
use crate::base::limits::POOL_SERIAL_ELEMENTS;
use crate::quant::{GROUP, Q8Buf, SUB, quantize};
use crate::simd::Tier;

/// Rows of activations up to which dots are used: beyond, unpacking the weights once is cheaper
/// than decoding them for each row (docs/PERFORMANCE.md has the measured steps).
pub const DIRECT_ROWS: usize = 8;
/// Weights of a tile of dots: large enough for streams of reading, small enough that several
/// rows of activations find it in the second-level cache, and that the last tiles end together.
const TILE_BYTES: usize = 256 << 10;
/// Output rows of a tile of dots are a multiple of this, for the kernels' streams.
const TILE_STEP: usize = 16;

/// One product of a [`linear`]: `out = x * weight^T + bias`.
pub struct Product<'a> {
    /// The matrix.
    pub weight: Matrix<'a>,
    /// One number for each of its rows.
    pub bias: Option<&'a [f32]>,
    /// As many rows as `x`, as wide as the matrix has rows.
    pub out: &'a mut [f32],
    /// Rows of the matrix.
    pub width: usize,
}

/// Memory of the products: made at load for the largest batch.
pub struct Matmul {
    q8: Q8Buf,
    pub(super) gemm: Gemm,
}

impl Matmul {
    /// Memory for products up to `extent` on `threads` workers.
    pub fn new(extent: Extent, threads: usize) -> Self {
        Self { q8: Q8Buf::with_capacity(Self::direct_elements(extent)), gemm: Gemm::new(extent, threads) }
    }

    /// Bytes that [`Matmul::new`] allocates.
    pub fn bytes(extent: Extent, threads: usize) -> usize {
        Q8Buf::bytes(Self::direct_elements(extent)) + extent.bytes(threads)
    }

    fn direct_elements(extent: Extent) -> usize {
        extent.coded_k * extent.tokens.min(DIRECT_ROWS)
    }

    /// Multiplies the rows of `x`, each `k` long, with each product's matrix.
    pub fn linear(&mut self, team: &mut Team<'_>, x: &[f32], k: usize, products: &mut [Product<'_>]) {
        if x.len() / k <= DIRECT_ROWS {
            self.dots(team, x, k, products);
        } else {
            self.gemm(team, x, k, products);
        }
    }

    pub(super) fn dots(&mut self, team: &mut Team<'_>, x: &[f32], k: usize, products: &mut [Product<'_>]) {
        let (tier, threads) = (team.tier(), team.threads());
        if products.iter().any(|p| !p.weight.format.is_float()) {
            quantize_rows(team, &mut self.q8, x, k);
        }
        let q8 = &self.q8;
        let parts: SmallVec<[_; 8]> = products
            .iter_mut()
            .map(|p| {
                let rows = tile_rows(p.width, p.weight.format.row_bytes(k), threads);
                let n_rows = x.len() / k;
                (p.weight, p.bias, DisjointTiles::new(p.out, p.width, n_rows, rows))
            })
            .collect();
        team.run(&|_| {
            for (weight, bias, tiles) in &parts {
                while let Some(tile) = tiles.take() {
                    dot_tile(tier, *weight, *bias, q8, x, tile);
                }
            }
        });
    }

    pub(super) fn gemm(&mut self, team: &mut Team<'_>, x: &[f32], k: usize, products: &mut [Product<'_>]) {
        let (tier, threads) = (team.tier(), team.threads());
        if products.iter().any(|p| !p.weight.format.is_float()) {
            self.gemm.pack_coded(team, x, k);
        }
        if products.iter().any(|p| p.weight.format.is_float()) {
            self.gemm.pack_float(team, x, k);
        }
        let gemm = &self.gemm;
        let n_rows = x.len() / k;
        let parts: SmallVec<[_; 8]> = products
            .iter_mut()
            .map(|p| {
                let panel = Gemm::panel_rows(tier, p.weight.format, p.width, threads);
                (p.weight, p.bias, DisjointTiles::new(p.out, p.width, n_rows, panel))
            })
            .collect();
        team.run(&|worker| {
            for (weight, bias, tiles) in &parts {
                while let Some(tile) = tiles.take() {
                    gemm.panel(tier, worker, *weight, *bias, tile);
                }
            }
        });
    }
}

/// Output rows of a tile of dots.
fn tile_rows(n_rows: usize, row_bytes: usize, threads: usize) -> usize {
    let by_bytes = TILE_BYTES / row_bytes;
    let by_share = n_rows / (threads * 4);
    (by_bytes.min(by_share) / TILE_STEP * TILE_STEP).max(TILE_STEP)
}

/// All rows of activations by the weight rows of one tile.
fn dot_tile(tier: Tier, weight: Matrix<'_>, bias: Option<&[f32]>, q8: &Q8Buf, x: &[f32], mut tile: Tile<'_, f32>) {
    let (k, cols) = (weight.k, tile.cols());
    let bytes = weight.format.row_bytes(k);
    let rows = &weight.rows[cols.start * bytes..cols.end * bytes];
    for i in tile.rows() {
        let out = tile.row(i);
        if weight.format.is_float() {
            weight.format.dot_f32(tier, rows, &x[i * k..][..k], out);
        } else {
            weight.format.dot(tier, rows, &q8.row(i), out);
        }
        if let Some(bias) = bias {
            out.iter_mut().zip(&bias[cols.clone()]).for_each(|(x, b)| *x += b);
        }
    }
}

/// Quantizes the rows of `x`, each `k` long.
fn quantize_rows(team: &mut Team<'_>, q8: &mut Q8Buf, x: &[f32], k: usize) {
    let tier = team.tier();
    let n = x.len() / k;
    q8.resize(n, k);
    let (q, d, s) = q8.parts_mut();
    if n == 1 || team.threads() == 1 || x.len() <= POOL_SERIAL_ELEMENTS {
        quantize(tier, x, q, d, s);
        return;
    }
    let tiles = TripleTiles::new(
        DisjointTiles::new(q, k, 1, k),
        DisjointTiles::new(d, k / GROUP, 1, k / GROUP),
        DisjointTiles::new(s, k / SUB, 1, k / SUB),
    );
    team.run(&|_| {
        while let Some((mut q, mut d, mut s)) = tiles.take() {
            quantize(tier, &x[q.index() * k..][..k], q.all(), d.all(), s.all());
        }
    });
}
