//! Numbers of the self-test: the same at every run, of both signs, no two rows alike.

use half::{bf16, f16};

use super::case::Number;
use crate::quant::{Format, GgmlType};

/// Types that kernels exist for, with the places of the f16 numbers in a block: of any other bytes some
/// would be NaN there.
pub const FORMATS: [(GgmlType, &[usize]); 13] = [
    (GgmlType::F32, &[]),
    (GgmlType::F16, &[]),
    (GgmlType::BF16, &[]),
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

/// The format that kernels call by this name.
pub fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|(ty, _)| ty.name().eq_ignore_ascii_case(name)).and_then(|(ty, _)| ty.format())
}

/// A generator (xorshift).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for `name`.
    pub fn new(name: &str) -> Self {
        let seed =
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self(seed | 1)
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 24) as u32
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.bits()) / f64::from(1u32 << 31) - 1.0
    }

    /// `n` numbers around 0, as f32 holds them.
    pub fn normal(&mut self, n: usize, size: f64) -> Vec<f64> {
        let numbers: Vec<f64> = (0..n).map(|_| size * 0.866 * (0..4).map(|_| self.unit()).sum::<f64>()).collect();
        Number::F32.rounded(&numbers)
    }

    /// `n` numbers of which some are much larger than others.
    pub fn activations(&mut self, n: usize) -> Vec<f64> {
        let numbers: Vec<f64> = self.normal(n, 1.0).iter().map(|x| x * self.normal(1, 1.0)[0].exp()).collect();
        Number::F32.rounded(&numbers)
    }

    /// A matrix as a file holds it, and its weights.
    pub fn matrix(&mut self, format: &Format, n: usize, k: usize, size: f64) -> Matrix {
        let bytes = match format.ty {
            GgmlType::F32 => Number::F32.write(&self.normal(n * k, size)),
            GgmlType::F16 => Number::F16.write(&self.normal(n * k, size)),
            GgmlType::BF16 => self.normal(n * k, size).iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
            ty => self.codes(ty, n * format.row_bytes(k), size),
        };
        let mut weights = vec![0.0; n * k];
        for (row, out) in bytes.chunks_exact(format.row_bytes(k)).zip(weights.chunks_exact_mut(k)) {
            format.dequantize(row, out);
        }
        Matrix { bytes, weights: weights.into_iter().map(f64::from).collect(), k }
    }

    /// Any codes, with scales of both signs.
    fn codes(&mut self, ty: GgmlType, len: usize, size: f64) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|_| self.bits() as u8).collect();
        let scales = FORMATS.iter().find(|(t, _)| *t == ty).map_or(&[][..], |(_, at)| at);
        for block in bytes.chunks_mut(ty.block_bytes()) {
            for &at in scales {
                let d = self.unit();
                let d = size * (0.005 * d.signum() + 0.015 * d);
                block[at..at + 2].copy_from_slice(&f16::from_f64(d).to_le_bytes());
            }
        }
        bytes
    }
}

/// Rows of weights.
pub struct Matrix {
    /// As a file holds them.
    pub bytes: Vec<u8>,
    /// What they are, by the reference.
    pub weights: Vec<f64>,
    /// Weights of a row.
    pub k: usize,
}

impl Matrix {
    /// Each row of `x` times each row of the matrix.
    pub fn times(&self, x: &[f64]) -> Vec<Sum> {
        let pairs = x.chunks_exact(self.k).flat_map(|x| self.weights.chunks_exact(self.k).map(move |w| (x, w)));
        let sum = |(x, w): (&[f64], &[f64])| {
            x.iter().zip(w).map(|(x, w)| x * w).fold(Sum::default(), |s, term| Sum {
                value: s.value + term,
                magnitudes: s.magnitudes + term.abs(),
                squares: s.squares + term * term,
            })
        };
        pairs.map(sum).collect()
    }
}

/// A sum, and what its error depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// The sum.
    pub value: f64,
    /// Of the terms' magnitudes.
    pub magnitudes: f64,
    /// Of the terms' squares.
    pub squares: f64,
}

/// Rows of 8-bit codes: codes, the scales and sums that go with them, and what they stand for.
pub struct Coded {
    /// Codes.
    pub codes: Vec<f64>,
    /// `{d, s}` of each 32.
    pub scales: Vec<f64>,
    /// `d * q`.
    pub exact: Vec<f64>,
}

/// Activations as the products for a few rows take them.
pub fn coded(x: &[f64]) -> Coded {
    let mut coded = Coded { codes: Vec::new(), scales: Vec::new(), exact: Vec::new() };
    for group in x.chunks(32) {
        let d = group_scale(group);
        let q: Vec<f64> = group.iter().map(|x| (x / d).round()).collect();
        coded.scales.extend([d, f64::from((d * q.iter().sum::<f64>()) as f32)]);
        coded.exact.extend(q.iter().map(|q| q * d));
        coded.codes.extend(q);
    }
    coded
}

/// The scale of 32 numbers in codes.
pub fn group_scale(group: &[f64]) -> f64 {
    f64::from((group.iter().fold(0.0_f64, |m, x| m.max(x.abs())) / 127.0) as f32)
}

/// Activations as the products for many rows take them: halves, the scale of each row, and what both stand for.
pub fn halves(x: &[f64], k: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut halves, mut scales, mut exact) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks(k) {
        let s = row_scale(row);
        let row = Number::F16.rounded(&row.iter().map(|x| x / s).collect::<Vec<f64>>());
        exact.extend(row.iter().map(|h| h * s));
        halves.extend(row);
        scales.push(s);
    }
    (halves, scales, exact)
}

/// The scale of a row in halves.
pub fn row_scale(row: &[f64]) -> f64 {
    f64::from((row.iter().fold(0.0_f64, |m, x| m.max(x.abs())) / 256.0) as f32)
}
