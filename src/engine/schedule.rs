//! What the next step computes: numbers in, numbers out, no tensors.
//!
//! Continuous batching (Yu et al. 2022) with chunked prefill (Agrawal et al. 2023): each step
//! decodes every sequence that can be decoded, then continues prompts in the order of their
//! arrival up to a budget of tokens, then admits waiting ones in that order. When blocks run out,
//! the youngest sequence gives its own up, waits at its old place, and is computed again later
//! (from the prefix cache, as far as it survives). Hence the oldest always proceeds, and every
//! request ends.

use std::collections::VecDeque;

/// Names a sequence; its owner's index.
pub type Key = u32;

/// A sequence as the schedule sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub key: Key,
    /// Order of arrival.
    arrival: u64,
    /// Tokens it has: its prompt and what was generated.
    pub total: u32,
    /// Of these, in the cache.
    pub computed: u32,
}

impl Entry {
    /// Tokens to compute until its next token can be chosen.
    pub fn remaining(&self) -> u32 {
        self.total - self.computed
    }
}

/// Whether a waiting sequence gets its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes; so many of its tokens are in the cache already.
    Now {
        /// Tokens found; fewer than it has.
        cached: u32,
    },
    /// When others have ended.
    Later,
    /// It needs more than there is, though it would be alone.
    Never {
        /// Bytes it needs.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
}

/// Who knows about blocks.
pub trait Room {
    /// Attaches the waiting sequence to its cached prefix if there is room for all of it beside
    /// the `running` ones. Never answers `Later` when nothing runs.
    fn admit(&mut self, waiting: &Entry, running: &[Entry]) -> Admission;
    /// Makes room for up to `want` more tokens; returns for how many there is room.
    fn grow(&mut self, key: Key, want: u32) -> u32;
    /// Takes a running sequence's blocks.
    fn release(&mut self, key: Key);
    /// Bytes a sequence of `total` tokens needs, and bytes that can be had.
    fn shortage(&self, total: u32) -> (u64, u64);
}

/// Bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sequences worked on at a time.
    pub max_batch: usize,
    /// Tokens of a step.
    pub step_tokens: u32,
    /// Tokens of prompts in a step that also decodes.
    pub step_tokens_shared: u32,
}

/// Part of a step: the next tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Which sequence.
    pub key: Key,
    /// Position of the first token.
    pub from: u32,
    /// Number of tokens.
    pub tokens: u32,
    /// Whether they end the sequence, so that a token is to be chosen.
    pub last: bool,
}

/// A step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Each sequence at most once; those that decode come first.
    pub works: Vec<Work>,
    /// Sequences that were admitted, with the tokens found in the cache.
    pub admitted: Vec<(Key, u32)>,
    /// Sequences that gave their blocks up and wait again.
    pub preempted: Vec<Key>,
    /// Sequences that cannot go on though they are alone, with the bytes they need and the bytes
    /// there are. Their blocks are released, and the schedule has forgotten them.
    pub refused: Vec<(Key, u64, u64)>,
}

impl Step {
    fn clear(&mut self) {
        self.works.clear();
        self.admitted.clear();
        self.preempted.clear();
        self.refused.clear();
    }

    fn push(&mut self, e: &Entry, tokens: u32) {
        self.works.push(Work { key: e.key, from: e.computed, tokens, last: tokens == e.remaining() });
    }
}

/// Which sequences run and which wait.
#[derive(Debug)]
pub struct Schedule {
    bounds: Bounds,
    arrivals: u64,
    /// Both in order of arrival.
    waiting: VecDeque<Entry>,
    running: Vec<Entry>,
}

impl Schedule {
    /// Nothing to do. A step has room for one token of each sequence at least.
    pub fn new(bounds: Bounds) -> Self {
        let max_batch = bounds.max_batch.clamp(1, bounds.step_tokens.max(1) as usize);
        let bounds = Bounds { max_batch, ..bounds };
        Self { bounds, arrivals: 0, waiting: VecDeque::new(), running: Vec::with_capacity(max_batch) }
    }

    /// A sequence of `total` tokens (at least one) arrives.
    pub fn add(&mut self, key: Key, total: u32) {
        debug_assert!(total > 0);
        self.waiting.push_back(Entry { key, arrival: self.arrivals, total, computed: 0 });
        self.arrivals += 1;
    }

    /// Forgets a sequence.
    pub fn remove(&mut self, key: Key) {
        self.running.retain(|e| e.key != key);
        self.waiting.retain(|e| e.key != key);
    }

    /// `work` was computed; with `chosen`, the sequence got one more token.
    pub fn done(&mut self, work: &Work, chosen: bool) {
        if let Some(e) = self.running.iter_mut().find(|e| e.key == work.key) {
            e.computed += work.tokens;
            e.total += u32::from(chosen);
        }
    }

    /// Sequences being worked on, oldest first.
    pub fn running(&self) -> &[Entry] {
        &self.running
    }

    /// Sequences waiting, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Entry> {
        self.waiting.iter()
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Plans the next step into `out`. A step may be empty although there is work: what was
    /// refused has made room then, and the next step uses it.
    pub fn plan(&mut self, room: &mut impl Room, out: &mut Step) {
        out.clear();
        self.decode(room, out);
        let mut budget = match out.works.len() as u32 {
            0 => self.bounds.step_tokens,
            n => self.bounds.step_tokens_shared.min(self.bounds.step_tokens - n),
        };
        self.prefill(room, out, &mut budget);
        if out.preempted.is_empty() {
            self.admit(room, out, &mut budget);
        }
    }

    fn decode(&mut self, room: &mut impl Room, out: &mut Step) {
        let mut i = 0;
        while i < self.running.len() {
            let e = self.running[i];
            if e.remaining() != 1 {
                i += 1;
            } else if room.grow(e.key, 1) == 1 {
                out.push(&e, 1);
                i += 1;
            } else {
                // The youngest is no older than this one, and so has no work in this step yet.
                self.make_room(room, out);
            }
        }
    }

    fn prefill(&mut self, room: &mut impl Room, out: &mut Step, budget: &mut u32) {
        let mut i = 0;
        while i < self.running.len() && *budget > 0 {
            let e = self.running[i];
            if e.remaining() == 1 {
                i += 1;
                continue;
            }
            let granted = room.grow(e.key, e.remaining().min(*budget));
            if granted > 0 {
                out.push(&e, granted);
                *budget -= granted;
                i += 1;
            } else if out.works.is_empty() {
                // Nothing else would move. Since no older one has work, this is the oldest.
                self.make_room(room, out);
            } else {
                // Others proceed and will end.
                i += 1;
            }
        }
    }

    fn admit(&mut self, room: &mut impl Room, out: &mut Step, budget: &mut u32) {
        while *budget > 0 && self.running.len() < self.bounds.max_batch {
            let Some(&head) = self.waiting.front() else { return };
            match room.admit(&head, &self.running) {
                Admission::Later => return,
                Admission::Never { needed, available } => {
                    self.waiting.pop_front();
                    out.refused.push((head.key, needed, available));
                }
                Admission::Now { cached } => {
                    self.waiting.pop_front();
                    let e = Entry { computed: cached, ..head };
                    let at = self.running.partition_point(|r| r.arrival < e.arrival);
                    self.running.insert(at, e);
                    out.admitted.push((e.key, cached));
                    let granted = room.grow(e.key, e.remaining().min(*budget));
                    if granted == 0 {
                        return;
                    }
                    out.push(&e, granted);
                    *budget -= granted;
                }
            }
        }
    }

    /// The youngest gives its blocks up; the only one is refused.
    fn make_room(&mut self, room: &mut impl Room, out: &mut Step) {
        let Some(e) = self.running.pop() else { return };
        room.release(e.key);
        if self.running.is_empty() {
            let (needed, available) = room.shortage(e.total);
            out.refused.push((e.key, needed, available));
            return;
        }
        out.preempted.push(e.key);
        let at = self.waiting.partition_point(|w| w.arrival < e.arrival);
        self.waiting.insert(at, Entry { computed: 0, ..e });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const BLOCK: u32 = 4;

    /// Blocks as plain numbers, without sharing.
    struct Blocks {
        free: u32,
        total: u32,
        /// (blocks, tokens) of each sequence that has some.
        held: HashMap<Key, (u32, u32)>,
    }

    impl Blocks {
        fn new(total: u32) -> Self {
            Self { free: total, total, held: HashMap::new() }
        }
    }

    impl Room for Blocks {
        fn admit(&mut self, e: &Entry, running: &[Entry]) -> Admission {
            let promised: u32 =
                running.iter().map(|r| (r.total + 1).div_ceil(BLOCK).saturating_sub(self.held[&r.key].0)).sum();
            let need = (e.total + 1).div_ceil(BLOCK);
            if need + promised <= self.free {
                assert!(self.held.insert(e.key, (0, 0)).is_none());
                return Admission::Now { cached: 0 };
            }
            match running.is_empty() {
                true => Admission::Never { needed: need.into(), available: self.free.into() },
                false => Admission::Later,
            }
        }

        fn grow(&mut self, key: Key, want: u32) -> u32 {
            let (blocks, tokens) = self.held.get_mut(&key).expect("admitted");
            let more = (*tokens + want).div_ceil(BLOCK).saturating_sub(*blocks).min(self.free);
            *blocks += more;
            self.free -= more;
            let granted = want.min(*blocks * BLOCK - *tokens);
            *tokens += granted;
            granted
        }

        fn release(&mut self, key: Key) {
            self.free += self.held.remove(&key).expect("admitted").0;
        }

        fn shortage(&self, total: u32) -> (u64, u64) {
            (total.div_ceil(BLOCK).into(), self.total.into())
        }
    }

    fn bounds(max_batch: usize, step_tokens: u32, step_tokens_shared: u32) -> Bounds {
        Bounds { max_batch, step_tokens, step_tokens_shared }
    }

    fn works(step: &Step) -> Vec<(Key, u32, u32, bool)> {
        step.works.iter().map(|w| (w.key, w.from, w.tokens, w.last)).collect()
    }

    fn run(s: &mut Schedule, room: &mut Blocks, step: &mut Step) -> Vec<(Key, u32, u32, bool)> {
        s.plan(room, step);
        for w in &step.works {
            s.done(w, w.last);
        }
        works(step)
    }

    #[test]
    fn prompts_are_chunked_and_decodes_go_first() {
        let (mut s, mut room, mut step) = (Schedule::new(bounds(8, 10, 4)), Blocks::new(100), Step::default());
        s.add(0, 12);
        s.add(1, 5);
        assert_eq!(run(&mut s, &mut room, &mut step), [(0, 0, 10, false)]);
        assert_eq!(run(&mut s, &mut room, &mut step), [(0, 10, 2, true), (1, 0, 5, true)]);
        s.add(2, 9);
        assert_eq!(run(&mut s, &mut room, &mut step), [(0, 12, 1, true), (1, 5, 1, true), (2, 0, 4, false)]);
        assert_eq!(step.admitted, [(2, 0)]);
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back_at_its_place() {
        let (mut s, mut room, mut step) = (Schedule::new(bounds(8, 16, 16)), Blocks::new(4), Step::default());
        s.add(0, 6);
        s.add(1, 6);
        s.add(2, 1);
        assert_eq!(run(&mut s, &mut room, &mut step), [(0, 0, 6, true), (1, 0, 6, true)]);
        for _ in 0..2 {
            assert_eq!(run(&mut s, &mut room, &mut step).len(), 2);
        }
        assert_eq!(run(&mut s, &mut room, &mut step), [(0, 8, 1, true)]);
        assert_eq!(step.preempted, [1]);
        assert_eq!(s.waiting().map(|e| e.key).collect::<Vec<_>>(), [1, 2], "before the one that never ran");
        s.remove(0);
        room.release(0);
        assert_eq!(run(&mut s, &mut room, &mut step), [(1, 0, 9, true), (2, 0, 1, true)]);
    }

    #[test]
    fn what_does_not_fit_alone_is_refused() {
        let (mut s, mut room, mut step) = (Schedule::new(bounds(8, 16, 16)), Blocks::new(2), Step::default());
        s.add(0, 8);
        s.add(1, 7);
        assert_eq!(run(&mut s, &mut room, &mut step), [(1, 0, 7, true)]);
        assert_eq!(step.refused, [(0, 3, 2)]);
        assert_eq!(run(&mut s, &mut room, &mut step), [(1, 7, 1, true)]);
        assert_eq!(run(&mut s, &mut room, &mut step), []);
        assert_eq!(step.refused, [(1, 3, 2)]);
        assert!(s.is_idle());
    }

    proptest! {
        /// Random requests arrive at random steps: all end with all their tokens, in bounded time;
        /// no step exceeds its bounds; no block is lost; who arrived first starts first.
        #[test]
        fn every_request_ends_within_bounds(
            requests in prop::collection::vec((0usize..60, 1u32..60, 1u32..30), 1..40),
            n_blocks in 4u32..60,
            max_batch in 1usize..9,
            step_tokens in 1u32..40,
            shared in 1u32..20,
        ) {
            let bounds = bounds(max_batch, step_tokens, shared);
            let (mut s, mut room, mut step) = (Schedule::new(bounds), Blocks::new(n_blocks), Step::default());
            // (tokens of the prompt, to generate, generated)
            let mut live: HashMap<Key, (u32, u32, u32)> = HashMap::new();
            let mut ended = 0;
            let cost: usize = requests.iter().map(|r| (r.1 + r.2) as usize).sum();
            // Each request may be computed again once for each of its tokens, in the worst case.
            let limit = 100 + 60 + cost * 60;
            for t in 0..limit {
                for (key, r) in requests.iter().enumerate().filter(|(_, r)| r.0 == t) {
                    s.add(key as Key, r.1);
                    live.insert(key as Key, (r.1, r.2, 0));
                }
                s.plan(&mut room, &mut step);
                let tokens: u32 = step.works.iter().map(|w| w.tokens).sum();
                prop_assert!(tokens <= step_tokens);
                let decodes = step.works.iter().filter(|w| w.from > 0 && w.last && w.tokens == 1).count() as u32;
                prop_assert!(decodes == 0 || tokens - decodes <= shared);
                prop_assert!(s.running().len() <= max_batch);
                prop_assert!(!step.works.is_empty() || s.is_idle() || !step.refused.is_empty());
                for &(key, needed, available) in &step.refused {
                    let r = live.remove(&key).expect("live");
                    prop_assert!(needed > available && (r.0 + r.2 + 1).div_ceil(BLOCK) > n_blocks, "{key} would fit alone");
                    prop_assert!(!room.held.contains_key(&key));
                    ended += 1;
                }
                for &(key, _) in &step.admitted {
                    if live[&key].2 == 0 && !step.preempted.contains(&key) {
                        let arrival = (requests[key as usize].0, key);
                        let waiting_before = s.waiting().any(|w| (requests[w.key as usize].0, w.key) < arrival);
                        prop_assert!(!waiting_before, "{key} overtook");
                    }
                }
                for w in step.works.clone() {
                    s.done(&w, w.last);
                    if w.last {
                        let r = live.get_mut(&w.key).expect("live");
                        r.2 += 1;
                        prop_assert_eq!(w.from + w.tokens, r.0 + r.2 - 1);
                        if r.2 == r.1 {
                            live.remove(&w.key);
                            s.remove(w.key);
                            room.release(w.key);
                            ended += 1;
                        }
                    }
                }
                let held: u32 = room.held.values().map(|h| h.0).sum();
                prop_assert_eq!(held + room.free, n_blocks, "blocks are conserved");
                for e in s.waiting() {
                    prop_assert!(!room.held.contains_key(&e.key), "{} waits and holds blocks", e.key);
                }
                if ended == requests.len() {
                    break;
                }
            }
            prop_assert_eq!(ended, requests.len());
            prop_assert!(s.is_idle() && room.free == n_blocks);
        }
    }
}
