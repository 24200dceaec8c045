//! Vector kernels that the formats with 32-weight blocks share (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0).
//!
//! A format gives two functions a tier: `codes`, and `scales` for `d` and `m` in
//! `w = d * (code - OFFSET) + m`. Formats with an `OFFSET` have no `m`.

/// AVX-512 with VNNI, four blocks a step. One vector holds the first 16 codes of each block, a
/// second one the last 16: both add into the same lanes, so that the four blocks cost one
/// conversion and one multiplication by their scales.
pub(super) mod avx512 {
    use crate::quant::block256::avx512::merge;
    pub use crate::quant::block256::avx512::nibbles;
    use crate::quant::{GROUP, Q8, SUB};
    use crate::simd::rows::walk_avx512;
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// Weights of a step.
    const STEP: usize = 128;

    /// Codes 0..16 of each block, and 16..32.
    pub type Codes = (__m512i, __m512i);

    /// Each block's `d` in 4 lanes, and its `m` (unused in formats with an offset).
    pub type Scales = (__m512, __m512);

    /// What the rows of a step share of the activation.
    struct Prepared {
        low: __m512i,
        high: __m512i,
        start: __m512i,
        d: __m512,
        s: __m512,
    }

    /// Byte indices, into two vectors that hold bytes 0..64 and `second`..`second + 64` of four
    /// blocks of `bytes` bytes: for each block the `n` bytes from `from`, again and again for its 16
    /// lanes.
    pub const fn bytes_index(bytes: usize, second: usize, from: usize, n: usize) -> [u8; 64] {
        let mut index = [0; 64];
        let mut i = 0;
        while i < 64 {
            let at = i / 16 * bytes + from + i % n;
            index[i] = if at < 64 { at as u8 } else { (at - second + 64) as u8 };
            i += 1;
        }
        index
    }

    /// Like [`bytes_index`], for the u16 at byte `from` of each block, four times; in the lower
    /// half of the vector.
    pub const fn words_index(bytes: usize, second: usize, from: usize) -> [u16; 32] {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 16 {
            let at = i / 4 * bytes + from;
            assert!(at.is_multiple_of(2));
            index[i] = if at + 1 < 64 { at as u16 / 2 } else { (at - second + 64) as u16 / 2 };
            i += 1;
        }
        index
    }

    /// The f16 that `index` picks from two vectors, as f32.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn pick_f16(first: __m512i, index: &[u16; 32], second: __m512i) -> __m512 {
        let words = _mm512_permutex2var_epi16(first, load512_u16(index), second);
        _mm512_cvtph_ps(_mm512_castsi512_si256(words))
    }

    /// The bytes that `index` picks from two vectors.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn pick(first: __m512i, index: &[u8; 64], second: __m512i) -> __m512i {
        _mm512_permutex2var_epi8(first, load512(index), second)
    }

    /// Codes of 5 bits from their nibbles and, in both qwords of each block, its 32 high bits.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn fives(nibbles: __m512i, bits: __m512i) -> Codes {
        // Byte i of the result begins 4 bits below bit i, so that this one becomes bit 4.
        let first = i64::from_le_bytes([60, 61, 62, 63, 0, 1, 2, 3]);
        let second = i64::from_le_bytes([4, 5, 6, 7, 8, 9, 10, 11]);
        let low = _mm512_setr_epi64(first, second, first, second, first, second, first, second);
        let high = _mm512_and_si512(_mm512_add_epi8(low, _mm512_set1_epi8(16)), _mm512_set1_epi8(63));
        let (low, high) = (_mm512_multishift_epi64_epi8(low, bits), _mm512_multishift_epi64_epi8(high, bits));
        (merge(15, nibbles, low, 31), merge(15, _mm512_srli_epi16::<4>(nibbles), high, 31))
    }

    /// The activation of one step.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn prepare<const OFFSET: i32>(q: &[i8; STEP], d: &[f32; STEP / GROUP], s: &[f32; STEP / SUB]) -> Prepared {
        let (first, second) = (load512_i8(part(q, 0)), load512_i8(part(q, 64)));
        let low = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), second);
        let high = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15), second);
        let (zero, offset) = (_mm512_setzero_si512(), _mm512_set1_epi8(OFFSET as i8));
        let offsets = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, offset, low), offset, high);
        let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        Prepared {
            low,
            high,
            start: _mm512_sub_epi32(zero, offsets),
            d: _mm512_permutexvar_ps(quarters, _mm512_castps128_ps512(load128_ps(d))),
            // The two sums of a block meet its `m` in the first two of its four lanes.
            s: _mm512_maskz_expand_ps(0x3333, _mm512_castps256_ps512(load256_ps(s))),
        }
    }

    /// Dots of rows with one activation row. `BYTES` are those of four blocks.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn dot<const BYTES: usize, const OFFSET: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        scales: impl Fn(&[u8; BYTES]) -> Scales,
        codes: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let at = |i: usize| {
            let i = i * STEP;
            if i + STEP <= x.q.len() {
                return prepare::<OFFSET>(part(x.q, i), part(x.d, i / GROUP), part(x.s, i / SUB));
            }
            let (mut q, mut d, mut s) = ([0; STEP], [0.0; STEP / GROUP], [0.0; STEP / SUB]);
            let n = x.q.len() - i;
            q[..n].copy_from_slice(&x.q[i..]);
            d[..n / GROUP].copy_from_slice(&x.d[i / GROUP..]);
            s[..n / SUB].copy_from_slice(&x.s[i / SUB..]);
            prepare::<OFFSET>(&q, &d, &s)
        };
        let begin = |blocks: &[u8; BYTES], x: &Prepared| {
            let (d, m) = scales(blocks);
            (_mm512_mul_ps(d, x.d), m)
        };
        let step = |blocks: &[u8; BYTES], x: &Prepared, (d, m): Scales, sum: __m512| {
            let (low, high) = codes(blocks);
            let dots = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(x.start, low, x.low), high, x.high);
            let sum = if OFFSET == 0 { _mm512_fmadd_ps(m, x.s, sum) } else { sum };
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), d, sum)
        };
        walk_avx512(rows, out, _mm512_setzero_ps(), at, begin, step, |sum| sum);
    }

    /// Four blocks as codes in their order, scales and mins.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    fn unpack4<const OFFSET: i32>(
        (d, m): Scales,
        (low, high): Codes,
        codes: &mut [u8; STEP],
        scales: &mut [f32; 8],
        mins: &mut [f32; 8],
    ) {
        let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        store512(part_mut(codes, 0), _mm512_permutex2var_epi64(low, first, high));
        store512(part_mut(codes, 64), _mm512_permutex2var_epi64(low, second, high));
        // Two of each block's four equal lanes: one for each 16 weights.
        let d = _mm512_maskz_compress_ps(0x3333, d);
        store256_ps(scales, _mm512_castps512_ps256(d));
        let m = if OFFSET == 0 {
            _mm512_xor_ps(_mm512_maskz_compress_ps(0x3333, m), _mm512_set1_ps(-0.0))
        } else {
            _mm512_mul_ps(d, _mm512_set1_ps(OFFSET as f32))
        };
        store256_ps(mins, _mm512_castps512_ps256(m));
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let (blocks, rest) = row.as_chunks::<BYTES>();
        let (codes, last_codes) = codes.as_chunks_mut::<STEP>();
        let (scales, last_scales) = scales.as_chunks_mut::<8>();
        let (mins, last_mins) = mins.as_chunks_mut::<8>();
        for ((block, codes), (scales, mins)) in blocks.iter().zip(codes).zip(scales.iter_mut().zip(mins)) {
            unpack4::<OFFSET>(scales_of(block), codes_of(block), codes, scales, mins);
        }
        if !rest.is_empty() {
            let (mut block, mut codes, mut scales, mut mins) = ([0; BYTES], [0; STEP], [0.0; 8], [0.0; 8]);
            block[..rest.len()].copy_from_slice(rest);
            unpack4::<OFFSET>(scales_of(&block), codes_of(&block), &mut codes, &mut scales, &mut mins);
            last_codes.copy_from_slice(&codes[..last_codes.len()]);
            last_scales.copy_from_slice(&scales[..last_scales.len()]);
            last_mins.copy_from_slice(&mins[..last_mins.len()]);
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        out: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        for (row, out) in row.chunks(BYTES).zip(out.chunks_mut(STEP)) {
            let (mut codes, mut scales, mut mins) = ([0; STEP], [0.0; 8], [0.0; 8]);
            let n = out.len();
            let (scales_n, mins_n) = (&mut scales[..n / SUB], &mut mins[..n / SUB]);
            unpack::<BYTES, OFFSET>(row, &mut codes[..n], scales_n, mins_n, &scales_of, &codes_of);
            for (i, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
                let code = _mm512_cvtepu8_epi32(load128(part(&codes, i * SUB)));
                let code = _mm512_cvtepi32_ps(_mm512_sub_epi32(code, _mm512_set1_epi32(OFFSET)));
                let w = _mm512_mul_ps(code, _mm512_set1_ps(scales[i]));
                store512_ps(out, if OFFSET == 0 { _mm512_sub_ps(w, _mm512_set1_ps(mins[i])) } else { w });
            }
        }
    }
}

/// AVX2, one block a step.
pub(super) mod avx2 {
    use crate::quant::block256::avx2::multiply;
    use crate::quant::{GROUP, Q8, SUB};
    use crate::simd::rows::walk_avx2;
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// 32 codes.
    pub type Codes = __m256i;

    /// `d` in all lanes, and `m` (unused in formats with an offset).
    pub type Scales = (__m256, __m256);

    /// What the rows of a step share of the activation.
    struct Prepared {
        q: __m256i,
        start: __m256i,
        d: __m256,
        s: __m256,
    }

    /// The f16 of two bytes, in all lanes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn f16_all(bytes: [u8; 2]) -> __m256 {
        _mm256_broadcastss_ps(f16_pair([bytes[0], bytes[1], 0, 0]))
    }

    /// Low nibbles of 16 bytes, then their high nibbles.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn nibbles(bytes: &[u8; 16]) -> __m256i {
        let v = load128(bytes);
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(v), v), _mm256_set1_epi8(15))
    }

    /// Adds 16 to code `i` if bit `i` of `bits` is set.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn add_high(codes: __m256i, bits: &[u8; 4]) -> __m256i {
        let of_byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let each = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(*bits)), of_byte);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, each), each);
        _mm256_or_si256(codes, _mm256_and_si256(set, _mm256_set1_epi8(16)))
    }

    /// Dots of rows with one activation row.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot<const BYTES: usize, const OFFSET: i32>(
        rows: &[u8],
        x: &Q8<'_>,
        out: &mut [f32],
        scales: impl Fn(&[u8; BYTES]) -> Scales,
        codes: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let prepare = |i: usize| {
            let q = load256_i8(part(x.q, i * GROUP));
            let s: &[f32; 2] = part(x.s, i * GROUP / SUB);
            let offsets = multiply(_mm256_set1_epi8(OFFSET as i8), q);
            Prepared {
                q,
                start: _mm256_sub_epi32(_mm256_setzero_si256(), offsets),
                d: _mm256_set1_ps(x.d[i]),
                s: _mm256_setr_ps(s[0], s[1], 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            }
        };
        let begin = |block: &[u8; BYTES], x: &Prepared| {
            let (d, m) = scales(block);
            (_mm256_mul_ps(d, x.d), m)
        };
        let step = |block: &[u8; BYTES], x: &Prepared, (d, m): Scales, sum: __m256| {
            let codes = codes(block);
            let dots = if OFFSET == 128 {
                // Eight-bit codes would pass 16 bits: signed weights give their sign to the
                // activation, and at most 2 * 128 * 127 remains.
                let w = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                multiply(_mm256_abs_epi8(w), _mm256_sign_epi8(x.q, w))
            } else if OFFSET != 0 {
                _mm256_add_epi32(multiply(codes, x.q), x.start)
            } else {
                multiply(codes, x.q)
            };
            let sum = if OFFSET == 0 { _mm256_fmadd_ps(m, x.s, sum) } else { sum };
            _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), d, sum)
        };
        walk_avx2(rows, out, _mm256_setzero_ps(), prepare, begin, step, |sum| sum);
    }

    /// A row as codes, scales and mins.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn unpack<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        codes: &mut [u8],
        scales: &mut [f32],
        mins: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let blocks = row.as_chunks::<BYTES>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0);
        let subs = scales.as_chunks_mut::<2>().0.iter_mut().zip(mins.as_chunks_mut::<2>().0);
        for ((block, codes), (scales, mins)) in blocks.zip(subs) {
            store256(codes, codes_of(block));
            let (d, m) = scales_of(block);
            let (d, m) = (_mm256_cvtss_f32(d), _mm256_cvtss_f32(m));
            scales.fill(d);
            mins.fill(if OFFSET == 0 { -m } else { d * OFFSET as f32 });
        }
    }

    /// A row in f32, bit for bit that of the reference.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn to_f32<const BYTES: usize, const OFFSET: i32>(
        row: &[u8],
        out: &mut [f32],
        scales_of: impl Fn(&[u8; BYTES]) -> Scales,
        codes_of: impl Fn(&[u8; BYTES]) -> Codes,
    ) {
        let mut codes = [0; GROUP];
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<GROUP>().0) {
            store256(&mut codes, codes_of(block));
            let (d, m) = scales_of(block);
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let eight = i64::from_le_bytes(*part(&codes, i * 8));
                let code = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(eight));
                let code = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(OFFSET)));
                let w = _mm256_mul_ps(code, d);
                store256_ps(out, if OFFSET == 0 { _mm256_add_ps(w, m) } else { w });
            }
        }
    }
}
