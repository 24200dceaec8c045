//! A decoder: embeddings, layers of attention and feed-forward on a residual stream, logits.

use super::super::{Model, PlanOptions};
use super::{Builder, attention, ffn};
use crate::plan::Plan;
use crate::plan::op::{BufId, Op, Projection};

/// The plan of a model.
pub(crate) fn build(model: &Model, options: &PlanOptions) -> Plan {
    let h = &model.hparams;
    let w = &model.weights;
    let plan = Plan {
        ops: Vec::new(),
        buffers: Vec::new(),
        weights: w.all.clone(),
        ropes: Vec::new(),
        caches: Vec::new(),
        layers: Vec::new(),
        part: 0,
        input: None,
        output: BufId(0),
        n_vocab: h.n_vocab,
    };
    let mut b = Builder { model, h, plan };
    let mut x = b.tokens("x", h.n_embd);
    b.push(Op::Embed { table: w.embedding, scale: h.embed_scale, out: x });
    let caches = attention::Caches::declare(&mut b, options.kv_type);
    for (i, layer) in w.layers.iter().enumerate() {
        b.plan.layers.push(b.plan.ops.len());
        let normed = b.tokens("normed", h.n_embd);
        b.norm(layer.attn_norm, x, h.n_embd, normed);
        let mut attended = attention::build(&mut b, layer, &caches, i, normed);
        if i + 1 == h.n_layer {
            // From here on nothing looks at other tokens: go on with those that are asked for.
            x = select(&mut b, x, "x_out");
            attended = select(&mut b, attended, "attended_out");
        }
        let y = b.like(x, ["y", "y_out"], h.n_embd);
        b.linear(attended, &[(layer.attn_output, y)]);
        b.post_norm(layer.attn_post_norm, y);
        b.push(Op::Add { a: x, b: y, out: x });

        let normed = b.like(x, ["normed", "normed_out"], h.n_embd);
        b.norm(layer.ffn_norm, x, h.n_embd, normed);
        ffn::build(&mut b, layer, normed, y);
        b.post_norm(layer.ffn_post_norm, y);
        b.push(Op::Add { a: x, b: y, out: x });
    }
    b.norm(w.output_norm, x, h.n_embd, x);
    let logits = b.like(x, ["logits", "logits"], h.n_vocab);
    b.push(Op::Linear { x, projections: vec![Projection { weight: w.output, bias: w.output_bias, out: logits }] });
    if let Some(cap) = h.softcap {
        b.push(Op::Softcap { x: logits, cap });
    }
    b.plan.output = logits;
    b.plan
}

fn select(b: &mut Builder, x: BufId, name: &'static str) -> BufId {
    let width = b.plan.buffer(x).width;
    let out = b.buffer(name, width, crate::plan::op::Rows::Outputs);
    b.push(Op::Select { x, out });
    out
}
