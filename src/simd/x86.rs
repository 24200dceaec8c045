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

store!(/// 16 bytes.
    store128, "avx2,fma,f16c", __m128i => [u8; 16], _mm_storeu_si128);
store!(/// 16 signed bytes.
    store128_i8, "avx2,fma,f16c", __m128i => [i8; 16], _mm_storeu_si128);
store!(/// 32 bytes.
    store256, "avx2,fma,f16c", __m256i => [u8; 32], _mm256_storeu_si256);
store!(/// 32 signed bytes.
    store256_i8, "avx2,fma,f16c", __m256i => [i8; 32], _mm256_storeu_si256);
store!(/// 8 f32.
    store256_ps, "avx2,fma,f16c", __m256 => [f32; 8], _mm256_storeu_ps);
store!(/// 64 bytes.
    store512, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512i => [u8; 64], _mm512_storeu_si512);
store!(/// 16 f32.
    store512_ps, "avx512dq,avx512vl,avx512vbmi,avx512vnni", __m512 => [f32; 16], _mm512_storeu_ps);

/// The same 32 bytes in both halves.
#[inline]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
pub fn twice256(from: &[u8; 32]) -> __m512i {
    _mm512_broadcast_i64x4(load256(from))
}

/// The sum of 8 f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn sum256(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Two f16, the lower half of `pair` first, as the two lowest of 4 f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn f16_pair(pair: [u8; 4]) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes(pair)))
}
