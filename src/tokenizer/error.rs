//! What can be wrong with a tokenizer's metadata. Every message names the key.

use crate::gguf::meta::MetaError;
use thiserror::Error;

/// Why a vocabulary is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TokenizerError {
    /// A key is missing, of another type or makes no sense.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A kind of tokenizer that is not built.
    #[error("`tokenizer.ggml.model` is `{found}`: not supported (supported: {supported})")]
    Model {
        /// The name in the file.
        found: String,
        /// Names that are supported.
        supported: &'static str,
    },
    /// A pre-tokenizer that is not known. To guess one would change every prompt without a word.
    #[error("`tokenizer.ggml.pre` is `{found}`: not known{hint}")]
    Pre {
        /// The name in the file.
        found: String,
        /// `; nearest known: …`, or nothing.
        hint: String,
    },
    /// No tokens, or more than the limit.
    #[error("`tokenizer.ggml.tokens` has {found} tokens, expected 1 to {max}")]
    Count {
        /// Tokens in the file.
        found: usize,
        /// Most that are accepted ([`crate::base::limits::VOCAB_MAX`]).
        max: usize,
    },
    /// All tokens together are longer than offsets of 32 bits reach.
    #[error("`tokenizer.ggml.tokens` holds more than 4 GiB of text")]
    Long,
    /// An array beside the tokens is too short for them.
    #[error("`{key}` has {found} entries for {tokens} tokens")]
    Length {
        /// The key.
        key: &'static str,
        /// Its entries.
        found: usize,
        /// Tokens of the vocabulary.
        tokens: usize,
    },
    /// Two tokens have the same text, so that a text has no single id.
    #[error("`tokenizer.ggml.tokens`: tokens {first} and {second} are both `{text}`")]
    Duplicate {
        /// Their text, shortened.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A merge that cannot be applied.
    #[error("`tokenizer.ggml.merges`: merge {index} `{merge}`: {why}")]
    Merge {
        /// Its place in the array.
        index: usize,
        /// Its text, shortened.
        merge: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A score that cannot be ordered.
    #[error("`tokenizer.ggml.scores`: the score of token {0} is not a number")]
    Score(u32),
    /// The search for special tokens or for words cannot be built (too many or too long ones).
    #[error("`tokenizer.ggml.tokens`: cannot build the search: {0}")]
    Search(String),
}

/// Text for an error message: at most 60 characters, control characters escaped.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut short: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        short.push('…');
    }
    short
}
