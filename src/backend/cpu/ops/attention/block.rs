//! A block of the cache as columns of f32.

use half::f16;

use super::super::gemm::float::Column;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::cache::KvType;
use crate::simd::Tier;
use crate::simd::convert::f16_to_f32;

/// `columns[d]` = element `d` of the block's 32 keys.
pub fn keys(tier: Tier, kv_type: KvType, rows: &[u8], columns: &mut [Column]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512()
        && columns.len().is_multiple_of(16)
    {
        return crate::simd::enter!(Avx512, token => x86::keys(kv_type: KvType, rows: &[u8], columns: &mut [Column]));
    }
    let mut piece = [0.0; 64];
    for (key, row) in rows.chunks_exact(columns.len() * kv_type.bytes()).enumerate() {
        for (row, columns) in row.chunks(64 * kv_type.bytes()).zip(columns.chunks_mut(64)) {
            let piece = &mut piece[..columns.len()];
            to_f32(tier, kv_type, row, piece);
            for (column, x) in columns.iter_mut().zip(piece) {
                column.0[key / 16][key % 16] = *x;
            }
        }
    }
}

/// `columns[32 c + key]` = elements `32 c .. 32 c + 32` of the block's value `key`, with zeros
/// after the last element.
pub fn values(tier: Tier, kv_type: KvType, rows: &[u8], dim: usize, columns: &mut [Column]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512()
        && dim.is_multiple_of(32)
    {
        return crate::simd::enter!(Avx512, token => x86::values(
            kv_type: KvType, rows: &[u8], dim: usize, columns: &mut [Column]));
    }
    for (key, row) in rows.chunks_exact(dim * kv_type.bytes()).enumerate() {
        for (c, row) in row.chunks(32 * kv_type.bytes()).enumerate() {
            let column = columns[c * KV_BLOCK_TOKENS + key].0.as_flattened_mut();
            to_f32(tier, kv_type, row, &mut column[..row.len() / kv_type.bytes()]);
        }
    }
}

/// Cache elements as f32; at most 64.
fn to_f32(tier: Tier, kv_type: KvType, bytes: &[u8], out: &mut [f32]) {
    match kv_type {
        KvType::F32 => {
            for (x, out) in bytes.as_chunks::<4>().0.iter().zip(out) {
                *out = f32::from_le_bytes(*x);
            }
        }
        KvType::F16 => {
            let mut halves = [f16::ZERO; 64];
            for (x, half) in bytes.as_chunks::<2>().0.iter().zip(&mut halves) {
                *half = f16::from_le_bytes(*x);
            }
            f16_to_f32(tier, &halves[..out.len()], out);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! AVX-512: 16 elements at a time.

    use std::arch::x86_64::*;

    use super::super::super::gemm::float::Column;
    use super::super::super::transpose::transpose;
    use crate::base::limits::KV_BLOCK_TOKENS;
    use crate::plan::cache::KvType;
    use crate::simd::x86::*;

    /// Elements `at .. at + 16` of a row.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn sixteen(kv_type: KvType, row: &[u8], at: usize) -> __m512 {
        match kv_type {
            KvType::F32 => _mm512_castsi512_ps(load512(part(row, at * 4))),
            KvType::F16 => _mm512_cvtph_ps(load256(part(row, at * 2))),
        }
    }

    /// [`super::keys`] where a head is a multiple of 16 long.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn keys(kv_type: KvType, rows: &[u8], columns: &mut [Column]) {
        let bytes = columns.len() * kv_type.bytes();
        for half in 0..2 {
            let rows = &rows[half * 16 * bytes..][..16 * bytes];
            for (c, columns) in columns.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let mut lines = [_mm512_setzero_si512(); 16];
                for (line, row) in lines.iter_mut().zip(rows.chunks_exact(bytes)) {
                    *line = _mm512_castps_si512(sixteen(kv_type, row, c * 16));
                }
                for (column, line) in columns.iter_mut().zip(transpose(lines)) {
                    store512_ps(&mut column.0[half], _mm512_castsi512_ps(line));
                }
            }
        }
    }

    /// [`super::values`] where a head is a multiple of 32 long.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn values(kv_type: KvType, rows: &[u8], dim: usize, columns: &mut [Column]) {
        for (key, row) in rows.chunks_exact(dim * kv_type.bytes()).enumerate() {
            for (c, columns) in columns.chunks_exact_mut(KV_BLOCK_TOKENS).enumerate() {
                for half in 0..2 {
                    store512_ps(&mut columns[key].0[half], sixteen(kv_type, row, c * 32 + half * 16));
                }
            }
        }
    }
}
