//! Attention: queries, keys and values of a layer, and the caches that hold the latter two.

use super::super::weights::Layer;
use super::Builder;
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::op::{Attention, BufId, CacheId, Op};

/// Where each layer's keys and values are: layers of one lifetime share a group.
pub(super) struct Caches {
    /// (group, which of its layers) of each layer.
    slots: Vec<(CacheId, u32)>,
}

impl Caches {
    /// Declares a group for global layers and one for local ones, as far as there are any.
    pub fn declare(b: &mut Builder, kv_type: KvType) -> Self {
        let h = b.h;
        let mut slots = vec![(CacheId(0), 0); h.n_layer];
        for local in [false, true] {
            let layers: Vec<usize> = (0..h.n_layer).filter(|&i| h.local[i] == local).collect();
            if layers.is_empty() {
                continue;
            }
            let window = h.window.filter(|_| local);
            let group = b.cache(CacheGroup {
                name: window.map_or("full".to_owned(), |w| format!("window {w}")),
                n_layer: layers.len(),
                n_head_kv: h.n_head_kv,
                head_dim: h.head_dim,
                head_dim_v: h.head_dim_v,
                window,
                kv_type,
                part: 0,
            });
            for (slot, &layer) in layers.iter().enumerate() {
                slots[layer] = (CacheId(group as u32), slot as u32);
            }
        }
        Self { slots }
    }
}

/// Attention of layer `i` over `x`; the result is yet to be projected.
pub(super) fn build(b: &mut Builder, layer: &Layer, caches: &Caches, i: usize, x: BufId) -> BufId {
    let h = b.h;
    let q = b.tokens("q", h.n_head * h.head_dim);
    let k = b.tokens("k", h.n_head_kv * h.head_dim);
    let v = b.tokens("v", h.n_head_kv * h.head_dim_v);
    b.linear(x, &[(layer.q, q), (layer.k, k), (layer.v, v)]);
    let rope = b.rope(h.local[i]);
    for (x, gain) in [(q, layer.q_norm), (k, layer.k_norm)] {
        if let Some(gain) = gain {
            b.norm(gain, x, h.head_dim, x);
        }
        b.push(Op::Rope { x, head_dim: h.head_dim, rope });
    }
    let (cache, slot) = caches.slots[i];
    b.push(Op::Store { cache, slot, k, v });
    let out = b.tokens("attended", h.n_head * h.head_dim_v);
    b.push(Op::Attention(Attention {
        q,
        out,
        cache,
        slot,
        n_head: h.n_head,
        scale: h.score_scale,
        window: h.window.filter(|_| h.local[i]),
        softcap: None,
    }));
    out
}
