//! GGUF tensor types: what each is called, how large its blocks are, and its kernels.
//!
//! One file a type holds its layout, the reference dequantize (bit-exact with ggml), the
//! scalar kernels and those of each CPU tier. [`Format`] is the row that joins them; adding
//! a type is one file and one word in [`GgmlType::format`]. What types share stands beside
//! them: [`scalar`] for every block size, `block32` and `block256` for the vector tiers.
//!
//! Every quantized format is, block by block, `w = scale * code - min` with an unsigned 8-bit
//! code and one `(scale, min)` pair for each [`SUB`] weights. [`Format::unpack`] brings a row
//! into that form once; the prefill GEMM of every tier works on it, whatever the format.
//! [`Format::dot`] multiplies rows as they lie in the file with a quantized activation: decode.

mod activation;
#[cfg(target_arch = "x86_64")]
mod block256;
#[cfg(target_arch = "x86_64")]
mod block32;
mod float;
mod format;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scalar;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

pub use activation::{GROUP, Q8, Q8Buf, quantize};
pub use format::Format;

use thiserror::Error;

/// Weights that share a `(scale, min)` pair in unpacked form: the finest grain of any format
/// (Q2_K, Q3_K and Q6_K scale 16 weights; coarser formats repeat their pair).
pub const SUB: usize = 16;

/// A tensor type of the GGUF format, by ggml's name and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(non_camel_case_types, missing_docs)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

/// Why a tensor type id of a file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TypeError {
    /// The id was given up by ggml (Q4_2, Q4_3 and the repacked types).
    #[error("tensor type {0} was removed from the GGUF format: convert the model again")]
    Removed(u32),
    /// The id is not known.
    #[error("unknown tensor type {0}: the file is newer than this program, or damaged")]
    Unknown(u32),
}

impl GgmlType {
    /// The type with ggml's id `id`.
    ///
    /// # Errors
    /// [`TypeError`] for ids that ggml removed or that are not known.
    pub fn from_id(id: u32) -> Result<Self, TypeError> {
        use GgmlType::*;
        const ALL: [GgmlType; 35] = [
            F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, IQ2_XXS, IQ2_XS, IQ3_XXS,
            IQ1_S, IQ4_NL, IQ3_S, IQ2_S, IQ4_XS, I8, I16, I32, I64, F64, IQ1_M, BF16, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0,
            Q2_0,
        ];
        match id {
            4 | 5 | 31..=33 | 36..=38 => Err(TypeError::Removed(id)),
            _ => ALL.into_iter().find(|t| *t as u32 == id).ok_or(TypeError::Unknown(id)),
        }
    }

    /// ggml's name, as GGUF tools print it (`Q4_K`).
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Elements of a block: a row of a tensor is a whole number of blocks.
    pub fn block_elements(self) -> usize {
        self.row().1
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().2
    }

    /// Bytes of `n` elements; `None` if `n` is no whole number of blocks or the result overflows.
    pub fn bytes_of(self, n: u64) -> Option<u64> {
        let (_, elements, bytes) = self.row();
        if !n.is_multiple_of(elements as u64) {
            return None;
        }
        (n / elements as u64).checked_mul(bytes as u64)
    }

    /// The kernels of this type; `None` if ROCmForge knows the type but cannot compute with it.
    pub fn format(self) -> Option<&'static Format> {
        use GgmlType::*;
        Some(match self {
            F32 => &float::F32,
            F16 => &float::F16,
            BF16 => &float::BF16,
            Q4_0 => &q4_0::FORMAT,
            Q4_1 => &q4_1::FORMAT,
            Q5_0 => &q5_0::FORMAT,
            Q5_1 => &q5_1::FORMAT,
            Q8_0 => &q8_0::FORMAT,
            Q2_K => &q2_k::FORMAT,
            Q3_K => &q3_k::FORMAT,
            Q4_K => &q4_k::FORMAT,
            Q5_K => &q5_k::FORMAT,
            Q6_K => &q6_k::FORMAT,
            _ => return None,
        })
    }

    /// (name, elements of a block, bytes of a block), from ggml's `type_traits` table.
    fn row(self) -> (&'static str, usize, usize) {
        use GgmlType::*;
        match self {
            F32 => ("F32", 1, 4),
            F16 => ("F16", 1, 2),
            Q4_0 => ("Q4_0", 32, 18),
            Q4_1 => ("Q4_1", 32, 20),
            Q5_0 => ("Q5_0", 32, 22),
            Q5_1 => ("Q5_1", 32, 24),
            Q8_0 => ("Q8_0", 32, 34),
            Q8_1 => ("Q8_1", 32, 36),
            Q2_K => ("Q2_K", 256, 84),
            Q3_K => ("Q3_K", 256, 110),
            Q4_K => ("Q4_K", 256, 144),
            Q5_K => ("Q5_K", 256, 176),
            Q6_K => ("Q6_K", 256, 210),
            Q8_K => ("Q8_K", 256, 292),
            IQ2_XXS => ("IQ2_XXS", 256, 66),
            IQ2_XS => ("IQ2_XS", 256, 74),
            IQ3_XXS => ("IQ3_XXS", 256, 98),
            IQ1_S => ("IQ1_S", 256, 50),
            IQ4_NL => ("IQ4_NL", 32, 18),
            IQ3_S => ("IQ3_S", 256, 110),
            IQ2_S => ("IQ2_S", 256, 82),
            IQ4_XS => ("IQ4_XS", 256, 136),
            I8 => ("I8", 1, 1),
            I16 => ("I16", 1, 2),
            I32 => ("I32", 1, 4),
            I64 => ("I64", 1, 8),
            F64 => ("F64", 1, 8),
            IQ1_M => ("IQ1_M", 256, 56),
            BF16 => ("BF16", 1, 2),
            TQ1_0 => ("TQ1_0", 256, 54),
            TQ2_0 => ("TQ2_0", 256, 66),
            MXFP4 => ("MXFP4", 32, 17),
            NVFP4 => ("NVFP4", 64, 36),
            Q1_0 => ("Q1_0", 128, 18),
            Q2_0 => ("Q2_0", 64, 18),
        }
    }
}
