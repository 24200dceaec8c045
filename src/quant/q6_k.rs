//! Q6_K: 256 weights in 210 bytes, 6.5625 bits each. `w = d * scale * (code - 32)`, with one
//! signed 8-bit scale for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 128 bytes: in each 64 bytes the low nibbles are bits 0-3 of 64 codes, the high nibbles those of the next 64 |
//! | 128 | 64 bytes: in each 32 bytes, bits 0-1 are bits 4-5 of weights 0..32 of a half block, bits 2-3 of weights 32..64, 4-5 of weights 64..96, 6-7 of weights 96..128 |
//! | 192 | 16 signed scales |
//! | 208 | `d`, f16 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q6_K, bytes 210, elements 256, offset 32);

fn dequantize_block(block: &[u8; 210], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i] as i8 - 32);
    }
}

fn unpack_block(block: &[u8; 210], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 208);
    for (i, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        *scale = d * f32::from(block[192 + i] as i8);
        *min = *scale * 32.0;
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = block[half * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        *code = low | (block[128 + half * 32 + at] >> (2 * quarter) & 3) << 4;
    }
}
