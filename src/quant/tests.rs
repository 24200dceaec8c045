//! The correctness ladder of all formats: ggml's bytes -> dequantize -> scalar dot -> each tier.

use super::*;
use crate::simd::Tier;
use half::f16;

const FLOATS: [GgmlType; 3] = [GgmlType::F32, GgmlType::F16, GgmlType::BF16];

/// Each type with codes, and where its blocks keep f16 scales.
pub(super) const CODED: [(GgmlType, &[usize]); 10] = [
    (GgmlType::Q4_0, &[0]),
    (GgmlType::Q4_1, &[0, 2]),
    (GgmlType::Q5_0, &[0]),
    (GgmlType::Q5_1, &[0, 2]),
    (GgmlType::Q8_0, &[0]),
    (GgmlType::Q2_K, &[80, 82]),
    (GgmlType::Q3_K, &[108]),
    (GgmlType::Q4_K, &[0, 2]),
    (GgmlType::Q5_K, &[0, 2]),
    (GgmlType::Q6_K, &[208]),
];

/// xorshift64*: reproducible, and enough for test data.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In -1..1, off centre so that sums do not cancel.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 0.9
    }
}

/// `rows` rows of `k` weights: random codes, scales of about one tenth.
pub(super) fn weights(random: &mut Random, ty: GgmlType, scales: &[usize], rows: usize, k: usize) -> Vec<u8> {
    let format = ty.format().unwrap();
    let mut data: Vec<u8> = (0..rows * format.row_bytes(k)).map(|_| random.next() as u8).collect();
    for block in data.chunks_mut(ty.block_bytes()) {
        for &at in scales {
            let scale = f16::from_f32(0.1 * random.value());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    data
}

fn values(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| random.value()).collect()
}

fn quantized(tier: Tier, x: &[f32]) -> Q8Buf {
    let mut buf = Q8Buf::default();
    buf.quantize(tier, x, x.len());
    buf
}

fn lengths(ty: GgmlType) -> &'static [usize] {
    if ty.block_elements() == 256 { &[256, 512, 768, 1536] } else { &[32, 64, 96, 128, 160, 256, 320, 416, 896] }
}

/// Row counts around the four streams of the vector tiers.
const ROWS: [usize; 8] = [1, 2, 3, 4, 5, 7, 9, 18];

fn bits(x: &[f32]) -> Vec<u32> {
    // Sign and payload of a NaN are not ours to keep.
    x.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

#[test]
fn dequantize_gives_ggml_bits() {
    for ty in FLOATS.into_iter().chain(CODED.map(|(ty, _)| ty)) {
        let path = format!("{}/tests/data/quant/{}", env!("CARGO_MANIFEST_DIR"), ty.name().to_lowercase());
        let blocks = std::fs::read(format!("{path}.blocks")).unwrap();
        let golden = std::fs::read(format!("{path}.f32")).unwrap();
        let golden: Vec<f32> = golden.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let format = ty.format().unwrap();
        let mut out = vec![0.0; golden.len()];
        format.dequantize(&blocks, &mut out);
        assert_eq!(bits(&out), bits(&golden), "{ty:?}");
        for tier in Tier::available() {
            out.fill(0.0);
            format.to_f32(tier, &blocks, &mut out);
            assert_eq!(bits(&out), bits(&golden), "{ty:?} to_f32 {}", tier.name());
        }
    }
}

#[test]
fn scalar_dot_is_the_dot_of_dequantized_weights() {
    let mut random = Random(7);
    for (ty, scales) in CODED {
        let format = ty.format().unwrap();
        for &k in lengths(ty) {
            let data = weights(&mut random, ty, scales, 3, k);
            let buf = quantized(Tier::Scalar, &values(&mut random, k));
            let x = buf.row(0);
            let mut out = [0.0; 3];
            format.dot(Tier::Scalar, &data, &x, &mut out);
            let mut w = vec![0.0; k];
            for (row, out) in data.chunks(format.row_bytes(k)).zip(out) {
                format.dequantize(row, &mut w);
                let terms =
                    || w.iter().enumerate().map(|(i, &w)| f64::from(w) * f64::from(x.d[i / GROUP]) * f64::from(x.q[i]));
                let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                assert!(
                    (f64::from(out) - exact).abs() <= 2e-6 * size,
                    "{ty:?} k {k}: {out} is not {exact} (of {size})"
                );
            }
        }
    }
}

#[test]
fn unpack_means_dequantize() {
    let mut random = Random(8);
    for (ty, scales) in CODED {
        let format = ty.format().unwrap();
        for &k in lengths(ty) {
            let data = weights(&mut random, ty, scales, 1, k);
            let mut w = vec![0.0; k];
            format.dequantize(&data, &mut w);
            let mut scalar = None;
            for tier in Tier::available() {
                let (mut codes, mut scales, mut mins) = (vec![77; k], vec![7.7; k / SUB], vec![7.7; k / SUB]);
                format.unpack(tier, &data, &mut codes, &mut scales, &mut mins);
                for (i, w) in w.iter().enumerate() {
                    let (code, scale, min) = (f32::from(codes[i]), scales[i / SUB], mins[i / SUB]);
                    let size = (scale * code).abs() + min.abs();
                    assert!((scale * code - min - w).abs() <= 1e-6 * size, "{ty:?} {} weight {i} of {k}", tier.name());
                }
                let all = (codes, bits(&scales), bits(&mins));
                assert!(scalar.get_or_insert_with(|| all.clone()) == &all, "{ty:?} {} k {k}", tier.name());
            }
        }
    }
}

/// Every tier against the scalar one, within f32 rounding of the terms' magnitudes.
fn tiers_agree(ty: GgmlType, data: &[u8], x: &Q8<'_>, rows: usize) {
    let format = ty.format().unwrap();
    let k = x.q.len();
    let mut expected = vec![0.0; rows];
    format.dot(Tier::Scalar, data, x, &mut expected);
    let mut w = vec![0.0; k];
    for tier in Tier::available() {
        let mut out = vec![7.7; rows];
        format.dot(tier, data, x, &mut out);
        for ((row, out), expected) in data.chunks(format.row_bytes(k)).zip(&out).zip(&expected) {
            format.dequantize(row, &mut w);
            let size: f32 = w.iter().enumerate().map(|(i, w)| (w * x.d[i / GROUP] * f32::from(x.q[i])).abs()).sum();
            let far = (out - expected).abs() > 2e-6 * size;
            assert!(
                !far && out.is_nan() == expected.is_nan(),
                "{ty:?} {} k {k}: {out}, scalar {expected}",
                tier.name()
            );
        }
    }
}

#[test]
fn every_tier_dots_like_scalar() {
    let mut random = Random(9);
    for (ty, scales) in CODED {
        for &k in lengths(ty) {
            for rows in ROWS {
                let data = weights(&mut random, ty, scales, rows, k);
                let buf = quantized(Tier::Scalar, &values(&mut random, k));
                tiers_agree(ty, &data, &buf.row(0), rows);
            }
        }
    }
}

#[test]
fn extreme_codes_do_not_saturate() {
    for (ty, scales) in CODED {
        for byte in [0xff, 0x00, 0x80, 0x7f, 0x0f, 0xf0] {
            for (even, odd) in [(127, 127), (-127, -127), (127, -127)] {
                let k = 512;
                let mut data = vec![byte; 5 * ty.format().unwrap().row_bytes(k)];
                for block in data.chunks_mut(ty.block_bytes()) {
                    for &at in scales {
                        block[at..at + 2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
                    }
                }
                let q: Vec<i8> = (0..k).map(|i| if i % 2 == 0 { even } else { odd }).collect();
                let d = vec![0.25; k / GROUP];
                let s: Vec<f32> = q.chunks(SUB).map(|q| 0.25 * q.iter().map(|&q| f32::from(q)).sum::<f32>()).collect();
                tiers_agree(ty, &data, &Q8 { q: &q, d: &d, s: &s }, 5);
            }
        }
    }
}

#[test]
fn scales_that_are_not_finite_only_give_such_results() {
    let mut random = Random(10);
    for (ty, scales) in CODED {
        for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
            let k = 512;
            let rows = 6;
            let mut data = weights(&mut random, ty, scales, rows, k);
            let row_bytes = ty.format().unwrap().row_bytes(k);
            data[2 * row_bytes + scales[0]..][..2].copy_from_slice(&bad.to_le_bytes());
            let buf = quantized(Tier::Scalar, &values(&mut random, k));
            for tier in Tier::available() {
                let mut out = vec![0.0; rows];
                ty.format().unwrap().dot(tier, &data, &buf.row(0), &mut out);
                for (row, out) in out.iter().enumerate() {
                    assert_eq!(out.is_finite(), row != 2, "{ty:?} {} {bad}: row {row} is {out}", tier.name());
                }
                let (mut codes, mut scales, mut mins) = (vec![0; k], vec![0.0; k / SUB], vec![0.0; k / SUB]);
                ty.format().unwrap().unpack(
                    tier,
                    &data[2 * row_bytes..][..row_bytes],
                    &mut codes,
                    &mut scales,
                    &mut mins,
                );
            }
        }
    }
}

#[test]
fn float_dots_agree_in_every_tier() {
    let mut random = Random(11);
    for ty in FLOATS {
        let format = ty.format().unwrap();
        for k in [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 130, 256, 1000] {
            for rows in ROWS {
                let numbers = values(&mut random, rows * k);
                let data: Vec<u8> = match ty {
                    GgmlType::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    GgmlType::F16 => numbers.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                    _ => numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                };
                let x = values(&mut random, k);
                let mut w = vec![0.0; rows * k];
                format.dequantize(&data, &mut w);
                for tier in Tier::available() {
                    let mut out = vec![7.7; rows];
                    format.dot_f32(tier, &data, &x, &mut out);
                    for (w, out) in w.chunks(k).zip(out) {
                        let terms = || w.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        let (exact, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        assert!((f64::from(out) - exact).abs() <= 2e-6 * size, "{ty:?} {} k {k}: {out}", tier.name());
                    }
                    let mut fast = vec![7.7; rows * k];
                    format.to_f32(tier, &data, &mut fast);
                    assert_eq!(bits(&fast), bits(&w), "{ty:?} {} k {k}", tier.name());
                }
            }
        }
    }
}

#[test]
fn nothing_times_nothing() {
    for tier in Tier::available() {
        let buf = quantized(tier, &[0.5; 256]);
        for (ty, _) in CODED {
            ty.format().unwrap().dot(tier, &[], &buf.row(0), &mut []);
            ty.format().unwrap().unpack(tier, &[], &mut [], &mut [], &mut []);
        }
        for ty in FLOATS {
            ty.format().unwrap().dot_f32(tier, &[], &[1.0], &mut []);
            let mut out = [7.7; 3];
            ty.format().unwrap().dot_f32(tier, &[], &[], &mut out);
            assert_eq!(out, [0.0; 3]);
        }
    }
}

#[test]
fn ids_are_ggmls() {
    let known = [(0, "F32"), (1, "F16"), (2, "Q4_0"), (3, "Q4_1"), (6, "Q5_0"), (7, "Q5_1"), (8, "Q8_0")];
    let k_quants = [(10, "Q2_K"), (11, "Q3_K"), (12, "Q4_K"), (13, "Q5_K"), (14, "Q6_K"), (30, "BF16"), (39, "MXFP4")];
    for (id, name) in known.into_iter().chain(k_quants) {
        assert_eq!(GgmlType::from_id(id).unwrap().name(), name);
    }
    for id in [4, 5, 31, 32, 33, 36, 37, 38] {
        assert_eq!(GgmlType::from_id(id), Err(TypeError::Removed(id)));
    }
    for id in [43, 1000, u32::MAX] {
        assert_eq!(GgmlType::from_id(id), Err(TypeError::Unknown(id)));
    }
    for id in 0..43 {
        assert!(GgmlType::from_id(id).map_or(true, |ty| ty as u32 == id));
    }
}

#[test]
fn bytes_of_counts_whole_blocks() {
    assert_eq!(GgmlType::Q4_K.bytes_of(512), Some(288));
    assert_eq!(GgmlType::Q4_K.bytes_of(0), Some(0));
    assert_eq!(GgmlType::Q4_K.bytes_of(100), None);
    assert_eq!(GgmlType::F64.bytes_of(u64::MAX), None);
    assert_eq!(GgmlType::F32.bytes_of(1 << 62), None);
    assert_eq!(GgmlType::Q8_0.bytes_of((u64::MAX / 32) * 32), None);
}

#[test]
fn formats_are_rows_of_their_own_type() {
    for (ty, _) in CODED {
        assert!(ty.format().unwrap().ty == ty && !ty.format().unwrap().is_float());
    }
    for ty in FLOATS {
        assert!(ty.format().unwrap().ty == ty && ty.format().unwrap().is_float());
    }
    assert!(GgmlType::IQ1_S.format().is_none() && GgmlType::I32.format().is_none());
}
