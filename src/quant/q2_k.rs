//! Q2_K: 256 weights in 84 bytes, 2.625 bits each. `w = d * scale * code - dmin * min`, with
//! one pair of 4-bit scale and min for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 16 bytes: low nibble the scale, high nibble the min of each 16 weights |
//! | 16 | 64 bytes of codes: in each 32 bytes, bits 0-1 are weights 0..32 of a half block, bits 2-3 weights 32..64, 4-5 weights 64..96, 6-7 weights 96..128 |
//! | 80 | `d`, f16 |
//! | 82 | `dmin`, f16 |

#[cfg(target_arch = "x86_64")]
use super::block256::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{f16_pair, load128, load256, part, twice256};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q2_K, block256 subs 16, bytes 84, elements 256, step 84, offset 0);

fn dequantize_block(block: &[u8; 84], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 84], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (i, byte) in block[..16].iter().enumerate() {
        scales[i] = d * f32::from(byte & 15);
        mins[i] = dmin * f32::from(byte >> 4);
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        *code = block[16 + half * 32 + at] >> (2 * quarter) & 3;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(block: &[u8; 84]) -> avx512::Codes {
    let codes = |half: usize, low: i64, high: i64| {
        let v = avx512::shift_halves(twice256(part(block, 16 + half * 32)), low, high);
        _mm512_and_si512(v, _mm512_set1_epi8(3))
    };
    [codes(0, 0, 2), codes(0, 4, 6), codes(1, 0, 2), codes(1, 4, 6)]
}

/// The 16 scales and the 16 mins, as bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_mins(block: &[u8; 84]) -> (__m128i, __m128i) {
    let packed = load128(part(block, 0));
    let nibble = _mm_set1_epi8(15);
    (_mm_and_si128(packed, nibble), _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(block: &[u8; 84]) -> avx512::Scales {
    let (scales, mins) = scales_mins(block);
    let d = f16_pair(*part(block, 80));
    (avx512::scale16(d, scales), avx512::scale16(_mm_movehdup_ps(d), mins))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 84]) -> avx2::Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = avx2::field(load256(part(block, 16 + i / 4 * 32)), i as i32 % 4 * 2, 3);
    }
    codes
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 84]) -> avx2::Scales {
    let (scales, mins) = scales_mins(block);
    let d = f16_pair(*part(block, 80));
    (avx2::scale16(d, scales), avx2::scale16(_mm_movehdup_ps(d), mins))
}
