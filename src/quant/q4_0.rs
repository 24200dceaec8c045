//! Q4_0: 32 weights in 18 bytes, 4.5 bits each. `w = d * (code - 8)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | 16 bytes: low nibbles are codes 0..16, high nibbles codes 16..32 |

#[cfg(target_arch = "x86_64")]
use super::block32::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load512, part};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm256_setzero_ps, _mm512_setzero_ps};

coded!(Q4_0, block32, bytes 18, elements 32, step 72, offset 8);

fn dequantize_block(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (i, byte) in block[2..].iter().enumerate() {
        out[i] = f32::from((byte & 15) as i8 - 8) * d;
        out[i + 16] = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

fn unpack_block(block: &[u8; 18], codes: &mut [u8; 32], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 0);
    scales.fill(d);
    mins.fill(d * 8.0);
    for (i, byte) in block[2..].iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(blocks: &[u8; 72]) -> avx512::Codes {
    const NIBBLES: [u8; 64] = avx512::bytes_index(18, 8, 2, 16);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 8)));
    avx512::nibbles(avx512::pick(first, &NIBBLES, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(blocks: &[u8; 72]) -> avx512::Scales {
    const D: [u16; 32] = avx512::words_index(18, 8, 0);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 8)));
    (avx512::pick_f16(first, &D, second), _mm512_setzero_ps())
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 18]) -> avx2::Codes {
    avx2::nibbles(part(block, 2))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 18]) -> avx2::Scales {
    (avx2::f16_all(*part(block, 0)), _mm256_setzero_ps())
}
