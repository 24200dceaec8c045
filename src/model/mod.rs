//! Models: from a GGUF file to a plan.
//!
//! A model is data: a row of [`archs::ARCHS`] (which blocks it is made of) plus numbers and
//! tensors of the file. Nothing here or below branches on a model's name.

pub mod archs;
mod build;
mod describe;
pub mod hparams;
mod names;
mod rope;
pub mod spec;
mod weights;

use thiserror::Error;

use crate::gguf::Gguf;
use crate::gguf::meta::MetaError;
use crate::plan::Plan;
use crate::plan::cache::{HeadSizeError, KvType};
use crate::quant::GgmlType;
use hparams::Hparams;
use spec::ArchSpec;
use weights::Weights;

/// Why a file is no model that can be run.
#[derive(Debug, Error, PartialEq)]
pub enum ModelError {
    /// A key is absent, of another type or makes no sense.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// No row of the table has this name.
    #[error("architecture `{name}` is not supported; the nearest that are: {nearest}")]
    UnknownArch {
        /// `general.architecture`.
        name: String,
        /// Names like it, for people.
        nearest: String,
    },
    /// The file asks for something that its row does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A tensor that the model needs is not in the file.
    #[error("tensor `{0}` is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the metadata says.
    #[error("tensor `{name}` is {found}, expected {expected}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, contiguous dimension first, as GGUF tools print it.
        found: String,
        /// The shape it should have.
        expected: String,
    },
    /// A tensor has a type that cannot be used there.
    #[error("tensor `{name}` is of type {}: {why}", ty.name())]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        ty: GgmlType,
        /// Why not.
        why: &'static str,
    },
    /// The file holds tensors that nothing in the model uses: it is not what it says it is.
    #[error("{count} tensors of the file have no place in a model of architecture `{arch}`: {names}")]
    Unclaimed {
        /// The architecture.
        arch: &'static str,
        /// How many.
        count: usize,
        /// The first of them.
        names: String,
    },
}

/// What a plan may be made for.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Element type of the caches.
    pub kv_type: KvType,
}

/// A model whose every number and tensor was checked.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its row of the table.
    pub spec: &'static ArchSpec,
    /// Its numbers.
    pub hparams: Hparams,
    /// Tensors of the file that the row knowingly leaves unused.
    pub ignored: Vec<String>,
    /// Elements of all tensors in the file, as llama.cpp counts parameters.
    pub n_params: u64,
    weights: Weights,
}

impl Model {
    /// Finds the row of a file, reads its numbers and claims its tensors.
    ///
    /// # Errors
    /// [`ModelError`] that names the key or tensor.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let spec = archs::find(&gguf.meta)?;
        let hparams = Hparams::read(spec, gguf)?;
        let (weights, ignored) = Weights::claim(spec, &hparams, gguf)?;
        let n_params = gguf.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
        Ok(Self { spec, hparams, ignored, n_params, weights })
    }

    /// Whether the output matrix is the embedding table.
    pub fn tied(&self) -> bool {
        self.weights.output == self.weights.embedding
    }

    /// Whether its keys and values can be kept in caches of `kv_type`; [`Model::plan`] takes it for granted.
    ///
    /// # Errors
    /// [`HeadSizeError`] if its heads have another size.
    pub fn takes_caches(&self, kv_type: KvType) -> Result<(), HeadSizeError> {
        kv_type.takes(self.hparams.head_dim)?;
        kv_type.takes(self.hparams.head_dim_v)
    }

    /// What the model computes, over the tensors of its file.
    pub fn plan(&self, options: &PlanOptions) -> Plan {
        let plan = build::decoder::build(self, options);
        debug_assert_eq!(plan.check(), Ok(()));
        plan
    }

    /// The model's numbers as names and values, in the order in which they are shown.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        describe::describe(self)
    }
}

#[cfg(test)]
mod tests;
