//! Q4_1: 32 weights in 20 bytes, 5 bits each. `w = d * code + m`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `m`, f16 |
//! | 4 | 16 bytes: low nibbles are codes 0..16, high nibbles codes 16..32 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q4_1, bytes 20, elements 32, offset 0);

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
