//! Q8_0: 32 weights in 34 bytes, 8.5 bits each. `w = d * q`; as codes, `w = d * (code - 128)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | 32 signed bytes `q` |

#[cfg(target_arch = "x86_64")]
use super::block32::{avx2, avx512};
use super::format::coded;
use super::scalar::f16_at;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load256, load512, part};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q8_0, block32, bytes 34, elements 32, step 136, offset 128);

fn dequantize_block(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*byte as i8) * d;
    }
}

fn unpack_block(block: &[u8; 34], codes: &mut [u8; 32], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 0);
    scales.fill(d);
    mins.fill(d * 128.0);
    for (code, byte) in codes.iter_mut().zip(&block[2..]) {
        *code = byte ^ 0x80;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(blocks: &[u8; 136]) -> avx512::Codes {
    // The first 16 weights of all four blocks lie in bytes 0..64 and 68..132, the last 16 in
    // bytes 4..68 and 72..136.
    const LOW: [u8; 64] = avx512::bytes_index(34, 68, 2, 16);
    const HIGH: [u8; 64] = avx512::bytes_index(34, 68, 14, 16);
    let low = avx512::pick(load512(part(blocks, 0)), &LOW, load512(part(blocks, 68)));
    let high = avx512::pick(load512(part(blocks, 4)), &HIGH, load512(part(blocks, 72)));
    let bias = _mm512_set1_epi8(-128);
    (_mm512_xor_si512(low, bias), _mm512_xor_si512(high, bias))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(blocks: &[u8; 136]) -> avx512::Scales {
    const D: [u16; 32] = avx512::words_index(34, 68, 0);
    let d = avx512::pick_f16(load512(part(blocks, 0)), &D, load512(part(blocks, 68)));
    (d, _mm512_setzero_ps())
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 34]) -> avx2::Codes {
    _mm256_xor_si256(load256(part(block, 2)), _mm256_set1_epi8(-128))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 34]) -> avx2::Scales {
    (avx2::f16_all(*part(block, 0)), _mm256_setzero_ps())
}
