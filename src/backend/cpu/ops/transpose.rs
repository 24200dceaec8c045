//! Transposition of 16 x 16 words in vector registers (AVX-512).

use std::arch::x86_64::*;

/// Transposes a matrix of 16 x 16 words.
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = r;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    // b[4i + c] holds, in 128-bit lane l, column 4l + c of rows 4i .. 4i+4.
    let mut out = a;
    for c in 0..4 {
        let x = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
        let y = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
        let z = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
        let w = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(x, z);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(x, z);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(y, w);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(y, w);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Tier;
    use crate::simd::x86::{load512, store512};

    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn round(lines: &mut [[u8; 64]; 16]) {
        let out = transpose(std::array::from_fn(|i| load512(&lines[i])));
        for (line, out) in lines.iter_mut().zip(out) {
            store512(line, out);
        }
    }

    #[test]
    fn rows_become_columns() {
        let Some(token) = Tier::detect().avx512() else { return };
        let at = |r: usize, c: usize| [r as u8, c as u8, 1, 2];
        let mut matrix: [[u8; 64]; 16] = std::array::from_fn(|r| std::array::from_fn(|i| at(r, i / 4)[i % 4]));
        let lines = &mut matrix;
        crate::simd::enter!(Avx512, token => round(lines: &mut [[u8; 64]; 16]));
        for (r, line) in matrix.iter().enumerate() {
            for (c, word) in line.as_chunks::<4>().0.iter().enumerate() {
                assert_eq!(*word, at(c, r));
            }
        }
    }
}
