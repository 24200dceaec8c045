//! Which blocks hold which text: a tree of full blocks, shared by all cache groups.
//!
//! A node is one block of tokens after the text of its parent, and names the cache block that
//! holds it in each group (or none). Looking a child up compares the parent and all its tokens: a
//! hash only finds the bucket, so that no collision can mix up two users' texts. Hashes are keyed
//! per process, so that nobody can make long buckets on purpose.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::batch::NO_BLOCK;

/// A node; [`ROOT`] is the empty text.
pub(super) type NodeId = u32;
/// The empty text. It is never removed.
pub(super) const ROOT: NodeId = u32::MAX;
/// No node, no next in a bucket.
pub(super) const NONE: u32 = u32::MAX - 1;

#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// Next node of its bucket.
    next: u32,
    bucket: u32,
    /// Nodes after it.
    children: u32,
    /// Sequences whose text has this as its last full block.
    holders: u32,
    /// How many groups have a block for it.
    n_blocks: u32,
    tokens: [u32; KV_BLOCK_TOKENS],
}

/// The tree.
#[derive(Debug)]
pub(super) struct Tree {
    n_groups: usize,
    nodes: Vec<Node>,
    /// `n_groups` entries a node.
    blocks: Vec<u32>,
    unused: Vec<u32>,
    buckets: Vec<u32>,
    capacity: usize,
    hashes: RandomState,
}

impl Tree {
    pub(super) fn new(n_groups: usize) -> Self {
        Self {
            n_groups,
            nodes: Vec::new(),
            blocks: Vec::new(),
            unused: Vec::new(),
            buckets: vec![NONE; 1],
            capacity: 0,
            hashes: RandomState::new(),
        }
    }

    /// Makes room for `capacity` nodes; afterwards no insertion allocates. Never shrinks.
    pub(super) fn reserve(&mut self, capacity: usize) {
        if capacity <= self.capacity {
            return;
        }
        self.capacity = capacity;
        self.nodes.reserve(capacity - self.nodes.len());
        self.blocks.reserve(capacity * self.n_groups - self.blocks.len());
        self.unused.reserve(capacity - self.unused.len());
        let n_buckets = capacity.next_power_of_two();
        if n_buckets <= self.buckets.len() {
            return;
        }
        self.buckets.clear();
        self.buckets.resize(n_buckets, NONE);
        let mut used = vec![true; self.nodes.len()];
        for &i in &self.unused {
            used[i as usize] = false;
        }
        for (i, _) in used.iter().enumerate().filter(|(_, used)| **used) {
            let bucket = self.bucket(self.nodes[i].parent, &self.nodes[i].tokens);
            self.nodes[i].bucket = bucket;
            self.nodes[i].next = std::mem::replace(&mut self.buckets[bucket as usize], i as u32);
        }
    }

    fn bucket(&self, parent: NodeId, tokens: &[u32; KV_BLOCK_TOKENS]) -> u32 {
        let mut h = self.hashes.build_hasher();
        parent.hash(&mut h);
        tokens.hash(&mut h);
        (h.finish() as usize & (self.buckets.len() - 1)) as u32
    }

    /// The node for `tokens` after `parent`.
    pub(super) fn child(&self, parent: NodeId, tokens: &[u32; KV_BLOCK_TOKENS]) -> Option<NodeId> {
        let mut i = self.buckets[self.bucket(parent, tokens) as usize];
        while i != NONE {
            let n = &self.nodes[i as usize];
            if n.parent == parent && n.tokens == *tokens {
                return Some(i);
            }
            i = n.next;
        }
        None
    }

    /// The node for `tokens` after `parent`, made if there is none; `None` if the tree is full.
    pub(super) fn child_or_insert(&mut self, parent: NodeId, tokens: &[u32; KV_BLOCK_TOKENS]) -> Option<NodeId> {
        if let Some(id) = self.child(parent, tokens) {
            return Some(id);
        }
        if self.nodes.len() - self.unused.len() >= self.capacity {
            return None;
        }
        let bucket = self.bucket(parent, tokens);
        let node = Node {
            parent,
            next: self.buckets[bucket as usize],
            bucket,
            children: 0,
            holders: 0,
            n_blocks: 0,
            tokens: *tokens,
        };
        let id = match self.unused.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.blocks.resize(self.nodes.len() * self.n_groups, NO_BLOCK);
                (self.nodes.len() - 1) as u32
            }
        };
        self.buckets[bucket as usize] = id;
        if parent != ROOT {
            self.nodes[parent as usize].children += 1;
        }
        Some(id)
    }

    /// The block that holds the node's text in `group`.
    pub(super) fn block(&self, id: NodeId, group: usize) -> Option<u32> {
        let b = self.blocks[id as usize * self.n_groups + group];
        (b != NO_BLOCK).then_some(b)
    }

    /// Names the block of a node that has none in this group.
    pub(super) fn set_block(&mut self, id: NodeId, group: usize, block: u32) {
        let slot = &mut self.blocks[id as usize * self.n_groups + group];
        debug_assert_eq!(*slot, NO_BLOCK);
        *slot = block;
        self.nodes[id as usize].n_blocks += 1;
    }

    /// Forgets the node's block in `group`, and the node if nothing needs it any more.
    pub(super) fn clear_block(&mut self, id: NodeId, group: usize) {
        let slot = &mut self.blocks[id as usize * self.n_groups + group];
        debug_assert_ne!(*slot, NO_BLOCK);
        *slot = NO_BLOCK;
        self.nodes[id as usize].n_blocks -= 1;
        self.prune(id);
    }

    /// A sequence's text now ends (in full blocks) at this node.
    pub(super) fn hold(&mut self, id: NodeId) {
        if id != ROOT {
            self.nodes[id as usize].holders += 1;
        }
    }

    /// The opposite of [`Tree::hold`].
    pub(super) fn unhold(&mut self, id: NodeId) {
        if id != ROOT {
            self.nodes[id as usize].holders -= 1;
            self.prune(id);
        }
    }

    /// The parent of a node.
    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.nodes[id as usize].parent
    }

    /// Removes the node and its ancestors as far as nothing needs them.
    fn prune(&mut self, mut id: NodeId) {
        while id != ROOT {
            let n = &self.nodes[id as usize];
            if n.children > 0 || n.holders > 0 || n.n_blocks > 0 {
                return;
            }
            let (parent, bucket, next) = (n.parent, n.bucket as usize, n.next);
            if self.buckets[bucket] == id {
                self.buckets[bucket] = next;
            } else {
                let mut at = self.buckets[bucket];
                while self.nodes[at as usize].next != id {
                    at = self.nodes[at as usize].next;
                }
                self.nodes[at as usize].next = next;
            }
            self.unused.push(id);
            if parent != ROOT {
                self.nodes[parent as usize].children -= 1;
            }
            id = parent;
        }
    }

    /// Nodes in the tree.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: u32) -> [u32; KV_BLOCK_TOKENS] {
        std::array::from_fn(|i| seed * 100 + i as u32)
    }

    #[test]
    fn texts_are_told_apart_by_parent_and_every_token() {
        let mut t = Tree::new(1);
        t.reserve(8);
        let a = t.child_or_insert(ROOT, &tokens(1)).expect("room");
        let b = t.child_or_insert(a, &tokens(1)).expect("room");
        assert_ne!(a, b);
        assert_eq!(
            (t.child(ROOT, &tokens(1)), t.child(a, &tokens(1)), t.child(b, &tokens(1))),
            (Some(a), Some(b), None)
        );
        let mut other = tokens(1);
        other[KV_BLOCK_TOKENS - 1] += 1;
        assert_eq!(t.child(ROOT, &other), None);
    }

    #[test]
    fn a_node_stays_while_a_block_a_child_or_a_sequence_needs_it() {
        let mut t = Tree::new(2);
        t.reserve(2);
        let a = t.child_or_insert(ROOT, &tokens(1)).expect("room");
        let b = t.child_or_insert(a, &tokens(2)).expect("room");
        assert_eq!(t.child_or_insert(b, &tokens(3)), None, "full");
        t.set_block(a, 0, 7);
        t.set_block(b, 1, 8);
        t.hold(b);
        t.clear_block(a, 0);
        t.clear_block(b, 1);
        assert_eq!(t.len(), 2, "a sequence holds b, and b its parent");
        t.unhold(b);
        assert_eq!((t.len(), t.child(ROOT, &tokens(1))), (0, None));
    }

    #[test]
    fn growing_keeps_every_node() {
        let mut t = Tree::new(1);
        let mut parent = ROOT;
        for i in 0..100 {
            t.reserve(i + 1);
            parent = t.child_or_insert(parent, &tokens(i as u32)).expect("room");
            t.set_block(parent, 0, i as u32);
        }
        let mut at = ROOT;
        for i in 0..100 {
            at = t.child(at, &tokens(i)).expect("still there");
            assert_eq!(t.block(at, 0), Some(i));
        }
    }
}
