//! Bulk conversion between f32 and the 16-bit floats, with the tier's vectors.
//!
//! `half`'s one-at-a-time conversions test for F16C at every call; hot loops use these. Every
//! tier gives the same bits (of a NaN, only that it is one).

use super::{Tier, enter};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// `out[i] = x[i]` in f32.
///
/// # Panics
/// If the lengths differ.
pub fn f16_to_f32(tier: Tier, x: &[f16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    if let Some(token) = tier.avx2() {
        let x = x.reinterpret_cast();
        enter!(Avx2, token => avx2::f16_to_f32(x: &[u16], out: &mut [f32]));
    } else {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.to_f32();
        }
    }
}

/// `out[i] = x[i]` rounded to the nearest f16, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_f16(tier: Tier, x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len());
    if let Some(token) = tier.avx2() {
        let out = out.reinterpret_cast_mut();
        enter!(Avx2, token => avx2::f32_to_f16(x: &[f32], out: &mut [u16]));
    } else {
        for (out, x) in out.iter_mut().zip(x) {
            *out = f16::from_f32(*x);
        }
    }
}

/// `out[i] = x[i]` in f32.
///
/// # Panics
/// If the lengths differ.
pub fn bf16_to_f32(tier: Tier, x: &[bf16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    if let Some(token) = tier.avx2() {
        let x = x.reinterpret_cast();
        enter!(Avx2, token => avx2::bf16_to_f32(x: &[u16], out: &mut [f32]));
    } else {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.to_f32();
        }
    }
}

/// `out[i] = x[i]` rounded to the nearest bf16, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_bf16(tier: Tier, x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len());
    if let Some(token) = tier.avx2() {
        let out = out.reinterpret_cast_mut();
        enter!(Avx2, token => avx2::f32_to_bf16(x: &[f32], out: &mut [u16]));
    } else {
        for (out, x) in out.iter_mut().zip(x) {
            *out = bf16::from_f32(*x);
        }
    }
}

/// The kernels of the AVX2 tier, which run at the speed of memory: the AVX-512 tier uses them too.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::simd::x86::*;
    use std::arch::x86_64::*;

    /// Declares a loop over 8 values at a time; the last few pass through padded arrays.
    macro_rules! by_eights {
        ($name:ident, $from:ty => $to:ty, $convert:ident) => {
            #[target_feature(enable = "avx2,fma,f16c")]
            pub fn $name(x: &[$from], out: &mut [$to]) {
                let (whole, rest) = x.as_chunks::<8>();
                let (out, out_rest) = out.as_chunks_mut::<8>();
                for (x, out) in whole.iter().zip(out) {
                    $convert(x, out);
                }
                if !rest.is_empty() {
                    let (mut last, mut converted) = ([<$from>::default(); 8], [<$to>::default(); 8]);
                    last[..rest.len()].copy_from_slice(rest);
                    $convert(&last, &mut converted);
                    out_rest.copy_from_slice(&converted[..rest.len()]);
                }
            }
        };
    }
    by_eights!(f16_to_f32, u16 => f32, f16_to_f32x8);
    by_eights!(f32_to_f16, f32 => u16, f32_to_f16x8);
    by_eights!(bf16_to_f32, u16 => f32, bf16_to_f32x8);
    by_eights!(f32_to_bf16, f32 => u16, f32_to_bf16x8);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn f16_to_f32x8(x: &[u16; 8], out: &mut [f32; 8]) {
        store256_ps(out, _mm256_cvtph_ps(load128_u16(x)));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn f32_to_f16x8(x: &[f32; 8], out: &mut [u16; 8]) {
        store128_u16(out, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load256_ps(x)));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn bf16_to_f32x8(x: &[u16; 8], out: &mut [f32; 8]) {
        store256_ps(out, bf16_to_ps256(load128_u16(x)));
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn f32_to_bf16x8(x: &[f32; 8], out: &mut [u16; 8]) {
        store128_u16(out, ps256_to_bf16(load256_ps(x)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 16-bit patterns, and f32 around every rounding boundary.
    #[test]
    fn every_tier_converts_alike() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let bhalves: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let around = |bits: u32| [-1, 0, 1].map(|d| f32::from_bits(bits.wrapping_add_signed(d)));
        let singles: Vec<f32> = (0..=u16::MAX)
            .flat_map(|b| around(u32::from(b) << 16 | 0x8000))
            .chain((0..=u16::MAX).flat_map(|b| around(f16::from_bits(b).to_f32().to_bits() | 0x1000)))
            .chain([0.0, -0.0, f32::INFINITY, f32::NAN, f32::from_bits(0x7f80_0001), 65519.0, 65520.0])
            .collect();
        for tier in Tier::available() {
            let mut out = vec![0.0; halves.len()];
            f16_to_f32(tier, &halves, &mut out);
            for (x, out) in halves.iter().zip(&out) {
                assert!(x.to_f32().to_bits() == out.to_bits() || x.is_nan() && out.is_nan(), "{x:?} {}", tier.name());
            }
            bf16_to_f32(tier, &bhalves, &mut out);
            for (x, out) in bhalves.iter().zip(&out) {
                assert!(x.to_f32().to_bits() == out.to_bits() || x.is_nan() && out.is_nan(), "{x:?} {}", tier.name());
            }
            let mut out = vec![f16::ZERO; singles.len()];
            f32_to_f16(tier, &singles, &mut out);
            for (x, out) in singles.iter().zip(&out) {
                let expected = f16::from_f32(*x);
                assert!(expected.to_bits() == out.to_bits() || x.is_nan() && out.is_nan(), "{x:e} {}", tier.name());
            }
            let mut out = vec![bf16::ZERO; singles.len()];
            f32_to_bf16(tier, &singles, &mut out);
            for (x, out) in singles.iter().zip(&out) {
                let expected = bf16::from_f32(*x);
                assert!(expected.to_bits() == out.to_bits() || x.is_nan() && out.is_nan(), "{x:e} {}", tier.name());
            }
        }
    }

    #[test]
    fn odd_lengths() {
        for tier in Tier::available() {
            for n in 0..20 {
                let x: Vec<f32> = (0..n).map(|i| i as f32 - 7.5).collect();
                let (mut h, mut b) = (vec![f16::ONE; n], vec![bf16::ONE; n]);
                f32_to_f16(tier, &x, &mut h);
                f32_to_bf16(tier, &x, &mut b);
                let (mut from_h, mut from_b) = (vec![9.0; n], vec![9.0; n]);
                f16_to_f32(tier, &h, &mut from_h);
                bf16_to_f32(tier, &b, &mut from_b);
                assert_eq!((&from_h, &from_b), (&x, &x));
            }
        }
    }
}
