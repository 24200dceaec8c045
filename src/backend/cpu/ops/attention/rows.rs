//! The query rows of a tile and their running softmax.

use super::super::gemm::float::{Column, multiply};
use super::super::gemm::{Sums, TOKENS};
use super::super::math::{exp, fma, tanh};
use super::super::tiered;
use super::{Heads, Layer, Unit};
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::simd::Tier;

const NO_SUMS: Sums = [[[0.0; 16]; TOKENS]; 2];

/// Maximum and sum of each of [`TOKENS`] rows.
#[derive(Clone, Copy)]
struct Softmax {
    max: [f32; TOKENS],
    sum: [f32; TOKENS],
}

const EMPTY: Softmax = Softmax { max: [f32::NEG_INFINITY; TOKENS], sum: [0.0; TOKENS] };

/// Rows of one tile: row `i` is query head `i % group` of token `i / group`.
pub struct Rows {
    /// For each [`TOKENS`] rows the elements of their queries, times the scale.
    q: Vec<[f32; TOKENS]>,
    /// Positions of the rows' tokens.
    positions: Vec<[u32; TOKENS]>,
    /// The part being worked on.
    part: Vec<Softmax>,
    /// Its values: for each [`TOKENS`] rows and each 32 elements.
    part_values: Vec<Sums>,
    /// All parts before.
    total: Vec<Softmax>,
    total_values: Vec<Sums>,
    /// Probabilities of a block.
    p: [[f32; TOKENS]; KV_BLOCK_TOKENS],
    n: usize,
    dim: usize,
    dim_v: usize,
    group: usize,
}

impl Rows {
    /// Room for `tiles` times [`TOKENS`] rows.
    pub fn new(tiles: usize, dim: usize, dim_v: usize) -> Self {
        let chunks = dim_v.div_ceil(32);
        Self {
            q: vec![[0.0; TOKENS]; tiles * dim],
            positions: vec![[0; TOKENS]; tiles],
            part: vec![EMPTY; tiles],
            part_values: vec![NO_SUMS; tiles * chunks],
            total: vec![EMPTY; tiles],
            total_values: vec![NO_SUMS; tiles * chunks],
            p: [[0.0; TOKENS]; KV_BLOCK_TOKENS],
            n: 0,
            dim,
            dim_v,
            group: 1,
        }
    }

    /// Bytes that [`Rows::new`] allocates.
    pub fn bytes(tiles: usize, dim: usize, dim_v: usize) -> usize {
        let one = dim * size_of::<[f32; TOKENS]>() + 2 * dim_v.div_ceil(32) * size_of::<Sums>();
        tiles * (one + 2 * size_of::<Softmax>() + size_of::<[u32; TOKENS]>())
    }

    fn tiles(&self) -> usize {
        self.n.div_ceil(TOKENS)
    }

    fn chunks(&self) -> usize {
        self.dim_v.div_ceil(32)
    }

    /// Takes the queries of `unit` that belong to key head `head`, and starts anew.
    pub fn load(&mut self, layer: &Layer<'_>, unit: Unit, head: usize) {
        let heads = layer.heads;
        (self.dim, self.dim_v, self.group) = (heads.head_dim, heads.head_dim_v, heads.group());
        self.n = unit.len * self.group;
        let width = heads.n_head * heads.head_dim;
        for i in 0..self.n {
            let (token, member) = (i / self.group, i % self.group);
            let at = (unit.token + token) * width + (head * self.group + member) * self.dim;
            let tile = &mut self.q[i / TOKENS * self.dim..][..self.dim];
            for (to, x) in tile.iter_mut().zip(&layer.q[at..]) {
                to[i % TOKENS] = x * heads.scale;
            }
            self.positions[i / TOKENS][i % TOKENS] = unit.position + token as u32;
        }
        let (tiles, values) = (self.tiles(), self.tiles() * self.chunks());
        self.part[..tiles].fill(EMPTY);
        self.total[..tiles].fill(EMPTY);
        self.part_values[..values].fill(NO_SUMS);
        self.total_values[..values].fill(NO_SUMS);
    }

    /// Goes through one block, whose first key is at position `first`.
    pub fn block(&mut self, tier: Tier, heads: &Heads, first: u32, keys: &[Column], values: &[Column]) {
        let chunks = self.chunks();
        for tile in 0..self.tiles() {
            let n = TOKENS.min(self.n - tile * TOKENS);
            let positions = &self.positions[tile];
            // Positions ascend with the rows.
            let (oldest, newest) = (positions[0], positions[n - 1]);
            let beyond = |w: u32| oldest >= (first + KV_BLOCK_TOKENS as u32 - 1).saturating_add(w);
            if newest < first || heads.window.is_some_and(beyond) {
                continue;
            }
            let mut scores = NO_SUMS;
            multiply(tier, keys, &self.q[tile * self.dim..][..self.dim], n, &mut scores);
            let seen = (newest - first + 1).min(KV_BLOCK_TOKENS as u32) as usize;
            let mask = Mask { first, window: heads.window.unwrap_or(u32::MAX), cap: heads.softcap.unwrap_or(0.0) };
            let mut factors = [1.0; TOKENS];
            step(tier, &mut scores, positions, n, mask, &mut self.part[tile], &mut factors, &mut self.p);
            for (c, sums) in self.part_values[tile * chunks..][..chunks].iter_mut().enumerate() {
                if factors != [1.0; TOKENS] {
                    scale(tier, sums, &factors);
                }
                // Keys after the newest row may be anything, so they are left out.
                let columns = &values[c * KV_BLOCK_TOKENS..][..seen];
                multiply(tier, columns, &self.p[..seen], n, sums);
            }
        }
    }

    /// Joins the part to those before it and starts the next.
    pub fn end_part(&mut self, tier: Tier) {
        let chunks = self.chunks();
        for tile in 0..self.tiles() {
            let (mut old, mut new) = ([1.0; TOKENS], [0.0; TOKENS]);
            join(tier, &mut self.total[tile], &self.part[tile], &mut old, &mut new);
            let at = tile * chunks;
            for c in at..at + chunks {
                blend(tier, &mut self.total_values[c], &self.part_values[c], &old, &new);
            }
            self.part[tile] = EMPTY;
            self.part_values[at..at + chunks].fill(NO_SUMS);
        }
    }

    /// Writes the part's rows, each its values, maximum and sum, one after the other.
    pub fn save(&self, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(self.dim_v + 2).enumerate() {
            let (values, rest) = out.split_at_mut(self.dim_v);
            gather(&self.part_values, self.chunks(), i, values);
            let softmax = &self.part[i / TOKENS];
            rest.copy_from_slice(&[softmax.max[i % TOKENS], softmax.sum[i % TOKENS]]);
        }
    }

    /// Takes up a part that was saved.
    pub fn restore(&mut self, from: &[f32]) {
        let chunks = self.chunks();
        for (i, from) in from.chunks_exact(self.dim_v + 2).enumerate() {
            let (values, rest) = from.split_at(self.dim_v);
            for (c, from) in values.chunks(16).enumerate() {
                let to = &mut self.part_values[i / TOKENS * chunks + c / 2][c % 2][i % TOKENS];
                to[..from.len()].copy_from_slice(from);
            }
            let softmax = &mut self.part[i / TOKENS];
            (softmax.max[i % TOKENS], softmax.sum[i % TOKENS]) = (rest[0], rest[1]);
        }
    }

    /// Writes the result of token `token` of the tile: all heads of the group.
    pub fn result(&self, token: usize, out: &mut [f32]) {
        for (member, out) in out.chunks_exact_mut(self.dim_v).enumerate() {
            let i = token * self.group + member;
            gather(&self.total_values, self.chunks(), i, out);
            let factor = 1.0 / self.total[i / TOKENS].sum[i % TOKENS];
            out.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// The values of row `i`.
fn gather(values: &[Sums], chunks: usize, i: usize, out: &mut [f32]) {
    for (c, out) in out.chunks_mut(16).enumerate() {
        out.copy_from_slice(&values[i / TOKENS * chunks + c / 2][c % 2][i % TOKENS][..out.len()]);
    }
}

/// Which keys of a block a row sees, and how scores are bounded.
#[derive(Clone, Copy)]
struct Mask {
    /// Position of the block's first key.
    first: u32,
    /// A key is hidden if it lies this far back or farther.
    window: u32,
    /// Bound of the scores; 0 = none.
    cap: f32,
}

tiered!(
    /// One block's scores become probabilities `p` (before division by their sum); `factors` is
    /// what the rows' values so far are to be multiplied with.
    fn step(
        scores: &mut Sums,
        positions: &[u32; TOKENS],
        n: usize,
        mask: Mask,
        softmax: &mut Softmax,
        factors: &mut [f32; TOKENS],
        p: &mut [[f32; TOKENS]; KV_BLOCK_TOKENS],
    ) = step_body
);

#[inline(always)]
fn step_body<const FUSED: bool>(
    scores: &mut Sums,
    positions: &[u32; TOKENS],
    n: usize,
    mask: Mask,
    softmax: &mut Softmax,
    factors: &mut [f32; TOKENS],
    p: &mut [[f32; TOKENS]; KV_BLOCK_TOKENS],
) {
    for i in 0..n {
        let mut s = [0.0_f32; KV_BLOCK_TOKENS];
        s[..16].copy_from_slice(&scores[0][i]);
        s[16..].copy_from_slice(&scores[1][i]);
        if mask.cap != 0.0 {
            for s in &mut s {
                *s = mask.cap * tanh::<FUSED>(*s / mask.cap);
            }
        }
        for (key, s) in s.iter_mut().enumerate() {
            // Wraps to far away for keys after the row.
            let back = positions[i].wrapping_sub(mask.first + key as u32);
            let hidden = back >= mask.window || back > i32::MAX as u32;
            *s = if hidden { f32::NEG_INFINITY } else { *s };
        }
        let mut lanes = s;
        let mut width = KV_BLOCK_TOKENS / 2;
        while width > 0 {
            for j in 0..width {
                // A NaN score is not lost here: it comes back below as a NaN probability.
                lanes[j] = if lanes[j + width] > lanes[j] { lanes[j + width] } else { lanes[j] };
            }
            width /= 2;
        }
        let old = softmax.max[i];
        let max = if lanes[0] > old { lanes[0] } else { old };
        if max == f32::NEG_INFINITY {
            // The row sees nothing of this block nor of those before.
            for p in p.iter_mut() {
                p[i] = 0.0;
            }
            continue;
        }
        for s in &mut s {
            *s = exp::<FUSED>(*s - max);
        }
        let mut sums = s;
        let mut width = KV_BLOCK_TOKENS / 2;
        while width > 0 {
            for j in 0..width {
                sums[j] += sums[j + width];
            }
            width /= 2;
        }
        let factor = exp::<FUSED>(old - max);
        softmax.max[i] = max;
        softmax.sum[i] = fma::<FUSED>(softmax.sum[i], factor, sums[0]);
        factors[i] = factor;
        for (p, s) in p.iter_mut().zip(s) {
            p[i] = s;
        }
    }
}

tiered!(
    /// Multiplies each row with its factor.
    fn scale(values: &mut Sums, factors: &[f32; TOKENS]) = scale_body
);

#[inline(always)]
fn scale_body<const FUSED: bool>(values: &mut Sums, factors: &[f32; TOKENS]) {
    for half in values {
        for (row, factor) in half.iter_mut().zip(factors) {
            for x in row {
                *x *= factor;
            }
        }
    }
}

tiered!(
    /// Joins `part` to `total`; `old` and `new` are what their values are to be multiplied with.
    fn join(total: &mut Softmax, part: &Softmax, old: &mut [f32; TOKENS], new: &mut [f32; TOKENS]) = join_body
);

#[inline(always)]
fn join_body<const FUSED: bool>(total: &mut Softmax, part: &Softmax, old: &mut [f32; TOKENS], new: &mut [f32; TOKENS]) {
    for i in 0..TOKENS {
        let (a, b) = (total.max[i], part.max[i]);
        let max = if b > a { b } else { a };
        if max == f32::NEG_INFINITY {
            continue;
        }
        old[i] = exp::<FUSED>(a - max);
        new[i] = exp::<FUSED>(b - max);
        total.max[i] = max;
        total.sum[i] = fma::<FUSED>(total.sum[i], old[i], part.sum[i] * new[i]);
    }
}

tiered!(
    /// `total = total * old + part * new`, row by row.
    fn blend(total: &mut Sums, part: &Sums, old: &[f32; TOKENS], new: &[f32; TOKENS]) = blend_body
);

#[inline(always)]
fn blend_body<const FUSED: bool>(total: &mut Sums, part: &Sums, old: &[f32; TOKENS], new: &[f32; TOKENS]) {
    for (total, part) in total.iter_mut().zip(part) {
        for i in 0..TOKENS {
            for (total, part) in total[i].iter_mut().zip(&part[i]) {
                *total = fma::<FUSED>(*total, old[i], part * new[i]);
            }
        }
    }
}
