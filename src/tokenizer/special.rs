//! Special tokens in text: found before anything else, and cut out.
//!
//! llama.cpp looks for one token after the other, longest first, in what earlier ones left over.
//! The same cuts come from one pass of an automaton: matches that touch no other stand at once, and
//! where matches overlap their stretch alone is searched token by token.

use super::error::TokenizerError;
use super::vocab::{CONTROL, LSTRIP, RSTRIP, UNKNOWN, USER, Vocab};
use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memmem;
use smallvec::{SmallVec, smallvec};

/// A piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Text to encode; never empty.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// The special tokens of a vocabulary, ready to be searched for.
#[derive(Debug)]
pub(super) struct Specials {
    /// All of them: `parse_special`.
    all: Option<Matcher>,
    /// User-defined ones, which are cut out always.
    user: Option<Matcher>,
}

#[derive(Debug)]
struct Matcher {
    automaton: AhoCorasick,
    /// Longest first; the automaton's patterns have this order.
    tokens: Vec<Token>,
}

#[derive(Debug)]
struct Token {
    id: u32,
    text: Box<[u8]>,
    lstrip: bool,
    rstrip: bool,
}

/// A stretch of text covered by overlapping matches.
struct Cluster {
    start: usize,
    end: usize,
    tokens: SmallVec<[u32; 4]>,
}

impl Specials {
    /// Collects the control, unknown and user-defined tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Search`] if there are too many.
    pub fn new(vocab: &Vocab) -> Result<Self, TokenizerError> {
        let matcher = |accept: &dyn Fn(u8) -> bool| -> Result<Option<Matcher>, TokenizerError> {
            let ids = (0..vocab.len() as u32).filter(|id| accept(vocab.attr(*id)) && !vocab.text(*id).is_empty());
            let mut tokens: Vec<Token> = ids
                .map(|id| Token {
                    id,
                    text: vocab.text(id).into(),
                    lstrip: vocab.attr(id) & LSTRIP != 0,
                    rstrip: vocab.attr(id) & RSTRIP != 0,
                })
                .collect();
            if tokens.is_empty() {
                return Ok(None);
            }
            tokens.sort_by_key(|t| (std::cmp::Reverse(t.text.len()), t.id));
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::Standard)
                .build(tokens.iter().map(|t| &*t.text))
                .map_err(|e| TokenizerError::Search(e.to_string()))?;
            Ok(Some(Matcher { automaton, tokens }))
        };
        Ok(Self {
            all: matcher(&|attr| attr & (CONTROL | UNKNOWN | USER) != 0)?,
            user: matcher(&|attr| attr & USER != 0 && attr & (CONTROL | UNKNOWN) == 0)?,
        })
    }

    /// Cuts `text`. Without `parse_special` control tokens stay text.
    pub fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let Some(matcher) = (if parse_special { &self.all } else { &self.user }) else {
            return if text.is_empty() { Vec::new() } else { vec![Fragment::Text(text)] };
        };
        let mut out = Vec::new();
        let mut at = 0;
        let mut strip = false;
        let claims = matcher.claims(text.as_bytes());
        for (start, end, token) in claims {
            let token = &matcher.tokens[token as usize];
            push_text(&mut out, text, at..start, strip, token.lstrip);
            out.push(Fragment::Token(token.id));
            at = end;
            strip = token.rstrip;
        }
        push_text(&mut out, text, at..text.len(), strip, false);
        out
    }
}

/// Adds the text between two tokens, without the white space that they swallow (C's `isspace`).
fn push_text<'t>(out: &mut Vec<Fragment<'t>>, text: &'t str, range: std::ops::Range<usize>, left: bool, right: bool) {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0B' | '\x0C');
    // A token with bytes that are no text cannot match inside a character of valid UTF-8.
    let Some(mut piece) = text.get(range) else { return };
    if left {
        piece = piece.trim_start_matches(blank);
    }
    if right {
        piece = piece.trim_end_matches(blank);
    }
    if !piece.is_empty() {
        out.push(Fragment::Text(piece));
    }
}

impl Matcher {
    /// The cuts: start, end, index of the token; in order of the text.
    fn claims(&self, text: &[u8]) -> Vec<(usize, usize, u32)> {
        let mut clusters: Vec<Cluster> = Vec::new();
        for found in self.automaton.find_overlapping_iter(text) {
            let token = found.pattern().as_u32();
            let (start, end) = (found.start(), found.end());
            match clusters.last_mut().filter(|top| top.end > start) {
                None => clusters.push(Cluster { start, end, tokens: smallvec![token] }),
                Some(top) => {
                    top.start = top.start.min(start);
                    top.end = end;
                    add(&mut top.tokens, &[token]);
                    // Matches come in order of their ends: one that starts early joins earlier clusters.
                    while let Some([before, top]) = clusters.last_chunk_mut::<2>()
                        && before.end > top.start
                    {
                        before.start = before.start.min(top.start);
                        before.end = top.end;
                        add(&mut before.tokens, &top.tokens);
                        clusters.pop();
                    }
                }
            }
        }
        let mut out = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            match cluster.tokens[..] {
                [token] if self.tokens[token as usize].text.len() == cluster.end - cluster.start => {
                    out.push((cluster.start, cluster.end, token));
                }
                _ => self.resolve(text, cluster, &mut out),
            }
        }
        out
    }

    /// Longest token first, each from the left, in what is still free.
    fn resolve(&self, text: &[u8], cluster: Cluster, out: &mut Vec<(usize, usize, u32)>) {
        let mut free = vec![(cluster.start, cluster.end)];
        let from = out.len();
        let mut tokens = cluster.tokens;
        tokens.sort_unstable();
        for token in tokens {
            let needle = &*self.tokens[token as usize].text;
            let finder = memmem::Finder::new(needle);
            let mut rest = Vec::with_capacity(free.len());
            for (mut start, end) in free {
                while let Some(found) = finder.find(&text[start..end]) {
                    let at = start + found;
                    if at > start {
                        rest.push((start, at));
                    }
                    start = at + needle.len();
                    out.push((at, start, token));
                }
                if start < end {
                    rest.push((start, end));
                }
            }
            free = rest;
        }
        out[from..].sort_unstable();
    }
}

/// Adds the tokens that are not there yet.
fn add(tokens: &mut SmallVec<[u32; 4]>, more: &[u32]) {
    for token in more {
        if !tokens.contains(token) {
            tokens.push(*token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(texts: &[&str]) -> Matcher {
        let mut tokens: Vec<Token> = (0..)
            .zip(texts)
            .map(|(id, t)| Token { id, text: t.as_bytes().into(), lstrip: false, rstrip: false })
            .collect();
        tokens.sort_by_key(|t| (std::cmp::Reverse(t.text.len()), t.id));
        let automaton = AhoCorasick::new(tokens.iter().map(|t| &*t.text)).unwrap();
        Matcher { automaton, tokens }
    }

    #[test]
    fn longest_wins_even_from_behind() {
        // Leftmost-longest would take `ab` and then find no `bcd`.
        let m = matcher(&["ab", "bcd", "x"]);
        let cuts = m.claims(b"xabcdab");
        let shown: Vec<_> = cuts.iter().map(|(s, e, t)| (*s, *e, m.tokens[*t as usize].id)).collect();
        assert_eq!(shown, [(0, 1, 2), (2, 5, 1), (5, 7, 0)]);
    }

    proptest! {
        /// Against llama.cpp's way: each token in turn over the whole text.
        #[test]
        fn same_as_token_by_token(
            texts in prop::collection::btree_set("[ab]{1,4}|[abc]{2,3}", 1..7),
            text in "[abcx]{0,40}",
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let m = matcher(&texts);
            let mut expected = Vec::new();
            let all = (0..m.tokens.len() as u32).collect();
            m.resolve(text.as_bytes(), Cluster { start: 0, end: text.len(), tokens: all }, &mut expected);
            prop_assert_eq!(m.claims(text.as_bytes()), expected);
        }
    }
}
