//! Vector kernels that the formats with 256-weight blocks (K-quants) share.
//!
//! A format gives one function a tier, `expand`: a block's codes in their natural order and its
//! scales and mins, one for each 16 weights. Dot, unpack and to_f32 follow from it.
//!
//! Formats with one `OFFSET` for all codes leave the mins zero: in the dot, the offset times
//! the activation's codes is taken off in exact integers before the scales are applied.

/// AVX-512 with VNNI: 64 codes a vector.
pub(super) mod avx512 {
    use crate::quant::{GROUP, Q8, SUB};
    use crate::simd::rows::walk_avx512;
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// A block, expanded.
    pub struct Block {
        /// Codes 0..64, 64..128, 128..192, 192..256.
        pub codes: [__m512i; 4],
        /// 16 scales.
        pub scales: __m512,
        /// 16 mins; zero in formats with an offset.
        pub mins: __m512,
    }

    /// What the rows of a step share of the activation.
    struct Prepared {
        q: [__m512i; 4],
        start: [__m512i; 4],
        d: __m512,
        s: __m512,
    }

    /// Indices that spread the scales of 4 subs over the 4 lanes of each.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn spread(vector: i32) -> __m512i {
        let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        _mm512_add_epi32(quarters, _mm512_set1_epi32(4 * vector))
    }

    /// Dots of rows with one activation row.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn dot<const BYTES: usize, const OFFSET: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let spreads = [spread(0), spread(1), spread(2), spread(3)];
        let pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let prepare = |i: usize| {
            let q: &[i8; 256] = part(x.q, i * 256);
            let d = _mm512_castps256_ps512(load256_ps(part(x.d, i * 256 / GROUP)));
            let offset = _mm512_set1_epi8(OFFSET as i8);
            let zero = _mm512_setzero_si512();
            let mut prepared = Prepared {
                q: [zero; 4],
                start: [zero; 4],
                d: _mm512_permutexvar_ps(pairs, d),
                s: load512_ps(part(x.s, i * 256 / SUB)),
            };
            for (j, (to, start)) in prepared.q.iter_mut().zip(&mut prepared.start).enumerate() {
                *to = load512_i8(part(q, j * 64));
                *start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, offset, *to));
            }
            prepared
        };
        let step = |block: &[u8; BYTES], x: &Prepared, sum: __m512| {
            let Block { codes, scales, mins } = expand(block);
            let scales = _mm512_mul_ps(scales, x.d);
            let mut sum = if OFFSET == 0 { _mm512_fnmadd_ps(mins, x.s, sum) } else { sum };
            for j in 0..4 {
                let dots = _mm512_dpbusd_epi32(x.start[j], codes[j], x.q[j]);
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), _mm512_permutexvar_ps(spreads[j], scales), sum);
            }
            sum
        };
        walk_avx512(rows, out, _mm512_setzero_ps(), prepare, step, |sum| _mm512_reduce_add_ps(sum));
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<256>().0);
        let subs = scales.as_chunks_mut::<16>().0.iter_mut().zip(mins.as_chunks_mut::<16>().0);
        for ((block, codes), (scales, mins)) in blocks.zip(subs) {
            let block = expand(block);
            for (codes, vector) in codes.as_chunks_mut().0.iter_mut().zip(block.codes) {
                store512(codes, vector);
            }
            store512_ps(scales, block.scales);
            let offset = _mm512_set1_ps(OFFSET as f32);
            store512_ps(mins, if OFFSET == 0 { block.mins } else { _mm512_mul_ps(block.scales, offset) });
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        out: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let block = expand(block);
            for (codes, vector) in codes.as_chunks_mut().0.iter_mut().zip(block.codes) {
                store512(codes, vector);
            }
            store512_ps(&mut scales, block.scales);
            store512_ps(&mut mins, block.mins);
            for (i, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
                let code = _mm512_cvtepu8_epi32(load128(part(&codes, i * SUB)));
                let code = _mm512_cvtepi32_ps(_mm512_sub_epi32(code, _mm512_set1_epi32(OFFSET)));
                let w = _mm512_mul_ps(code, _mm512_set1_ps(scales[i]));
                store512_ps(out, if OFFSET == 0 { _mm512_sub_ps(w, _mm512_set1_ps(mins[i])) } else { w });
            }
        }
    }

    /// `d * scale` in 16 lanes from 16 signed bytes.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn scale16(d: __m128, scales: __m128i) -> __m512 {
        _mm512_mul_ps(_mm512_broadcastss_ps(d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales)))
    }

    /// `low` where the bits of `mask` are set, else `high`; of the result, only the bits in `keep`.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn merge(mask: u8, low: __m512i, high: __m512i, keep: u8) -> __m512i {
        let mask = _mm512_set1_epi8(mask as i8);
        let both = _mm512_ternarylogic_epi32::<0xca>(mask, low, high);
        _mm512_and_si512(both, _mm512_set1_epi8(keep as i8))
    }

    /// Qwords of the lower half shifted right by `low`, those of the upper half by `high` bits.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn shift_halves(v: __m512i, low: i64, high: i64) -> __m512i {
        _mm512_srlv_epi64(v, _mm512_setr_epi64(low, low, low, low, high, high, high, high))
    }

    /// Qwords of the lower half rotated left by `low`, those of the upper half by `high` bits
    /// (negative: to the right).
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn rotate_halves(v: __m512i, low: i64, high: i64) -> __m512i {
        let (low, high) = (low & 63, high & 63);
        _mm512_rolv_epi64(v, _mm512_setr_epi64(low, low, low, low, high, high, high, high))
    }
}

/// AVX2: 32 codes a vector. Sums of two products of a code and an activation stay within 16
/// bits because no code of these formats passes 63.
pub(super) mod avx2 {
    use crate::quant::{GROUP, Q8, SUB};
    use crate::simd::rows::walk_avx2;
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// A block, expanded.
    pub struct Block {
        /// Codes 0..32, 32..64, …
        pub codes: [__m256i; 8],
        /// 16 scales.
        pub scales: [__m256; 2],
        /// 16 mins; zero in formats with an offset.
        pub mins: [__m256; 2],
    }

    /// What the rows of a step share of the activation.
    struct Prepared {
        q: [__m256i; 8],
        start: [__m256i; 8],
        d: [__m256; 2],
        s: [__m256; 2],
    }

    /// Indices that spread the scales of 2 subs over the 4 lanes of each.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn spread(vector: i32) -> __m256i {
        _mm256_add_epi32(_mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), _mm256_set1_epi32(2 * vector))
    }

    /// Sums of 4 neighbouring products of codes and activations.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn multiply(codes: __m256i, q: __m256i) -> __m256i {
        _mm256_madd_epi16(_mm256_maddubs_epi16(codes, q), _mm256_set1_epi16(1))
    }

    /// Each of 4 values, from `4 * half`, in two lanes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn pairs(v: __m256, half: i32) -> __m256 {
        let pairs = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
        _mm256_permutevar8x32_ps(v, _mm256_add_epi32(pairs, _mm256_set1_epi32(4 * half)))
    }

    /// Dots of rows with one activation row.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot<const BYTES: usize, const OFFSET: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let spreads = [spread(0), spread(1), spread(2), spread(3)];
        let prepare = |i: usize| {
            let q: &[i8; 256] = part(x.q, i * 256);
            let d = load256_ps(part(x.d, i * 256 / GROUP));
            let s: &[f32; 16] = part(x.s, i * 256 / SUB);
            let offset = _mm256_set1_epi8(OFFSET as i8);
            let zero = _mm256_setzero_si256();
            let mut prepared = Prepared {
                q: [zero; 8],
                start: [zero; 8],
                d: [pairs(d, 0), pairs(d, 1)],
                s: [load256_ps(part(s, 0)), load256_ps(part(s, 8))],
            };
            for (j, (to, start)) in prepared.q.iter_mut().zip(&mut prepared.start).enumerate() {
                *to = load256_i8(part(q, j * 32));
                *start = _mm256_sub_epi32(zero, multiply(offset, *to));
            }
            prepared
        };
        let step = |block: &[u8; BYTES], x: &Prepared, sum: __m256| {
            let Block { codes, scales, mins } = expand(block);
            let mut sum = sum;
            for half in 0..2 {
                let scales = _mm256_mul_ps(scales[half], x.d[half]);
                if OFFSET == 0 {
                    sum = _mm256_fnmadd_ps(mins[half], x.s[half], sum);
                }
                for j in 0..4 {
                    let mut dots = multiply(codes[half * 4 + j], x.q[half * 4 + j]);
                    if OFFSET != 0 {
                        dots = _mm256_add_epi32(dots, x.start[half * 4 + j]);
                    }
                    let scales = _mm256_permutevar8x32_ps(scales, spreads[j]);
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sum);
                }
            }
            sum
        };
        walk_avx2(rows, out, _mm256_setzero_ps(), prepare, step, |sum| sum256(sum));
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<256>().0);
        let subs = scales.as_chunks_mut::<16>().0.iter_mut().zip(mins.as_chunks_mut::<16>().0);
        for ((block, codes), (scales, mins)) in blocks.zip(subs) {
            let block = expand(block);
            for (codes, vector) in codes.as_chunks_mut().0.iter_mut().zip(block.codes) {
                store256(codes, vector);
            }
            for half in 0..2 {
                let offset = _mm256_mul_ps(block.scales[half], _mm256_set1_ps(OFFSET as f32));
                store256_ps(part_mut(scales, half * 8), block.scales[half]);
                store256_ps(part_mut(mins, half * 8), if OFFSET == 0 { block.mins[half] } else { offset });
            }
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        out: &mut [f32],
        expand: impl Fn(&[u8; BYTES]) -> Block,
    ) {
        let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            unpack::<BYTES, OFFSET>(block, &mut codes, &mut scales, &mut mins, &expand);
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let eight = i64::from_le_bytes(*part(&codes, i * 8));
                let code = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(eight));
                let code = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(OFFSET)));
                let w = _mm256_mul_ps(code, _mm256_set1_ps(scales[i / 2]));
                store256_ps(out, if OFFSET == 0 { _mm256_sub_ps(w, _mm256_set1_ps(mins[i / 2])) } else { w });
            }
        }
    }

    /// `d * scale` in 16 lanes from 16 signed bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale16(d: __m128, scales: __m128i) -> [__m256; 2] {
        let d = _mm256_broadcastss_ps(d);
        let upper = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(scales, scales));
        let lower = _mm256_cvtepi8_epi32(scales);
        [_mm256_mul_ps(d, _mm256_cvtepi32_ps(lower)), _mm256_mul_ps(d, _mm256_cvtepi32_ps(upper))]
    }

    /// The bits in `keep` of `v` shifted right by `bits` (left, if negative).
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn field(v: __m256i, bits: i32, keep: u8) -> __m256i {
        let count = _mm_cvtsi32_si128(bits.abs());
        let v = if bits < 0 { _mm256_sll_epi16(v, count) } else { _mm256_srl_epi16(v, count) };
        _mm256_and_si256(v, _mm256_set1_epi8(keep as i8))
    }
}
