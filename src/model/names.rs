//! Names of tensors in GGUF files (gguf-py's `TENSOR_NAMES`).

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT: &str = "output.weight";
pub(super) const OUTPUT_BIAS: &str = "output.bias";
pub(super) const OUTPUT_NORM: &str = "output_norm";
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Parts of a layer; `.weight` or `.bias` follows.
pub(super) const ATTN_NORM: &str = "attn_norm";
pub(super) const ATTN_Q: &str = "attn_q";
pub(super) const ATTN_K: &str = "attn_k";
pub(super) const ATTN_V: &str = "attn_v";
pub(super) const ATTN_QKV: &str = "attn_qkv";
pub(super) const ATTN_Q_NORM: &str = "attn_q_norm";
pub(super) const ATTN_K_NORM: &str = "attn_k_norm";
pub(super) const ATTN_OUTPUT: &str = "attn_output";
pub(super) const ATTN_POST_NORM: &str = "post_attention_norm";
pub(super) const FFN_NORM: &str = "ffn_norm";
pub(super) const FFN_GATE: &str = "ffn_gate";
pub(super) const FFN_UP: &str = "ffn_up";
pub(super) const FFN_DOWN: &str = "ffn_down";
pub(super) const FFN_POST_NORM: &str = "post_ffw_norm";

/// `blk.3.attn_q`.
pub(super) fn layer(i: usize, part: &str) -> String {
    format!("blk.{i}.{part}")
}

/// `attn_q.weight`.
pub(super) fn weight(base: &str) -> String {
    format!("{base}.weight")
}

/// `attn_q.bias`.
pub(super) fn bias(base: &str) -> String {
    format!("{base}.bias")
}

/// Whether `name` is `pattern`, in which a `*` stands for one number.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_a_number() {
        assert!(matches("blk.*.x", "blk.12.x"));
        assert!(!matches("blk.*.x", "blk..x"));
        assert!(!matches("blk.*.x", "blk.1.y.x"));
        assert!(matches("cls.output.weight", "cls.output.weight"));
        assert!(!matches("cls.output.weight", "cls.output.weight2"));
    }
}
