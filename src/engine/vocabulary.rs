//! What an engine needs to know of a tokenizer: a trait, so that it can be tested without one.

use crate::tokenizer::Tokenizer;

/// Called for each token generated.
pub trait Vocabulary: Send + Sync {
    /// Bytes that the token adds to a text; none for control tokens. May end inside a character.
    fn piece(&self, id: u32) -> &[u8];
    /// Whether the token ends a text.
    fn is_eog(&self, id: u32) -> bool;
    /// Tokens that are never to be generated.
    fn suppressed(&self) -> &[u32] {
        &[]
    }
}

impl Vocabulary for Tokenizer {
    fn piece(&self, id: u32) -> &[u8] {
        if self.is_control(id) { &[] } else { Tokenizer::piece(self, id) }
    }

    fn is_eog(&self, id: u32) -> bool {
        Tokenizer::is_eog(self, id)
    }

    fn suppressed(&self) -> &[u32] {
        Tokenizer::suppressed(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::meta::{Array, Meta, Strings, Value};

    #[test]
    fn control_tokens_add_nothing_to_a_text() {
        let mut tokens = Strings::default();
        ["<unk>", "<s>", "</s>", "\u{2581}a", "<0xF0>", "<tool>"].iter().for_each(|t| tokens.push(t.as_bytes()));
        let mut meta = Meta::default();
        let mut set = |key: &str, value| assert!(meta.insert(format!("tokenizer.ggml.{key}"), value));
        set("model", Value::Str("llama".to_owned()));
        set("tokens", Value::Array(Array::Str(tokens)));
        set("scores", Value::Array(Array::F32(vec![0.0; 6])));
        set("token_type", Value::Array(Array::I32(vec![2, 3, 3, 1, 6, 4])));
        let tokenizer = Tokenizer::from_meta(&meta).expect("a vocabulary");
        let v: &dyn Vocabulary = &tokenizer;
        let pieces: Vec<&[u8]> = (0..7).map(|id| v.piece(id)).collect();
        assert_eq!(pieces, [b"", b"", b"", &b" a"[..], b"\xf0", b"<tool>", b""]);
        assert_eq!((v.is_eog(2), v.is_eog(3), v.suppressed()), (true, false, &[][..]));
    }
}
