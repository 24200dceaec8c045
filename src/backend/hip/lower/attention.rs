//! Attention and what it reads: stores to the cache, parts for single tokens, tiles for the rest.

use super::{Input, Lowering, at, buffer, pairs};
use crate::backend::BackendError;
use crate::backend::hip::program::{Arg, Dim, Extent, Mode, Target};
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::op::{Attention, BufId, CacheId, Op};

/// Head sizes for which kernels exist; a head takes the next larger.
pub const CAPACITIES: [usize; 3] = [64, 128, 256];

/// The capacity that a group's heads need; `None` if there is none.
pub fn capacity(group: &CacheGroup) -> Option<usize> {
    let dim = group.head_dim.max(group.head_dim_v);
    let even = group.head_dim.is_multiple_of(2) && group.head_dim_v.is_multiple_of(2);
    CAPACITIES.into_iter().find(|&c| dim <= c).filter(|_| even)
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
    /// both, the other's grid is empty.
    pub(super) fn attention(&mut self, a: &Attention) -> Result<(), BackendError> {
        let group = &self.plan.caches[a.cache.0 as usize];
        let Some(d) = capacity(group) else {
            let (k, v) = (group.head_dim, group.head_dim_v);
            return self.unsupported(&format!("heads of {k} and {v} elements: even ones up to 256 can be computed"));
        };
        let (off_k, off_v) = self.offsets(group, a.slot)?;
        let kv = group.kv_type.name();
        let (n_head, n_head_kv) = (a.n_head as u32, group.n_head_kv as u32);
        let split = Dim::Splits(a.cache.0);
        let heads = |args: &mut Vec<Arg>| {
            args.extend([
                at(Target::Tables),
                off_k,
                off_v,
                Arg::U32(n_head),
                Arg::U32(n_head_kv),
                Arg::U32(group.head_dim as u32),
                Arg::U32(group.head_dim_v as u32),
                Arg::F32(a.scale),
                Arg::U32(a.window.unwrap_or(0)),
                Arg::F32(a.softcap.unwrap_or(0.0)),
            ]);
        };
        let spans = at(Target::Spans(a.cache.0));

        let mut args = vec![buffer(a.q), at(Target::Parts), spans];
        heads(&mut args);
        args.push(Arg::Count(split, 1));
        let grid = [Extent::each(Dim::Decodes), Extent::Fixed(n_head_kv), Extent::each(split)];
        self.push(format!("attend_split_{kv}_{d}"), grid, 128, args)?;

        let coded = self.combine_makes_codes(a, group, d);
        let mut args = vec![at(Target::Parts), buffer(a.out)];
        if coded {
            args.extend([at(Target::Q8Codes), at(Target::Q8Scales)]);
        }
        args.extend([Arg::U32(n_head), Arg::U32(group.head_dim_v as u32), Arg::Count(split, 1)]);
        let grid = [Extent::each(Dim::Decodes), Extent::Fixed(n_head), Extent::Fixed(1)];
        self.push(format!("attend_combine_{}{d}", if coded { "q8_" } else { "" }), grid, 64, args)?;

        // The matrix unit takes whole tiles of 16 elements from a cache in f16 or q8_0.
        let whole = group.head_dim.is_multiple_of(16) && group.head_dim_v.is_multiple_of(16);
        let matrix = match group.kv_type {
            KvType::F16 => Some(format!("attend_mma_{d}")),
            KvType::Q8_0 => Some(format!("attend_mma_q8_0_{d}")),
            KvType::F32 => None,
        };
        let matrix = matrix.filter(|name| whole && (self.chip.has)(name));
        let kernel = matrix.unwrap_or_else(|| format!("attend_tile_{kv}_{d}"));
        let mut args = vec![buffer(a.q), buffer(a.out), spans, at(Target::Tiles)];
        heads(&mut args);
        let grid = [Extent::each(Dim::Tiles), Extent::Fixed(n_head), Extent::Fixed(1)];
        self.push(kernel, grid, 128, args)?;
        self.ready = self.ready.filter(|(b, _)| *b != a.out);
        if coded {
            // Tiles leave numbers only.
            self.quantize(a.out, Dim::Mixed)?;
            self.ready = Some((a.out, Input::Q8));
        }
        Ok(())
    }

    /// Whether the parts are joined together with the quantization of the product that follows.
    fn combine_makes_codes(&self, a: &Attention, group: &CacheGroup, d: usize) -> bool {
        let Some(Op::Linear { x, projections }) = self.next() else { return false };
        let coded = |w| super::input_of(self.plan.weight(w), self.mode) == Input::Q8;
        matches!(self.mode, Mode::Few { .. })
            && *x == a.out
            && self.width(a.out) as usize == a.n_head * group.head_dim_v
            && group.head_dim_v.is_multiple_of(32)
            && projections.iter().any(|p| coded(p.weight))
            && (self.chip.has)(&format!("attend_combine_q8_{d}"))
    }

    /// A rotation; the queries' and the keys' with the store of the latter is one launch, which leaves
    /// no rotated keys behind. Returns how many ops that were.
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
                Some((*q, *rope, *cache, *slot, *k, *v))
            }
            _ => None,
        };
        let Some((q, rope, cache, slot, k, v)) = fused else { return self.simple(op).map(|()| 1) };
        let group = &plan.caches[cache.0 as usize];
        let kernel = format!("rope_store_{}", group.kv_type.name());
        if !(self.chip.has)(&kernel) {
            return self.simple(op).map(|()| 1);
        }
        let (off_k, off_v) = self.offsets(group, slot)?;
        let r = &plan.ropes[rope.0 as usize];
        let (n_head, n_head_kv) = (self.width(q) / group.head_dim as u32, group.n_head_kv as u32);
        let args = vec![
            buffer(q),
            buffer(k),
            buffer(v),
            at(Target::Positions),
            at(Target::Turns(rope)),
            at(Target::Slots(cache.0)),
            off_k,
            off_v,
            Arg::U32(n_head),
            Arg::U32(n_head_kv),
            Arg::U32(group.head_dim as u32),
            Arg::U32(group.head_dim_v as u32),
            Arg::U32(r.n_rot as u32),
            Arg::U32(pairs(r)),
            Arg::F32(r.magnitude() as f32),
        ];
        let grid = [Extent::each(Dim::Rows), Extent::Fixed(n_head + 2 * n_head_kv), Extent::Fixed(1)];
        self.push(kernel, grid, 64, args)?;
        Ok(3)
    }
}
