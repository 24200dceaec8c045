//! A block of the cache as columns of f32.

use half::f16;

use super::super::gemm::float::Column;
use super::super::tiered;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::cache::{KV_GROUP, KvType};
use crate::simd::Tier;
use crate::simd::convert::f16_to_f32;

/// A head's keys, or values, of a block.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub kv_type: KvType,
    /// Elements of a row.
    pub dim: usize,
    /// As `plan::cache` lays them out.
    pub bytes: &'a [u8],
}

impl Head<'_> {
    /// Elements `at ..` of row `key`; at most 64, and whole groups where groups share a scale.
    fn to_f32(self, tier: Tier, key: usize, at: usize, out: &mut [f32]) {
        match self.kv_type {
            KvType::F32 => {
                let row = self.bytes[(key * self.dim + at) * 4..].as_chunks::<4>().0;
                for (x, out) in row.iter().zip(out) {
                    *out = f32::from_le_bytes(*x);
                }
            }
            KvType::F16 => {
                let row = self.bytes[(key * self.dim + at) * 2..].as_chunks::<2>().0;
                let mut halves = [f16::ZERO; 64];
                for (x, half) in row.iter().zip(&mut halves[..out.len()]) {
                    *half = f16::from_le_bytes(*x);
                }
                f16_to_f32(tier, &halves[..out.len()], out);
            }
            KvType::Q8_0 => {
                for (g, out) in out.chunks_mut(KV_GROUP).enumerate() {
                    let at = at + g * KV_GROUP;
                    decode(tier, &self.bytes[key * self.dim + at..][..KV_GROUP], self.scale(key, at), out);
                }
            }
        }
    }

    /// The scale of element `at` of row `key`, for a type that has some.
    fn scale(&self, key: usize, at: usize) -> f32 {
        let scales = self.bytes[KV_BLOCK_TOKENS * self.dim..].as_chunks::<2>().0;
        f16::from_le_bytes(scales[at / KV_GROUP * KV_BLOCK_TOKENS + key]).to_f32()
    }
}

tiered!(
    /// What a group's codes stand for.
    fn decode(codes: &[u8], scale: f32, out: &mut [f32]) = decode_body
);

#[inline(always)]
fn decode_body<const FUSED: bool>(codes: &[u8], scale: f32, out: &mut [f32]) {
    for (code, out) in codes.iter().zip(out) {
        *out = f32::from(code.cast_signed()) * scale;
    }
}

/// `columns[d]` = element `d` of the block's 32 keys.
pub fn keys(tier: Tier, head: Head<'_>, columns: &mut [Column]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512()
        && head.dim.is_multiple_of(16)
    {
        return crate::simd::enter!(Avx512, token => x86::keys(head: Head<'_>, columns: &mut [Column]));
    }
    let mut piece = [0.0; 64];
    for key in 0..KV_BLOCK_TOKENS {
        for (c, columns) in columns.chunks_mut(64).enumerate() {
            let piece = &mut piece[..columns.len()];
            head.to_f32(tier, key, c * 64, piece);
            for (column, x) in columns.iter_mut().zip(piece) {
                column.0[key / 16][key % 16] = *x;
            }
        }
    }
}

/// `columns[32 c + key]` = elements `32 c .. 32 c + 32` of the block's value `key`, with zeros
/// after the last element.
pub fn values(tier: Tier, head: Head<'_>, columns: &mut [Column]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = tier.avx512()
        && head.dim.is_multiple_of(32)
    {
        return crate::simd::enter!(Avx512, token => x86::values(head: Head<'_>, columns: &mut [Column]));
    }
    for key in 0..KV_BLOCK_TOKENS {
        for at in (0..head.dim).step_by(32) {
            let column = columns[at / 32 * KV_BLOCK_TOKENS + key].0.as_flattened_mut();
            head.to_f32(tier, key, at, &mut column[..(head.dim - at).min(32)]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! AVX-512: 16 elements at a time.

    use std::arch::x86_64::*;

    use super::super::super::gemm::float::Column;
    use super::super::super::transpose::transpose;
    use super::Head;
    use crate::base::limits::KV_BLOCK_TOKENS;
    use crate::plan::cache::{KV_GROUP, KvType};
    use crate::simd::x86::*;

    /// Elements `at .. at + 16` of row `key`; codes are still to be multiplied with their scale.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn sixteen(head: Head<'_>, key: usize, at: usize) -> __m512 {
        let at = key * head.dim + at;
        match head.kv_type {
            KvType::F32 => _mm512_castsi512_ps(load512(part(head.bytes, at * 4))),
            KvType::F16 => _mm512_cvtph_ps(load256(part(head.bytes, at * 2))),
            KvType::Q8_0 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load128(part(head.bytes, at)))),
        }
    }

    /// [`super::keys`] where a head is a multiple of 16 long.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn keys(head: Head<'_>, columns: &mut [Column]) {
        for half in 0..2 {
            for (c, columns) in columns.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let mut lines = [_mm512_setzero_si512(); 16];
                for (i, line) in lines.iter_mut().enumerate() {
                    *line = _mm512_castps_si512(sixteen(head, half * 16 + i, c * 16));
                }
                let lines = transpose(lines).map(|line| _mm512_castsi512_ps(line));
                let lines = match head.kv_type {
                    KvType::F32 | KvType::F16 => lines,
                    KvType::Q8_0 => {
                        let first = c * 16 / KV_GROUP * KV_BLOCK_TOKENS + half * 16;
                        let scales = load256(part(head.bytes, KV_BLOCK_TOKENS * head.dim + first * 2));
                        let scales = _mm512_cvtph_ps(scales);
                        lines.map(|line| _mm512_mul_ps(line, scales))
                    }
                };
                for (column, line) in columns.iter_mut().zip(lines) {
                    store512_ps(&mut column.0[half], line);
                }
            }
        }
    }

    /// [`super::values`] where a head is a multiple of 32 long.
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn values(head: Head<'_>, columns: &mut [Column]) {
        for key in 0..KV_BLOCK_TOKENS {
            for (c, columns) in columns.chunks_exact_mut(KV_BLOCK_TOKENS).enumerate() {
                let halves = [sixteen(head, key, c * 32), sixteen(head, key, c * 32 + 16)];
                let halves = match head.kv_type {
                    KvType::F32 | KvType::F16 => halves,
                    KvType::Q8_0 => {
                        let scale = _mm512_set1_ps(head.scale(key, c * 32));
                        halves.map(|half| _mm512_mul_ps(half, scale))
                    }
                };
                for (to, half) in columns[key].0.iter_mut().zip(halves) {
                    store512_ps(to, half);
                }
            }
        }
    }
}
