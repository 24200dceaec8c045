//! Vector loads, stores and sums on arrays, for functions with the tier's features.
//!
//! Guarantees to safe callers: every load and store covers exactly the array it is given, so
//! none can leave its bounds; prefetches never fault, whatever the address.

use std::arch::x86_64::*;

/// The `N` elements of `data` from `at`.
///
/// # Panics
/// If `data` ends before.
#[inline(always)]
pub fn part<T, const N: usize>(data: &[T], at: usize) -> &[T; N] {
    match data[at..].first_chunk() {
        Some(part) => part,
        None => panic!("no {N} elements from {at} of {}", data.len()),
    }
}

/// [`part`] for writing.
///
/// # Panics
/// If `data` ends before.
#[inline(always)]
pub fn part_mut<T, const N: usize>(data: &mut [T], at: usize) -> &mut [T; N] {
    match data[at..].first_chunk_mut() {
        Some(part) => part,
        None => panic!("too short for {N} elements from {at}"),
    }
}

/// Asks for the cache lines of `bytes` bytes, `ahead` bytes past the start of `data` (they may
/// lie outside it).
#[inline(always)]
pub fn prefetch<T>(data: &T, ahead: usize, bytes: usize) {
    let start = std::ptr::from_ref(data).cast::<i8>().wrapping_add(ahead);
    for line in 0..bytes.div_ceil(64) {
        // SAFETY: prefetching never faults and changes no state but the caches.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * 64)) }
    }
}

/// Declares a load of exactly one array.
macro_rules! load {
    ($(#[$doc:meta])* $name:ident, $features:literal, [$element:ty; $n:literal] -> $vector:ty, $intrinsic:ident) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name(from: &[$element; $n]) -> $vector {
            // SAFETY: an unaligned load of as many bytes as the array has.
            unsafe { $intrinsic(from.as_ptr().cast()) }
        }
    };
}

/// Declares a store to exactly one array.
macro_rules! store {
    ($(#[$doc:meta])* $name:ident, $features:literal, $vector:ty => [$element:ty; $n:literal], $intrinsic:ident) => {
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = $features)]
        pub fn $name(to: &mut [$element; $n], value: $vector) {
            // SAFETY: an unaligned store of as many bytes as the array has.
            unsafe { $intrinsic(to.as_mut_ptr().cast(), value) }
        }
    };
}

load!(/// 16 bytes.
    load128, "avx2,fma,f16c", [u8; 16] -> __m128i, _mm_loadu_si128);
load!(/// 4 f32.
    load128_ps, "avx2,fma,f16c", [f32; 4] -> __m128, _mm_loadu_ps);
load!(/// 32 bytes.
    load256, "avx2,fma,f16c", [u8; 32] -> __m256i, _mm256_loadu_si256);
load!(/// 32 signed bytes.
    load256_i8, "avx2,fma,f16c", [i8; 32] -> __m256i, _mm256_loadu_si256);
load!(/// 8 f32.
    load256_ps, "avx2,fma,f16c", [f32; 8] -> __m256, _mm256_loadu_ps);
load!(/// 64 bytes.
    load512, "avx512dq,avx512vl,avx512vbmi,avx512vnni", [u8; 64] -> __m512i, _mm512_loadu_si512);
load!(/// 64 signed bytes.
    load512_i8, "avx512dq,avx512vl,avx512vbmi,avx512vnni", [i8; 64] -> __m512i, _mm512_loadu_si512);
load!(/// 32 u16.
    load512_u16, "avx512dq,avx512vl,avx512vbmi,avx512vnni", [u16; 32] -> __m512i, _mm512_loadu_si512);
load!(/// 16 f32.
    load512_ps, "avx512dq,avx512vl,avx512vbmi,avx512vnni", [f32; 16] -> __m512, _mm512_loadu_ps);

load!(/// 8 f32 from their bytes.
    load256_le, "avx2,fma,f16c", [u8; 32] -> __m256, _mm256_loadu_ps);
load!(/// 16 f32 from their bytes.
    load512_le, "avx512dq,avx512vl,avx512vbmi,avx512vnni", [u8; 64] -> __m512, _mm512_loadu_ps);
load!(/// 8 values of 16 bits.
    load128_u16, "avx2,fma,f16c", [u16; 8] -> __m128i, _mm_loadu_si128);
load!(/// 16 values of 16 bits.
    load256_u16, "avx2,fma,f16c", [u16; 16] -> __m256i, _mm256_loadu_si256);

store!(/// 16 bytes.
    store128, "avx2,fma,f16c", __m128i => [u8; 16], _mm_storeu_si128);
store!(/// 16 signed bytes.
    store128_i8, "avx2,fma,f16c", __m128i => [i8; 16], _mm_storeu_si128);
store!(/// 8 values of 16 bits.
    store128_u16, "avx2,fma,f16c", __m128i => [u16; 8], _mm_storeu_si128);
store!(/// 16 values of 16 bits.
    store256_u16, "avx2,fma,f16c", __m256i => [u16; 16], _mm256_storeu_si256);
store!(/// 32 bytes.
    store256, "avx2,fma,f16c", __m256i => [u8; 32], _mm256_storeu_si256);
store!(/// 32 signed bytes.
    store256_i8, "avx2,fma,f16c", __m256i => [i8; 32], _mm256_storeu_si256);
store!(/// 4 f32.
    store128_ps, "avx2,fma,f16c", __m128 => [f32; 4], _mm_storeu_ps);
store!(/// 8 f32.
    store256_ps, "avx2,fma,f16c", __m256 => [f32; 8], _mm256_storeu_ps);
store!(/// 64 bytes.
    store512, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512i => [u8; 64], _mm512_storeu_si512);
store!(/// 32 values of 16 bits.
    store512_u16, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512i => [u16; 32], _mm512_storeu_si512);
store!(/// 16 f32.
    store512_ps, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512 => [f32; 16], _mm512_storeu_ps);

/// The same 32 bytes in both halves.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn twice256(from: &[u8; 32]) -> __m512i {
    _mm512_broadcast_i64x4(load256(from))
}

/// The sums of four vectors of 8 f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sums256([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let mut sums = [0.0; 4];
    store128_ps(&mut sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)));
    sums
}

/// The sums of four vectors of 16 f32.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn sums512([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    sums256([fold512(a), fold512(b), fold512(c), fold512(d)])
}

/// The lower half plus the upper half.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn fold512(v: __m512) -> __m256 {
    _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v))
}

/// Two f16, the lower half of `pair` first, as the two lowest of 4 f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn f16_pair(pair: [u8; 4]) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes(pair)))
}

/// 8 bf16 as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn bf16_to_ps256(v: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
}

/// 16 bf16 as f32.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn bf16_to_ps512(v: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)))
}

/// 32 f32 as bf16 in order, rounded to nearest, ties to even; denormals become zero.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")]
pub fn ps512_to_bf16(x: &[f32; 32]) -> __m512i {
    let (lower, upper) = (load512_ps(part(x, 0)), load512_ps(part(x, 16)));
    // SAFETY: both types are 64 bytes of which every value is valid.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(upper, lower)) }
}

/// 8 f32 as bf16, rounded to nearest, ties to even; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn ps256_to_bf16(v: __m256) -> __m128i {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    // A NaN keeps its upper half and becomes quiet.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
    let packed = _mm256_packus_epi32(upper, upper);
    _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
}
