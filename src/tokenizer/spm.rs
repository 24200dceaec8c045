//! SentencePiece: neighbours are joined into the token of the highest score, leftmost first;
//! characters without a token become bytes.

use super::cache::Cache;
use super::merge::{Join, Scratch, merge};
use super::vocab::Vocab;
use memchr::memchr_iter;

/// U+2581, which stands for a space in token texts.
pub(super) const SPACE: char = '\u{2581}';
/// No token has this text.
const NONE: u32 = u32::MAX;

/// What joining needs to know of a vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// Order of the tokens by falling score: equal scores have equal keys.
    keys: Vec<u32>,
    longest: usize,
    boundaries: Boundaries,
}

/// Where a text may be cut without changing its ids: before a space, unless a token has the
/// character before it and then a space.
#[derive(Debug)]
pub(super) struct Boundaries {
    sticky: Vec<char>,
}

impl Boundaries {
    /// Collects the characters that stand before U+2581 in tokens.
    pub fn new(vocab: &Vocab) -> Self {
        let mut sticky = vec![SPACE, ' '];
        let space = SPACE.to_string();
        let finder = memchr::memmem::Finder::new(&space);
        for id in 0..vocab.len() as u32 {
            let text = vocab.text(id);
            for at in finder.find_iter(text) {
                let before = String::from_utf8_lossy(&text[..at]).chars().next_back();
                if let Some(before) = before.filter(|c| !sticky.contains(c)) {
                    sticky.push(before);
                }
            }
        }
        sticky.sort_unstable();
        Self { sticky }
    }

    /// Cuts `text`, in which spaces are still spaces.
    pub fn words<'t>(&self, text: &'t str, mut emit: impl FnMut(&'t str)) {
        let mut from = 0;
        for at in memchr_iter(b' ', text.as_bytes()) {
            let Some(before) = text[from..at].chars().next_back() else { continue };
            if self.sticky.binary_search(&before).is_err() {
                emit(&text[from..at]);
                from = at;
            }
        }
        if from < text.len() {
            emit(&text[from..]);
        }
    }
}

/// A piece of the word: its bytes and its token.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    start: u32,
    end: u32,
    id: u32,
}

struct Word<'a> {
    spm: &'a Spm,
    vocab: &'a Vocab,
    text: &'a [u8],
}

impl Join for Word<'_> {
    type Symbol = Symbol;

    #[inline]
    fn join(&self, left: Symbol, right: Symbol) -> Option<(u32, Symbol)> {
        let text = &self.text[left.start as usize..right.end as usize];
        if text.len() > self.spm.longest {
            return None;
        }
        let id = self.vocab.id(text)?;
        Some((self.spm.keys[id as usize], Symbol { start: left.start, end: right.end, id }))
    }
}

/// Memory of the encoder, kept between words.
#[derive(Default)]
pub(super) struct Memory {
    escaped: String,
    scratch: Scratch<Symbol>,
}

impl Spm {
    /// Orders the tokens by `scores` (one a token, none of them NaN; empty: all equal).
    pub fn new(vocab: &Vocab, scores: &[f32]) -> Self {
        let falling = |score: f32| {
            // Bits of a float, reordered to rise with it, then turned round. -0 counts as 0.
            let bits = (score + 0.0).to_bits();
            !if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
        };
        let mut keys: Vec<u32> = scores.iter().map(|s| falling(*s)).collect();
        keys.resize(vocab.len(), 0);
        let longest = (0..vocab.len() as u32).map(|id| vocab.text(id).len()).max().unwrap_or(0);
        Self { keys, longest, boundaries: Boundaries::new(vocab) }
    }

    /// Encodes `text` without special tokens; `prefix` puts a space before it.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        prefix: bool,
        cache: &mut Cache,
        memory: &mut Memory,
        out: &mut Vec<u32>,
    ) {
        let mut prefix = prefix;
        self.boundaries.words(text, |word| {
            if std::mem::take(&mut prefix) {
                let spaced = format!(" {word}");
                self.word(vocab, &spaced, cache, memory, out);
            } else {
                self.word(vocab, word, cache, memory, out);
            }
        });
    }

    fn word(&self, vocab: &Vocab, word: &str, cache: &mut Cache, memory: &mut Memory, out: &mut Vec<u32>) {
        if let Some(ids) = cache.get(word.as_bytes()) {
            out.extend_from_slice(ids);
            return;
        }
        let first = out.len();
        let escaped = &mut memory.escaped;
        escaped.clear();
        escaped.extend(word.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let text = escaped.as_bytes();
        let symbols = escaped.char_indices().map(|(start, c)| {
            let end = start + c.len_utf8();
            Symbol { start: start as u32, end: end as u32, id: vocab.id(&text[start..end]).unwrap_or(NONE) }
        });
        let join = Word { spm: self, vocab, text };
        merge(&join, symbols, &mut memory.scratch, |symbol| {
            if symbol.id != NONE {
                out.push(symbol.id);
            } else {
                let bytes = &text[symbol.start as usize..symbol.end as usize];
                // llama.cpp throws where a vocabulary lacks a byte; the unknown token says as much.
                out.extend(bytes.iter().filter_map(|b| vocab.byte(*b).or(vocab.ids().unk)));
            }
        });
        cache.put(word.as_bytes(), &out[first..]);
    }
}
