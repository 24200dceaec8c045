//! A plan cut in two between layers: the first ones for one device, the rest for another.
//!
//! What crosses the cut is the residual stream, a row a token. Each part has the weights, buffers
//! and rotations that its ops name. Of the caches both list all, so that one set of block tables
//! serves both; a cache group whose layers lie on both sides becomes two.

use super::cache::CacheGroup;
use super::op::{BufId, CacheId, Name, Op, RopeId, WeightId};
use super::{Buffer, Plan, Weight};
use crate::plan::op::Rope;

impl Plan {
    /// The ops before layer `layer`, and the rest. `None` if there is no such cut: before the first
    /// layer or behind the last, in a part, or where more than one buffer is alive.
    pub fn split(&self, layer: usize) -> Option<[Plan; 2]> {
        let at = *self.layers.get(layer).filter(|_| layer > 0 && self.part == 0 && self.input.is_none())?;
        let crossing = self.alive_at(at);
        let &[residual] = crossing.as_slice() else { return None };
        let (caches, place) = self.cut_caches(at);
        let part = |n: usize| {
            let ops = if n == 0 { &self.ops[..at] } else { &self.ops[at..] };
            let start = if n == 0 { 0 } else { at };
            let inside = |&&op: &&usize| (start..start + ops.len()).contains(&op);
            let mut kept = Kept { whole: self, buffers: Vec::new(), weights: Vec::new(), ropes: Vec::new() };
            let ops = ops.iter().map(|op| kept.op(op.clone(), &place[n])).collect();
            let input = (n == 1).then(|| kept.buffer(residual));
            let output = if n == 0 { kept.buffer(residual) } else { kept.buffer(self.output) };
            let ropes = kept.ropes.clone().iter().map(|id| kept.rope(*id)).collect();
            Plan {
                ops,
                buffers: kept.buffers.iter().map(|id| self.buffer(*id).clone()).collect::<Vec<Buffer>>(),
                weights: kept.weights.iter().map(|id| self.weight(*id).clone()).collect::<Vec<Weight>>(),
                ropes,
                caches: caches.clone(),
                layers: self.layers.iter().filter(inside).map(|op| op - start).collect(),
                part: n,
                input,
                output,
                n_vocab: self.n_vocab,
            }
        };
        Some([part(0), part(1)])
    }

    /// Buffers written before op `at` that ops from there on read.
    fn alive_at(&self, at: usize) -> Vec<BufId> {
        let (mut alive, mut written) = (Vec::new(), Vec::new());
        for op in &self.ops[at..] {
            alive.extend(op.reads().into_iter().filter(|b| !written.contains(b)));
            written.extend(op.writes());
        }
        alive.sort_unstable();
        alive.dedup();
        alive
    }

    /// The cache groups of both parts, and for each part where it finds layer `slot` of group `id`.
    fn cut_caches(&self, at: usize) -> (Vec<CacheGroup>, [Places; 2]) {
        let mut places = [self.no_places(), self.no_places()];
        let mut caches = Vec::new();
        for (part, (ops, places)) in [&self.ops[..at], &self.ops[at..]].into_iter().zip(&mut places).enumerate() {
            for (id, group) in self.caches.iter().enumerate() {
                let mut n_layer = 0;
                for op in ops {
                    let Op::Store { cache, slot, .. } = op else { continue };
                    if cache.0 as usize == id {
                        places[id][*slot as usize] = Some((CacheId(caches.len() as u32), n_layer));
                        n_layer += 1;
                    }
                }
                if n_layer > 0 {
                    caches.push(CacheGroup { n_layer: n_layer as usize, part, ..group.clone() });
                }
            }
        }
        (caches, places)
    }

    fn no_places(&self) -> Places {
        self.caches.iter().map(|c| vec![None; c.n_layer]).collect()
    }
}

/// By group and layer of the whole plan: group and layer of a part.
type Places = Vec<Vec<Option<(CacheId, u32)>>>;

/// What of a plan a part needs, in the order in which its ops name it.
struct Kept<'a> {
    whole: &'a Plan,
    buffers: Vec<BufId>,
    weights: Vec<WeightId>,
    ropes: Vec<RopeId>,
}

/// The index of `id` in `kept`, where it is put if it is not there yet.
fn index<T: PartialEq>(kept: &mut Vec<T>, id: T) -> u32 {
    let known = kept.iter().position(|k| *k == id);
    let index = known.unwrap_or_else(|| {
        kept.push(id);
        kept.len() - 1
    });
    index as u32
}

impl Kept<'_> {
    fn buffer(&mut self, id: BufId) -> BufId {
        BufId(index(&mut self.buffers, id))
    }

    fn op(&mut self, mut op: Op, places: &Places) -> Op {
        op.each_name(&mut |name| match name {
            Name::Buffer(id) => id.0 = index(&mut self.buffers, *id),
            Name::Weight(id) => id.0 = index(&mut self.weights, *id),
            Name::Rope(id) => id.0 = index(&mut self.ropes, *id),
            Name::Cache(id, slot) => {
                // A sound plan attends only to what it has stored, in the same part.
                if let Some(place) = places[id.0 as usize][*slot as usize] {
                    (*id, *slot) = place;
                }
            }
        });
        op
    }

    fn rope(&mut self, id: RopeId) -> Rope {
        let mut rope = self.whole.ropes[id.0 as usize].clone();
        rope.factors = rope.factors.map(|w| WeightId(index(&mut self.weights, w)));
        rope
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::tiny_plan;
    use super::*;

    /// The plan's layer `n` times.
    fn deep(n: usize) -> Plan {
        let mut plan = tiny_plan();
        let head = plan.ops.split_off(9);
        let layer = plan.ops.split_off(1);
        plan.layers.clear();
        for i in 0..n {
            plan.layers.push(plan.ops.len());
            plan.ops.extend(layer.iter().cloned().map(|mut op| {
                op.each_name(&mut |name| {
                    if let Name::Cache(_, slot) = name {
                        *slot = i as u32;
                    }
                });
                op
            }));
        }
        plan.ops.extend(head);
        plan.caches[0].n_layer = n;
        plan.check().expect("sound");
        plan
    }

    #[test]
    fn both_parts_are_sound_and_have_only_what_they_need() {
        let plan = deep(5);
        for layer in 1..5 {
            let [a, b] = plan.split(layer).expect("a cut");
            for part in [&a, &b] {
                part.check().expect("sound");
            }
            assert_eq!(a.ops.len() + b.ops.len(), plan.ops.len());
            assert_eq!((a.caches.len(), &a.caches), (2, &b.caches));
            assert_eq!([0, 1].map(|i| (a.caches[i].n_layer, a.caches[i].part)), [(layer, 0), (5 - layer, 1)]);
            assert_eq!((a.layers.len(), b.layers.len()), (layer, 5 - layer));
            assert!(!a.gives_logits() && b.gives_logits());
            assert_eq!(a.buffer(a.output).width, b.input.map(|id| b.buffer(id).width).expect("an input"));
            let names = |p: &Plan| p.weights.iter().map(|w| w.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&a), ["embd", "norm", "wq", "wk", "wv", "wo", "factors"]);
            // The tied embedding is needed on both sides.
            assert_eq!(names(&b), ["norm", "wq", "wk", "wv", "wo", "gate", "up", "down", "embd", "factors"]);
            assert!(!b.buffers.iter().any(|buffer| buffer.name == "nobody"));
        }
    }

    #[test]
    fn there_is_no_cut_outside_of_the_layers() {
        let plan = deep(2);
        assert!(plan.split(0).is_none() && plan.split(2).is_none());
        let [a, _] = plan.split(1).expect("a cut");
        assert!(a.split(0).is_none());
        let mut open = deep(2);
        // A buffer of the first layer that the second one reads: two buffers would cross.
        open.layers[1] -= 1;
        assert!(open.split(1).is_none());
    }
}
