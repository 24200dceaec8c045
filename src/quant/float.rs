//! F32, F16 and BF16: weights as numbers. Dots run in f32 with fused multiply-add.
//!
//! BF16 is the upper half of an f32.

use super::GgmlType;
use super::format::{Format, Kernels};
use crate::simd::Tier;
use half::{bf16, f16};

/// Kernels of F32.
pub(super) static F32: Format = Format {
    ty: GgmlType::F32,
    dequantize: |row, out| scalar_row(row, out, f32::from_le_bytes),
    to_f32: |_, row, out| scalar_row(row, out, f32::from_le_bytes),
    kernels: Kernels::Float { dot: |_, rows, x, out| scalar_dot(rows, x, out, f32::from_le_bytes) },
};

/// Kernels of F16.
pub(super) static F16: Format = Format {
    ty: GgmlType::F16,
    dequantize: |row, out| scalar_row(row, out, f16_value),
    to_f32: |_, row, out| scalar_row(row, out, f16_value),
    kernels: Kernels::Float { dot: |_, rows, x, out| scalar_dot(rows, x, out, f16_value) },
};

/// Kernels of BF16.
pub(super) static BF16: Format = Format {
    ty: GgmlType::BF16,
    dequantize: |row, out| scalar_row(row, out, bf16_value),
    to_f32: |_, row, out| scalar_row(row, out, bf16_value),
    kernels: Kernels::Float { dot: |_, rows, x, out| scalar_dot(rows, x, out, bf16_value) },
};

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
