//! Cases of the kernels that rotate, and that write to the paged cache.

use std::f64::consts::TAU;

use super::case::{Case, Number, Piece, of_row};
use super::paged::Kept;
use crate::base::limits::KV_BLOCK_TOKENS;

/// Pairs of a head, and the rest that is not rotated.
const HEAD: usize = 80;
const ROTATED: usize = 64;
/// Factor of what is rotated.
pub const MAGNITUDE: f32 = 1.25;

/// Turns a position of each pair of `n_rot` elements, in f64 and as two f32.
pub fn turns(n_rot: usize) -> (Vec<f64>, Vec<f64>) {
    let turns: Vec<f64> = (0..n_rot / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / n_rot as f64) / TAU).collect();
    let halves = |t: &f64| {
        let high = f64::from(*t as f32);
        [high, t - high]
    };
    let table = turns.iter().flat_map(halves).collect();
    (turns, table)
}

/// Heads of `dim` elements of one token, rotated and times [`MAGNITUDE`].
pub fn rotated(heads: &[f64], dim: usize, position: u32, turns: &[f64], pairs: bool) -> Vec<f64> {
    let mut out = heads.to_vec();
    for head in out.chunks_exact_mut(dim) {
        for (i, turn) in turns.iter().enumerate() {
            let angle = (f64::from(position) * turn).fract() * TAU;
            let (a, b) = if pairs { (2 * i, 2 * i + 1) } else { (i, i + turns.len()) };
            let (u, v) = (head[a], head[b]);
            let (s, c) = angle.sin_cos();
            (head[a], head[b]) = (f64::from(MAGNITUDE) * (u * c - v * s), f64::from(MAGNITUDE) * (u * s + v * c));
        }
    }
    out
}

/// `rope`
pub fn rope(base: u64, kernel: &str) -> Vec<Case> {
    let with = |pairs: bool| {
        let (n_head, positions) = (3, [0u32, 7, 4095, 1_048_575]);
        let mut case = Case::new(base, kernel, if pairs { "neighbours" } else { "halves" });
        let (turns, table) = turns(ROTATED);
        let x = case.random.normal(positions.len() * n_head * HEAD, 1.0);
        let tokens = x.chunks_exact(n_head * HEAD).zip(&positions);
        let want: Vec<f64> = tokens.flat_map(|(heads, p)| rotated(heads, HEAD, *p, &turns, pairs)).collect();
        let within = of_row(&want, HEAD, 1e-5);
        let (x, table) = (case.numbers(Number::F32, &x), case.numbers(Number::F32, &table));
        let at = case.words(&positions);
        case.want("elements", x.clone(), Number::F32, want, within);
        case.launch([positions.len(), n_head, 1], 64).at(&x).at(&at).at(&table);
        case.sizes(&[HEAD, ROTATED, n_head, usize::from(pairs)]).float(MAGNITUDE);
        case
    };
    vec![with(false), with(true)]
}

/// Keys and values of five tokens on their way to four blocks, one of which two tokens share.
struct Tokens {
    ty: Kept,
    dim: usize,
    dim_v: usize,
    keys: Vec<f64>,
    values: Vec<f64>,
    blocks: Vec<Piece>,
    slots: Piece,
    off_k: usize,
    off_v: usize,
}

const HEADS_KV: usize = 2;
const POSITIONS: [u32; 5] = [5, 95, 94, 32, 0];
const SLOTS: [usize; 5] = [2, 0, 0, 3, 1];

/// `…store_<type>`
fn kept(kernel: &str) -> Option<Kept> {
    Kept::parse(kernel.split_once("store_")?.1)
}

impl Tokens {
    fn new(case: &mut Case, ty: Kept) -> Self {
        // In codes heads are of whole groups.
        let (dim, dim_v) = if ty == Kept::Coded { (96, 64) } else { (HEAD, 48) };
        let n = POSITIONS.len();
        let keys = case.random.normal(n * HEADS_KV * dim, 1.0);
        let values = case.random.normal(n * HEADS_KV * dim_v, 1.0);
        // The second of two layers.
        let off_k = HEADS_KV * (ty.head_bytes(dim) + ty.head_bytes(dim_v));
        let blocks: Vec<Piece> = (0..4).map(|_| case.room(2 * off_k)).collect();
        let slots = case.addresses(&SLOTS.map(|s| Some(blocks[s].clone())));
        Self { ty, dim, dim_v, keys, values, blocks, slots, off_k, off_v: off_k + HEADS_KV * ty.head_bytes(dim) }
    }

    /// Says where the tokens' elements go.
    fn want(&self, case: &mut Case, name: &'static str, elements: &[f64], offset: usize, part: f64) {
        let width = elements.len() / POSITIONS.len() / HEADS_KV;
        for (i, row) in elements.chunks_exact(width).enumerate() {
            let (token, head) = (i / HEADS_KV, i % HEADS_KV);
            let at = POSITIONS[token] as usize % KV_BLOCK_TOKENS;
            let start = (&self.blocks[SLOTS[token]], offset + head * self.ty.head_bytes(width));
            self.ty.want(case, name, start, at, row, part);
        }
    }
}

/// `store_<type>`
pub fn store(base: u64, kernel: &str) -> Option<Case> {
    let mut case = Case::new(base, kernel, "5 tokens in 4 blocks");
    let tokens = Tokens::new(&mut case, kept(kernel)?);
    tokens.want(&mut case, "keys", &tokens.keys, tokens.off_k, 0.0);
    tokens.want(&mut case, "values", &tokens.values, tokens.off_v, 0.0);
    let (k, v) = (case.numbers(Number::F32, &tokens.keys), case.numbers(Number::F32, &tokens.values));
    let positions = case.words(&POSITIONS);
    case.launch([POSITIONS.len(), 1, 1], 256).at(&k).at(&v).at(&tokens.slots).at(&positions);
    case.sizes(&[tokens.off_k, tokens.off_v, HEADS_KV, tokens.dim, tokens.dim_v]);
    Some(case)
}

/// `rope_store_<type>`
pub fn rope_store(base: u64, kernel: &str) -> Option<Vec<Case>> {
    let (ty, n_head) = (kept(kernel)?, 3);
    let with = |pairs: bool| {
        let mut case = Case::new(base, kernel, if pairs { "neighbours" } else { "halves" });
        let (turns, table) = turns(ROTATED);
        let tokens = Tokens::new(&mut case, ty);
        let dim = tokens.dim;
        let q = case.random.normal(POSITIONS.len() * n_head * dim, 1.0);
        let turned = |x: &[f64]| -> Vec<f64> {
            let rows = x.chunks_exact(x.len() / POSITIONS.len()).zip(POSITIONS);
            rows.flat_map(|(heads, p)| rotated(heads, dim, p, &turns, pairs)).collect()
        };
        tokens.want(&mut case, "keys", &turned(&tokens.keys), tokens.off_k, 1e-5);
        tokens.want(&mut case, "values", &tokens.values, tokens.off_v, 0.0);
        let want = turned(&q);
        let within = of_row(&want, dim, 1e-5);
        let q = case.numbers(Number::F32, &q);
        case.want("queries", q.clone(), Number::F32, want, within);
        let (k, v) = (case.numbers(Number::F32, &tokens.keys), case.numbers(Number::F32, &tokens.values));
        let (positions, table) = (case.words(&POSITIONS), case.numbers(Number::F32, &table));
        case.launch([POSITIONS.len(), n_head + 2 * HEADS_KV, 1], 64);
        case.at(&q).at(&k).at(&v).at(&positions).at(&table).at(&tokens.slots);
        case.sizes(&[tokens.off_k, tokens.off_v, n_head, HEADS_KV, dim, tokens.dim_v, ROTATED, usize::from(pairs)]);
        case.float(MAGNITUDE);
        case
    };
    Some(vec![with(false), with(true)])
}
