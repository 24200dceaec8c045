//! Byte-pair encoding: neighbours are joined by the merge of the lowest rank, leftmost first.
//!
//! Two kinds: byte-level, where a word's symbols are its bytes, and raw (gemma4), where they are
//! its characters and spaces are U+2581.

use super::cache::Cache;
use super::error::{TokenizerError, shown};
use super::merge::{Join, Scratch, merge};
use super::pretoken::{Pre, PreTokenizer};
use super::spm::{Boundaries, SPACE};
use super::table::Pairs;
use super::vocab::Vocab;
use crate::gguf::meta::Strings;

/// Marks a symbol that has no token: the byte or character itself stands below the mark.
const LITERAL: u32 = 1 << 31;

/// What encoding needs to know of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    pairs: Pairs,
    words: PreTokenizer,
    ignore_merges: bool,
    /// The symbol of each byte.
    bytes: [u32; 256],
    /// Set for the raw kind.
    raw: Option<Raw>,
}

#[derive(Debug)]
struct Raw {
    boundaries: Boundaries,
    /// A run of newlines that is a token is taken whole.
    newlines: bool,
}

/// Memory of the encoder, kept between words.
#[derive(Default)]
pub(super) struct Memory {
    text: String,
    scratch: Scratch<u32>,
}

impl Join for Pairs {
    type Symbol = u32;

    #[inline]
    fn join(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.get(left, right)
    }
}

impl Bpe {
    /// Reads the merges.
    ///
    /// # Errors
    /// [`TokenizerError::Merge`] for one that names no token or gives none.
    pub fn new(vocab: &Vocab, merges: &Strings, pre: &Pre) -> Result<Self, TokenizerError> {
        let mut pairs = Pairs::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let wrong = |why| TokenizerError::Merge { index: rank, merge: shown(merge), why };
            // The first character may be a space itself.
            let space =
                merge.iter().skip(1).position(|b| *b == b' ').ok_or_else(|| wrong("no space between two tokens"))?;
            let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
            let known = |text| vocab.id(text).ok_or_else(|| wrong("names a token that the vocabulary has not"));
            let (left_id, right_id) = (known(left)?, known(right)?);
            let joined = vocab.joined(left, right).ok_or_else(|| wrong("gives a token that the vocabulary has not"))?;
            let rank = u32::try_from(rank).map_err(|_| wrong("one of too many"))?;
            pairs.insert(left_id, right_id, rank, joined);
        }
        let mut bytes = [0; 256];
        for (b, symbol) in bytes.iter_mut().enumerate() {
            let spelled = vocab.byte_char(b as u8).to_string();
            *symbol = vocab.id(spelled.as_bytes()).unwrap_or(LITERAL | b as u32);
        }
        let raw = pre.raw().then(|| Raw { boundaries: Boundaries::new(vocab), newlines: pre.gemma() });
        Ok(Self { pairs, words: pre.build()?, ignore_merges: pre.ignore_merges, bytes, raw })
    }

    /// Encodes `text` without special tokens.
    pub fn encode(&self, vocab: &Vocab, text: &str, cache: &mut Cache, memory: &mut Memory, out: &mut Vec<u32>) {
        match &self.raw {
            None => self.words.split(text, &mut |word| self.word(vocab, word, cache, memory, out)),
            Some(raw) => self.words.split(text, &mut |line| {
                raw.boundaries.words(line, |word| self.raw_word(vocab, word, raw.newlines, cache, memory, out));
            }),
        }
    }

    fn word(&self, vocab: &Vocab, word: &str, cache: &mut Cache, memory: &mut Memory, out: &mut Vec<u32>) {
        if let Some(ids) = cache.get(word.as_bytes()) {
            out.extend_from_slice(ids);
            return;
        }
        let first = out.len();
        let mut whole = None;
        if self.ignore_merges {
            memory.text.clear();
            memory.text.extend(word.bytes().map(|b| vocab.byte_char(b)));
            whole = vocab.id(memory.text.as_bytes());
        }
        match whole {
            Some(id) => out.push(id),
            None => {
                let symbols = word.bytes().map(|b| self.bytes[b as usize]);
                // A byte without a token is left out, as llama.cpp does.
                merge(&self.pairs, symbols, &mut memory.scratch, |id| {
                    if id & LITERAL == 0 {
                        out.push(id);
                    }
                });
            }
        }
        cache.put(word.as_bytes(), &out[first..]);
    }

    fn raw_word(
        &self,
        vocab: &Vocab,
        word: &str,
        newlines: bool,
        cache: &mut Cache,
        memory: &mut Memory,
        out: &mut Vec<u32>,
    ) {
        if let Some(ids) = cache.get(word.as_bytes()) {
            out.extend_from_slice(ids);
            return;
        }
        let first = out.len();
        let whole = (newlines && word.starts_with('\n')).then(|| vocab.id(word.as_bytes())).flatten();
        match whole {
            Some(id) => out.push(id),
            None => {
                let mut utf8 = [0; 4];
                let symbols = word.chars().map(|c| {
                    let c = if c == ' ' { SPACE } else { c };
                    vocab.id(c.encode_utf8(&mut utf8).as_bytes()).unwrap_or(LITERAL | c as u32)
                });
                merge(&self.pairs, symbols, &mut memory.scratch, |id| match char::from_u32(id & !LITERAL) {
                    Some(c) if id & LITERAL != 0 => {
                        out.extend(c.encode_utf8(&mut [0; 4]).bytes().filter_map(|b| vocab.byte(b)));
                    }
                    _ => out.push(id),
                });
            }
        }
        cache.put(word.as_bytes(), &out[first..]);
    }
}
