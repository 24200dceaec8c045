//! Tokens on their way from an engine to one client: a ring of words with one writer and one
//! reader, without locks and without allocation.
//!
//! A token is a head word (id, length of its text, number of log-probabilities), its text in
//! words, then a word for each log-probability. The ring counts words for ever upwards; the
//! difference of the two counts is what it holds.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;

use super::message::{Candidate, Text, Token};

/// Words of the head and of a common text.
const WORDS_TOKEN: usize = 3;
/// Room for one long text that was held back for a stop string.
const WORDS_EXTRA: usize = 256;
const TEXT_BITS: u32 = 23;
const COUNT_BITS: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    words: Box<[AtomicU64]>,
    /// Words read; stored by the reader.
    read: CachePadded<AtomicUsize>,
    /// Words written; stored by the writer.
    written: CachePadded<AtomicUsize>,
}

impl Ring {
    /// For about `tokens` tokens, each with `candidates` log-probabilities.
    pub(super) fn new(tokens: usize, candidates: usize) -> Self {
        let n = (tokens * (WORDS_TOKEN + candidates) + WORDS_EXTRA).next_power_of_two();
        Self {
            words: (0..n).map(|_| AtomicU64::new(0)).collect(),
            read: CachePadded::new(AtomicUsize::new(0)),
            written: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at & (self.words.len() - 1)]
    }

    /// Writes a token; false if there is no room for it. Only one thread may write.
    pub(super) fn push(&self, id: u32, text: &[u8], logprobs: Option<(Candidate, &[Candidate])>) -> bool {
        let n_candidates = logprobs.as_ref().map_or(0, |(_, others)| others.len() + 1);
        let n = 1 + text.len().div_ceil(8) + n_candidates;
        let mut at = self.written.load(Ordering::Relaxed);
        // Acquire: what the reader has read may be overwritten only after it was read.
        let free = self.words.len() - at.wrapping_sub(self.read.load(Ordering::Acquire));
        if n > free || text.len() >= 1 << TEXT_BITS || n_candidates >= 1 << COUNT_BITS {
            return false;
        }
        let mut put = |word: u64| {
            self.word(at).store(word, Ordering::Relaxed);
            at = at.wrapping_add(1);
        };
        put(u64::from(id) | (text.len() as u64) << 32 | (n_candidates as u64) << (32 + TEXT_BITS));
        for chunk in text.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            put(u64::from_le_bytes(bytes));
        }
        if let Some((chosen, others)) = logprobs {
            for c in std::iter::once(&chosen).chain(others) {
                put(u64::from(c.token) | u64::from(c.logprob.to_bits()) << 32);
            }
        }
        // Release: the words above are seen before the count.
        self.written.store(at, Ordering::Release);
        true
    }

    /// Reads a token. Only one thread may read.
    pub(super) fn pop(&self) -> Option<Token> {
        let mut at = self.read.load(Ordering::Relaxed);
        if at == self.written.load(Ordering::Acquire) {
            return None;
        }
        let mut get = || {
            let word = self.word(at).load(Ordering::Relaxed);
            at = at.wrapping_add(1);
            word
        };
        let head = get();
        let len = (head >> 32) as usize & ((1 << TEXT_BITS) - 1);
        let n_candidates = (head >> (32 + TEXT_BITS)) as usize & ((1 << COUNT_BITS) - 1);
        let mut text = Text::with_capacity(len);
        for start in (0..len).step_by(8) {
            text.extend_from_slice(&get().to_le_bytes()[..(len - start).min(8)]);
        }
        let mut candidate = || {
            let word = get();
            Candidate { token: word as u32, logprob: f32::from_bits((word >> 32) as u32) }
        };
        let logprobs = (n_candidates > 0).then(|| {
            let chosen = candidate();
            Box::new((chosen, (1..n_candidates).map(|_| candidate()).collect()))
        });
        self.read.store(at, Ordering::Release);
        Some(Token { id: head as u32, text, logprobs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_ring_says_so_and_goes_on_when_read() {
        let ring = Ring::new(1, 0);
        let mut n = 0;
        while ring.push(n, b"0123456789", None) {
            n += 1;
        }
        assert_eq!(n as usize, ring.words.len() / 3);
        assert_eq!(ring.pop().map(|t| t.id), Some(0));
        assert!(ring.push(n, b"0123456789", None) && !ring.push(n, b"0123456789", None));
        assert_eq!((1..=n).map(|i| ring.pop().map(|t| t.id) == Some(i)).filter(|&b| b).count(), n as usize);
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn two_threads_see_every_token_in_order() {
        let ring = Ring::new(16, 0);
        std::thread::scope(|s| {
            s.spawn(|| {
                for i in 0..100_000u32 {
                    while !ring.push(i, &i.to_le_bytes()[..i as usize % 5], None) {
                        std::thread::yield_now();
                    }
                }
            });
            for i in 0..100_000u32 {
                let token = loop {
                    match ring.pop() {
                        Some(t) => break t,
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!((token.id, &token.text[..]), (i, &i.to_le_bytes()[..i as usize % 5]));
            }
        });
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(tokens in prop::collection::vec(
            (any::<u32>(), prop::collection::vec(any::<u8>(), 0..60), prop::option::of(prop::collection::vec((any::<u32>(), -50f32..0.0), 1..21))),
            1..100,
        )) {
            let ring = Ring::new(4, 20);
            for (id, text, candidates) in tokens {
                let all: Option<Vec<Candidate>> = candidates.map(|c| c.into_iter().map(|(token, logprob)| Candidate { token, logprob }).collect());
                let parts = all.as_ref().map(|c| (c[0].clone(), &c[1..]));
                prop_assert!(ring.push(id, &text, parts));
                let want = Token { id, text: Text::from_slice(&text), logprobs: all.as_ref().map(|c| Box::new((c[0].clone(), c[1..].to_vec()))) };
                prop_assert_eq!(ring.pop(), Some(want));
            }
        }
    }
}
