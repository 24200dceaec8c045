//! Q5_0: 32 weights in 22 bytes, 5.5 bits each. `w = d * (code - 16)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | u32: bit `i` is bit 4 of code `i` |
//! | 6 | 16 bytes: low nibbles belong to codes 0..16, high nibbles to codes 16..32 |

#[cfg(target_arch = "x86_64")]
use super::block32::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load512, part};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm256_setzero_ps, _mm512_setzero_ps};

coded!(Q5_0, block32, bytes 22, elements 32, step 88, offset 16);

fn dequantize_block(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let mut codes = [0; 32];
    unpack_codes(block, &mut codes);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code as i8 - 16) * d;
    }
}

fn unpack_block(block: &[u8; 22], codes: &mut [u8; 32], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 0);
    scales.fill(d);
    mins.fill(d * 16.0);
    unpack_codes(block, codes);
}

fn unpack_codes(block: &[u8; 22], codes: &mut [u8; 32]) {
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (i, byte) in block[6..].iter().enumerate() {
        codes[i] = byte & 15 | ((high >> i & 1) as u8) << 4;
        codes[i + 16] = byte >> 4 | ((high >> (i + 16) & 1) as u8) << 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(blocks: &[u8; 88]) -> avx512::Codes {
    const NIBBLES: [u8; 64] = avx512::bytes_index(22, 24, 6, 16);
    const BITS: [u8; 64] = avx512::bytes_index(22, 24, 2, 4);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 24)));
    avx512::fives(avx512::pick(first, &NIBBLES, second), avx512::pick(first, &BITS, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(blocks: &[u8; 88]) -> avx512::Scales {
    const D: [u16; 32] = avx512::words_index(22, 24, 0);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 24)));
    (avx512::pick_f16(first, &D, second), _mm512_setzero_ps())
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 22]) -> avx2::Codes {
    avx2::add_high(avx2::nibbles(part(block, 6)), part(block, 2))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 22]) -> avx2::Scales {
    (avx2::f16_all(*part(block, 0)), _mm256_setzero_ps())
}
