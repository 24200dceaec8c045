//! The numbers of a model, from the metadata of its file: typed, in range, each error names its key.

use super::spec::{ArchSpec, EmbedScale, ScoreScale};
use super::{ModelError, names, rope};
use crate::base::limits::{CONTEXT_MAX, LAYERS_MAX, VOCAB_MAX, WIDTH_MAX};
use crate::gguf::Gguf;
use crate::gguf::meta::{Array, Meta, MetaError, Value};
use crate::plan::op::{NormKind, Rope};

/// Numbers of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// Layers (`block_count`).
    pub n_layer: usize,
    /// Width of the residual stream (`embedding_length`).
    pub n_embd: usize,
    /// Query heads (`attention.head_count`).
    pub n_head: usize,
    /// Key and value heads (`attention.head_count_kv`); divides `n_head`.
    pub n_head_kv: usize,
    /// Elements of a query or key head (`attention.key_length`, or `n_embd / n_head`).
    pub head_dim: usize,
    /// Elements of a value head (`attention.value_length`, or `n_embd / n_head`).
    pub head_dim_v: usize,
    /// Width of the feed-forward part (`feed_forward_length`).
    pub n_ff: usize,
    /// Tokens of the vocabulary: rows of the embedding table.
    pub n_vocab: usize,
    /// Tokens of context it was trained with (`context_length`).
    pub n_ctx_train: u32,
    /// What norms add under the root.
    pub eps: f32,
    /// Rotation of layers that see everything; `factors` is left to the plan.
    pub rope: Rope,
    /// Rotation of local layers; the same as `rope` where there are none.
    pub rope_local: Rope,
    /// Tokens that a local layer sees, if there are local layers.
    pub window: Option<u32>,
    /// For each layer whether it is local.
    pub local: Vec<bool>,
    /// Factor of the embeddings.
    pub embed_scale: f32,
    /// Factor of the attention scores.
    pub score_scale: f32,
    /// Bound of the logits.
    pub softcap: Option<f32>,
}

impl Hparams {
    /// Reads and checks the numbers of a file.
    pub(super) fn read(spec: &'static ArchSpec, gguf: &Gguf) -> Result<Self, ModelError> {
        let keys = Keys { meta: &gguf.meta, arch: spec.name };
        refuse_other_graphs(&keys)?;
        let n_layer = keys.need("block_count", LAYERS_MAX)?;
        let n_embd = keys.need("embedding_length", WIDTH_MAX)?;
        let n_head = keys.need_uniform("attention.head_count", n_layer, WIDTH_MAX)?;
        let n_head_kv = keys.uniform("attention.head_count_kv", n_layer, WIDTH_MAX)?.unwrap_or(n_head);
        if n_head % n_head_kv != 0 {
            return Err(keys.bad("attention.head_count_kv", n_head_kv, format!("does not divide the {n_head} heads")));
        }
        let head_dim = head_width(&keys, "attention.key_length", n_embd, n_head)?;
        let head_dim_v = head_width(&keys, "attention.value_length", n_embd, n_head)?;
        let n_ff = keys.need_uniform("feed_forward_length", n_layer, WIDTH_MAX)?;
        let n_ctx_train = keys.need("context_length", CONTEXT_MAX)?;

        let eps_key = match spec.norm {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let eps = keys.f32(eps_key)?.ok_or_else(|| MetaError::Missing(keys.name(eps_key)))?;
        if !(eps > 0.0 && eps <= 1.0) {
            return Err(keys.bad(eps_key, eps, "not between 0 and 1"));
        }

        let (window, local) = windows(spec, &keys, n_layer as usize)?;
        let rope = rope::global(spec, &keys, head_dim, n_ctx_train)?;
        let rope_local = rope::local(spec, &keys, &rope)?;
        for (key, full) in [
            ("attention.key_length_swa", head_dim),
            ("attention.value_length_swa", head_dim_v),
            ("rope.dimension_count_swa", rope.n_rot as u32),
        ] {
            if let Some(v) = keys.u32(key)?.filter(|&v| window.is_some() && v != full) {
                return Err(keys.bad(key, v, format!("local layers with other heads than global ones ({full})")));
            }
        }

        let softcap = keys.f32("final_logit_softcapping")?.filter(|&c| spec.final_softcap && c != 0.0);
        if let Some(cap) = softcap.filter(|c| *c < 0.0) {
            return Err(keys.bad("final_logit_softcapping", cap, "negative"));
        }
        let embed_scale = match spec.embed_scale {
            EmbedScale::One => 1.0,
            EmbedScale::SqrtWidth => (n_embd as f32).sqrt(),
        };
        let scaled_by = match spec.score_scale {
            ScoreScale::HeadDimUnlessLayers(n) if n == n_layer => n_embd / n_head,
            _ => head_dim,
        };
        Ok(Self {
            n_layer: n_layer as usize,
            n_embd: n_embd as usize,
            n_head: n_head as usize,
            n_head_kv: n_head_kv as usize,
            head_dim: head_dim as usize,
            head_dim_v: head_dim_v as usize,
            n_ff: n_ff as usize,
            n_vocab: vocabulary(gguf)?,
            n_ctx_train,
            eps,
            rope,
            rope_local,
            window,
            local,
            embed_scale,
            score_scale: 1.0 / (scaled_by.max(1) as f32).sqrt(),
            softcap,
        })
    }
}

/// Keys that turn the graph into one that no row describes yet.
fn refuse_other_graphs(keys: &Keys) -> Result<(), ModelError> {
    for (key, what) in [("expert_count", "mixtures of experts"), ("nextn_predict_layers", "layers that predict ahead")]
    {
        if let Some(n) = keys.u32(key)?.filter(|n| *n > 0) {
            return Err(keys.bad(key, n, format!("{what} are not supported for this architecture")));
        }
    }
    match keys.meta.bool(&keys.name("attention.causal"))? {
        Some(false) => Err(keys.bad("attention.causal", false, "only causal attention is supported")),
        _ => Ok(()),
    }
}

fn head_width(keys: &Keys, key: &str, n_embd: u32, n_head: u32) -> Result<u32, ModelError> {
    if let Some(width) = keys.in_range(key, WIDTH_MAX)? {
        return Ok(width);
    }
    if !n_embd.is_multiple_of(n_head) {
        return Err(keys.bad("attention.head_count", n_head, format!("does not divide the width {n_embd}")));
    }
    Ok(n_embd / n_head)
}

/// The window, if there are local layers, and which these are.
fn windows(spec: &ArchSpec, keys: &Keys, n_layer: usize) -> Result<(Option<u32>, Vec<bool>), ModelError> {
    const KEY: &str = "attention.sliding_window";
    const PATTERN: &str = "attention.sliding_window_pattern";
    let all_global = (None, vec![false; n_layer]);
    let Some(rule) = spec.window else { return Ok(all_global) };
    let Some(window) = keys.u32(KEY)?.filter(|w| *w > 0) else { return Ok(all_global) };
    if window > CONTEXT_MAX {
        return Err(keys.bad(KEY, window, format!("more than {CONTEXT_MAX}")));
    }
    let local: Vec<bool> = match keys.meta.get(&keys.name(PATTERN)) {
        Some(Value::Array(array)) => {
            keys.integers(PATTERN, array, n_layer)?.into_iter().map(|local| local != 0).collect()
        }
        _ => {
            // A pattern of 0 makes every layer local.
            let n = keys.u32(PATTERN)?.unwrap_or(rule.pattern) as usize;
            (0..n_layer).map(|i| n == 0 || i % n < n - 1).collect()
        }
    };
    Ok(if local.contains(&true) { (Some(window), local) } else { all_global })
}

/// Rows of the embedding table, which must be as many as the vocabulary has tokens.
fn vocabulary(gguf: &Gguf) -> Result<usize, ModelError> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let table = gguf.tensor(names::EMBEDDING);
    let rows = table.ok_or_else(|| ModelError::MissingTensor(names::EMBEDDING.to_owned()))?.dims[1];
    if rows == 0 || rows > VOCAB_MAX as u64 {
        return Err(ModelError::Unsupported(format!("tensor `{}` has {rows} rows", names::EMBEDDING)));
    }
    match gguf.meta.strings(TOKENS)? {
        Some(tokens) if tokens.len() as u64 != rows => Err(MetaError::Value {
            key: TOKENS.to_owned(),
            value: format!("{} tokens", tokens.len()),
            why: format!("`{}` has {rows} rows", names::EMBEDDING),
        }
        .into()),
        _ => Ok(rows as usize),
    }
}

/// Keys of one architecture: `block_count` stands for `llama.block_count`.
pub(super) struct Keys<'a> {
    pub meta: &'a Meta,
    pub arch: &'a str,
}

impl Keys<'_> {
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.meta.u32(&self.name(key))?)
    }

    pub fn f32(&self, key: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.meta.f32(&self.name(key))?)
    }

    /// A value that makes no sense.
    pub fn bad(&self, key: &str, value: impl ToString, why: impl Into<String>) -> ModelError {
        MetaError::Value { key: self.name(key), value: value.to_string(), why: why.into() }.into()
    }

    /// An integer from 1 to `max`.
    pub fn in_range(&self, key: &str, max: u32) -> Result<Option<u32>, ModelError> {
        self.u32(key)?.map(|v| self.check(key, v, max)).transpose()
    }

    pub fn need(&self, key: &str, max: u32) -> Result<u32, ModelError> {
        self.in_range(key, max)?.ok_or_else(|| MetaError::Missing(self.name(key)).into())
    }

    /// An integer from 1 to `max`, or an array that says the same for each layer.
    fn uniform(&self, key: &str, n_layer: u32, max: u32) -> Result<Option<u32>, ModelError> {
        let Some(Value::Array(array)) = self.meta.get(&self.name(key)) else { return self.in_range(key, max) };
        let values = self.integers(key, array, n_layer as usize)?;
        match values.iter().find(|v| **v != values[0]) {
            None => self.check(key, values[0], max).map(Some),
            Some(other) => {
                let value = format!("{} and {other}", values[0]);
                Err(self.bad(key, value, "layers that differ are not supported for this architecture"))
            }
        }
    }

    fn need_uniform(&self, key: &str, n_layer: u32, max: u32) -> Result<u32, ModelError> {
        self.uniform(key, n_layer, max)?.ok_or_else(|| MetaError::Missing(self.name(key)).into())
    }

    fn check(&self, key: &str, v: u32, max: u32) -> Result<u32, ModelError> {
        if (1..=max).contains(&v) { Ok(v) } else { Err(self.bad(key, v, format!("not between 1 and {max}"))) }
    }

    /// One integer (or truth value) for each of `n` layers.
    fn integers(&self, key: &str, array: &Array, n: usize) -> Result<Vec<u32>, ModelError> {
        fn all<T: Copy + TryInto<u32>>(values: &[T]) -> Option<Vec<u32>> {
            values.iter().map(|v| (*v).try_into().ok()).collect()
        }
        let length = |len: usize| match len == n {
            true => Ok(()),
            false => Err(self.bad(key, format!("an array of {len}"), format!("the model has {n} layers"))),
        };
        let values = match array {
            Array::U8(v) => length(v.len()).map(|()| all(v))?,
            Array::I8(v) => length(v.len()).map(|()| all(v))?,
            Array::U16(v) => length(v.len()).map(|()| all(v))?,
            Array::I16(v) => length(v.len()).map(|()| all(v))?,
            Array::U32(v) => length(v.len()).map(|()| all(v))?,
            Array::I32(v) => length(v.len()).map(|()| all(v))?,
            Array::U64(v) => length(v.len()).map(|()| all(v))?,
            Array::I64(v) => length(v.len()).map(|()| all(v))?,
            Array::Bool(v) => length(v.len()).map(|()| all(v))?,
            Array::F32(_) | Array::F64(_) | Array::Str(_) => None,
        };
        values.ok_or_else(|| self.bad(key, "an array", "not of whole numbers from 0 on"))
    }
}
