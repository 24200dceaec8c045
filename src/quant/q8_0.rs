//! Q8_0: 32 weights in 34 bytes, 8.5 bits each. `w = d * q`; as codes, `w = d * (code - 128)`.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | 32 signed bytes `q` |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q8_0, bytes 34, elements 32, offset 128);

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
