//! Attention and what it reads: stores to the cache, single tokens in parts of their keys, tiles for the rest.

use super::{Input, Lowering, at, buffer, pairs};
use crate::backend::BackendError;
use crate::backend::hip::program::{Arg, Dim, Extent, Mode, Target};
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::op::{Attention, BufId, CacheId, Op, Rope, RopeId};

/// Head sizes for which kernels exist; a head takes the next larger.
pub const CAPACITIES: [usize; 3] = [64, 128, 256];

/// The capacity that a group's heads need; `None` if there is none.
pub fn capacity(group: &CacheGroup) -> Option<usize> {
    let dim = group.head_dim.max(group.head_dim_v);
    let even = group.head_dim.is_multiple_of(2) && group.head_dim_v.is_multiple_of(2);
    CAPACITIES.into_iter().find(|&c| dim <= c).filter(|_| even)
}

/// Query heads that a block of `attend_split` does.
const HEADS_A_BLOCK: u32 = 8;

/// Blocks of `attend_split` for a part of a token's keys: a key head's query heads are together.
pub fn blocks(n_head: u32, n_head_kv: u32) -> u32 {
    n_head_kv * (n_head / n_head_kv).div_ceil(HEADS_A_BLOCK)
}

/// Keys and values that are not in the cache yet, nor rotated.
#[derive(Clone, Copy)]
pub(super) struct Fresh {
    k: BufId,
    v: BufId,
    rope: RopeId,
}

/// What attention leaves for the product after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Codes {
    None,
    /// Besides the numbers.
    Too,
    /// In a step without tiles nobody reads the numbers.
    Only,
}

/// Bytes from a block's start to the keys and to the values of layer `slot`.
fn offsets(group: &CacheGroup, slot: u32) -> Option<(u32, u32)> {
    let layer = group.block_bytes() / group.n_layer as u64;
    let keys = group.key_bytes() as u64;
    let start = layer * u64::from(slot);
    Some((u32::try_from(start).ok()?, u32::try_from(start + keys).ok()?))
}

impl Lowering<'_> {
    fn offsets(&self, group: &CacheGroup, slot: u32) -> Result<(Arg, Arg), BackendError> {
        match offsets(group, slot) {
            Some((k, v)) => Ok((Arg::U32(k), Arg::U32(v))),
            None => self.unsupported("a block of the cache is larger than 4 GiB"),
        }
    }

    pub(super) fn store(&mut self, cache: CacheId, slot: u32, k: BufId, v: BufId) -> Result<(), BackendError> {
        let group = &self.plan.caches[cache.0 as usize];
        let (off_k, off_v) = self.offsets(group, slot)?;
        let args = vec![
            buffer(k),
            buffer(v),
            at(Target::Slots(cache.0)),
            at(Target::Positions),
            off_k,
            off_v,
            Arg::U32(group.n_head_kv as u32),
            Arg::U32(group.head_dim as u32),
            Arg::U32(group.head_dim_v as u32),
        ];
        let grid = [Extent::each(Dim::Rows), Extent::Fixed(1), Extent::Fixed(1)];
        self.push(format!("store_{}", group.kv_type.name()), grid, 256, args)
    }

    /// Spans of one token at the batch's start are row by row the first rows: their keys are split
    /// over blocks. The other spans are cut into tiles of queries. In a step that has only one of
    /// both, the other's grid is empty. `op` is the attention's number; with `fresh`, a step without
    /// tiles has its queries not rotated and its keys and values not stored yet.
    pub(super) fn attention(&mut self, op: usize, a: &Attention, fresh: Option<Fresh>) -> Result<(), BackendError> {
        let group = &self.plan.caches[a.cache.0 as usize];
        let Some(d) = capacity(group) else {
            let (k, v) = (group.head_dim, group.head_dim_v);
            return self.unsupported(&format!("heads of {k} and {v} elements: even ones up to 256 can be computed"));
        };
        let (off_k, off_v) = self.offsets(group, a.slot)?;
        let kv = group.kv_type.name();
        let (n_head, n_head_kv) = (a.n_head as u32, group.n_head_kv as u32);
        let split = Dim::Splits(a.cache.0);
        let dims = [group.head_dim as u32, group.head_dim_v as u32].map(Arg::U32);
        let scores = [Arg::F32(a.scale), Arg::U32(a.window.unwrap_or(0)), Arg::F32(a.softcap.unwrap_or(0.0))];
        let spans = at(Target::Spans(a.cache.0));

        let codes = self.codes_after(op, a, group);
        let (k, v, turns, rotation) = match fresh {
            Some(f) => {
                (buffer(f.k), buffer(f.v), at(Target::Turns(f.rope)), rotation(&self.plan.ropes[f.rope.0 as usize]))
            }
            None => (at(Target::Null), at(Target::Null), at(Target::Null), [Arg::U32(0), Arg::U32(0), Arg::F32(0.0)]),
        };
        // Not zero in steps with tiles, whose keys are stored and whose rows are numbers first.
        let mixed = Arg::Count(Dim::Mixed, 1);
        let mut args = vec![buffer(a.q), k, v, at(Target::Parts), at(Target::Ended), buffer(a.out)];
        args.extend(match codes {
            Codes::None => [at(Target::Null), at(Target::Null)],
            _ => [at(Target::Q8Codes), at(Target::Q8Scales)],
        });
        args.extend([spans, at(Target::Tables), turns, off_k, off_v, Arg::U32(n_head), Arg::U32(n_head_kv)]);
        args.extend(dims);
        args.extend(rotation);
        args.extend([mixed, if codes == Codes::Only { mixed } else { Arg::U32(1) }]);
        args.extend(scores);
        args.push(Arg::Count(split, 1));
        let grid = [Extent::each(Dim::Decodes), Extent::Fixed(blocks(n_head, n_head_kv)), Extent::each(split)];
        self.push(format!("attend_split_{kv}_{d}"), grid, 128, args)?;

        // The matrix unit takes whole tiles of 16 elements from a cache in f16 or q8_0.
        let whole = group.head_dim.is_multiple_of(16) && group.head_dim_v.is_multiple_of(16);
        let matrix = match group.kv_type {
            KvType::F16 => Some(format!("attend_mma_{d}")),
            KvType::Q8_0 => Some(format!("attend_mma_q8_0_{d}")),
            KvType::F32 => None,
        };
        let matrix = matrix.filter(|name| whole && (self.chip.has)(name));
        let kernel = matrix.unwrap_or_else(|| format!("attend_tile_{kv}_{d}"));
        let mut args = vec![buffer(a.q), buffer(a.out), spans, at(Target::Tiles), at(Target::Tables), off_k, off_v];
        args.extend([Arg::U32(n_head), Arg::U32(n_head_kv)]);
        args.extend(dims);
        args.extend(scores);
        let grid = [Extent::each(Dim::Tiles), Extent::Fixed(n_head), Extent::Fixed(1)];
        self.push(kernel, grid, 128, args)?;
        self.ready = self.ready.filter(|(b, _)| *b != a.out);
        if codes != Codes::None {
            // Tiles leave numbers only.
            self.quantize(a.out, Dim::Mixed)?;
            self.ready = Some((a.out, Input::Q8));
        }
        Ok(())
    }

    /// Whether attention, the op `op`, makes codes for the product that follows.
    fn codes_after(&self, op: usize, a: &Attention, group: &CacheGroup) -> Codes {
        let Some(Op::Linear { x, projections }) = self.after(op) else { return Codes::None };
        let coded = |w| super::input_of(self.plan.weight(w), self.mode) == Input::Q8;
        let can = matches!(self.mode, Mode::Few { .. })
            && *x == a.out
            && self.width(a.out) as usize == a.n_head * group.head_dim_v
            && group.head_dim_v.is_multiple_of(32);
        if !can || !projections.iter().any(|p| coded(p.weight)) {
            return Codes::None;
        }
        let only = self.uses.readers(op, a.out) == [op + 1] && projections.iter().all(|p| coded(p.weight));
        if only { Codes::Only } else { Codes::Too }
    }

    /// A rotation; the queries' and the keys' with the store of the latter is one launch, which leaves
    /// no rotated keys behind, and none in a step without tiles if attention follows, which can do it.
    /// Returns how many ops that were.
    pub(super) fn rope_and_store(&mut self, op: &Op) -> Result<usize, BackendError> {
        let plan = self.plan;
        let fused = match &plan.ops[self.op..self.end] {
            [
                Op::Rope { x: q, head_dim, rope },
                Op::Rope { x, head_dim: dim, rope: same },
                Op::Store { cache, slot, k, v },
                ..,
            ] if (x, head_dim, rope) == (k, dim, same)
                && q != k
                && plan.caches[cache.0 as usize].head_dim == *head_dim
                && self.uses.readers(self.op + 1, *k) == [self.op + 2] =>
            {
                Some((*q, *cache, *slot, Fresh { k: *k, v: *v, rope: *rope }))
            }
            _ => None,
        };
        let Some((q, cache, slot, fresh)) = fused else { return self.simple(op).map(|()| 1) };
        let group = &plan.caches[cache.0 as usize];
        let kernel = format!("rope_store_{}", group.kv_type.name());
        if !(self.chip.has)(&kernel) {
            return self.simple(op).map(|()| 1);
        }
        let attention = self.op + 3;
        let follows = match self.after(self.op + 2) {
            Some(Op::Attention(a)) if (a.q, a.cache, a.slot) == (q, cache, slot) => Some(a),
            _ => None,
        };
        let follows = follows.filter(|a| {
            // Keys and values are read until attention ends, which the plan does not know.
            let apart = !self.uses.share(a.out, fresh.k) && !self.uses.share(a.out, fresh.v);
            let unwritten = self.codes_after(attention, a, group) == Codes::Only;
            // A scale of q8_0 is that of several elements, which attention's threads do not have together.
            group.kv_type != KvType::Q8_0 && self.uses.readers(self.op, q) == [attention] && (apart || unwritten)
        });
        let rows = if follows.is_some() { Dim::Mixed } else { Dim::Rows };
        let (off_k, off_v) = self.offsets(group, slot)?;
        let (n_head, n_head_kv) = (self.width(q) / group.head_dim as u32, group.n_head_kv as u32);
        let mut args = vec![
            buffer(q),
            buffer(fresh.k),
            buffer(fresh.v),
            at(Target::Positions),
            at(Target::Turns(fresh.rope)),
            at(Target::Slots(cache.0)),
            off_k,
            off_v,
            Arg::U32(n_head),
            Arg::U32(n_head_kv),
            Arg::U32(group.head_dim as u32),
            Arg::U32(group.head_dim_v as u32),
        ];
        args.extend(rotation(&plan.ropes[fresh.rope.0 as usize]));
        let grid = [Extent::each(rows), Extent::Fixed(n_head + 2 * n_head_kv), Extent::Fixed(1)];
        self.push(kernel, grid, 64, args)?;
        let Some(a) = follows else { return Ok(3) };
        self.attention(attention, a, Some(fresh))?;
        Ok(4)
    }
}

/// How a rotation goes, as kernels are told.
fn rotation(rope: &Rope) -> [Arg; 3] {
    [Arg::U32(rope.n_rot as u32), Arg::U32(pairs(rope)), Arg::F32(rope.magnitude() as f32)]
}
