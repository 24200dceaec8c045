//! Q3_K: 256 weights in 110 bytes, 3.4375 bits each. `w = d * (scale - 32) * (code - 4)`, with
//! one 6-bit scale for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 32 bytes: bit `j` of byte `i` is bit 2 of code `32 * j + i` |
//! | 32 | 64 bytes: bits 0-1 of the codes; in each 32 bytes, bits 0-1 are weights 0..32 of a half block, bits 2-3 weights 32..64, 4-5 weights 64..96, 6-7 weights 96..128 |
//! | 96 | 12 bytes of scales: the low nibbles of bytes 0..8 are bits 0-3 of scales 0..8, the high nibbles those of scales 8..16; bits 2j, 2j+1 of byte `8 + i` are bits 4-5 of scale `4 * j + i` |
//! | 108 | `d`, f16 |

#[cfg(target_arch = "x86_64")]
use super::block256::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{f16_pair, load256, part, twice256};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q3_K, block256 subs 16, bytes 110, elements 256, step 110, offset 4);

fn dequantize_block(block: &[u8; 110], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i] as i8 - 4);
    }
}

fn unpack_block(block: &[u8; 110], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 108);
    let packed = &block[96..108];
    for (i, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
        *min = *scale * 4.0;
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = block[32 + half * 32 + at] >> (2 * quarter) & 3;
        *code = low | (block[at] >> (i / 32) & 1) << 2;
    }
}

/// The 16 scales as signed bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales(block: &[u8; 110]) -> __m128i {
    let low = u64::from_le_bytes(*part(block, 96));
    let high = u64::from(u32::from_le_bytes(*part(block, 104)));
    let nibble = 0x0f0f_0f0f_0f0f_0f0f;
    let two = 0x0303_0303;
    let first = low & nibble | (high & two) << 4 | (high >> 2 & two) << 36;
    let last = low >> 4 & nibble | (high >> 4 & two) << 4 | (high >> 6 & two) << 36;
    _mm_sub_epi8(_mm_set_epi64x(last as i64, first as i64), _mm_set1_epi8(32))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(block: &[u8; 110]) -> avx512::Codes {
    let bits = twice256(part(block, 0));
    // Bits 2i and 2i + 1 of `bits` become bit 2 of vector i.
    let codes = |i: i64| {
        let shift = i % 2 * 4;
        let low = avx512::shift_halves(twice256(part(block, 32 + i as usize / 2 * 32)), shift, shift + 2);
        avx512::merge(3, low, avx512::rotate_halves(bits, 2 - 2 * i, 1 - 2 * i), 7)
    };
    [codes(0), codes(1), codes(2), codes(3)]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(block: &[u8; 110]) -> avx512::Scales {
    let d = f16_pair([block[108], block[109], 0, 0]);
    (avx512::scale16(d, scales(block)), _mm512_setzero_ps())
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 110]) -> avx2::Codes {
    let bits = load256(part(block, 0));
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        let low = avx2::field(load256(part(block, 32 + i / 4 * 32)), i as i32 % 4 * 2, 3);
        *codes = _mm256_or_si256(low, avx2::field(bits, i as i32 - 2, 4));
    }
    codes
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 110]) -> avx2::Scales {
    let d = f16_pair([block[108], block[109], 0, 0]);
    (avx2::scale16(d, scales(block)), [_mm256_setzero_ps(); 2])
}
