//! The paged cache as kernels lay it out: of each head the bytes of a block's 32 tokens.

use half::f16;

use super::case::{Case, Number, Piece, of_each, of_row};
use super::data::group_scale;
use crate::base::limits::KV_BLOCK_TOKENS;

/// Elements that share a scale in q8_0.
const GROUP: usize = 32;

/// Type of a cache's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Numbers, `[token][element]`.
    Plain(Number),
    /// Codes, `[token][element]`, then scales, `[group][token]`.
    Coded,
}

/// A group's codes and their scale, which is kept in f16.
fn coded(group: &[f64]) -> (Vec<f64>, f64) {
    let d = group_scale(group);
    let code = |x: &f64| if d == 0.0 { 0.0 } else { (x / d).round() };
    (group.iter().map(code).collect(), Number::F16.rounded(&[d])[0])
}

impl Kept {
    /// The type that kernels call by this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "f16" => Some(Kept::Plain(Number::F16)),
            "f32" => Some(Kept::Plain(Number::F32)),
            "q8_0" => Some(Kept::Coded),
            _ => None,
        }
    }

    /// Whether a number can be rounded to either neighbour, which shows.
    pub fn is_coarse(self) -> bool {
        self != Kept::Plain(Number::F32)
    }

    /// Bytes of a head of `dim` elements in a block.
    pub fn head_bytes(self, dim: usize) -> usize {
        match self {
            Kept::Plain(ty) => KV_BLOCK_TOKENS * dim * ty.bytes(),
            Kept::Coded => KV_BLOCK_TOKENS * (dim + dim / GROUP * 2),
        }
    }

    /// Numbers as the cache holds them.
    pub fn rounded(self, x: &[f64]) -> Vec<f64> {
        match self {
            Kept::Plain(ty) => ty.rounded(x),
            Kept::Coded => x
                .chunks(GROUP)
                .flat_map(|group| {
                    let (codes, d) = coded(group);
                    codes.into_iter().map(move |q| q * d)
                })
                .collect(),
        }
    }

    /// The bytes of a head of which `rows` are the first tokens; zeros behind them.
    pub fn head(self, rows: &[f64], dim: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.head_bytes(dim)];
        match self {
            Kept::Plain(ty) => {
                let own = ty.write(rows);
                bytes[..own.len()].copy_from_slice(&own);
            }
            Kept::Coded => {
                for (token, row) in rows.chunks_exact(dim).enumerate() {
                    for (i, group) in row.chunks(GROUP).enumerate() {
                        let (codes, d) = coded(group);
                        bytes[token * dim + i * GROUP..][..GROUP].copy_from_slice(&Number::I8.write(&codes));
                        let at = KV_BLOCK_TOKENS * dim + 2 * (i * KV_BLOCK_TOKENS + token);
                        bytes[at..at + 2].copy_from_slice(&f16::from_f64(d).to_le_bytes());
                    }
                }
            }
        }
        bytes
    }

    /// Says that `row` must come to be token `at` of the head that begins `offset` bytes into `block`;
    /// its largest element may be off by `part` of itself before it is rounded.
    pub fn want(
        self,
        case: &mut Case,
        name: &'static str,
        (block, offset): (&Piece, usize),
        at: usize,
        row: &[f64],
        part: f64,
    ) {
        let dim = row.len();
        match self {
            Kept::Plain(ty) => {
                // A number between two is rounded to either.
                let step = if ty == Number::F16 { 1.0 / 1024.0 } else { 0.0 };
                let within = of_each(row, step).iter().zip(of_row(row, dim, part)).map(|(a, b)| a + b).collect();
                let bytes = dim * ty.bytes();
                case.want(name, block.part(offset + at * bytes, bytes), ty, row.to_vec(), within);
            }
            Kept::Coded => {
                for (i, group) in row.chunks(GROUP).enumerate() {
                    let d = group_scale(group);
                    let codes: Vec<f64> = group.iter().map(|x| x / d).collect();
                    let within = vec![0.505 + 254.0 * part; GROUP];
                    case.want(name, block.part(offset + at * dim + i * GROUP, GROUP), Number::I8, codes, within);
                    let scale = offset + KV_BLOCK_TOKENS * dim + 2 * (i * KV_BLOCK_TOKENS + at);
                    let off = of_each(&[d], 1.0 / 1024.0 + 2.0 * part);
                    case.want(name, block.part(scale, 2), Number::F16, vec![d], off);
                }
            }
        }
    }
}
