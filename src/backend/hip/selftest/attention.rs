//! Cases of attention over the paged cache.

use super::cache::{MAGNITUDE, rotated, turns};
use super::case::{Case, Number, Piece, of_row};
use super::paged::Kept;
use super::rows::codes;
use crate::backend::hip::program::TILE_QUERIES;
use crate::base::limits::KV_BLOCK_TOKENS;

/// What heads are, and what hides keys from them.
#[derive(Clone, Copy)]
struct Heads {
    ty: Kept,
    n_head: usize,
    n_head_kv: usize,
    dim: usize,
    dim_v: usize,
    window: usize,
    softcap: f32,
}

impl Heads {
    fn scale(&self) -> f32 {
        (self.dim as f32).powf(-0.5)
    }
}

/// Sequences (position of the first token, tokens) in a cache, and what finds them there.
struct Cached {
    /// Keys and values of each sequence, `[tokens][n_head_kv][dim]`.
    sequences: Vec<(Vec<f64>, Vec<f64>)>,
    /// The block of each sequence's last token.
    last: Vec<Piece>,
    spans: Piece,
    tables: Piece,
    off_k: usize,
    off_v: usize,
}

/// A token's key and value that are not in the cache yet, `[n_head_kv][dim]`.
type Own = (Vec<f64>, Vec<f64>);

/// The bytes of a layer's heads in a block, of tokens `[tokens][n_head_kv][dim]`.
fn heads_of(ty: Kept, rows: &[f64], n_head_kv: usize, dim: usize) -> Vec<u8> {
    let head = |head: usize| {
        let rows = rows.chunks_exact(dim).skip(head).step_by(n_head_kv);
        ty.head(&rows.flatten().copied().collect::<Vec<f64>>(), dim)
    };
    (0..n_head_kv).flat_map(head).collect()
}

/// `own`: the last token of each sequence, if the kernel is to put it there.
fn cached(case: &mut Case, heads: &Heads, spans: &[(usize, usize)], own: Option<&[Own]>) -> Cached {
    let Heads { ty, n_head_kv, dim, dim_v, window, .. } = *heads;
    // The second of two layers; what nobody has written is zero, as the backend's caches are.
    let off_k = n_head_kv * (ty.head_bytes(dim) + ty.head_bytes(dim_v));
    let off_v = off_k + n_head_kv * ty.head_bytes(dim);
    let (mut table, mut words, mut sequences, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut lasts = Vec::new();
    for (i, &(pos, len)) in spans.iter().enumerate() {
        let n = pos + len;
        let mut k = ty.rounded(&case.random.normal(n * n_head_kv * dim, 1.0));
        let mut v = ty.rounded(&case.random.normal(n * n_head_kv * dim_v, 1.0));
        // Not there yet: zeros, as in memory that nobody has written.
        let old = own.map(|_| n - 1);
        if let Some(at) = old {
            k[at * n_head_kv * dim..].fill(0.0);
            v[at * n_head_kv * dim_v..].fill(0.0);
        }
        words.extend([start, len as u32, pos as u32, table.len() as u32]);
        start += len as u32;
        let mut blocks = Vec::new();
        for first in (0..n).step_by(KV_BLOCK_TOKENS) {
            let last = (first + KV_BLOCK_TOKENS).min(n);
            // Given back: the first token's window begins behind it.
            if window > 0 && first + KV_BLOCK_TOKENS <= (pos + 1).saturating_sub(window) {
                blocks.push(None);
                continue;
            }
            let mut block = vec![0; off_k];
            for (x, dim) in [(&k, dim), (&v, dim_v)] {
                block.extend(heads_of(ty, &x[first * n_head_kv * dim..last * n_head_kv * dim], n_head_kv, dim));
            }
            blocks.push(Some(case.bytes(&block)));
        }
        lasts.extend(blocks.last().cloned().flatten());
        table.extend(blocks);
        if let (Some(at), Some(own)) = (old, own.map(|own| &own[i])) {
            k.splice(at * n_head_kv * dim.., ty.rounded(&own.0));
            v.splice(at * n_head_kv * dim_v.., ty.rounded(&own.1));
        }
        sequences.push((k, v));
    }
    let (spans, tables) = (case.words(&words), case.addresses(&table));
    Cached { sequences, last: lasts, spans, tables, off_k, off_v }
}

/// The plain softmax over the keys that are seen: the result of one query head.
fn attend(heads: &Heads, q: &[f64], head: usize, position: usize, (k, v): &(Vec<f64>, Vec<f64>)) -> Vec<f64> {
    let Heads { n_head, n_head_kv, dim, dim_v, window, softcap, .. } = *heads;
    let own = head / (n_head / n_head_kv);
    let first = if window == 0 { 0 } else { (position + 1).saturating_sub(window) };
    let row = |x: &[f64], key: usize, dim: usize| x[(key * n_head_kv + own) * dim..][..dim].to_vec();
    let score = |key: usize| {
        let s = f64::from(heads.scale()) * q.iter().zip(row(k, key, dim)).map(|(q, k)| q * k).sum::<f64>();
        let cap = f64::from(softcap);
        if cap == 0.0 { s } else { cap * (s / cap).tanh() }
    };
    let scores: Vec<f64> = (first..=position).map(score).collect();
    let top = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let (mut out, mut total) = (vec![0.0; dim_v], 0.0);
    for (key, s) in (first..=position).zip(scores) {
        let weight = (s - top).exp();
        total += weight;
        out.iter_mut().zip(row(v, key, dim_v)).for_each(|(o, v)| *o += weight * v);
    }
    out.into_iter().map(|x| x / total).collect()
}

/// Queries of all tokens.
fn queries(case: &mut Case, heads: &Heads, spans: &[(usize, usize)]) -> Vec<f64> {
    let tokens: usize = spans.iter().map(|s| s.1).sum();
    case.random.normal(tokens * heads.n_head * heads.dim, 2.0)
}

/// What attention makes of queries.
fn attended(heads: &Heads, spans: &[(usize, usize)], cached: &Cached, q: &[f64]) -> Vec<f64> {
    let mut rows = q.chunks_exact(heads.dim);
    let mut out = Vec::new();
    for (&(pos, len), sequence) in spans.iter().zip(&cached.sequences) {
        for position in pos..pos + len {
            for (head, q) in (0..heads.n_head).zip(&mut rows) {
                out.extend(attend(heads, q, head, position, sequence));
            }
        }
    }
    out
}

fn sizes(case: &mut Case, heads: &Heads, cached: &Cached) {
    case.sizes(&[cached.off_k, cached.off_v, heads.n_head, heads.n_head_kv, heads.dim, heads.dim_v]);
    case.float(heads.scale()).sizes(&[heads.window]).float(heads.softcap);
}

/// `<type>_<capacity>`
fn typed(rest: &str) -> Option<(Kept, usize)> {
    let (ty, capacity) = rest.rsplit_once('_')?;
    Some((Kept::parse(ty)?, capacity.parse().ok()?))
}

/// Heads for a capacity: once of its size, once smaller and with a window and a softcap.
fn forms(ty: Kept, capacity: usize) -> [(&'static str, Heads); 2] {
    let plain = Heads { ty, n_head: 4, n_head_kv: 2, dim: capacity, dim_v: capacity, window: 0, softcap: 0.0 };
    // Multiples of 16, as the matrix unit wants them, or of a group; the queries of a key head are three.
    let (dim, dim_v) = if ty == Kept::Coded { (capacity - 32, capacity - 32) } else { (capacity - 16, capacity - 32) };
    let hidden = Heads { n_head: 3, n_head_kv: 1, dim, dim_v, window: 20, softcap: 5.0, ..plain };
    [("all keys", plain), ("a window, scores capped", hidden)]
}

/// `attend_split_<type>_<capacity>`: with keys and values of all tokens in the cache, and with those of each
/// sequence's last one to be rotated and put there.
pub fn split(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let (ty, capacity) = typed(rest)?;
    let [plain, hidden] = forms(ty, capacity);
    let mut cases = [plain, hidden].map(|form| stored(base, kernel, form)).to_vec();
    // In codes all keys are in the cache before.
    if ty != Kept::Coded {
        cases.extend([plain, hidden].map(|(_, heads)| fresh(base, kernel, heads)));
    }
    Some(cases)
}

/// Sequences of decode, and into how many parts their keys are split.
const DECODES: [(usize, usize); 3] = [(0, 1), (32, 1), (75, 1)];
const SPLITS: usize = 2;

/// The last arguments, and the launch.
fn finish(case: &mut Case, heads: &Heads, cached: &Cached, freqs: Option<&Piece>, n_rot: usize, pairs: bool) {
    case.at(&cached.spans).at(&cached.tables);
    match freqs {
        Some(freqs) => case.at(freqs),
        None => case.absent(),
    };
    case.sizes(&[cached.off_k, cached.off_v, heads.n_head, heads.n_head_kv, heads.dim, heads.dim_v]);
    case.sizes(&[n_rot, usize::from(pairs)]).float(MAGNITUDE).sizes(&[usize::from(freqs.is_none()), 1]);
    case.float(heads.scale()).sizes(&[heads.window]).float(heads.softcap).sizes(&[SPLITS]);
    case.launch([DECODES.len(), heads.n_head_kv, SPLITS], 128);
}

/// What blocks leave for the last of them.
fn between(case: &mut Case, heads: &Heads, capacity: usize) {
    let parts = case.scratch(4 * DECODES.len() * heads.n_head * SPLITS * (capacity + 2));
    let ended = case.words(&[0; DECODES.len() * 8][..DECODES.len() * heads.n_head_kv]);
    case.at(&parts).at(&ended);
}

fn stored(base: u64, kernel: &str, (what, heads): (&'static str, Heads)) -> Case {
    let mut case = Case::new(base, kernel, what);
    let cached = cached(&mut case, &heads, &DECODES, None);
    let q = queries(&mut case, &heads, &DECODES);
    let want = attended(&heads, &DECODES, &cached, &q);
    let q = case.numbers(Number::F32, &q);
    case.at(&q).absent().absent();
    between(&mut case, &heads, capacity_of(kernel));
    let within = of_row(&want, heads.dim_v, 2e-5);
    let out = case.result("elements", Number::F32, want, within);
    case.at(&out).absent().absent();
    finish(&mut case, &heads, &cached, None, 0, false);
    case
}

fn fresh(base: u64, kernel: &str, heads: Heads) -> Case {
    let Heads { ty, n_head, n_head_kv, dim, dim_v, .. } = heads;
    let pairs = heads.window == 0;
    let n_rot = if pairs { dim } else { dim / 2 };
    let mut case = Case::new(base, kernel, if pairs { "a new key, neighbours" } else { "a new key, halves" });
    let (turns, table) = turns(n_rot);
    let turned = |x: &[f64], n: usize| -> Vec<f64> {
        let tokens = x.chunks_exact(n * dim).zip(DECODES);
        tokens.flat_map(|(heads, (pos, _))| rotated(heads, dim, pos as u32, &turns, pairs)).collect()
    };
    let q = queries(&mut case, &heads, &DECODES);
    let k = case.random.normal(DECODES.len() * n_head_kv * dim, 1.0);
    let v = case.random.normal(DECODES.len() * n_head_kv * dim_v, 1.0);
    let keys = turned(&k, n_head_kv);
    let own: Vec<Own> = keys
        .chunks_exact(n_head_kv * dim)
        .zip(v.chunks_exact(n_head_kv * dim_v))
        .map(|(k, v)| (k.to_vec(), v.to_vec()))
        .collect();
    let cached = cached(&mut case, &heads, &DECODES, Some(&own));
    // A key that lies between two numbers is rounded to either, which the result shows.
    let part = if ty.is_coarse() { 5e-3 } else { 2e-5 };
    let want = attended(&heads, &DECODES, &cached, &turned(&q, n_head));
    for ((block, own), (pos, _)) in cached.last.iter().zip(&own).zip(DECODES) {
        for (name, rows, dim, offset) in [("keys", &own.0, dim, cached.off_k), ("values", &own.1, dim_v, cached.off_v)]
        {
            for (head, row) in rows.chunks_exact(dim).enumerate() {
                let start = (block, offset + head * ty.head_bytes(dim));
                ty.want(&mut case, name, start, pos % KV_BLOCK_TOKENS, row, 1e-5);
            }
        }
    }
    let pieces = [&q, &k, &v].map(|x| case.numbers(Number::F32, x));
    pieces.iter().for_each(|piece| {
        case.at(piece);
    });
    between(&mut case, &heads, capacity_of(kernel));
    let within = of_row(&want, dim_v, part);
    let out = case.result("elements", Number::F32, want.clone(), within);
    case.at(&out);
    codes(&mut case, &want, part);
    let freqs = case.numbers(Number::F32, &table);
    finish(&mut case, &heads, &cached, Some(&freqs), n_rot, pairs);
    case
}

/// The capacity in a kernel's name.
fn capacity_of(kernel: &str) -> usize {
    kernel.rsplit('_').next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// `attend_tile_<type>_<capacity>` and, with halves in f16, `attend_mma_<capacity>`
fn tile(base: u64, kernel: &str, ty: Kept, capacity: usize, part: f64) -> Vec<Case> {
    let with = |(what, heads): (&'static str, Heads)| {
        // A sequence that begins, one tile and a row; one in the middle of a block.
        let spans = [(0, 17), (45, 3)];
        let mut case = Case::new(base, kernel, what);
        let cached = cached(&mut case, &heads, &spans, None);
        let q = queries(&mut case, &heads, &spans);
        let want = attended(&heads, &spans, &cached, &q);
        let firsts = |(i, (_, len)): (usize, &(usize, usize))| -> Vec<[u32; 2]> {
            (0..*len as u32).step_by(TILE_QUERIES as usize).map(|first| [i as u32, first]).collect()
        };
        let tiles: Vec<[u32; 2]> = spans.iter().enumerate().flat_map(firsts).collect();
        let q = case.numbers(Number::F32, &q);
        let within = of_row(&want, heads.dim_v, part);
        let out = case.result("elements", Number::F32, want, within);
        case.launch([tiles.len(), heads.n_head, 1], 128);
        let tiles = case.words(tiles.as_flattened());
        case.at(&q).at(&out).at(&cached.spans).at(&tiles).at(&cached.tables);
        sizes(&mut case, &heads, &cached);
        case
    };
    forms(ty, capacity).map(with).to_vec()
}

/// `attend_tile_<type>_<capacity>`
pub fn tile_named(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let (ty, capacity) = typed(rest)?;
    Some(tile(base, kernel, ty, capacity, 2e-5))
}

/// `attend_mma_<capacity>` and `attend_mma_q8_0_<capacity>`: queries and weights are f16, too.
pub fn mma(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let (ty, capacity) = typed(rest).or_else(|| Some((Kept::Plain(Number::F16), rest.parse().ok()?)))?;
    Some(tile(base, kernel, ty, capacity, 5e-3))
}
