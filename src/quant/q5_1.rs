//! Q5_1: 32 weights in 24 bytes, 6 bits each. `w = d * code + m`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `m`, f16 |
//! | 4 | u32: bit `i` is bit 4 of code `i` |
//! | 8 | 16 bytes: low nibbles belong to codes 0..16, high nibbles to codes 16..32 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q5_1, bytes 24, elements 32, offset 0);

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
