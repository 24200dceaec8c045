//! Vector kernels that the formats with 256-weight blocks (K-quants) share.
//!
//! A format gives two functions a tier: `codes`, a block's codes in their natural order, and
//! `scales`, its scales and mins. Dot, unpack and to_f32 follow from them. `SUBS` is the number
//! of scales a block has, 8 or 16.
//!
//! Formats with one `OFFSET` for all codes have no mins: in the dot, the offset times the
//! activation's codes is taken off in exact integers before the scales are applied.

/// AVX-512 with VNNI: 64 codes a vector.
pub(super) mod avx512 {
    use crate::quant::{GROUP, Q8, SUB};
    use crate::simd::rows::walk_avx512;
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// The codes of a block. With 16 subs they stand in their order: 0..64, 64..128, …
    ///
    /// With 8, the first and third vector hold subs 0, 2, 4 and 6, the others subs 1, 3, 5 and
    /// 7: of each, the first 8 codes and then, in the upper half, the next 8; the third and
    /// fourth vector likewise the last 16. So the first adds into the same lanes as the third,
    /// the second as the fourth, and two conversions and scalings do for the block.
    pub type Codes = [__m512i; 4];

    /// Of a block with 8 subs: 8 scales, then 8 mins; and nothing. Of one with 16: the scales,
    /// and the mins (unused where the format has an offset).
    pub type Scales = (__m512, __m512);

    /// What the rows of a step share of the activation.
    struct Prepared {
        /// In the order of [`Codes`].
        q: [__m512i; 4],
        /// The offset's part of the dots, negated.
        start: [__m512i; 4],
        /// 8 subs: the 8 scales `d`, then the negated sums of each 32. 16: each `d` twice.
        d: __m512,
        s: __m512,
    }

    /// The sums of a row: dots, and what the mins take off (with 8 subs only its upper half).
    type Sums = (__m512, __m512);

    /// From the packed bytes of 8 subs (32 bytes for two of them) to the order of [`Codes`]:
    /// those for the first and second vector, and those for the third and fourth.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn group(packed: &[u8; 128]) -> (__m512i, __m512i) {
        let (low, high) = (load512(part(packed, 0)), load512(part(packed, 64)));
        group_pair(low, high)
    }

    /// The qwords 0, 4, 8, 12 of two vectors and then 1, 5, 9, 13; and 2, 6, …, 3, 7, …
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn group_pair(low: __m512i, high: __m512i) -> (__m512i, __m512i) {
        let first = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
        let second = _mm512_add_epi64(first, _mm512_set1_epi64(2));
        (_mm512_permutex2var_epi64(low, first, high), _mm512_permutex2var_epi64(low, second, high))
    }

    /// From their order to that of [`Codes`].
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn group_all([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let (first, third) = group_pair(_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d));
        let (second, fourth) = group_pair(_mm512_shuffle_i64x2::<0xee>(a, b), _mm512_shuffle_i64x2::<0xee>(c, d));
        [first, second, third, fourth]
    }

    /// From the order of [`Codes`] to their own.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn ungroup([a, b, c, d]: Codes) -> Codes {
        let of_sub = |i: i64, first: __m512i, second: __m512i| {
            let index = _mm512_setr_epi64(i, i + 4, i + 8, i + 12, i, i + 4, i + 8, i + 12);
            _mm512_permutex2var_epi64(first, index, second)
        };
        let pair = |i: i64| _mm512_mask_mov_epi64(of_sub(i, a, c), 0xf0, of_sub(i, b, d));
        [pair(0), pair(1), pair(2), pair(3)]
    }

    /// Lane indices `from + i / times`.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn repeat(from: i32, times: u32) -> __m512i {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let shift = _mm_cvtsi32_si128(times.ilog2() as i32);
        _mm512_add_epi32(_mm512_srl_epi32(lanes, shift), _mm512_set1_epi32(from))
    }

    /// Dots of rows with one activation row.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn dot<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        scales: impl Fn(&[u8; BYTES]) -> Scales,
        codes: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        // Which scale belongs to each lane of the dots.
        let spread = if SUBS == 8 {
            let even = _mm512_setr_epi32(0, 0, 2, 2, 4, 4, 6, 6, 0, 0, 2, 2, 4, 4, 6, 6);
            [even, _mm512_add_epi32(even, _mm512_set1_epi32(1)), even, even]
        } else {
            [repeat(0, 4), repeat(4, 4), repeat(8, 4), repeat(12, 4)]
        };
        let prepare = |i: usize| {
            let q: &[i8; 256] = part(x.q, i * 256);
            let zero = _mm512_setzero_si512();
            let d = _mm512_castps256_ps512(load256_ps(part(x.d, i * 256 / GROUP)));
            let s = load512_ps(part(x.s, i * 256 / SUB));
            let d = if SUBS == 8 {
                let even = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 6, 8, 10, 12, 14);
                let odd = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 3, 5, 7, 9, 11, 13, 15);
                let sums = _mm512_add_ps(_mm512_permutexvar_ps(even, s), _mm512_permutexvar_ps(odd, s));
                _mm512_mask_sub_ps(d, 0xff00, _mm512_setzero_ps(), sums)
            } else {
                _mm512_permutexvar_ps(repeat(0, 2), d)
            };
            let mut q =
                [load512_i8(part(q, 0)), load512_i8(part(q, 64)), load512_i8(part(q, 128)), load512_i8(part(q, 192))];
            if SUBS == 8 {
                q = group_all(q);
            }
            let mut start = [zero; 4];
            if OFFSET != 0 {
                for (start, q) in start.iter_mut().zip(q) {
                    let offsets = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(OFFSET as i8), q);
                    *start = _mm512_sub_epi32(zero, offsets);
                }
            }
            Prepared { q, start, d, s }
        };
        let begin = |block: &[u8; BYTES], x: &Prepared| {
            let (scales, mins) = scales(block);
            (_mm512_mul_ps(scales, x.d), mins)
        };
        let step = |block: &[u8; BYTES], x: &Prepared, (scales, mins): Scales, (sum, off): Sums| {
            let off = if OFFSET != 0 {
                off
            } else if SUBS == 8 {
                _mm512_add_ps(off, scales)
            } else {
                _mm512_fnmadd_ps(mins, x.s, off)
            };
            let mut dots = x.start;
            for (j, (codes, q)) in codes(block).into_iter().zip(x.q).enumerate() {
                let to = if SUBS == 8 { j % 2 } else { j };
                dots[to] = _mm512_dpbusd_epi32(dots[to], codes, q);
            }
            let mut sum = sum;
            for j in 0..if SUBS == 8 { 2 } else { 4 } {
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[j]), _mm512_permutexvar_ps(spread[j], scales), sum);
            }
            (sum, off)
        };
        let finish = |(sum, off): Sums| {
            let off = if SUBS == 8 { _mm512_maskz_mov_ps(0xff00, off) } else { off };
            _mm512_add_ps(sum, off)
        };
        let zero = _mm512_setzero_ps();
        walk_avx512(rows, out, (zero, zero), prepare, begin, step, finish);
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<256>().0);
        let subs = scales.as_chunks_mut::<16>().0.iter_mut().zip(mins.as_chunks_mut::<16>().0);
        for ((block, codes), (scales, mins)) in blocks.zip(subs) {
            let vectors = if SUBS == 8 { ungroup(codes_of(block)) } else { codes_of(block) };
            for (codes, vector) in codes.as_chunks_mut().0.iter_mut().zip(vectors) {
                store512(codes, vector);
            }
            let (mut scale, mut min) = scales_of(block);
            if SUBS == 8 {
                (scale, min) = (_mm512_permutexvar_ps(repeat(0, 2), scale), _mm512_permutexvar_ps(repeat(8, 2), scale));
            }
            if OFFSET != 0 {
                min = _mm512_mul_ps(scale, _mm512_set1_ps(OFFSET as f32));
            }
            store512_ps(scales, scale);
            store512_ps(mins, min);
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        row: &[u8],
        out: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            unpack::<BYTES, OFFSET, SUBS>(block, &mut codes, &mut scales, &mut mins, &scales_of, &codes_of);
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

    /// Low and high nibbles.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn nibbles(v: __m512i) -> (__m512i, __m512i) {
        let mask = _mm512_set1_epi8(15);
        (_mm512_and_si512(v, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(v), mask))
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

    /// Codes 0..32, 32..64, …
    pub type Codes = [__m256i; 8];

    /// 16 scales, and 16 mins (unused where the format has an offset).
    pub type Scales = ([__m256; 2], [__m256; 2]);

    /// What the rows of a step share of the activation.
    struct Prepared {
        q: [__m256i; 8],
        start: [__m256i; 8],
        d: [__m256; 2],
        s: [__m256; 2],
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

    /// Indices that spread the scales of 2 subs over the 4 lanes of each.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn spread(vector: i32) -> __m256i {
        _mm256_add_epi32(_mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), _mm256_set1_epi32(2 * vector))
    }

    /// Dots of rows with one activation row.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        scales: impl Fn(&[u8; BYTES]) -> Scales,
        codes: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let spreads = [spread(0), spread(1), spread(2), spread(3)];
        let prepare = |i: usize| {
            let q: &[i8; 256] = part(x.q, i * 256);
            let d = load256_ps(part(x.d, i * 256 / GROUP));
            let s: &[f32; 16] = part(x.s, i * 256 / SUB);
            let zero = _mm256_setzero_si256();
            let mut prepared = Prepared {
                q: [zero; 8],
                start: [zero; 8],
                d: [pairs(d, 0), pairs(d, 1)],
                s: [load256_ps(part(s, 0)), load256_ps(part(s, 8))],
            };
            for (j, (to, start)) in prepared.q.iter_mut().zip(&mut prepared.start).enumerate() {
                *to = load256_i8(part(q, j * 32));
                if OFFSET != 0 {
                    *start = _mm256_sub_epi32(zero, multiply(_mm256_set1_epi8(OFFSET as i8), *to));
                }
            }
            prepared
        };
        let begin = |block: &[u8; BYTES], x: &Prepared| {
            let ([low, high], mins) = scales(block);
            ([_mm256_mul_ps(low, x.d[0]), _mm256_mul_ps(high, x.d[1])], mins)
        };
        let step = |block: &[u8; BYTES], x: &Prepared, (scales, mins): Scales, sum: __m256| {
            let mut sum = sum;
            let codes = codes(block);
            for half in 0..2 {
                if OFFSET == 0 {
                    sum = _mm256_fnmadd_ps(mins[half], x.s[half], sum);
                }
                for j in 0..4 {
                    let mut dots = multiply(codes[half * 4 + j], x.q[half * 4 + j]);
                    if OFFSET != 0 {
                        dots = _mm256_add_epi32(dots, x.start[half * 4 + j]);
                    }
                    let scales = _mm256_permutevar8x32_ps(scales[half], spreads[j]);
                    sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sum);
                }
            }
            sum
        };
        walk_avx2(rows, out, _mm256_setzero_ps(), prepare, begin, step, |sum| sum);
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<256>().0);
        let subs = scales.as_chunks_mut::<16>().0.iter_mut().zip(mins.as_chunks_mut::<16>().0);
        for ((block, codes), (scales, mins)) in blocks.zip(subs) {
            for (codes, vector) in codes.as_chunks_mut().0.iter_mut().zip(codes_of(block)) {
                store256(codes, vector);
            }
            let (scale, min) = scales_of(block);
            for half in 0..2 {
                let offset = _mm256_mul_ps(scale[half], _mm256_set1_ps(OFFSET as f32));
                store256_ps(part_mut(scales, half * 8), scale[half]);
                store256_ps(part_mut(mins, half * 8), if OFFSET == 0 { min[half] } else { offset });
            }
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32, const SUBS: i32>(
        row: &[u8],
        out: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let (mut codes, mut scales, mut mins) = ([0; 256], [0.0; 16], [0.0; 16]);
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            unpack::<BYTES, OFFSET, SUBS>(block, &mut codes, &mut scales, &mut mins, &scales_of, &codes_of);
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
