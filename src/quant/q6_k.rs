//! Q6_K: 256 weights in 210 bytes, 6.5625 bits each. `w = d * scale * (code - 32)`, with one
//! signed 8-bit scale for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 128 bytes: in each 64 bytes the low nibbles are bits 0-3 of 64 codes, the high nibbles those of the next 64 |
//! | 128 | 64 bytes: in each 32 bytes, bits 0-1 are bits 4-5 of weights 0..32 of a half block, bits 2-3 of weights 32..64, 4-5 of weights 64..96, 6-7 of weights 96..128 |
//! | 192 | 16 signed scales |
//! | 208 | `d`, f16 |

#[cfg(target_arch = "x86_64")]
use super::block256::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{f16_pair, load128, load256, load512, part, twice256};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q6_K, block256 subs 16, bytes 210, elements 256, step 210, offset 32);

fn dequantize_block(block: &[u8; 210], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i] as i8 - 32);
    }
}

fn unpack_block(block: &[u8; 210], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 208);
    for (i, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        *scale = d * f32::from(block[192 + i] as i8);
        *min = *scale * 32.0;
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = block[half * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        *code = low | (block[128 + half * 32 + at] >> (2 * quarter) & 3) << 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(block: &[u8; 210]) -> avx512::Codes {
    let half = |i: usize| {
        let low = load512(part(block, i * 64));
        let bits = twice256(part(block, 128 + i * 32));
        let first = avx512::merge(15, low, avx512::rotate_halves(bits, 4, 2), 63);
        let second = avx512::merge(15, _mm512_srli_epi16::<4>(low), avx512::rotate_halves(bits, 0, -2), 63);
        (first, second)
    };
    let ((a, b), (c, d)) = (half(0), half(1));
    [a, b, c, d]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(block: &[u8; 210]) -> avx512::Scales {
    let d = f16_pair([block[208], block[209], 0, 0]);
    (avx512::scale16(d, load128(part(block, 192))), _mm512_setzero_ps())
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 210]) -> avx2::Codes {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        let (half, quarter) = (i / 4, i as i32 % 4);
        let low = load256(part(block, half * 64 + i % 2 * 32));
        let bits = load256(part(block, 128 + half * 32));
        let low = avx2::field(low, quarter / 2 * 4, 15);
        *codes = _mm256_or_si256(low, avx2::field(bits, quarter * 2 - 4, 0x30));
    }
    codes
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 210]) -> avx2::Scales {
    let d = f16_pair([block[208], block[209], 0, 0]);
    (avx2::scale16(d, load128(part(block, 192))), [_mm256_setzero_ps(); 2])
}
