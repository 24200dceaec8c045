//! What a plan needs of this backend, found out once at load.

use super::ops::attention::Heads;
use super::ops::gemm::{Extent, Matrix};
use crate::backend::BackendError;
use crate::plan::op::{Attention, Op, WeightId};
use crate::plan::{Plan, Weight};
use crate::quant::{Format, GROUP};
use crate::simd::Tier;

/// The weights of a plan with their kernels.
pub struct Weights {
    formats: Vec<&'static Format>,
    /// Vectors as f32: gains, offsets, rope factors.
    vectors: Vec<Option<Vec<f32>>>,
}

impl Weights {
    /// Finds the kernels of every weight and converts the vectors.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] naming the first tensor whose type has no kernels.
    pub fn new(plan: &Plan, tier: Tier) -> Result<Self, BackendError> {
        let format = |w: &Weight| {
            let missing =
                || BackendError::Unsupported(format!("tensor `{}`: no CPU kernels for {}", w.name, w.ty.name()));
            w.ty.format().ok_or_else(missing)
        };
        let formats: Vec<_> = plan.weights.iter().map(format).collect::<Result<_, _>>()?;
        let mut vectors: Vec<Option<Vec<f32>>> = vec![None; formats.len()];
        for id in vectors_of(plan) {
            let (weight, i) = (plan.weight(id), id.0 as usize);
            let mut values = vec![0.0; weight.n_cols];
            formats[i].to_f32(tier, weight.data.bytes(), &mut values);
            vectors[i] = Some(values);
        }
        Ok(Self { formats, vectors })
    }

    /// A matrix.
    pub fn matrix<'a>(&self, plan: &'a Plan, id: WeightId) -> Matrix<'a> {
        let weight = plan.weight(id);
        Matrix { format: self.formats[id.0 as usize], rows: weight.data.bytes(), k: weight.n_cols }
    }

    /// A vector.
    pub fn vector(&self, id: Option<WeightId>) -> Option<&[f32]> {
        id.and_then(|id| self.vectors[id.0 as usize].as_deref())
    }

    /// Bytes of the vectors that [`Weights::new`] makes.
    pub fn bytes(plan: &Plan) -> usize {
        let mut ids = vectors_of(plan);
        ids.sort_unstable();
        ids.dedup();
        ids.iter().map(|&id| plan.weight(id).n_cols * size_of::<f32>()).sum()
    }
}

/// Weights that ops use as vectors.
fn vectors_of(plan: &Plan) -> Vec<WeightId> {
    let mut ids: Vec<WeightId> = plan.ropes.iter().filter_map(|r| r.factors).collect();
    for op in &plan.ops {
        match op {
            Op::Norm { weight, bias, .. } => ids.extend(weight.iter().chain(bias)),
            Op::Linear { projections, .. } => ids.extend(projections.iter().filter_map(|p| p.bias)),
            _ => {}
        }
    }
    ids
}

/// An attention op's heads.
pub fn heads(plan: &Plan, a: &Attention) -> Heads {
    let group = &plan.caches[a.cache.0 as usize];
    Heads {
        n_head: a.n_head,
        n_head_kv: group.n_head_kv,
        head_dim: group.head_dim,
        head_dim_v: group.head_dim_v,
        scale: a.scale,
        window: a.window,
        softcap: a.softcap,
    }
}

/// Heads of all attention ops.
pub fn all_heads(plan: &Plan) -> Vec<Heads> {
    plan.ops.iter().filter_map(|op| if let Op::Attention(a) = op { Some(heads(plan, a)) } else { None }).collect()
}

/// The largest products of a plan, computed by `tier`.
pub fn extent(plan: &Plan, tokens: usize, tier: Tier) -> Extent {
    let mut extent = Extent { tokens, matrix_tiles: tier.amx().is_some(), ..Extent::default() };
    for op in &plan.ops {
        let Op::Linear { projections, .. } = op else { continue };
        for p in projections {
            let weight = plan.weight(p.weight);
            let k = match weight.ty.format().is_some_and(Format::is_float) {
                true => &mut extent.float_k,
                false => &mut extent.coded_k,
            };
            *k = (*k).max(weight.n_cols);
        }
    }
    extent
}

/// Products with codes quantize their input in groups of 32: a width that is no multiple cannot
/// be computed. No format has such rows today, since its blocks are as long.
///
/// # Errors
/// [`BackendError::Unsupported`] naming the tensor.
pub fn check_widths(plan: &Plan) -> Result<(), BackendError> {
    for op in &plan.ops {
        let Op::Linear { projections, .. } = op else { continue };
        for weight in projections.iter().map(|p| plan.weight(p.weight)) {
            let coded = !weight.ty.format().is_some_and(Format::is_float);
            if coded && !weight.n_cols.is_multiple_of(GROUP) {
                let what = format!("tensor `{}`: rows of {} are no multiple of {GROUP}", weight.name, weight.n_cols);
                return Err(BackendError::Unsupported(what));
            }
        }
    }
    Ok(())
}
