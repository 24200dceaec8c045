//! The GEMM on AMX: weights and activations in bf16, products of matrix tiles.
//!
//! A worker unpacks [`ROWS`] rows of weights, [`CHUNK`] weights of each, to bf16 tiles that stay
//! in its second-level cache, and multiplies them with the same columns of all tokens, 32 by 32;
//! the sums wait in scratch memory until `k` is through. Activations are packed once an op. The
//! sums of a result are added in the order of `k`, whatever the batch.

use std::ops::Range;

use super::Matrix;
use crate::backend::cpu::workers::Tile as OutTile;
use crate::simd::amx::{DEPTH, SIDE, Sums, Tile, Tiles};
use crate::simd::tiers::Amx;

/// Tokens, and rows of weights, of a product.
pub const BLOCK: usize = 2 * SIDE;
/// Weights of a row unpacked at a time: a whole number of blocks of every format.
const CHUNK: usize = 1024;
/// Most rows of a claimed panel.
pub const ROWS: usize = 256;
/// Tiles of a chunk.
const STEPS: usize = CHUNK / DEPTH;

/// One worker's memory.
pub struct Scratch {
    /// A chunk of weights: for each [`SIDE`] rows its tiles along `k`.
    weights: Vec<Tile>,
    /// A chunk of one row in f32.
    row: Vec<f32>,
    /// For each [`BLOCK`] rows, for each block of tokens.
    sums: Vec<[[Sums; 2]; 2]>,
}

/// Blocks of tokens.
fn blocks(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK)
}

/// Tiles of packed activations of `tokens` rows of `k`.
pub fn packed(tokens: usize, k: usize) -> usize {
    2 * blocks(tokens) * k.div_ceil(DEPTH)
}

impl Scratch {
    /// Memory for batches of up to `tokens`.
    pub fn new(tokens: usize) -> Self {
        Self {
            weights: vec![Tile::ZERO; ROWS / SIDE * STEPS],
            row: vec![0.0; CHUNK],
            sums: vec![[[Sums::ZERO; 2]; 2]; ROWS / BLOCK * blocks(tokens)],
        }
    }

    /// Bytes that [`Scratch::new`] allocates.
    pub fn bytes(tokens: usize) -> usize {
        (ROWS / SIDE * STEPS + 4 * ROWS / BLOCK * blocks(tokens)) * size_of::<Tile>() + CHUNK * 4
    }

    /// Unpacks weights `from .. from + len` of `rows` (missing ones are zero) and returns the
    /// number of tiles along `k`.
    fn unpack(&mut self, amx: Amx, weight: Matrix<'_>, rows: Range<usize>, from: usize, len: usize) {
        let tier = crate::simd::Tier::Amx(amx);
        for (r, row) in (rows.start..rows.start + rows.len().next_multiple_of(BLOCK)).enumerate() {
            let tiles = &mut self.weights[r / SIDE * STEPS..][..len / DEPTH];
            if row < rows.end {
                weight.format.to_f32(tier, weight.part(row, from, len), &mut self.row[..len]);
                let values = &self.row[..len];
                to_bf16(amx, values, tiles, r % SIDE);
            } else {
                tiles.iter_mut().for_each(|t| t.0[r % SIDE] = [0; DEPTH]);
            }
        }
    }
}

/// Packs [`SIDE`] (or fewer: the rest is zero) rows of activations, each `k` long, into the tiles
/// of one half block.
pub fn pack(amx: Amx, x: &[f32], k: usize, tiles: &mut [Tile]) {
    debug_assert_eq!(tiles.len(), k / DEPTH);
    #[cfg(target_arch = "x86_64")]
    {
        let token = amx.bf16();
        crate::simd::enter!(Avx512Bf16, token => x86::pack(x: &[f32], k: usize, tiles: &mut [Tile]));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (amx, x, k, tiles);
}

/// Writes one row of f32 as row `r` of the tiles.
fn to_bf16(amx: Amx, values: &[f32], tiles: &mut [Tile], r: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let token = amx.bf16();
        crate::simd::enter!(Avx512Bf16, token => x86::to_bf16(values: &[f32], tiles: &mut [Tile], r: usize));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (amx, values, tiles, r);
}

/// One panel: see [`super::Gemm::panel`]. `x` holds the packed activations.
pub fn panel(
    amx: Amx,
    s: &mut Scratch,
    x: &[Tile],
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    mut out: OutTile<'_, f32>,
) {
    let (n_tokens, cols, k) = (out.rows().len(), out.cols(), weight.k);
    let (strips, depth) = (blocks(n_tokens), k / DEPTH);
    let groups = cols.len().div_ceil(BLOCK);
    s.sums[..groups * strips].fill([[Sums::ZERO; 2]; 2]);
    let tiles = Tiles::new(amx);
    for from in (0..k).step_by(CHUNK) {
        let len = CHUNK.min(k - from);
        s.unpack(amx, weight, cols.clone(), from, len);
        let (first, steps) = (from / DEPTH, len / DEPTH);
        for strip in 0..strips {
            let half = |i: usize| &x[(2 * strip + i) * depth + first..][..steps];
            let activations = [half(0), half(1)];
            for group in 0..groups {
                let half = |i: usize| &s.weights[(2 * group + i) * STEPS..][..steps];
                tiles.product([half(0), half(1)], activations, &mut s.sums[group * strips + strip]);
            }
        }
    }
    drop(tiles);
    for (at, sums) in s.sums[..groups * strips].iter().enumerate() {
        let (group, strip) = (at / strips, at % strips);
        for (i, pair) in sums.iter().enumerate() {
            let first = group * BLOCK + i * SIDE;
            let width = cols.len().saturating_sub(first).min(SIDE);
            if width == 0 {
                continue;
            }
            for (j, block) in pair.iter().enumerate() {
                let columns = transposed(amx, block);
                let tokens = strip * BLOCK + j * SIDE..n_tokens;
                for (token, column) in tokens.zip(&columns.0) {
                    out.row(token)[first..first + width].copy_from_slice(&column[..width]);
                }
            }
        }
    }
    if let Some(bias) = bias {
        for token in out.rows() {
            out.row(token).iter_mut().zip(&bias[cols.clone()]).for_each(|(x, b)| *x += b);
        }
    }
}

/// Rows of tokens instead of rows of weights.
fn transposed(amx: Amx, block: &Sums) -> Sums {
    #[cfg(target_arch = "x86_64")]
    {
        let token = amx.avx512();
        crate::simd::enter!(Avx512, token => x86::transposed(block: &Sums) -> Sums)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = amx;
        *block
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! What surrounds the tiles, in AVX-512.

    use std::arch::x86_64::*;

    use super::{DEPTH, SIDE, Sums, Tile};
    use crate::backend::cpu::ops::transpose::transpose;
    use crate::simd::x86::*;

    /// [`super::to_bf16`].
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
    pub fn to_bf16(values: &[f32], tiles: &mut [Tile], r: usize) {
        for (x, tile) in values.as_chunks::<DEPTH>().0.iter().zip(tiles) {
            store512_u16(&mut tile.0[r], ps512_to_bf16(x));
        }
    }

    /// [`super::pack`].
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
    pub fn pack(x: &[f32], k: usize, tiles: &mut [Tile]) {
        for (step, tile) in tiles.iter_mut().enumerate() {
            let mut lines = [_mm512_setzero_si512(); SIDE];
            for (line, row) in lines.iter_mut().zip(x.chunks_exact(k)) {
                *line = ps512_to_bf16(part(row, step * DEPTH));
            }
            for (to, line) in tile.0.iter_mut().zip(transpose(lines)) {
                store512_u16(to, line);
            }
        }
    }

    /// [`super::transposed`].
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn transposed(block: &Sums) -> Sums {
        let mut lines = [_mm512_setzero_si512(); SIDE];
        for (line, row) in lines.iter_mut().zip(&block.0) {
            *line = _mm512_castps_si512(load512_ps(row));
        }
        let mut out = Sums::ZERO;
        for (to, line) in out.0.iter_mut().zip(transpose(lines)) {
            store512_ps(to, _mm512_castsi512_ps(line));
        }
        out
    }
}
