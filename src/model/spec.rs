//! What distinguishes one architecture from another, as capabilities.

use crate::plan::op::{Activation, NormKind, RopeStyle};

/// A row of the table of architectures: what a decoder of this kind is made of.
///
/// Every block has attention over a cache and a gated feed-forward part, each after a norm and
/// each added to the residual stream. The fields say what is different from there. What may be
/// absent from a file and what must be there stands with each field.
#[derive(Debug, PartialEq)]
pub struct ArchSpec {
    /// `general.architecture`, which is also the prefix of its keys.
    pub name: &'static str,
    /// Kind of all norms over the width.
    pub norm: NormKind,
    /// How rotary embeddings pair the elements of a head.
    pub rope: RopeStyle,
    /// Whether the file may have `rope_freqs.weight`, divisors of the frequencies.
    pub rope_factors: bool,
    /// Biases that the file may have.
    pub bias: Bias,
    /// Whether queries and keys are normalized head by head, with a gain of `head_dim`.
    pub qk_norm: bool,
    /// Whether what attention and feed-forward give is normalized before it is added.
    pub post_norms: bool,
    /// Activation of the feed-forward gate.
    pub act: Activation,
    /// What embeddings are multiplied with.
    pub embed_scale: EmbedScale,
    /// What attention scores are multiplied with.
    pub score_scale: ScoreScale,
    /// Layers that see only a window, if the file gives one.
    pub window: Option<WindowRule>,
    /// Whether logits may be capped (`final_logit_softcapping`).
    pub final_softcap: bool,
    /// Tensors that are known and left unused; `*` stands for a layer's number.
    pub ignored: &'static [&'static str],
}

/// Which biases a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bias {
    /// Of queries, keys and values.
    pub qkv: bool,
    /// Of attention's output.
    pub attn_output: bool,
    /// Of all three feed-forward matrices.
    pub ffn: bool,
    /// Of the logits.
    pub output: bool,
}

/// What embeddings are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbedScale {
    /// Nothing.
    One,
    /// The square root of the width.
    SqrtWidth,
}

/// What attention scores are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreScale {
    /// `1 / sqrt(head_dim)`.
    HeadDim,
    /// The same, but `1 / sqrt(n_embd / n_head)` in a model of so many layers: the file does
    /// not say it, and the largest Gemma 3 was trained so.
    HeadDimUnlessLayers(u32),
}

/// Which layers are local and how they differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowRule {
    /// In each `pattern` layers all but the last are local, unless the file says otherwise.
    pub pattern: u32,
    /// Rope base of local layers, which are not scaled, unless the file says otherwise.
    pub freq_base: f32,
}
