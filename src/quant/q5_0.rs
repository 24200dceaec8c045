//! Q5_0: 32 weights in 22 bytes, 5.5 bits each. `w = d * (code - 16)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | u32: bit `i` is bit 4 of code `i` |
//! | 6 | 16 bytes: low nibbles belong to codes 0..16, high nibbles to codes 16..32 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q5_0, bytes 22, elements 32, offset 16);

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
