//! Q4_K: 256 weights in 144 bytes, 4.5 bits each. `w = d * scale * code - dmin * min`, with one
//! pair of 6-bit scale and min for 32 weights.
//!
//! | byte | |
//! |---|---|
//! | 0 | `d`, f16 |
//! | 2 | `dmin`, f16 |
//! | 4 | 12 bytes of scales and mins, see [`scale_min`] |
//! | 16 | 128 bytes: in each 32 bytes the low nibbles are 32 codes, the high nibbles the next 32 |

use super::format::coded;
use super::scalar::f16_at;

coded!(Q4_K, bytes 144, elements 256, offset 0);

/// Scale and min `i` of 8 from the 12 packed bytes of Q4_K and Q5_K: those below 4 are the low
/// six bits of bytes `i` and `i + 4`; the others have their low nibbles in byte `i + 4` and
/// their upper two bits on top of bytes `i - 4` and `i`.
pub(super) fn scale_min(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    }
}

fn dequantize_block(block: &[u8; 144], out: &mut [f32; 256]) {
    let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
    unpack_block(block, &mut codes, &mut scales, &mut mins);
    for (i, out) in out.iter_mut().enumerate() {
        *out = scales[i / 16] * f32::from(codes[i]) - mins[i / 16];
    }
}

fn unpack_block(block: &[u8; 144], codes: &mut [u8; 256], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    for (i, (scales, mins)) in scales.chunks_mut(2).zip(mins.chunks_mut(2)).enumerate() {
        let (scale, min) = scale_min(&block[4..16], i);
        scales.fill(d * f32::from(scale));
        mins.fill(dmin * f32::from(min));
    }
    for (i, code) in codes.iter_mut().enumerate() {
        *code = block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
    }
}
