//! Q3_K: 256 weights in 110 bytes, 3.4375 bits each. `w = d * (scale - 32) * (code - 4)`, with
//! one 6-bit scale for 16 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | 32 bytes: bit `j` of byte `i` is bit 2 of code `32 * j + i` |
//! | 32 | 64 bytes: bits 0-1 of the codes; in each 32 bytes, bits 0-1 are weights 0..32 of a half block, bits 2-3 weights 32..64, 4-5 weights 64..96, 6-7 weights 96..128 |
//! | 96 | 12 bytes of scales: the low nibbles of bytes 0..8 are bits 0-3 of scales 0..8, the high nibbles those of scales 8..16; bits 2j, 2j+1 of byte `8 + i` are bits 4-5 of scale `4 * j + i` |
//! | 108 | `d`, f16 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q3_K, bytes 110, elements 256, offset 4);

fn dequantize_block(block: &[u8; 110], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i] as i8 - 4);
    }
}

fn unpack_block(block: &[u8; 110], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let d = f16_at(block, 108);
    let packed = &block[96..108];
    for (i, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let high = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = d * f32::from((low | high << 4) as i8 - 32);
        *min = *scale * 4.0;
    }
    for (i, code) in codes.iter_mut().enumerate() {
        let (half, quarter, at) = (i / 128, i / 32 % 4, i % 32);
        let low = block[32 + half * 32 + at] >> (2 * quarter) & 3;
        *code = low | (block[at] >> (i / 32) & 1) << 2;
    }
}
