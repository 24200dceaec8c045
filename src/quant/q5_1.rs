//! Q5_1: 32 weights in 24 bytes, 6 bits each. `w = d * code + m`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `m`, f16 |
//! | 4 | u32: bit `i` is bit 4 of code `i` |
//! | 8 | 16 bytes: low nibbles belong to codes 0..16, high nibbles to codes 16..32 |

#[cfg(target_arch = "x86_64")]
use super::block32::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load512, part};

coded!(Q5_1, block32, bytes 24, elements 32, step 96, offset 0);

fn dequantize_block(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let mut codes = [0; 32];
    unpack_codes(block, &mut codes);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * d + m;
    }
}

fn unpack_block(block: &[u8; 24], codes: &mut [u8; 32], scales: &mut [f32], mins: &mut [f32]) {
    scales.fill(f16_at(block, 0));
    mins.fill(-f16_at(block, 2));
    unpack_codes(block, codes);
}

fn unpack_codes(block: &[u8; 24], codes: &mut [u8; 32]) {
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (i, byte) in block[8..].iter().enumerate() {
        codes[i] = byte & 15 | ((high >> i & 1) as u8) << 4;
        codes[i + 16] = byte >> 4 | ((high >> (i + 16) & 1) as u8) << 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(blocks: &[u8; 96]) -> avx512::Codes {
    const NIBBLES: [u8; 64] = avx512::bytes_index(24, 32, 8, 16);
    const BITS: [u8; 64] = avx512::bytes_index(24, 32, 4, 4);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 32)));
    avx512::fives(avx512::pick(first, &NIBBLES, second), avx512::pick(first, &BITS, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(blocks: &[u8; 96]) -> avx512::Scales {
    const D: [u16; 32] = avx512::words_index(24, 32, 0);
    const M: [u16; 32] = avx512::words_index(24, 32, 2);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 32)));
    (avx512::pick_f16(first, &D, second), avx512::pick_f16(first, &M, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 24]) -> avx2::Codes {
    avx2::add_high(avx2::nibbles(part(block, 8)), part(block, 4))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 24]) -> avx2::Scales {
    (avx2::f16_all(*part(block, 0)), avx2::f16_all(*part(block, 2)))
}
