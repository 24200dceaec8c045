//! The operations of a plan: everything that models and backends have in common.
//!
//! Buffers are matrices of f32 with one row a token (or one row an output, see [`Rows`]).
//! A weight is a matrix of `n_rows x n_cols` as GGUF stores it (`n_cols` contiguous), or a vector.

use smallvec::{SmallVec, smallvec};

/// A buffer of the plan: index into `Plan::buffers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufId(pub u32);

/// A weight of the plan: index into `Plan::weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A cache group of the plan: index into `Plan::caches`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheId(pub u32);

/// A rotary embedding of the plan: index into `Plan::ropes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RopeId(pub u32);

/// What a row of a buffer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One row for each token of the batch.
    Tokens,
    /// One row for each token whose logits are wanted (`Batch::outputs`).
    Outputs,
}

/// Which normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w` (Zhang & Sennrich 2019).
    Rms,
    /// `(x - mean) / sqrt(var + eps) * w + b` (Ba et al. 2016).
    Layer,
}

/// Activation of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// How a rotary embedding pairs the elements of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Neighbours: (0,1), (2,3), … ; ggml's NORM.
    Pairs,
    /// Halves: (0, n/2), (1, n/2+1), … ; ggml's NEOX.
    Halves,
}

/// A rotary position embedding (Su et al. 2021) with the scalings GGUF knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How elements are paired.
    pub style: RopeStyle,
    /// Rotated elements of each head; the rest passes through.
    pub n_rot: usize,
    /// `rope.freq_base`: pair `i` turns by `pos * freq_scale * base^(-2i/n_rot) / factor[i]`.
    pub freq_base: f32,
    /// Linear position scale (1 / `rope.scaling.factor`).
    pub freq_scale: f32,
    /// `rope_freqs.weight`: `n_rot / 2` divisors of the frequencies.
    pub factors: Option<WeightId>,
    /// YaRN (Peng et al. 2023), if the model asks for it.
    pub yarn: Option<Yarn>,
    /// Multiplies sine and cosine; with YaRN on top of its own `1 + 0.1 ln(1 / freq_scale)`.
    pub attn_factor: f32,
}

/// YaRN's parameters, by their GGUF names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// `rope.scaling.original_context_length`.
    pub original_context: u32,
    /// Extrapolation mix.
    pub ext_factor: f32,
    /// Rotations above which a dimension is extrapolated.
    pub beta_fast: f32,
    /// Rotations below which a dimension is interpolated.
    pub beta_slow: f32,
}

/// One product of a [`Op::Linear`]: `out = x * weight^T + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// Matrix of `width(out) x width(x)`.
    pub weight: WeightId,
    /// Vector of `width(out)`.
    pub bias: Option<WeightId>,
    /// Where the product goes.
    pub out: BufId,
}

/// Attention of one layer over its cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Queries, `n_head * head_dim` wide.
    pub q: BufId,
    /// Result, `n_head * head_dim_v` wide.
    pub out: BufId,
    /// Cache group that holds this layer's keys and values.
    pub cache: CacheId,
    /// Which of the group's layers.
    pub slot: u32,
    /// Query heads.
    pub n_head: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A key is hidden if `pos_q - pos_k >= window`.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// One step of a plan. `out` may be the same buffer as an input where the doc says "in place".
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Rows of the embedding table for the batch's tokens, times `scale`.
    Embed {
        /// Matrix of `n_vocab x width(out)`.
        table: WeightId,
        /// Factor (Gemma: `sqrt(n_embd)`).
        scale: f32,
        /// `Rows::Tokens`.
        out: BufId,
    },
    /// Normalization over each `group` neighbouring elements of a row; in place allowed.
    Norm {
        /// Which.
        kind: NormKind,
        /// Input.
        x: BufId,
        /// Gain, `group` long.
        weight: Option<WeightId>,
        /// Offset, `group` long.
        bias: Option<WeightId>,
        /// Elements normalized together: the row's width, or a head's.
        group: usize,
        /// Added under the root.
        eps: f32,
        /// Output, as wide as `x`.
        out: BufId,
    },
    /// Products of one input with several matrices (the input is quantized or packed once).
    Linear {
        /// Input.
        x: BufId,
        /// At least one.
        projections: Vec<Projection>,
    },
    /// Rotates the heads of `x` in place.
    Rope {
        /// `n_head * head_dim` wide.
        x: BufId,
        /// Elements of a head.
        head_dim: usize,
        /// Which rotation.
        rope: RopeId,
    },
    /// Appends keys and values of the batch's tokens to the cache.
    Store {
        /// Cache group.
        cache: CacheId,
        /// Which of the group's layers.
        slot: u32,
        /// `n_head_kv * head_dim` wide.
        k: BufId,
        /// `n_head_kv * head_dim_v` wide.
        v: BufId,
    },
    /// Causal attention.
    Attention(Attention),
    /// `out = act(gate) * up`; in place on `gate` allowed.
    Glu {
        /// Activated factor.
        gate: BufId,
        /// Other factor.
        up: BufId,
        /// Activation.
        act: Activation,
        /// Product.
        out: BufId,
    },
    /// `out = a + b`; in place on `a` allowed.
    Add {
        /// First summand.
        a: BufId,
        /// Second summand.
        b: BufId,
        /// Sum.
        out: BufId,
    },
    /// `x *= factor`, in place.
    Scale {
        /// Operand.
        x: BufId,
        /// Factor.
        factor: f32,
    },
    /// `x = cap * tanh(x / cap)`, in place.
    Softcap {
        /// Operand.
        x: BufId,
        /// Bound of the result.
        cap: f32,
    },
    /// Rows of the tokens in `Batch::outputs`: from `Rows::Tokens` to `Rows::Outputs`.
    Select {
        /// Input.
        x: BufId,
        /// Output, as wide as `x`.
        out: BufId,
    },
}

/// Something that an op names.
pub enum Name<'a> {
    /// A buffer.
    Buffer(&'a mut BufId),
    /// A weight.
    Weight(&'a mut WeightId),
    /// A rotation.
    Rope(&'a mut RopeId),
    /// A layer of a cache group.
    Cache(&'a mut CacheId, &'a mut u32),
}

impl Op {
    /// Calls `f` with everything that the op names.
    pub fn each_name(&mut self, f: &mut dyn FnMut(Name<'_>)) {
        let mut buffers: SmallVec<[&mut BufId; 8]> = smallvec![];
        match self {
            Op::Embed { table, out, .. } => {
                f(Name::Weight(table));
                buffers.push(out);
            }
            Op::Norm { x, weight, bias, out, .. } => {
                weight.iter_mut().chain(bias).for_each(|w| f(Name::Weight(w)));
                buffers.extend([x, out]);
            }
            Op::Linear { x, projections } => {
                buffers.push(x);
                for Projection { weight, bias, out } in projections {
                    f(Name::Weight(weight));
                    bias.iter_mut().for_each(|b| f(Name::Weight(b)));
                    buffers.push(out);
                }
            }
            Op::Rope { x, rope, .. } => {
                f(Name::Rope(rope));
                buffers.push(x);
            }
            Op::Store { cache, slot, k, v } => {
                f(Name::Cache(cache, slot));
                buffers.extend([k, v]);
            }
            Op::Attention(a) => {
                f(Name::Cache(&mut a.cache, &mut a.slot));
                buffers.extend([&mut a.q, &mut a.out]);
            }
            Op::Glu { gate, up, out, .. } => buffers.extend([gate, up, out]),
            Op::Add { a, b, out } => buffers.extend([a, b, out]),
            Op::Scale { x, .. } | Op::Softcap { x, .. } => buffers.push(x),
            Op::Select { x, out } => buffers.extend([x, out]),
        }
        buffers.into_iter().for_each(|b| f(Name::Buffer(b)));
    }

    /// What the op does, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::Norm { .. } => "norm",
            Op::Linear { .. } => "linear",
            Op::Rope { .. } => "rope",
            Op::Store { .. } => "store",
            Op::Attention(_) => "attention",
            Op::Glu { .. } => "glu",
            Op::Add { .. } => "add",
            Op::Scale { .. } => "scale",
            Op::Softcap { .. } => "softcap",
            Op::Select { .. } => "select",
        }
    }

    /// Buffers whose rows the op reads; one that it changes in place is among them.
    pub fn reads(&self) -> SmallVec<[BufId; 2]> {
        match self {
            Op::Embed { .. } => smallvec![],
            Op::Norm { x, .. }
            | Op::Linear { x, .. }
            | Op::Rope { x, .. }
            | Op::Scale { x, .. }
            | Op::Softcap { x, .. }
            | Op::Select { x, .. } => smallvec![*x],
            Op::Store { k, v, .. } => smallvec![*k, *v],
            Op::Attention(a) => smallvec![a.q],
            Op::Glu { gate, up, .. } => smallvec![*gate, *up],
            Op::Add { a, b, .. } => smallvec![*a, *b],
        }
    }

    /// Buffers whose rows the op writes, all of them and in full.
    pub fn writes(&self) -> SmallVec<[BufId; 4]> {
        match self {
            Op::Embed { out, .. }
            | Op::Norm { out, .. }
            | Op::Glu { out, .. }
            | Op::Add { out, .. }
            | Op::Select { out, .. } => smallvec![*out],
            Op::Linear { projections, .. } => projections.iter().map(|p| p.out).collect(),
            Op::Rope { x, .. } | Op::Scale { x, .. } | Op::Softcap { x, .. } => smallvec![*x],
            Op::Store { .. } => smallvec![],
            Op::Attention(a) => smallvec![a.out],
        }
    }
}
