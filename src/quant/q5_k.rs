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

use super::format::coded;
use super::q4_k::scale_min;
use super::scalar::f16_at;

coded!(Q5_K, bytes 176, elements 256, offset 0);

fn dequantize_block(block: &[u8; 176], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 176], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (i, (scales, mins)) in scales.chunks_mut(2).zip(mins.chunks_mut(2)).enumerate() {
        let (scale, min) = scale_min(&block[4..16], i);
        scales.fill(d * f32::from(scale));
        mins.fill(dmin * f32::from(min));
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let low = block[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
        *code = low | (block[16 + i % 32] >> (i / 32) & 1) << 4;
    }
}
