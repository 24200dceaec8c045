//! Joining neighbours, lowest key first, leftmost first among equal keys: what byte-pair encoding
//! (key = rank of the merge) and SentencePiece (key = falling score) have in common.
//!
//! Short words are scanned for the lowest key; long ones take a heap over a linked list, so that a
//! megabyte without a space stays O(n log n).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which neighbours may be joined.
pub(super) trait Join {
    /// A piece of the word.
    type Symbol: Copy;
    /// Key and result of joining `left` and `right`, if they may be.
    fn join(&self, left: Self::Symbol, right: Self::Symbol) -> Option<(u32, Self::Symbol)>;
}

/// Symbols up to which scanning beats the heap (measured: equal near 50).
const SCAN_MAX: usize = 48;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node<S> {
    symbol: S,
    /// Key of joining this node with the next, and what that gives.
    joined: Option<(u32, S)>,
    prev: u32,
    next: u32,
}

/// Memory of [`merge`], kept between words.
pub(super) struct Scratch<S> {
    nodes: Vec<Node<S>>,
    heap: BinaryHeap<Reverse<u64>>,
}

impl<S> Default for Scratch<S> {
    fn default() -> Self {
        Self { nodes: Vec::new(), heap: BinaryHeap::new() }
    }
}

/// Joins what may be joined; gives the remaining symbols to `out` in order.
pub(super) fn merge<J: Join>(
    join: &J,
    symbols: impl IntoIterator<Item = J::Symbol>,
    scratch: &mut Scratch<J::Symbol>,
    out: impl FnMut(J::Symbol),
) {
    let nodes = &mut scratch.nodes;
    nodes.clear();
    nodes.extend(symbols.into_iter().map(|symbol| Node { symbol, joined: None, prev: NONE, next: NONE }));
    for i in 1..nodes.len() {
        nodes[i - 1].joined = join.join(nodes[i - 1].symbol, nodes[i].symbol);
    }
    if nodes.len() <= SCAN_MAX {
        scan(join, nodes);
        nodes.iter().map(|n| n.symbol).for_each(out);
    } else {
        heap(join, nodes, &mut scratch.heap);
        let mut at = 0;
        let mut out = out;
        while let Some(node) = nodes.get(at as usize) {
            out(node.symbol);
            at = node.next;
        }
    }
}

fn scan<J: Join>(join: &J, nodes: &mut Vec<Node<J::Symbol>>) {
    loop {
        let mut best: Option<(u32, J::Symbol)> = None;
        let mut at = 0;
        for (i, node) in nodes.iter().enumerate() {
            if let Some((key, symbol)) = node.joined
                && best.is_none_or(|(lowest, _)| key < lowest)
            {
                best = Some((key, symbol));
                at = i;
            }
        }
        let Some((_, symbol)) = best else { return };
        nodes.remove(at + 1);
        nodes[at].symbol = symbol;
        nodes[at].joined = nodes.get(at + 1).and_then(|next| join.join(symbol, next.symbol));
        if at > 0 {
            nodes[at - 1].joined = join.join(nodes[at - 1].symbol, symbol);
        }
    }
}

/// Heap entries are key and left node only. One is stale if the node's present key is another; if
/// the keys are equal, joining now is what a fresh entry of the same place would do.
fn heap<J: Join>(join: &J, nodes: &mut [Node<J::Symbol>], heap: &mut BinaryHeap<Reverse<u64>>) {
    let entry = |key: u32, at: usize| Reverse(u64::from(key) << 32 | at as u64);
    heap.clear();
    let mut seeds = std::mem::take(heap).into_vec();
    let len = nodes.len();
    for (i, node) in nodes.iter_mut().enumerate() {
        node.prev = if i == 0 { NONE } else { i as u32 - 1 };
        node.next = if i + 1 == len { NONE } else { i as u32 + 1 };
        if let Some((key, _)) = node.joined {
            seeds.push(entry(key, i));
        }
    }
    *heap = BinaryHeap::from(seeds);
    while let Some(Reverse(top)) = heap.pop() {
        let (key, at) = ((top >> 32) as u32, top as u32 as usize);
        let Some((present, symbol)) = nodes[at].joined else { continue };
        if present != key {
            continue;
        }
        let right = nodes[at].next as usize;
        let after = nodes[right].next;
        nodes[right].joined = None;
        nodes[at].symbol = symbol;
        nodes[at].next = after;
        nodes[at].joined = None;
        if let Some(next) = nodes.get_mut(after as usize) {
            next.prev = at as u32;
            let next = next.symbol;
            nodes[at].joined = join.join(symbol, next);
            if let Some((key, _)) = nodes[at].joined {
                heap.push(entry(key, at));
            }
        }
        if let Some(prev) = nodes.get(nodes[at].prev as usize) {
            let joined = join.join(prev.symbol, symbol);
            let prev = nodes[at].prev as usize;
            nodes[prev].joined = joined;
            if let Some((key, _)) = joined {
                heap.push(entry(key, prev));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Symbols are lengths; a pair may be joined if its sum is no multiple of 5, small sums first.
    struct Sums;
    impl Join for Sums {
        type Symbol = u32;
        fn join(&self, left: u32, right: u32) -> Option<(u32, u32)> {
            (left + right < 40 && !(left + right).is_multiple_of(5))
                .then_some(((left * 7 + right * 3) % 11, left + right))
        }
    }

    /// The definition, literally: the leftmost of the lowest keys, until none is left.
    fn slow(mut symbols: Vec<u32>) -> Vec<u32> {
        loop {
            let best = (1..symbols.len())
                .filter_map(|i| Sums.join(symbols[i - 1], symbols[i]).map(|(key, sum)| (key, i, sum)))
                .min();
            let Some((_, i, sum)) = best else { return symbols };
            symbols[i - 1] = sum;
            symbols.remove(i);
        }
    }

    proptest! {
        #[test]
        fn both_ways_follow_the_definition(symbols in prop::collection::vec(1u32..9, 0..200)) {
            let mut scratch = Scratch::default();
            let mut found = Vec::new();
            merge(&Sums, symbols.iter().copied(), &mut scratch, |s| found.push(s));
            prop_assert_eq!(found, slow(symbols));
        }
    }
}
