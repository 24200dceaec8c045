//! GGUF files: the container of weights and metadata, versions 2 and 3, whole or split.
//!
//! Source: ggml's `docs/gguf.md`. Every offset, size, count, alignment and overlap is checked
//! before it is used; a hostile file costs bounded time and memory and gives one clear error.

pub mod meta;

use crate::base::storage::Slice;
use crate::quant::GgmlType;
use meta::Meta;

/// A tensor of the file(s).
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name (`blk.0.attn_q.weight`).
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Elements along each dimension; the first is contiguous. Unused ones are 1.
    pub dims: [u64; 4],
    /// Dimensions the file gives (1 to 4).
    pub n_dims: usize,
    /// Its bytes, mapped.
    pub data: Slice,
}

/// An opened model: all parts of a split file as one.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Metadata of the first part.
    pub meta: Meta,
    /// Tensors of all parts, in file order.
    pub tensors: Vec<Tensor>,
    /// Bytes of all parts together.
    pub file_bytes: u64,
}

impl Gguf {
    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}
