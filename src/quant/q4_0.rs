//! Q4_0: 32 weights in 18 bytes, 4.5 bits each. `w = d * (code - 8)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | 16 bytes: low nibbles are codes 0..16, high nibbles codes 16..32 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q4_0, bytes 18, elements 32, offset 8);

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
