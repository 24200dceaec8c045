//! The GEMM's stages for float weights: an f32 panel and fused multiply-adds.

use std::ops::Range;

use super::super::math::fma;
use super::super::tiered;
use super::{FLOAT_CHUNK, LANES, Matrix, Sums, TOKENS};
use crate::simd::Tier;

/// A chunk of rows as f32.
pub struct Panel {
    /// For each column the weights of two groups of rows.
    columns: Vec<Column>,
    /// Rows as they come.
    rows: Vec<f32>,
    n: usize,
}

/// One weight of each row of the panel.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub struct Column(pub [[f32; LANES]; 2]);

impl Panel {
    /// Bytes that [`Panel::new`] allocates.
    pub const BYTES: usize = FLOAT_CHUNK * size_of::<Column>() + LANES * FLOAT_CHUNK * 4;

    /// An empty panel.
    pub fn new() -> Self {
        Self { columns: vec![Column([[0.0; LANES]; 2]); FLOAT_CHUNK], rows: vec![0.0; LANES * FLOAT_CHUNK], n: 0 }
    }

    /// Unpacks weights `from .. from + len` of `rows` (missing ones are zero).
    pub fn unpack(&mut self, tier: Tier, weight: Matrix<'_>, rows: Range<usize>, from: usize, len: usize) {
        self.n = len;
        for group in 0..2 {
            for lane in 0..LANES {
                let row = rows.start + group * LANES + lane;
                let out = &mut self.rows[lane * FLOAT_CHUNK..][..len];
                if row < rows.end {
                    weight.format.to_f32(tier, weight.part(row, from, len), out);
                } else {
                    out.fill(0.0);
                }
            }
            interleave(tier, &self.rows, &mut self.columns[..len], group);
        }
    }

    /// Adds the product of the panel with the first `tokens` tokens of `x` to `sums`.
    pub fn multiply(&self, tier: Tier, x: &[[f32; TOKENS]], tokens: usize, sums: &mut Sums) {
        multiply(tier, &self.columns[..self.n], x, tokens, sums);
    }
}

/// Brings 16 rows, [`FLOAT_CHUNK`] apart, into the columns' order.
fn interleave(tier: Tier, rows: &[f32], columns: &mut [Column], group: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512()
        && columns.len().is_multiple_of(LANES)
    {
        return crate::simd::enter!(Avx512, token => x86::interleave(
            rows: &[f32], columns: &mut [Column], group: usize));
    }
    let _ = tier;
    for (i, column) in columns.iter_mut().enumerate() {
        for (lane, to) in column.0[group].iter_mut().enumerate() {
            *to = rows[lane * FLOAT_CHUNK + i];
        }
    }
}

/// Adds to `sums` the products of each column of `w` with the element of the same number of each
/// of the first `tokens` tokens of `x`. Attention uses it too: keys and values are its columns.
pub fn multiply(tier: Tier, w: &[Column], x: &[[f32; TOKENS]], tokens: usize, sums: &mut Sums) {
    assert_eq!(w.len(), x.len());
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512() {
        return crate::simd::enter!(Avx512, token => x86::multiply512(
            w: &[Column], x: &[[f32; TOKENS]], tokens: usize, sums: &mut Sums));
    }
    for (group, sums) in sums.iter_mut().enumerate() {
        for (i, sums) in sums.iter_mut().enumerate().take(tokens) {
            one_token(tier, w, x, group, i, sums);
        }
    }
}

tiered!(
    /// One token by 16 rows.
    fn one_token(w: &[Column], x: &[[f32; TOKENS]], group: usize, i: usize, sums: &mut [f32; LANES]) = one_token_body
);

#[inline(always)]
fn one_token_body<const FUSED: bool>(
    w: &[Column],
    x: &[[f32; TOKENS]],
    group: usize,
    i: usize,
    sums: &mut [f32; LANES],
) {
    let mut lanes = *sums;
    for (w, x) in w.iter().zip(x) {
        for (lane, w) in lanes.iter_mut().zip(&w.0[group]) {
            *lane = fma::<FUSED>(*w, x[i], *lane);
        }
    }
    *sums = lanes;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! AVX-512.

    use std::arch::x86_64::*;

    use super::super::{FLOAT_CHUNK, LANES, Sums, TOKENS};
    use super::Column;
    use crate::backend::cpu::ops::transpose::transpose;
    use crate::simd::x86::*;

    /// [`super::interleave`] of whole sixteens.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn interleave(rows: &[f32], columns: &mut [Column], group: usize) {
        for (c, columns) in columns.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lines = [_mm512_setzero_si512(); LANES];
            for (line, row) in lines.iter_mut().zip(rows.chunks_exact(FLOAT_CHUNK)) {
                *line = _mm512_castps_si512(load512_ps(part(row, c * LANES)));
            }
            for (column, line) in columns.iter_mut().zip(transpose(lines)) {
                store512_ps(&mut column.0[group], _mm512_castsi512_ps(line));
            }
        }
    }

    /// [`super::multiply`].
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn multiply512(w: &[Column], x: &[[f32; TOKENS]], tokens: usize, sums: &mut Sums) {
        match tokens {
            1 => tile::<1>(w, x, sums),
            2 => tile::<2>(w, x, sums),
            3 => tile::<3>(w, x, sums),
            4 => tile::<4>(w, x, sums),
            5 => tile::<5>(w, x, sums),
            _ => tile::<TOKENS>(w, x, sums),
        }
    }

    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn tile<const N: usize>(w: &[Column], x: &[[f32; TOKENS]], sums: &mut Sums) {
        // Two variables, not an array of two: see the tile of codes.
        let mut upper = [_mm512_setzero_ps(); N];
        let mut lower = upper;
        for i in 0..N {
            upper[i] = load512_ps(&sums[0][i]);
            lower[i] = load512_ps(&sums[1][i]);
        }
        for (Column([u, l]), x) in w.iter().zip(x) {
            let (u, l) = (load512_ps(u), load512_ps(l));
            for i in 0..N {
                let x = _mm512_set1_ps(x[i]);
                upper[i] = _mm512_fmadd_ps(u, x, upper[i]);
                lower[i] = _mm512_fmadd_ps(l, x, lower[i]);
            }
        }
        for i in 0..N {
            store512_ps(&mut sums[0][i], upper[i]);
            store512_ps(&mut sums[1][i], lower[i]);
        }
    }
}
