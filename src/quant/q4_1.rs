//! Q4_1: 32 weights in 20 bytes, 5 bits each. `w = d * code + m`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `m`, f16 |
//! | 4 | 16 bytes: low nibbles are codes 0..16, high nibbles codes 16..32 |

#[cfg(target_arch = "x86_64")]
use super::block32::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load512, part};

coded!(Q4_1, block32, bytes 20, elements 32, step 80, offset 0);

fn dequantize_block(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (i, byte) in block[4..].iter().enumerate() {
        out[i] = f32::from(byte & 15) * d + m;
        out[i + 16] = f32::from(byte >> 4) * d + m;
    }
}

fn unpack_block(block: &[u8; 20], codes: &mut [u8; 32], scales: &mut [f32], mins: &mut [f32]) {
    scales.fill(f16_at(block, 0));
    mins.fill(-f16_at(block, 2));
    for (i, byte) in block[4..].iter().enumerate() {
        codes[i] = byte & 15;
        codes[i + 16] = byte >> 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(blocks: &[u8; 80]) -> avx512::Codes {
    const NIBBLES: [u8; 64] = avx512::bytes_index(20, 16, 4, 16);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 16)));
    avx512::nibbles(avx512::pick(first, &NIBBLES, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(blocks: &[u8; 80]) -> avx512::Scales {
    const D: [u16; 32] = avx512::words_index(20, 16, 0);
    const M: [u16; 32] = avx512::words_index(20, 16, 2);
    let (first, second) = (load512(part(blocks, 0)), load512(part(blocks, 16)));
    (avx512::pick_f16(first, &D, second), avx512::pick_f16(first, &M, second))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 20]) -> avx2::Codes {
    avx2::nibbles(part(block, 4))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 20]) -> avx2::Scales {
    (avx2::f16_all(*part(block, 0)), avx2::f16_all(*part(block, 2)))
}
