//! Rotary embeddings: from the keys of a file to the numbers of a plan.

use super::ModelError;
use super::hparams::Keys;
use super::spec::ArchSpec;
use crate::plan::op::{Rope, Yarn};

/// Base of files that give none: every model up to Llama 2.
const FREQ_BASE: f32 = 10000.0;

/// The rotation of layers that see everything.
pub(super) fn global(spec: &ArchSpec, keys: &Keys, head_dim: u32, n_ctx_train: u32) -> Result<Rope, ModelError> {
    let n_rot = keys.u32("rope.dimension_count")?.unwrap_or(head_dim);
    if n_rot == 0 || n_rot % 2 != 0 || n_rot > head_dim {
        return Err(keys.bad("rope.dimension_count", n_rot, format!("not an even number from 2 to {head_dim}")));
    }
    let freq_base = base(keys, "rope.freq_base")?.unwrap_or(FREQ_BASE);
    let factor = factor(keys)?;
    let kind = keys.meta.str(&keys.name("rope.scaling.type"))?.unwrap_or("linear");
    let own_factor = positive(keys, "rope.scaling.attn_factor", 1.0)?;
    let (freq_scale, yarn, attn_factor) = match kind {
        "none" => (1.0, None, own_factor),
        "linear" => (1.0 / factor, None, own_factor),
        "yarn" => (1.0 / factor, Some(yarn(keys, n_ctx_train)?), own_factor * yarn_correction(factor)),
        other => {
            return Err(keys.bad("rope.scaling.type", other, "not supported (none, linear and yarn are)"));
        }
    };
    let n_rot = n_rot as usize;
    Ok(Rope { style: spec.rope, n_rot, freq_base, freq_scale, factors: None, yarn, attn_factor })
}

/// The rotation of local layers: short distances need no scaling.
pub(super) fn local(spec: &ArchSpec, keys: &Keys, global: &Rope) -> Result<Rope, ModelError> {
    let Some(rule) = spec.window else { return Ok(global.clone()) };
    let freq_base = base(keys, "rope.freq_base_swa")?.unwrap_or(rule.freq_base);
    Ok(Rope { freq_base, freq_scale: 1.0, factors: None, yarn: None, attn_factor: 1.0, ..*global })
}

/// `rope.scaling.factor`, or its old name; 0 and nothing mean 1.
fn factor(keys: &Keys) -> Result<f32, ModelError> {
    let mut key = "rope.scaling.factor";
    let mut value = keys.f32(key)?;
    if value.is_none() {
        key = "rope.scale_linear";
        value = keys.f32(key)?;
    }
    match value {
        None | Some(0.0) => Ok(1.0),
        // Outside of this nothing could be told apart in f32.
        Some(v) if !(1e-4..=1e6).contains(&v) => Err(keys.bad(key, v, "not a sensible scale")),
        Some(v) => Ok(v),
    }
}

fn yarn(keys: &Keys, n_ctx_train: u32) -> Result<Yarn, ModelError> {
    const CONTEXT: &str = "rope.scaling.original_context_length";
    let original_context = keys.in_range(CONTEXT, crate::base::limits::CONTEXT_MAX)?.unwrap_or(n_ctx_train);
    Ok(Yarn {
        original_context,
        ext_factor: positive(keys, "rope.scaling.yarn_ext_factor", 1.0)?,
        beta_fast: positive(keys, "rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: positive(keys, "rope.scaling.yarn_beta_slow", 1.0)?,
    })
}

/// YaRN's `1 + 0.1 ln(factor)` (its eq. 22), which rotations apply, is meant for longer contexts
/// only: a factor below 1 takes it back.
fn yarn_correction(factor: f32) -> f32 {
    if factor < 1.0 { 1.0 / (1.0 + 0.1 * factor.ln()) } else { 1.0 }
}

fn base(keys: &Keys, key: &str) -> Result<Option<f32>, ModelError> {
    match keys.f32(key)? {
        // At 1 all pairs turn alike, and YaRN would divide by ln(1).
        Some(v) if v <= 1.0 => Err(keys.bad(key, v, "not above 1")),
        v => Ok(v),
    }
}

fn positive(keys: &Keys, key: &str, default: f32) -> Result<f32, ModelError> {
    match keys.f32(key)? {
        Some(v) if v <= 0.0 => Err(keys.bad(key, v, "not above 0")),
        v => Ok(v.unwrap_or(default)),
    }
}
