//! The cache by itself, under random use.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::fake::*;
use crate::backend::Backend;
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::engine::Ledger;
use crate::engine::cache::{Cache, CacheOptions, Fit, Tables};
use crate::plan::batch::NO_BLOCK;
use crate::plan::cache::CacheGroup;
use crate::pool::budget::Budget;

struct World {
    groups: Vec<CacheGroup>,
    cache: Cache,
    budget: Arc<Budget>,
    backend: Box<dyn Backend>,
    /// What was written where.
    cells: HashMap<(usize, u32, u32), (u32, u32)>,
    live: Vec<(Tables, Vec<u32>)>,
}

impl World {
    fn new(windows: &[Option<u32>], blocks: u64) -> Self {
        let groups: Vec<CacheGroup> = windows.iter().map(|&w| group(w)).collect();
        let budget = Budget::new(blocks * BLOCK_BYTES);
        let mut backend: Box<dyn Backend> = Box::new(fake(&groups, HashMap::new(), &Arc::default()));
        let options = CacheOptions {
            owner: "m".to_owned(),
            ledgers: vec![Ledger { budget: Arc::clone(&budget), reserved: None }],
            min_tokens: 32,
            max_bytes: None,
            step_tokens: 64,
        };
        let cache = Cache::new(&groups, options, &mut *backend).expect("fits");
        Self { groups, cache, budget, backend, cells: HashMap::new(), live: Vec::new() }
    }

    fn attach(&mut self, tokens: &[u32], share: bool) -> u32 {
        let mut tables = Tables::default();
        let cached = self.cache.attach(&mut tables, tokens, 4096, share);
        self.live.push((tables, tokens.to_vec()));
        self.check();
        cached
    }

    /// Computes up to `n` more tokens of a sequence; returns how many there was room for.
    fn compute(&mut self, i: usize, n: u32) -> u32 {
        let (tables, tokens) = &mut self.live[i];
        let n = n.min(tokens.len() as u32 - tables.len());
        if n == 0 {
            return 0;
        }
        let n = self.cache.grow(tables, n, &mut *self.backend);
        for pos in tables.len()..tables.len() + n {
            for g in 0..self.groups.len() {
                let block = tables.table(g)[pos as usize / KV_BLOCK_TOKENS];
                assert_ne!(block, NO_BLOCK);
                self.cells.insert((g, block, pos % KV_BLOCK_TOKENS as u32), (tokens[pos as usize], pos));
            }
        }
        self.cache.commit(tables, tokens, n);
        self.check();
        n
    }

    /// Every sequence finds its own tokens where its next token will look for them.
    fn check(&self) {
        self.cache.audit(self.live.iter().map(|(t, _)| t));
        let usage = self.cache.usage();
        assert_eq!(usage.bytes, self.budget.used());
        for (tables, tokens) in &self.live {
            for (g, group) in self.groups.iter().enumerate() {
                let first = group.window.map_or(0, |w| (tables.len() + 1).saturating_sub(w));
                for pos in first..tables.len() {
                    let block = tables.table(g)[pos as usize / KV_BLOCK_TOKENS];
                    let cell = self.cells.get(&(g, block, pos % KV_BLOCK_TOKENS as u32));
                    assert_eq!(cell, Some(&(tokens[pos as usize], pos)), "group {g}, position {pos}");
                }
            }
        }
    }
}

fn text(common: u64, n_common: usize, own: u64, n_own: usize) -> Vec<u32> {
    [prompt(common, n_common), prompt(50 + own, n_own)].concat()
}

#[test]
fn blocks_before_the_window_are_given_up_at_once() {
    let mut w = World::new(&[None, Some(40)], 100);
    w.attach(&text(0, 320, 0, 0), false);
    assert_eq!(w.compute(0, 320), 320);
    let tables = &w.live[0].0;
    assert!(tables.table(0).iter().all(|&b| b != NO_BLOCK));
    // The next token is at 320 and sees 281 on, which is in block 8.
    let kept: Vec<usize> = (0..10).filter(|&i| tables.table(1)[i] != NO_BLOCK).collect();
    assert_eq!(kept, [8, 9]);
    assert_eq!(w.cache.usage().used, 12);
}

#[test]
fn a_prefix_ends_where_some_group_has_lost_it() {
    let mut w = World::new(&[None, Some(40)], 14);
    w.attach(&text(0, 320, 0, 0), true);
    while w.compute(0, 64) > 0 {}
    assert_eq!((w.live[0].0.len(), w.cache.usage().total), (320, 14), "blocks before the window were used again");
    let (mut tables, _) = w.live.remove(0);
    w.cache.release(&mut tables);
    // The full group has all ten blocks, the windowed one has the last four.
    assert_eq!(w.attach(&text(0, 200, 1, 30), true), 0);
    assert_eq!(w.attach(&text(0, 290, 1, 30), true), 288);
    assert_eq!(w.attach(&text(0, 320, 1, 30), true), 320);
}

#[test]
fn cutting_back_never_touches_what_others_read() {
    let mut w = World::new(&[None], 100);
    w.attach(&text(0, 100, 0, 0), true);
    w.compute(0, 100);
    assert_eq!(w.attach(&text(0, 96, 1, 20), true), 96);
    let (tables, _) = &mut w.live[0];
    assert_eq!(w.cache.truncate(tables, 98), 98, "the last block is its own");
    assert_eq!(w.cache.truncate(tables, 70), 64, "a full block is shared: it goes whole");
    assert_eq!(w.cache.truncate(tables, 64), 64);
    w.check();
    assert_eq!(w.compute(0, 36), 36);
}

#[test]
fn cutting_back_beyond_a_window_starts_again() {
    let mut w = World::new(&[None, Some(40)], 100);
    w.attach(&text(0, 300, 0, 0), false);
    w.compute(0, 300);
    let (tables, _) = &mut w.live[0];
    assert_eq!(w.cache.truncate(tables, 298), 298, "its window is still there");
    assert_eq!(w.cache.truncate(tables, 200), 0);
    w.check();
    assert_eq!(w.cache.usage().used, 0);
    assert_eq!(w.compute(0, 300), 300);
}

#[test]
fn what_fits_counts_what_is_promised() {
    let mut w = World::new(&[None], 10);
    w.attach(&text(0, 100, 0, 0), true);
    w.attach(&text(1, 190, 0, 0), true);
    let others = [(&w.live[0].0, 101)];
    assert_eq!(w.cache.fits(&w.live[1].0, 191, others.iter().copied()), Fit::Yes);
    let others = [(&w.live[0].0, 129)];
    assert_eq!(w.cache.fits(&w.live[1].0, 191, others.iter().copied()), Fit::Later);
    let alone = w.cache.fits(&w.live[1].0, 321, std::iter::empty());
    assert_eq!(alone, Fit::Never { needed: 11 * BLOCK_BYTES, available: 10 * BLOCK_BYTES });
}

#[derive(Clone, Debug)]
enum Action {
    Attach { common: u64, n_common: usize, own: u64, n_own: usize, share: bool },
    Compute(usize, u32),
    Truncate(usize, u32),
    Release(usize),
    ReleaseIdle,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        3 => (0u64..2, 0usize..200, 0u64..3, 0usize..100, prop::bool::weighted(0.8)).prop_map(
            |(common, n_common, own, n_own, share)| Action::Attach { common, n_common, own, n_own: n_own.max(1), share }
        ),
        8 => (0usize..8, 1u32..65).prop_map(|(i, n)| Action::Compute(i, n)),
        1 => (0usize..8, 0u32..250).prop_map(|(i, n)| Action::Truncate(i, n)),
        3 => (0usize..8).prop_map(Action::Release),
        1 => Just(Action::ReleaseIdle),
    ];
    prop::collection::vec(action, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_use_mixes_texts_up_or_loses_blocks(
        actions in actions(),
        windows in prop_oneof![
            Just(vec![None]),
            Just(vec![None, Some(40)]),
            Just(vec![Some(33)]),
            Just(vec![None, Some(1), Some(100)]),
        ],
        blocks in 12u64..60,
    ) {
        let mut w = World::new(&windows, blocks);
        for action in actions {
            let n_live = w.live.len();
            match action {
                Action::Attach { common, n_common, own, n_own, share } if n_live < 8 => {
                    let tokens = text(common, n_common, own, n_own);
                    let cached = w.attach(&tokens, share);
                    prop_assert!((cached as usize) < tokens.len() && (share || cached == 0));
                }
                Action::Compute(i, n) if i < n_live => {
                    w.compute(i, n);
                }
                Action::Truncate(i, n) if i < n_live => {
                    let (tables, _) = &mut w.live[i];
                    let (before, left) = (tables.len(), w.cache.truncate(tables, n));
                    prop_assert!(left <= n.min(before) && left == w.live[i].0.len());
                    w.check();
                }
                Action::Release(i) if i < n_live => {
                    let (mut tables, _) = w.live.swap_remove(i);
                    w.cache.release(&mut tables);
                    w.check();
                }
                Action::ReleaseIdle => {
                    let before = w.budget.used();
                    let given = w.cache.release_idle(&mut *w.backend);
                    prop_assert_eq!(before - given, w.budget.used());
                    w.check();
                }
                _ => {}
            }
        }
        for (mut tables, _) in w.live.drain(..) {
            w.cache.release(&mut tables);
        }
        w.check();
        prop_assert_eq!(w.cache.usage().used, 0);
        w.cache.release_idle(&mut *w.backend);
        prop_assert_eq!(w.budget.used(), windows.len() as u64 * BLOCK_BYTES);
        prop_assert!(w.cache.n_nodes() <= 2 * windows.len() * blocks as usize);
    }
}
