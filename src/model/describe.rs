//! A model's numbers for people: what `forgectl show` prints.

use super::Model;
use crate::plan::op::{Activation, Rope};

fn activation(a: Activation) -> &'static str {
    match a {
        Activation::Silu => "SiLU",
        Activation::GeluTanh => "GELU (tanh)",
    }
}

/// Names and values in print order.
pub(super) fn describe(model: &Model) -> Vec<(&'static str, String)> {
    let h = &model.hparams;
    let mut out = vec![
        ("architecture", model.spec.name.to_owned()),
        ("parameters", model.n_params.to_string()),
        ("context", h.n_ctx_train.to_string()),
        ("layers", h.n_layer.to_string()),
        ("width", h.n_embd.to_string()),
        ("feed-forward", format!("{}, {}", h.n_ff, activation(model.spec.act))),
        ("heads", h.n_head.to_string()),
        ("key-value heads", h.n_head_kv.to_string()),
        (
            "head size",
            if h.head_dim == h.head_dim_v {
                h.head_dim.to_string()
            } else {
                format!("{} (values {})", h.head_dim, h.head_dim_v)
            },
        ),
        ("rope", rope(&h.rope, model.weights.rope_factors.is_some())),
    ];
    if let Some(window) = h.window {
        let local = h.local.iter().filter(|l| **l).count();
        out.push(("window", format!("{window} in {local} of {} layers", h.n_layer)));
        out.push(("rope in windows", rope(&h.rope_local, false)));
    }
    if let Some(cap) = h.softcap {
        out.push(("logits within", cap.to_string()));
    }
    out.push(("vocabulary", h.n_vocab.to_string()));
    out.push(("output", if model.tied() { "the embedding table" } else { "its own matrix" }.to_owned()));
    if !model.ignored.is_empty() {
        out.push(("ignored tensors", model.ignored.join(", ")));
    }
    out
}

fn rope(rope: &Rope, factors: bool) -> String {
    let mut text = format!("{} elements, base {}", rope.n_rot, rope.freq_base);
    if rope.freq_scale != 1.0 {
        let kind = if rope.yarn.is_some() { "yarn" } else { "linear" };
        text += &format!(", {kind} factor {}", 1.0 / rope.freq_scale);
    }
    if factors {
        text += ", own factors";
    }
    text
}
