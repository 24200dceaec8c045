//! Text to token ids and back, from a GGUF's metadata alone, with llama.cpp's ids.
//!
//! Kinds: `gpt2` (byte-level BPE with a named pre-tokenizer), `llama` (SentencePiece) and `gemma4`
//! (BPE on UTF-8). Sources: llama.cpp's `llama-vocab.cpp` and `unicode.cpp`. Everything is checked
//! when the vocabulary is read; encoding and decoding cannot fail.

mod bpe;
mod cache;
mod error;
mod merge;
mod pretoken;
mod scan;
mod special;
mod spm;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod unicode;
mod vocab;

pub use error::TokenizerError;
pub use stream::Stream;
pub use vocab::SpecialIds;

use crate::gguf::meta::{Array, Meta, MetaError};
use bpe::Bpe;
use cache::Caches;
use pretoken::Pre;
use special::{Fragment, Specials};
use spm::Spm;
use vocab::{BYTE, CONTROL, Spelling, UNKNOWN, USER, Vocab};

/// Values of `tokenizer.ggml.model` that are supported.
const SUPPORTED: &str = "gpt2, llama, gemma4";
const MODEL: &str = "tokenizer.ggml.model";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// A vocabulary, ready to encode and decode. Shared between threads as it is.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    kind: Kind,
    caches: Caches,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
    suppressed: Vec<u32>,
    description: String,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Kind {
    Spm(Spm),
    Bpe(Box<Bpe>),
}

impl Tokenizer {
    /// Reads the vocabulary of a GGUF's metadata (`tokenizer.ggml.*`).
    ///
    /// # Errors
    /// [`TokenizerError`], naming the key: a kind or pre-tokenizer that is not known, arrays that do
    /// not fit the tokens, tokens that are there twice, merges that name no token.
    pub fn from_meta(meta: &Meta) -> Result<Self, TokenizerError> {
        let model = meta.str(MODEL)?.ok_or_else(|| MetaError::Missing(MODEL.to_owned()))?;
        let mut notes = Vec::new();
        let pre = match (model, meta.str("tokenizer.ggml.pre")?.filter(|pre| !pre.is_empty())) {
            ("llama", _) => None,
            ("gemma4", _) => Some(Pre::find("gemma4")?),
            ("gpt2", Some(name)) => Some(Pre::find(name)?),
            ("gpt2", None) => {
                notes.push("`tokenizer.ggml.pre` is absent: words are cut as llama.cpp's `default` does, which may not be how the model was trained".to_owned());
                Some(Pre::find("default")?)
            }
            _ => return Err(TokenizerError::Model { found: error::shown(model.as_bytes()), supported: SUPPORTED }),
        };
        // What holds where the file does not say.
        let defaults = match (model, pre) {
            ("llama", _) => SpecialIds { bos: Some(1), eos: Some(2), unk: Some(0), ..SpecialIds::default() },
            ("gpt2", Some(pre)) => {
                SpecialIds { bos: pre.default_bos.then_some(11), eos: Some(11), ..SpecialIds::default() }
            }
            _ => SpecialIds::default(),
        };
        let spelling = if pre.is_none_or(Pre::raw) { Spelling::Utf8 } else { Spelling::ByteLevel };
        let vocab = Vocab::new(meta, spelling, defaults, &mut notes)?;
        let kind = match pre {
            None => Kind::Spm(Spm::new(&vocab, &scores(meta, vocab.len())?)),
            Some(pre) => {
                let merges = meta.strings(MERGES)?.ok_or_else(|| MetaError::Missing(MERGES.to_owned()))?;
                Kind::Bpe(Box::new(Bpe::new(&vocab, merges, pre)?))
            }
        };
        let add_bos = meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.is_none_or(|pre| pre.add_bos));
        Ok(Self {
            specials: Specials::new(&vocab)?,
            kind,
            caches: Caches::default(),
            add_bos: add_bos || pre.is_some_and(Pre::gemma),
            add_eos: meta.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            add_space_prefix: meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(pre.is_none()),
            suppressed: suppressed(meta, vocab.len())?,
            description: match pre {
                Some(pre) if pre.name() != model => format!("{model}, pre {}", pre.name()),
                _ => model.to_owned(),
            },
            notes,
            vocab,
        })
    }

    /// The ids of `text`.
    ///
    /// `add_special` adds BOS and EOS where the vocabulary says so; `parse_special` recognises control
    /// tokens in the text (user-defined ones always are). The same bytes give the same ids as
    /// `llama_tokenize`.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.add_bos {
            out.extend(self.vocab.ids().bos);
        }
        let fragments = self.specials.cut(text, parse_special);
        self.caches.with(|cache| match &self.kind {
            Kind::Bpe(bpe) => {
                let mut memory = bpe::Memory::default();
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => bpe.encode(&self.vocab, text, cache, &mut memory, &mut out),
                    }
                }
            }
            Kind::Spm(spm) => {
                let mut memory = spm::Memory::default();
                // A text, and what follows a special token, begins a word.
                let mut prefix = self.add_space_prefix;
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => {
                            out.push(id);
                            prefix = self.add_space_prefix;
                        }
                        Fragment::Text(text) => {
                            spm.encode(&self.vocab, text, prefix, cache, &mut memory, &mut out);
                            prefix = false;
                        }
                    }
                }
            }
        });
        if add_special && self.add_eos {
            out.extend(self.vocab.ids().eos);
        }
        out
    }

    /// Bytes of a token: what it adds to a text, special tokens as they are written. They may end
    /// inside a character ([`Stream`] puts them together). Empty for an id that is no token, and for
    /// tokens marked as unused.
    #[inline]
    pub fn piece(&self, id: u32) -> &[u8] {
        self.vocab.piece(id)
    }

    /// The bytes of `ids`. Without `special` control and unknown tokens are left out. The space that
    /// SentencePiece puts before a text is taken off again, as `llama_detokenize` does; what
    /// `clean_up_tokenization_spaces` stands for is not done, since it would change texts.
    pub fn decode(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(ids.len() * 4);
        for (i, id) in ids.iter().enumerate() {
            if !special && self.is_control(*id) {
                continue;
            }
            let piece = self.piece(*id);
            let begins = i == 0 && self.add_space_prefix;
            out.extend_from_slice(piece.strip_prefix(b" ").filter(|_| begins).unwrap_or(piece));
        }
        out
    }

    /// Whether generation ends with this token. The set is wider than EOS.
    #[inline]
    pub fn is_eog(&self, id: u32) -> bool {
        self.vocab.eog().binary_search(&id).is_ok()
    }

    /// All tokens that end generation, ascending.
    pub fn eog(&self) -> &[u32] {
        self.vocab.eog()
    }

    /// Whether a token is no part of a text: control tokens and the unknown token.
    #[inline]
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.attr(id) & (CONTROL | UNKNOWN) != 0
    }

    /// Whether a token was added by a user and so is found in any text.
    pub fn is_user_defined(&self, id: u32) -> bool {
        self.vocab.attr(id) & USER != 0
    }

    /// Whether a token stands for one byte (`<0xAB>`).
    pub fn is_byte(&self, id: u32) -> bool {
        self.vocab.attr(id) & BYTE != 0
    }

    /// The beginning-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.ids().bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.ids().eos
    }

    /// All tokens with a role.
    pub fn special_ids(&self) -> &SpecialIds {
        self.vocab.ids()
    }

    /// Whether [`Tokenizer::encode`] with `add_special` begins with BOS.
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos().is_some()
    }

    /// Whether [`Tokenizer::encode`] with `add_special` ends with EOS.
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.eos().is_some()
    }

    /// Tokens that the model must not generate (`tokenizer.ggml.suppress_tokens`).
    pub fn suppressed(&self) -> &[u32] {
        &self.suppressed
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// Text of a token as the file has it (byte-level spelling, U+2581); `None` for no token.
    pub fn token_text(&self, id: u32) -> Option<&[u8]> {
        ((id as usize) < self.n_vocab()).then(|| self.vocab.text(id))
    }

    /// The token whose text in the file is `text`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text.as_bytes())
    }

    /// Kind and pre-tokenizer, as in `gpt2, pre qwen2`.
    pub fn describe(&self) -> String {
        self.description.clone()
    }

    /// What was passed over or assumed when the vocabulary was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Scores of the tokens; empty where the file has none.
fn scores(meta: &Meta, n: usize) -> Result<Vec<f32>, TokenizerError> {
    let mut scores: Vec<f32> = match meta.array(SCORES)? {
        None => return Ok(Vec::new()),
        Some(Array::F32(scores)) => scores.clone(),
        Some(Array::I32(scores)) => scores.iter().map(|s| *s as f32).collect(),
        Some(_) => {
            let (key, found, expected) = (SCORES.to_owned(), "an array of another type", "an array of f32 or i32");
            return Err(MetaError::Type { key, found, expected }.into());
        }
    };
    if scores.len() < n {
        return Err(TokenizerError::Length { key: SCORES, found: scores.len(), tokens: n });
    }
    scores.truncate(n);
    match scores.iter().position(|s| s.is_nan()) {
        Some(at) => Err(TokenizerError::Score(at as u32)),
        None => Ok(scores),
    }
}

/// Ids of `tokenizer.ggml.suppress_tokens` that are tokens.
fn suppressed(meta: &Meta, n: usize) -> Result<Vec<u32>, TokenizerError> {
    let ids: Vec<i64> = match meta.array("tokenizer.ggml.suppress_tokens")? {
        Some(Array::I32(ids)) => ids.iter().map(|id| (*id).into()).collect(),
        Some(Array::U32(ids)) => ids.iter().map(|id| (*id).into()).collect(),
        _ => Vec::new(),
    };
    Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < n).collect())
}
