//! The plan: what a model computes in one step, as a printable list.
//!
//! `model` makes a plan once, at load; backends run it on a [`batch::Batch`] at each step. A plan
//! knows no device and no architecture; a backend knows nothing else.

pub mod batch;
pub mod cache;
pub mod check;
pub mod display;
pub mod memory;
pub mod op;
pub mod rope;
pub mod split;

use crate::base::storage::Slice;
use crate::quant::GgmlType;
use cache::CacheGroup;
use op::{BufId, Op, Rope, Rows, WeightId};

/// A matrix of activations in f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// For people: `ffn_gate`, `q`.
    pub name: &'static str,
    /// Elements of a row.
    pub width: usize,
    /// What a row belongs to.
    pub rows: Rows,
}

/// A weight of the plan with its bytes.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Name of the tensor in the file (`blk.0.attn_q.weight`).
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Rows: outputs of a product, tokens of an embedding table; 1 for a vector.
    pub n_rows: usize,
    /// Elements of a row (contiguous in the file).
    pub n_cols: usize,
    /// `n_rows` rows of `ty.bytes_of(n_cols)` bytes, as they lie in the file.
    pub data: Slice,
}

/// What a model computes in one step.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The steps, in order.
    pub ops: Vec<Op>,
    /// Buffers that the ops name.
    pub buffers: Vec<Buffer>,
    /// Weights that the ops name.
    pub weights: Vec<Weight>,
    /// Rotary embeddings that the ops name.
    pub ropes: Vec<Rope>,
    /// Caches that the ops name, and those of the model's other parts, see [`CacheGroup::part`].
    pub caches: Vec<CacheGroup>,
    /// First op of each layer, ascending: where the plan can be [split](Plan::split).
    pub layers: Vec<usize>,
    /// Which part of a model this is; 0 if it is all of it.
    pub part: usize,
    /// What the part before this one came to, if there is one: `Rows::Tokens`.
    pub input: Option<BufId>,
    /// What comes out: logits, `n_vocab` wide and `Rows::Outputs`, or the input of the next part.
    pub output: BufId,
    /// Width of the logits.
    pub n_vocab: usize,
}

impl Plan {
    /// The buffer `id`.
    pub fn buffer(&self, id: BufId) -> &Buffer {
        &self.buffers[id.0 as usize]
    }

    /// Whether the logits come out, and not the input of another part.
    pub fn gives_logits(&self) -> bool {
        self.buffer(self.output).rows == Rows::Outputs
    }

    /// Bytes of its weights as they lie in the file.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|w| w.data.len() as u64).sum()
    }

    /// The weight `id`.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }
}
