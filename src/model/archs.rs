//! The table of architectures: the only place where an architecture's name is compared.
//!
//! A new architecture is a row here (and a tiny model with a golden); a row is data. Sources:
//! llama.cpp's graphs of the same names, and the papers and configurations they come from.

use super::ModelError;
use super::spec::{ArchSpec, Bias, EmbedScale, ScoreScale, WindowRule};
use crate::base::name::nearest;
use crate::gguf::meta::{Meta, MetaError};
use crate::plan::op::{Activation, NormKind, RopeStyle};

/// Key that names a file's architecture.
const KEY: &str = "general.architecture";

/// Llama 1 to 3, Mistral, and all that kept their shape (Touvron et al. 2023).
const LLAMA: ArchSpec = ArchSpec {
    name: "llama",
    norm: NormKind::Rms,
    rope: RopeStyle::Pairs,
    rope_factors: true,
    bias: Bias { qkv: true, attn_output: true, ffn: true, output: false },
    qk_norm: false,
    post_norms: false,
    act: Activation::Silu,
    embed_scale: EmbedScale::One,
    score_scale: ScoreScale::HeadDim,
    window: None,
    final_softcap: false,
    ignored: &[],
};

/// Qwen 2 and 2.5: biases of queries, keys and values; halves are rotated.
const QWEN2: ArchSpec = ArchSpec {
    name: "qwen2",
    rope: RopeStyle::Halves,
    rope_factors: false,
    bias: Bias { qkv: true, attn_output: false, ffn: false, output: true },
    ..LLAMA
};

/// All rows.
pub static ARCHS: [ArchSpec; 4] = [
    LLAMA,
    QWEN2,
    // Qwen 3: norms of queries and keys; its rerankers carry a head that generation leaves unused.
    ArchSpec {
        name: "qwen3",
        bias: Bias { output: false, ..QWEN2.bias },
        qk_norm: true,
        ignored: &["cls.output.weight"],
        ..QWEN2
    },
    // Gemma 3 (Gemma Team 2025): five local layers, then a global one.
    ArchSpec {
        name: "gemma3",
        bias: Bias { output: false, ..QWEN2.bias },
        qk_norm: true,
        post_norms: true,
        act: Activation::GeluTanh,
        embed_scale: EmbedScale::SqrtWidth,
        score_scale: ScoreScale::HeadDimUnlessLayers(62),
        window: Some(WindowRule { pattern: 6, freq_base: 10000.0 }),
        final_softcap: true,
        ..QWEN2
    },
];

/// The row of a file.
///
/// # Errors
/// [`ModelError::Meta`] if the file does not say, [`ModelError::UnknownArch`] if no row has that name.
pub fn find(meta: &Meta) -> Result<&'static ArchSpec, ModelError> {
    let name = meta.str(KEY)?.ok_or_else(|| MetaError::Missing(KEY.to_owned()))?;
    ARCHS.iter().find(|a| a.name == name).ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> ModelError {
    let mut near = nearest(name, ARCHS.iter().map(|a| a.name));
    if near.is_empty() {
        near = ARCHS.iter().map(|a| a.name).collect();
    }
    ModelError::UnknownArch { name: name.chars().take(64).collect(), nearest: near.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::meta::Value;

    #[test]
    fn an_unknown_architecture_is_named_with_its_neighbours() {
        let mut meta = Meta::default();
        assert_eq!(find(&meta), Err(MetaError::Missing(KEY.to_owned()).into()));
        meta.insert(KEY.to_owned(), Value::Str("qwen2vl".to_owned()));
        let error = find(&meta).expect_err("no such row").to_string();
        assert!(error.starts_with("architecture `qwen2vl` is not supported; the nearest that are: qwen2"), "{error}");
        let mut meta = Meta::default();
        meta.insert(KEY.to_owned(), Value::Str("\u{1F999}".repeat(100_000)));
        let error = find(&meta).expect_err("no such row").to_string();
        assert!(error.ends_with("llama, qwen2, qwen3, gemma3") && error.len() < 1000, "{error}");
    }

    #[test]
    fn names_are_unique() {
        for (i, a) in ARCHS.iter().enumerate() {
            assert!(ARCHS[..i].iter().all(|b| b.name != a.name), "{}", a.name);
        }
    }
}
