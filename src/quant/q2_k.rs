//! Q2_K: 256 weights in 84 bytes, 2.625 bits each. `w = d * scale * code - dmin * min`, with
//! one pair of 4-bit scale and min for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 16 bytes: low nibble the scale, high nibble the min of each 16 weights |
//! | 16 | 64 bytes of codes: in each 32 bytes, bits 0-1 are weights 0..32 of a half block, bits 2-3 weights 32..64, 4-5 weights 64..96, 6-7 weights 96..128 |
//! | 80 | `d`, f16 |
//! | 82 | `dmin`, f16 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q2_K, bytes 84, elements 256, offset 0);

fn dequantize_block(block: &[u8; 84], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 84], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for (i, byte) in block[..16].iter().enumerate() {
        scales[i] = d * f32::from(byte & 15);
        mins[i] = dmin * f32::from(byte >> 4);
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        *code = block[16 + half * 32 + at] >> (2 * quarter) & 3;
    }
}
