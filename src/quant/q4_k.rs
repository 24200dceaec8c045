//! Q4_K: 256 weights in 144 bytes, 4.5 bits each. `w = d * scale * code - dmin * min`, with one
//! pair of 6-bit scale and min for 32 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `dmin`, f16 |
//! | 4 | 12 bytes of scales and mins, see [`scale_min`] |
//! | 16 | 128 bytes: in each 32 bytes the low nibbles are 32 codes, the high nibbles the next 32 |

#[cfg(target_arch = "x86_64")]
use super::block256::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load128, load256, part};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q4_K, block256 subs 8, bytes 144, elements 256, step 144, offset 0);

/// Scale and min `i` of 8 from the 12 packed bytes of Q4_K and Q5_K: those below 4 are the low
/// six bits of bytes `i` and `i + 4`; the others have their low nibbles in byte `i + 4` and
/// their upper two bits on top of bytes `i - 4` and `i`.
fn scale_min(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    }
}

/// Scales and mins of a block of Q4_K or Q5_K: each of the 8 twice, for 16 codes.
pub(super) fn unpack_pairs(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (i, (scales, mins)) in scales.chunks_mut(2).zip(mins.chunks_mut(2)).enumerate() {
        let (scale, min) = scale_min(&block[4..16], i);
        scales.fill(d * f32::from(scale));
        mins.fill(dmin * f32::from(min));
    }
}

fn dequantize_block(block: &[u8; 144], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 144], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    unpack_pairs(block, scales, mins);
    for (i, code) in codes.iter_mut().enumerate() {
        *code = block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
    }
}

/// The 8 scales, then the 8 mins of [`scale_min`], as bytes, from the 16 bytes that blocks of
/// Q4_K and Q5_K begin with.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_mins(start: __m128i) -> __m128i {
    // By dwords of the result: scales 0..4 and 4..8, mins 0..4 and 4..8.
    let low = _mm_shuffle_epi32::<0b11_10_11_01>(start);
    let low = _mm_and_si128(_mm_srlv_epi32(low, _mm_setr_epi32(0, 0, 0, 4)), _mm_set1_epi64x(0x0f0f_0f0f_3f3f_3f3f));
    let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_00_01_00>(start));
    _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi64x(0x3030_3030_0000_0000)))
}

/// Scales and mins of Q4_K and Q5_K.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub(super) fn pairs_avx512(start: &[u8; 16]) -> avx512::Scales {
    let start = load128(start);
    // `d` in the lower 8 lanes, `dmin` in the upper ones.
    let half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    let d = _mm512_permutexvar_ps(half, _mm512_castps128_ps512(_mm_cvtph_ps(start)));
    let both = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scales_mins(start)));
    (_mm512_mul_ps(both, d), _mm512_setzero_ps())
}

/// [`pairs_avx512`], two vectors of scales and two of mins.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pairs_avx2(start: &[u8; 16]) -> avx2::Scales {
    let start = load128(start);
    let bytes = scales_mins(start);
    let d = _mm_cvtph_ps(start);
    let scales = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    let mins = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(bytes, bytes)));
    let scales = _mm256_mul_ps(scales, _mm256_broadcastss_ps(d));
    let mins = _mm256_mul_ps(mins, _mm256_broadcastss_ps(_mm_movehdup_ps(d)));
    ([avx2::pairs(scales, 0), avx2::pairs(scales, 1)], [avx2::pairs(mins, 0), avx2::pairs(mins, 1)])
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(block: &[u8; 144]) -> avx512::Codes {
    let (first, second) = avx512::group(part(block, 16));
    let (first, second) = (avx512::nibbles(first), avx512::nibbles(second));
    [first.0, first.1, second.0, second.1]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(block: &[u8; 144]) -> avx512::Scales {
    pairs_avx512(part(block, 0))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 144]) -> avx2::Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = avx2::field(load256(part(block, 16 + i / 2 * 32)), i as i32 % 2 * 4, 15);
    }
    codes
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 144]) -> avx2::Scales {
    pairs_avx2(part(block, 0))
}
