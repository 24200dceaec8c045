//! The tensors of a model: each one of the file is claimed once, with the shape and type that its
//! place asks for. What is missing, misshapen or left over is named.

use std::collections::HashMap;

use super::ModelError;
use super::hparams::Hparams;
use super::names::{self, bias, layer, weight};
use super::spec::ArchSpec;
use crate::gguf::{Gguf, Tensor};
use crate::plan::Weight;
use crate::plan::op::{NormKind, WeightId};
use crate::quant::GgmlType;

/// A matrix with its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
}

/// Gain and offset of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gain {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
}

/// One layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub attn_norm: Gain,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub q_norm: Option<Gain>,
    pub k_norm: Option<Gain>,
    pub attn_output: Matrix,
    pub attn_post_norm: Option<Gain>,
    pub ffn_norm: Gain,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
    pub ffn_post_norm: Option<Gain>,
}

/// All of a model's weights, by their place.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// What the ids mean, as plans carry it.
    pub all: Vec<Weight>,
    pub embedding: WeightId,
    pub output_norm: Gain,
    /// The embedding table where the file has no matrix of its own.
    pub output: WeightId,
    pub output_bias: Option<WeightId>,
    pub rope_factors: Option<WeightId>,
    pub layers: Vec<Layer>,
}

impl Weights {
    /// Claims every tensor of the file. The second value lists those that the row ignores.
    pub fn claim(spec: &'static ArchSpec, h: &Hparams, gguf: &Gguf) -> Result<(Self, Vec<String>), ModelError> {
        let mut c = Claims::new(spec, gguf);
        let embedding = c.matrix(names::EMBEDDING, h.n_vocab, h.n_embd)?;
        let output_norm = c.gain(names::OUTPUT_NORM, h.n_embd)?;
        let output = match c.has(names::OUTPUT) {
            true => c.matrix(names::OUTPUT, h.n_vocab, h.n_embd)?,
            false => embedding,
        };
        let output_bias = c.optional_vector(spec.bias.output, names::OUTPUT_BIAS, h.n_vocab)?;
        let rope_factors = c.optional_vector(spec.rope_factors, names::ROPE_FACTORS, h.rope.n_rot / 2)?;
        if let Some(id) = rope_factors {
            c.check_factors(id)?;
        }
        let layers = (0..h.n_layer).map(|i| c.layer(i, h)).collect::<Result<_, _>>()?;
        let ignored = c.finish()?;
        Ok((Self { all: c.all, embedding, output_norm, output, output_bias, rope_factors, layers }, ignored))
    }
}

struct Claims<'a> {
    spec: &'static ArchSpec,
    gguf: &'a Gguf,
    index: HashMap<&'a str, usize>,
    claimed: Vec<bool>,
    all: Vec<Weight>,
}

impl<'a> Claims<'a> {
    fn new(spec: &'static ArchSpec, gguf: &'a Gguf) -> Self {
        let index = gguf.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        Self { spec, gguf, index, claimed: vec![false; gguf.tensors.len()], all: Vec::new() }
    }

    fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Takes a tensor of `n_rows x n_cols` out of the file.
    fn take(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<&'a Tensor, ModelError> {
        let i = *self.index.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_owned()))?;
        let tensor = &self.gguf.tensors[i];
        if tensor.dims != [n_cols as u64, n_rows as u64, 1, 1] {
            let found = tensor.dims[..tensor.n_dims.clamp(1, 4)].iter().map(u64::to_string).collect::<Vec<_>>();
            return Err(ModelError::Shape {
                name: name.to_owned(),
                found: found.join(" x "),
                expected: if n_rows == 1 { n_cols.to_string() } else { format!("{n_cols} x {n_rows}") },
            });
        }
        self.claimed[i] = true;
        Ok(tensor)
    }

    fn add(&mut self, weight: Weight) -> WeightId {
        self.all.push(weight);
        WeightId(self.all.len() as u32 - 1)
    }

    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<WeightId, ModelError> {
        let Tensor { ty, data, .. } = self.take(name, n_rows, n_cols)?.clone();
        if ty.format().is_none() {
            return Err(ModelError::Type { name: name.to_owned(), ty, why: "matrices of this type are not supported" });
        }
        Ok(self.add(Weight { name: name.to_owned(), ty, n_rows, n_cols, data }))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<WeightId, ModelError> {
        let Tensor { ty, data, .. } = self.take(name, 1, len)?.clone();
        if ty != GgmlType::F32 {
            return Err(ModelError::Type { name: name.to_owned(), ty, why: "vectors must be F32" });
        }
        Ok(self.add(Weight { name: name.to_owned(), ty, n_rows: 1, n_cols: len, data }))
    }

    /// A vector that may be absent; where the row does not know it, it stays unclaimed.
    fn optional_vector(&mut self, known: bool, name: &str, len: usize) -> Result<Option<WeightId>, ModelError> {
        if known && self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    fn with_bias(&mut self, biased: bool, base: &str, n_rows: usize, n_cols: usize) -> Result<Matrix, ModelError> {
        let weight = self.matrix(&weight(base), n_rows, n_cols)?;
        Ok(Matrix { weight, bias: self.optional_vector(biased, &bias(base), n_rows)? })
    }

    fn gain(&mut self, base: &str, len: usize) -> Result<Gain, ModelError> {
        let gain = self.vector(&weight(base), len)?;
        let bias = match self.spec.norm {
            NormKind::Rms => None,
            NormKind::Layer => Some(self.vector(&bias(base), len)?),
        };
        Ok(Gain { weight: gain, bias })
    }

    fn optional_gain(&mut self, has: bool, base: &str, len: usize) -> Result<Option<Gain>, ModelError> {
        if has { self.gain(base, len).map(Some) } else { Ok(None) }
    }

    fn layer(&mut self, i: usize, h: &Hparams) -> Result<Layer, ModelError> {
        let spec = self.spec;
        let at = |part| layer(i, part);
        let attn_norm = self.gain(&at(names::ATTN_NORM), h.n_embd)?;
        let [q, k, v] = self.qkv(i, h)?;
        let n = h.n_embd;
        Ok(Layer {
            attn_norm,
            q,
            k,
            v,
            q_norm: self.optional_gain(spec.qk_norm, &at(names::ATTN_Q_NORM), h.head_dim)?,
            k_norm: self.optional_gain(spec.qk_norm, &at(names::ATTN_K_NORM), h.head_dim)?,
            attn_output: self.with_bias(spec.bias.attn_output, &at(names::ATTN_OUTPUT), n, h.n_head * h.head_dim_v)?,
            attn_post_norm: self.optional_gain(spec.post_norms, &at(names::ATTN_POST_NORM), n)?,
            ffn_norm: self.gain(&at(names::FFN_NORM), n)?,
            gate: self.with_bias(spec.bias.ffn, &at(names::FFN_GATE), h.n_ff, n)?,
            up: self.with_bias(spec.bias.ffn, &at(names::FFN_UP), h.n_ff, n)?,
            down: self.with_bias(spec.bias.ffn, &at(names::FFN_DOWN), n, h.n_ff)?,
            ffn_post_norm: self.optional_gain(spec.post_norms, &at(names::FFN_POST_NORM), n)?,
        })
    }

    /// Queries, keys and values: three matrices, or the rows of one in this order.
    fn qkv(&mut self, i: usize, h: &Hparams) -> Result<[Matrix; 3], ModelError> {
        let rows = [h.n_head * h.head_dim, h.n_head_kv * h.head_dim, h.n_head_kv * h.head_dim_v];
        let own = [names::ATTN_Q, names::ATTN_K, names::ATTN_V].map(|part| layer(i, part));
        let fused = layer(i, names::ATTN_QKV);
        let known = self.spec.bias.qkv;
        if !self.has(&weight(&fused)) {
            let [q, k, v] = [0, 1, 2].map(|p| self.with_bias(known, &own[p], rows[p], h.n_embd));
            return Ok([q?, k?, v?]);
        }
        let weights = self.split(&weight(&fused), rows, h.n_embd)?;
        let biases = match known && self.has(&bias(&fused)) {
            true => self.split_vector(&bias(&fused), rows)?.map(Some),
            false => {
                let [q, k, v] = [0, 1, 2].map(|p| self.optional_vector(known, &bias(&own[p]), rows[p]));
                [q?, k?, v?]
            }
        };
        Ok([0, 1, 2].map(|p| Matrix { weight: weights[p], bias: biases[p] }))
    }

    /// A matrix whose rows are three matrices.
    fn split(&mut self, name: &str, rows: [usize; 3], n_cols: usize) -> Result<[WeightId; 3], ModelError> {
        let id = self.matrix(name, rows.iter().sum(), n_cols)?;
        Ok(self.parts(id, rows, |part, n_rows| Weight { n_rows, ..part }))
    }

    /// A vector that is three vectors.
    fn split_vector(&mut self, name: &str, lens: [usize; 3]) -> Result<[WeightId; 3], ModelError> {
        let id = self.vector(name, lens.iter().sum())?;
        Ok(self.parts(id, lens, |part, n_cols| Weight { n_cols, ..part }))
    }

    /// Replaces a weight that was just added by three parts of it.
    fn parts(&mut self, id: WeightId, sizes: [usize; 3], resize: impl Fn(Weight, usize) -> Weight) -> [WeightId; 3] {
        let whole = self.all.remove(id.0 as usize);
        let bytes_each = whole.data.len() / sizes.iter().sum::<usize>();
        let mut start = 0;
        sizes.map(|size| {
            let data = whole.data.part(start * bytes_each, size * bytes_each);
            let name = format!("{}[{start}..{}]", whole.name, start + size);
            start += size;
            self.add(resize(Weight { name, data, ..whole.clone() }, size))
        })
    }

    /// Divisors of frequencies must be positive numbers: they divide angles of every token.
    fn check_factors(&self, id: WeightId) -> Result<(), ModelError> {
        let w = &self.all[id.0 as usize];
        let (values, _) = w.data.bytes().as_chunks::<4>();
        match values.iter().map(|b| f32::from_le_bytes(*b)).find(|v| !(v.is_finite() && *v > 0.0)) {
            Some(v) => {
                Err(ModelError::Unsupported(format!("tensor `{}` holds {v}, which divides a frequency", w.name)))
            }
            None => Ok(()),
        }
    }

    /// Sorts what nobody claimed into ignored (returned) and unknown (an error).
    fn finish(&self) -> Result<Vec<String>, ModelError> {
        let unclaimed = self.gguf.tensors.iter().zip(&self.claimed).filter(|(_, claimed)| !**claimed);
        let unclaimed = unclaimed.map(|(t, _)| t.name.as_str());
        let known = |name: &&str| self.spec.ignored.iter().any(|pattern| names::matches(pattern, name));
        let (ignored, unknown): (Vec<&str>, Vec<&str>) = unclaimed.partition(known);
        if !unknown.is_empty() {
            return Err(ModelError::Unclaimed {
                arch: self.spec.name,
                count: unknown.len(),
                names: unknown[..unknown.len().min(5)].join(", "),
            });
        }
        Ok(ignored.into_iter().map(str::to_owned).collect())
    }
}
