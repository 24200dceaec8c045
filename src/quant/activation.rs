//! Activations in 8 bits: one format for the weights of every type.
//!
//! A row of `k` values becomes codes in -127..=127, one f32 scale for each [`GROUP`] of them
//! (`x = d * q`), and for each [`SUB`] the value `s = d * (sum of its codes)`, which meets the
//! weights' mins: `sum (scale*code - min) * x = scale*d * sum code*q - min*s`.

use super::SUB;
use crate::simd::{Tier, enter};

/// Activations that share a scale.
pub const GROUP: usize = 32;

/// Groups whose largest magnitude is below this count as zero: their scale would be denormal,
/// and its reciprocal might overflow.
const TINY: f32 = 1e-35;

/// One quantized activation row.
#[derive(Clone, Copy, Debug)]
pub struct Q8<'a> {
    /// `k` codes, -127..=127; `k` is a multiple of [`GROUP`].
    pub q: &'a [i8],
    /// `k / GROUP` scales. NaN or infinite where the group held such a value.
    pub d: &'a [f32],
    /// `k / SUB` values `d * (sum of the SUB codes)`.
    pub s: &'a [f32],
}

impl Q8<'_> {
    /// Panics unless the three parts belong together.
    pub(super) fn check(&self) {
        assert_eq!(self.q.len(), self.d.len() * GROUP, "activation scales");
        assert_eq!(self.q.len(), self.s.len() * SUB, "activation sums");
    }
}

/// Quantized activation rows, reused from step to step: it grows to the largest batch it has
/// seen and allocates no more after that.
#[derive(Clone, Debug, Default)]
pub struct Q8Buf {
    k: usize,
    q: Vec<i8>,
    d: Vec<f32>,
    s: Vec<f32>,
}

impl Q8Buf {
    /// A buffer that can hold `elements` values (rows times their length) without allocating.
    pub fn with_capacity(elements: usize) -> Self {
        Self {
            k: 0,
            q: Vec::with_capacity(elements),
            d: Vec::with_capacity(elements / GROUP),
            s: Vec::with_capacity(elements / SUB),
        }
    }

    /// Bytes that [`Q8Buf::with_capacity`] allocates.
    pub const fn bytes(elements: usize) -> usize {
        elements + elements / GROUP * 4 + elements / SUB * 4
    }

    /// Makes room for `rows` rows of `k` values (contents are those of earlier use).
    ///
    /// # Panics
    /// If `k` is no multiple of [`GROUP`].
    pub fn resize(&mut self, rows: usize, k: usize) {
        assert!(k.is_multiple_of(GROUP), "activation rows of {k} are no multiple of {GROUP}");
        self.k = k;
        self.q.resize(rows * k, 0);
        self.d.resize(rows * k / GROUP, 0.0);
        self.s.resize(rows * k / SUB, 0.0);
    }

    /// Replaces the contents by the rows of `x`, each `k` long.
    ///
    /// # Panics
    /// If `k` is no multiple of [`GROUP`] or `x` no whole number of rows.
    pub fn quantize(&mut self, tier: Tier, x: &[f32], k: usize) {
        assert!(k > 0 && x.len().is_multiple_of(k));
        self.resize(x.len() / k, k);
        quantize(tier, x, &mut self.q, &mut self.d, &mut self.s);
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.q.len().checked_div(self.k).unwrap_or(0)
    }

    /// One row.
    ///
    /// # Panics
    /// If `i` is not below [`Q8Buf::rows`].
    pub fn row(&self, i: usize) -> Q8<'_> {
        let k = self.k;
        Q8 { q: &self.q[i * k..][..k], d: &self.d[i * k / GROUP..][..k / GROUP], s: &self.s[i * k / SUB..][..k / SUB] }
    }

    /// All rows' parts for writing with [`quantize`], so that several workers can fill them.
    pub fn parts_mut(&mut self) -> (&mut [i8], &mut [f32], &mut [f32]) {
        (&mut self.q, &mut self.d, &mut self.s)
    }
}

/// Quantizes `x` (one row or several, back to back) into codes, scales and sums, laid out as
/// [`Q8`] says. Every tier gives the same bits: `d = amax / 127`, codes rounded to nearest even.
///
/// A group that is zero or below 1e-35 gets zeros; one with NaN or infinity gets zero codes and
/// a scale that is not finite, so that every dot over it is NaN.
///
/// # Panics
/// If the lengths do not fit: `q` as long as `x`, `d` a 32nd, `s` a 16th of it.
pub fn quantize(tier: Tier, x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
    assert!(x.len().is_multiple_of(GROUP) && q.len() == x.len());
    assert!(d.len() * GROUP == x.len() && s.len() * SUB == x.len());
    if let Some(token) = tier.avx512() {
        enter!(Avx512, token => x86::quantize_avx512(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]));
    } else if let Some(token) = tier.avx2() {
        enter!(Avx2, token => x86::quantize_avx2(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]));
    } else {
        quantize_scalar(x, q, d, s);
    }
}

/// Scale of a group, and the factor that makes its codes (0 if they are all zero).
#[inline]
fn scale_factor(amax: f32) -> (f32, f32) {
    let d = if amax < TINY { 0.0 } else { amax / 127.0 };
    (d, if amax.is_finite() && amax >= TINY { 127.0 / amax } else { 0.0 })
}

fn quantize_scalar(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
    let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
    for (((x, q), d), s) in groups.zip(d).zip(s.as_chunks_mut::<{ GROUP / SUB }>().0) {
        // As integers, magnitudes of floats order as the floats do, with NaN above infinity.
        let amax = f32::from_bits(x.iter().map(|v| v.to_bits() & 0x7fff_ffff).fold(0, u32::max));
        let factor;
        (*d, factor) = scale_factor(amax);
        for (q, x) in q.iter_mut().zip(x) {
            *q = if factor == 0.0 { 0 } else { (x * factor).round_ties_even() as i8 };
        }
        for (s, q) in s.iter_mut().zip(q.as_chunks::<SUB>().0) {
            *s = *d * q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{GROUP, SUB, scale_factor};
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
    pub fn quantize_avx512(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
        let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<SUB>().0.as_chunks_mut::<2>().0);
        for (((x, q), d), s) in groups.zip(d).zip(s.as_chunks_mut::<2>().0) {
            let x = [load512_ps(part(x, 0)), load512_ps(part(x, 16))];
            let magnitude = _mm512_set1_epi32(0x7fff_ffff);
            let first = _mm512_and_si512(_mm512_castps_si512(x[0]), magnitude);
            let second = _mm512_and_si512(_mm512_castps_si512(x[1]), magnitude);
            let amax = _mm512_reduce_max_epu32(_mm512_max_epu32(first, second));
            let factor;
            (*d, factor) = scale_factor(f32::from_bits(amax));
            let keep = if factor == 0.0 { 0 } else { u16::MAX };
            for ((x, q), s) in x.into_iter().zip(q).zip(s) {
                let codes = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(x, _mm512_set1_ps(factor)));
                store128_i8(q, _mm512_cvtepi32_epi8(codes));
                *s = *d * _mm512_reduce_add_epi32(codes) as f32;
            }
        }
    }

    /// The sum of 8 integers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn sum(v: __m256i) -> i32 {
        let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b1110>(v));
        _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b01>(v)))
    }

    /// The largest of 8 unsigned integers.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn max(v: __m256i) -> u32 {
        let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b1110>(v));
        _mm_cvtsi128_si32(_mm_max_epu32(v, _mm_shuffle_epi32::<0b01>(v))) as u32
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn quantize_avx2(x: &[f32], q: &mut [i8], d: &mut [f32], s: &mut [f32]) {
        let groups = x.as_chunks::<GROUP>().0.iter().zip(q.as_chunks_mut::<GROUP>().0);
        for (((x, q), d), s) in groups.zip(d).zip(s.as_chunks_mut::<2>().0) {
            let x = [load256_ps(part(x, 0)), load256_ps(part(x, 8)), load256_ps(part(x, 16)), load256_ps(part(x, 24))];
            let mut amax = _mm256_setzero_si256();
            for x in x {
                let magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fff_ffff));
                amax = _mm256_max_epu32(amax, magnitude);
            }
            let factor;
            (*d, factor) = scale_factor(f32::from_bits(max(amax)));
            let mut codes = [_mm256_setzero_si256(); 4];
            if factor != 0.0 {
                for (codes, x) in codes.iter_mut().zip(x) {
                    *codes = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(factor)));
                }
            }
            s[0] = *d * sum(_mm256_add_epi32(codes[0], codes[1])) as f32;
            s[1] = *d * sum(_mm256_add_epi32(codes[2], codes[3])) as f32;
            // The packs work in halves of 128 bits: dwords come out as 0, 4, 1, 5, 2, 6, 3, 7.
            let words = (_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            store256_i8(q, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words.0, words.1), order));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_tiers(x: &[f32]) -> Q8Buf {
        let mut scalar = Q8Buf::default();
        scalar.quantize(Tier::Scalar, x, x.len());
        for tier in Tier::available() {
            let mut other = Q8Buf::default();
            other.quantize(tier, x, x.len());
            assert_eq!(other.q, scalar.q, "{}", tier.name());
            let bits = |v: &[f32]| v.iter().map(|v| if v.is_nan() { 1 } else { v.to_bits() }).collect::<Vec<_>>();
            assert_eq!(bits(&other.d), bits(&scalar.d), "{}", tier.name());
            assert_eq!(bits(&other.s), bits(&scalar.s), "{}", tier.name());
        }
        scalar
    }

    #[test]
    fn codes_are_within_half_a_scale() {
        for size in [1e-20_f32, 1e-3, 1.0, 3e8, 1e37] {
            let x: Vec<f32> = (0..256).map(|i| size * (((i * i % 97) as f32 - 40.0) / 57.0)).collect();
            let buf = all_tiers(&x);
            let row = buf.row(0);
            for (i, x) in x.iter().enumerate() {
                let d = row.d[i / GROUP];
                assert!((x - d * f32::from(row.q[i])).abs() <= 0.5001 * d, "{x} at {i}");
            }
            assert!(row.q.iter().any(|q| q.abs() == 127));
            for (i, (s, q)) in row.s.iter().zip(row.q.chunks(SUB)).enumerate() {
                let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
                assert_eq!(*s, row.d[i / 2] * sum as f32);
            }
        }
    }

    #[test]
    fn halves_go_to_even() {
        let mut x = [0.0; 32];
        x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
        assert_eq!(all_tiers(&x).q[..6], [127, 0, 2, 2, 0, -2]);
    }

    #[test]
    fn sums_are_of_their_sixteen() {
        let mut x = [0.0; 64];
        x[..16].fill(1.0);
        x[16..32].fill(-0.5);
        x[63] = 2.0;
        let buf = all_tiers(&x);
        let expected = [16.0, -8.0, 0.0, 2.0];
        for (s, e) in buf.s.iter().zip(expected) {
            assert!((s - e).abs() < 0.1, "{s} is not {e}");
        }
    }

    #[test]
    fn extremes() {
        let zero = all_tiers(&[0.0; 32]);
        assert!(zero.q.iter().all(|q| *q == 0) && zero.d[0] == 0.0 && zero.s == [0.0; 2]);
        for tiny in [f32::from_bits(1), 1e-40, 9e-36] {
            let buf = all_tiers(&[tiny; 32]);
            assert!(buf.q.iter().all(|q| *q == 0) && buf.d[0] == 0.0, "{tiny:e}");
        }
        let large = all_tiers(&[f32::MAX; 32]);
        assert!(large.q.iter().all(|q| *q == 127) && large.d[0].is_finite());
        let small = all_tiers(&[-2e-35; 32]);
        assert!(small.q.iter().all(|q| *q == -127) && small.d[0].is_normal());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 64];
            x[5] = bad;
            let buf = all_tiers(&x);
            assert!(buf.q[..32].iter().all(|q| *q == 0) && !buf.d[0].is_finite() && buf.s[0].is_nan());
            assert!(buf.q[32..].iter().all(|q| *q == 127) && buf.d[1].is_finite());
        }
    }

    #[test]
    fn rows_of_a_buffer() {
        let x: Vec<f32> = (0..192).map(|i| (i / 64 + 1) as f32).collect();
        let mut buf = Q8Buf::with_capacity(192);
        let start = buf.q.as_ptr();
        buf.quantize(Tier::Scalar, &x, 64);
        assert!(buf.rows() == 3 && buf.q.as_ptr() == start);
        for i in 0..3 {
            let row = buf.row(i);
            assert_eq!((row.q.len(), row.d.len(), row.s.len()), (64, 2, 4));
            assert!((row.d[1] * 127.0 - (i + 1) as f32).abs() < 1e-5);
        }
        assert_eq!(Q8Buf::bytes(192), 192 + 6 * 4 + 12 * 4);
    }
}
