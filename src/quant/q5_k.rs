//! Q5_K: 256 weights in 176 bytes, 5.5 bits each. `w = d * scale * code - dmin * min`, with one
//! pair of 6-bit scale and min for 32 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `dmin`, f16 |
//! | 4 | 12 bytes of scales and mins, as in Q4_K |
//! | 16 | 32 bytes: bit `j` of byte `i` is bit 4 of code `32 * j + i` |
//! | 48 | 128 bytes: in each 32 bytes the low nibbles belong to 32 codes, the high nibbles to the next 32 |

#[cfg(target_arch = "x86_64")]
use super::block256::{avx2, avx512};
use super::format::coded;
use super::q4_k::unpack_pairs;
#[cfg(target_arch = "x86_64")]
use super::q4_k::{pairs_avx2, pairs_avx512};
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{load256, part};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

coded!(Q5_K, block256 subs 8, bytes 176, elements 256, step 176, offset 0);

fn dequantize_block(block: &[u8; 176], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 176], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    unpack_pairs(block, scales, mins);
    for (i, code) in codes.iter_mut().enumerate() {
        let low = block[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        *code = low | (block[16 + i % 32] >> (i / 32) & 1) << 4;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn codes_avx512(block: &[u8; 176]) -> avx512::Codes {
    let bits = _mm512_castsi256_si512(load256(part(block, 16)));
    let bits = |qword: i64| {
        let index = _mm512_setr_epi64(qword, qword, qword, qword, qword + 1, qword + 1, qword + 1, qword + 1);
        _mm512_permutexvar_epi64(index, bits)
    };
    // The bit of each sub becomes bit 4.
    let even = _mm512_setr_epi64(4, 2, 0, 62, 4, 2, 0, 62);
    let odd = _mm512_setr_epi64(3, 1, 63, 61, 3, 1, 63, 61);
    let (first, second) = avx512::group(part(block, 48));
    let codes =
        |nibbles: __m512i, bits: __m512i, turn: __m512i| avx512::merge(15, nibbles, _mm512_rolv_epi64(bits, turn), 31);
    [
        codes(first, bits(0), even),
        codes(_mm512_srli_epi16::<4>(first), bits(0), odd),
        codes(second, bits(2), even),
        codes(_mm512_srli_epi16::<4>(second), bits(2), odd),
    ]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn scales_avx512(block: &[u8; 176]) -> avx512::Scales {
    pairs_avx512(part(block, 0))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes_avx2(block: &[u8; 176]) -> avx2::Codes {
    let bits = load256(part(block, 16));
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, codes) in codes.iter_mut().enumerate() {
        let low = avx2::field(load256(part(block, 48 + i / 2 * 32)), i as i32 % 2 * 4, 15);
        *codes = _mm256_or_si256(low, avx2::field(bits, i as i32 - 4, 16));
    }
    codes
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_avx2(block: &[u8; 176]) -> avx2::Scales {
    pairs_avx2(part(block, 0))
}
