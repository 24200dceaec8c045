//! F32, F16 and BF16: weights as numbers. Dots run in f32 with fused multiply-add.
//!
//! BF16 is the upper half of an f32.

use super::GgmlType;
use super::format::{Format, Kernels};
use crate::simd::{Tier, enter};
use half::{bf16, f16};

/// The [`Format`] of one type: its scalar value from bytes, and its kernels for each tier.
macro_rules! float {
    ($ty:ident, $value:path, $avx512:ident, $avx2:ident) => {
        /// Kernels of this type.
        pub(super) static $ty: Format = Format {
            ty: GgmlType::$ty,
            dequantize: |row, out| scalar_row(row, out, $value),
            to_f32: |tier, row, out| {
                if let Some(token) = tier.avx512() {
            enter!(Avx512, token => $avx512::row(row: &[u8], out: &mut [f32]));
                } else if let Some(token) = tier.avx2() {
            enter!(Avx2, token => $avx2::row(row: &[u8], out: &mut [f32]));
                } else {
                    scalar_row(row, out, $value);
                }
            },
            kernels: Kernels::Float {
                dot: |tier: Tier, rows, x, out| {
                    if let Some(token) = tier.avx512() {
                enter!(Avx512, token => $avx512::dot(rows: &[u8], x: &[f32], out: &mut [f32]));
                    } else if let Some(token) = tier.avx2() {
                enter!(Avx2, token => $avx2::dot(rows: &[u8], x: &[f32], out: &mut [f32]));
                    } else {
                        scalar_dot(rows, x, out, $value);
                    }
                },
            },
        };
    };
}
float!(F32, f32::from_le_bytes, f32_avx512, f32_avx2);
float!(F16, f16_value, f16_avx512, f16_avx2);
float!(BF16, bf16_value, bf16_avx512, bf16_avx2);

fn f16_value(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn bf16_value(bytes: [u8; 2]) -> f32 {
    bf16::from_le_bytes(bytes).to_f32()
}

fn scalar_row<const BYTES: usize>(row: &[u8], out: &mut [f32], value: fn([u8; BYTES]) -> f32) {
    for (bytes, out) in row.as_chunks::<BYTES>().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

fn scalar_dot<const BYTES: usize>(rows: &[u8], x: &[f32], out: &mut [f32], value: fn([u8; BYTES]) -> f32) {
    for (row, out) in rows.chunks(x.len() * BYTES).zip(out) {
        *out = row.as_chunks::<BYTES>().0.iter().zip(x).map(|(w, x)| value(*w) * x).sum();
    }
}

/// Kernels of one type and tier: `$load` makes a vector of `$lanes` weights from `$bytes` bytes.
/// A step is two vectors, so that each row has two sums.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    ($name:ident, $features:literal, $lanes:literal, $bytes:literal, $load:expr,
     $walk:ident, $vector:ident, $load_x:ident, $store:ident, $zero:ident, $fma:ident, $add:ident) => {
        mod $name {
            use crate::simd::rows::$walk;
            use crate::simd::x86::*;
            use std::arch::x86_64::*;

            #[target_feature(enable = $features)]
            pub fn dot(rows: &[u8], x: &[f32], out: &mut [f32]) {
                let prepare = |i: usize| {
                    let mut padded = [0.0; 2 * $lanes];
                    let x = match x[i * 2 * $lanes..].first_chunk::<{ 2 * $lanes }>() {
                        Some(x) => x,
                        None => {
                            let rest = &x[i * 2 * $lanes..];
                            padded[..rest.len()].copy_from_slice(rest);
                            &padded
                        }
                    };
                    ($load_x(part(x, 0)), $load_x(part(x, $lanes)))
                };
                let step = |w: &[u8; 2 * $bytes], x: &($vector, $vector), _: (), sum: ($vector, $vector)| {
                    let (first, second) = ($load(part(w, 0)), $load(part(w, $bytes)));
                    ($fma(first, x.0, sum.0), $fma(second, x.1, sum.1))
                };
                $walk(rows, out, ($zero(), $zero()), prepare, |_, _| (), step, |sum| $add(sum.0, sum.1));
            }

            #[target_feature(enable = $features)]
            pub fn row(row: &[u8], out: &mut [f32]) {
                let (whole, rest) = row.as_chunks::<$bytes>();
                let (out, out_rest) = out.as_chunks_mut::<$lanes>();
                for (w, out) in whole.iter().zip(out) {
                    $store(out, $load(w));
                }
                let (mut w, mut last) = ([0; $bytes], [0.0; $lanes]);
                w[..rest.len()].copy_from_slice(rest);
                $store(&mut last, $load(&w));
                out_rest.copy_from_slice(&last[..out_rest.len()]);
            }
        }
    };
    ($name:ident, avx512, $bytes:literal, $load:expr) => {
        kernels!(
            $name,
            "avx512dq,avx512vl,avx512vbmi,avx512vnni",
            16,
            $bytes,
            $load,
            walk_avx512,
            __m512,
            load512_ps,
            store512_ps,
            _mm512_setzero_ps,
            _mm512_fmadd_ps,
            _mm512_add_ps
        );
    };
    ($name:ident, avx2, $bytes:literal, $load:expr) => {
        kernels!(
            $name,
            "avx2,fma,f16c",
            8,
            $bytes,
            $load,
            walk_avx2,
            __m256,
            load256_ps,
            store256_ps,
            _mm256_setzero_ps,
            _mm256_fmadd_ps,
            _mm256_add_ps
        );
    };
}
#[cfg(target_arch = "x86_64")]
kernels!(f32_avx512, avx512, 64, load512_le);
#[cfg(target_arch = "x86_64")]
kernels!(f32_avx2, avx2, 32, load256_le);
#[cfg(target_arch = "x86_64")]
kernels!(f16_avx512, avx512, 32, |w: &[u8; 32]| _mm512_cvtph_ps(load256(w)));
#[cfg(target_arch = "x86_64")]
kernels!(f16_avx2, avx2, 16, |w: &[u8; 16]| _mm256_cvtph_ps(load128(w)));
#[cfg(target_arch = "x86_64")]
kernels!(bf16_avx512, avx512, 32, |w: &[u8; 32]| bf16_to_ps512(load256(w)));
#[cfg(target_arch = "x86_64")]
kernels!(bf16_avx2, avx2, 16, |w: &[u8; 16]| bf16_to_ps256(load128(w)));
