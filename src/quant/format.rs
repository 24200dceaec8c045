//! A tensor type's kernels behind one set of methods.

use super::{GgmlType, Q8, SUB};
use crate::simd::Tier;

/// Kernels of one tensor type, for every CPU tier.
///
/// A *row* is one row of a weight matrix as it lies in the file: `k` weights in
/// [`Format::row_bytes`] bytes. Lengths that do not fit each other are bugs of the caller and
/// panic; the values in the bytes may be anything (NaN scales give NaN, never a panic).
pub struct Format {
    /// The type.
    pub ty: GgmlType,
    pub(super) dequantize: fn(row: &[u8], out: &mut [f32]),
    pub(super) to_f32: fn(tier: Tier, row: &[u8], out: &mut [f32]),
    pub(super) kernels: Kernels,
}

/// What differs between formats that hold numbers and those that hold codes.
pub(super) enum Kernels {
    Float { dot: fn(tier: Tier, rows: &[u8], x: &[f32], out: &mut [f32]) },
    Coded { dot: DotFn, unpack: UnpackFn },
}

pub(super) type DotFn = fn(tier: Tier, rows: &[u8], x: &Q8<'_>, out: &mut [f32]);
pub(super) type UnpackFn = fn(tier: Tier, row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]);

impl Format {
    /// Bytes of a row of `k` weights.
    ///
    /// # Panics
    /// If `k` is no whole number of blocks.
    pub fn row_bytes(&self, k: usize) -> usize {
        let (elements, bytes) = (self.ty.block_elements(), self.ty.block_bytes());
        assert!(k.is_multiple_of(elements), "a row of {k} weights is no whole number of {} blocks", self.ty.name());
        k / elements * bytes
    }

    /// Whether the type holds floating-point numbers (F32, F16, BF16): these have
    /// [`Format::dot_f32`], the others [`Format::dot`] and [`Format::unpack`].
    pub fn is_float(&self) -> bool {
        matches!(self.kernels, Kernels::Float { .. })
    }

    /// The reference: weights of a row in f32, bit for bit those of ggml's `dequantize_row`.
    pub fn dequantize(&self, row: &[u8], out: &mut [f32]) {
        assert_eq!(row.len(), self.row_bytes(out.len()));
        (self.dequantize)(row, out);
    }

    /// [`Format::dequantize`] with the tier's vectors: the same numbers, fast.
    pub fn to_f32(&self, tier: Tier, row: &[u8], out: &mut [f32]) {
        assert_eq!(row.len(), self.row_bytes(out.len()));
        (self.to_f32)(tier, row, out);
    }

    /// `out[i] = rows[i] . x` for `out.len()` consecutive rows as long as `x`, codes times codes
    /// in exact integers, scales in f32. Rows are read in four streams, a quarter of `rows`
    /// apart, four at a time: a number of rows divisible by four wastes nothing, and long
    /// streams (some 256 rows a call, calls in the order of memory) read fastest.
    ///
    /// # Panics
    /// For a float format.
    pub fn dot(&self, tier: Tier, rows: &[u8], x: &Q8<'_>, out: &mut [f32]) {
        let Kernels::Coded { dot, .. } = self.kernels else { panic!("{} has no codes: dot_f32", self.ty.name()) };
        x.check();
        assert_eq!(rows.len(), out.len() * self.row_bytes(x.q.len()));
        if x.q.is_empty() {
            out.fill(0.0);
        } else {
            dot(tier, rows, x, out);
        }
    }

    /// A row as `w = scale * code - min`: `codes.len()` weights, one scale and min for each
    /// [`SUB`] of them. A format whose weights are `scale * (code - offset)` gives
    /// `min = scale * offset`.
    ///
    /// # Panics
    /// For a float format.
    pub fn unpack(&self, tier: Tier, row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        let Kernels::Coded { unpack, .. } = self.kernels else { panic!("{} has no codes: to_f32", self.ty.name()) };
        assert_eq!(row.len(), self.row_bytes(codes.len()));
        assert_eq!(scales.len() * SUB, codes.len());
        assert_eq!(mins.len() * SUB, codes.len());
        unpack(tier, row, codes, scales, mins);
    }

    /// `out[i] = rows[i] . x` for `out.len()` consecutive rows as long as `x`, in f32.
    ///
    /// # Panics
    /// For a format of codes.
    pub fn dot_f32(&self, tier: Tier, rows: &[u8], x: &[f32], out: &mut [f32]) {
        let Kernels::Float { dot } = self.kernels else { panic!("{} is no float format: dot", self.ty.name()) };
        assert_eq!(rows.len(), out.len() * self.row_bytes(x.len()));
        if x.is_empty() {
            out.fill(0.0);
        } else {
            dot(tier, rows, x, out);
        }
    }
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Format({})", self.ty.name())
    }
}

/// The [`Format`] of a type with codes, from what its file defines:
/// - `dequantize_block(&[u8; BYTES], &mut [f32; ELEMENTS])`
/// - `unpack_block(&[u8; BYTES], &mut [u8; ELEMENTS], scales: &mut [f32], mins: &mut [f32])`
/// - `scales_avx512`, `codes_avx512`, `scales_avx2` and `codes_avx2`, as the family (`block32` or
///   `block256`) asks for them; the AVX-512 ones take `step` bytes, one block or several.
///
/// `offset` is the code of weight zero where the type has one for all blocks, else 0.
macro_rules! coded {
    ($ty:ident, $family:ident $(subs $subs:literal)?, bytes $bytes:literal, elements $elements:literal, step $step:literal, offset $offset:literal) => {
        /// Kernels of this type.
        pub(super) static FORMAT: $crate::quant::Format = $crate::quant::Format {
            ty: $crate::quant::GgmlType::$ty,
            dequantize,
            to_f32,
            kernels: $crate::quant::format::Kernels::Coded { dot, unpack },
        };

        fn dequantize(row: &[u8], out: &mut [f32]) {
            for (block, out) in row.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<$elements>().0) {
                dequantize_block(block, out);
            }
        }

        fn to_f32(tier: $crate::simd::Tier, row: &[u8], out: &mut [f32]) {
            if let Some(token) = tier.avx512() {
                $crate::simd::enter!(Avx512, token => kernels::to_f32_avx512(row: &[u8], out: &mut [f32]));
            } else if let Some(token) = tier.avx2() {
                $crate::simd::enter!(Avx2, token => kernels::to_f32_avx2(row: &[u8], out: &mut [f32]));
            } else {
                dequantize(row, out);
            }
        }

        fn unpack(tier: $crate::simd::Tier, row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
            if let Some(token) = tier.avx512() {
                $crate::simd::enter!(Avx512, token => kernels::unpack_avx512(
                    row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]));
            } else if let Some(token) = tier.avx2() {
                $crate::simd::enter!(Avx2, token => kernels::unpack_avx2(
                    row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]));
            } else {
                $crate::quant::scalar::unpack::<$bytes, $elements>(row, codes, scales, mins, unpack_block);
            }
        }

        fn dot(tier: $crate::simd::Tier, rows: &[u8], x: &$crate::quant::Q8<'_>, out: &mut [f32]) {
            if let Some(token) = tier.avx512() {
                $crate::simd::enter!(Avx512, token => kernels::dot_avx512(
                    rows: &[u8], x: &$crate::quant::Q8<'_>, out: &mut [f32]));
            } else if let Some(token) = tier.avx2() {
                $crate::simd::enter!(Avx2, token => kernels::dot_avx2(
                    rows: &[u8], x: &$crate::quant::Q8<'_>, out: &mut [f32]));
            } else {
                $crate::quant::scalar::dot::<$bytes, $elements>(rows, x, out, $offset, unpack_block);
            }
        }

        #[cfg(target_arch = "x86_64")]
        mod kernels {
            use super::{codes_avx2, codes_avx512, scales_avx2, scales_avx512};
            use $crate::quant::Q8;
            use $crate::quant::$family::{avx2, avx512};

            #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
            pub fn dot_avx512(rows: &[u8], x: &Q8<'_>, out: &mut [f32]) {
                avx512::dot::<$step, $offset $(, $subs)?>(rows, x, out, |b| scales_avx512(b), |b| codes_avx512(b));
            }

            #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
            pub fn unpack_avx512(row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
                avx512::unpack::<$step, $offset $(, $subs)?>(
                    row, codes, scales, mins, |b| scales_avx512(b), |b| codes_avx512(b));
            }

            #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
            pub fn to_f32_avx512(row: &[u8], out: &mut [f32]) {
                avx512::to_f32::<$step, $offset $(, $subs)?>(row, out, |b| scales_avx512(b), |b| codes_avx512(b));
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub fn dot_avx2(rows: &[u8], x: &Q8<'_>, out: &mut [f32]) {
                avx2::dot::<$bytes, $offset $(, $subs)?>(rows, x, out, |b| scales_avx2(b), |b| codes_avx2(b));
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub fn unpack_avx2(row: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
                avx2::unpack::<$bytes, $offset $(, $subs)?>(
                    row, codes, scales, mins, |b| scales_avx2(b), |b| codes_avx2(b));
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub fn to_f32_avx2(row: &[u8], out: &mut [f32]) {
                avx2::to_f32::<$bytes, $offset $(, $subs)?>(row, out, |b| scales_avx2(b), |b| codes_avx2(b));
            }
        }
    };
}
pub(super) use coded;
