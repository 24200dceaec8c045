//! Cases of attention over the paged cache.

use super::case::{Case, Number, Piece, Reading, Want, of_row};
use super::check::join;
use super::rows::codes;
use crate::backend::hip::program::TILE_QUERIES;
use crate::base::limits::KV_BLOCK_TOKENS;

/// What heads are, and what hides keys from them.
#[derive(Clone, Copy)]
struct Heads {
    ty: Number,
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
    spans: Piece,
    tables: Piece,
    off_k: usize,
    off_v: usize,
}

/// Puts `rows` of `[tokens][n_head_kv][dim]` where they lie in a layer of a block, `[n_head_kv][32][dim]`.
fn fill(block: &mut [f64], rows: &[f64], n_head_kv: usize, dim: usize) {
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        let (token, head) = (i / n_head_kv, i % n_head_kv);
        block[(head * KV_BLOCK_TOKENS + token) * dim..][..dim].copy_from_slice(row);
    }
}

fn cached(case: &mut Case, heads: &Heads, spans: &[(usize, usize)]) -> Cached {
    let Heads { ty, n_head_kv, dim, dim_v, window, .. } = *heads;
    let (keys, values) = (n_head_kv * KV_BLOCK_TOKENS * dim, n_head_kv * KV_BLOCK_TOKENS * dim_v);
    // The second of two layers; what nobody has written is zero, as the backend's caches are.
    let (off_k, off_v) = ((keys + values) * ty.bytes(), (keys + values + keys) * ty.bytes());
    let (mut table, mut words, mut sequences, mut start) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for &(pos, len) in spans {
        let n = pos + len;
        let k = ty.rounded(&case.random.normal(n * n_head_kv * dim, 1.0));
        let v = ty.rounded(&case.random.normal(n * n_head_kv * dim_v, 1.0));
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
            let mut block = vec![0.0; 2 * (keys + values)];
            let part = |x: &[f64], dim: usize| x[first * n_head_kv * dim..last * n_head_kv * dim].to_vec();
            fill(&mut block[keys + values..], &part(&k, dim), n_head_kv, dim);
            fill(&mut block[2 * keys + values..], &part(&v, dim_v), n_head_kv, dim_v);
            blocks.push(Some(case.numbers(ty, &block)));
        }
        table.extend(blocks);
        sequences.push((k, v));
    }
    let (spans, tables) = (case.words(&words), case.addresses(&table));
    Cached { sequences, spans, tables, off_k, off_v }
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

/// Queries of all tokens, and what attention makes of them.
fn attended(case: &mut Case, heads: &Heads, spans: &[(usize, usize)], cached: &Cached) -> (Vec<f64>, Vec<f64>) {
    let tokens: usize = spans.iter().map(|s| s.1).sum();
    let q = case.random.normal(tokens * heads.n_head * heads.dim, 2.0);
    let mut rows = q.chunks_exact(heads.dim);
    let mut out = Vec::new();
    for (&(pos, len), sequence) in spans.iter().zip(&cached.sequences) {
        for position in pos..pos + len {
            for (head, q) in (0..heads.n_head).zip(&mut rows) {
                out.extend(attend(heads, q, head, position, sequence));
            }
        }
    }
    (q, out)
}

fn sizes(case: &mut Case, heads: &Heads, cached: &Cached) {
    case.sizes(&[cached.off_k, cached.off_v, heads.n_head, heads.n_head_kv, heads.dim, heads.dim_v]);
    case.float(heads.scale()).sizes(&[heads.window]).float(heads.softcap);
}

/// `<type>_<capacity>`
fn typed(rest: &str) -> Option<(Number, usize)> {
    let (ty, capacity) = rest.split_once('_')?;
    let ty = match ty {
        "f16" => Number::F16,
        "f32" => Number::F32,
        _ => return None,
    };
    Some((ty, capacity.parse().ok()?))
}

/// Heads for a capacity: once of its size, once smaller and with a window and a softcap.
fn forms(ty: Number, capacity: usize) -> [(&'static str, Heads); 2] {
    let plain = Heads { ty, n_head: 4, n_head_kv: 2, dim: capacity, dim_v: capacity, window: 0, softcap: 0.0 };
    // Multiples of 16, as the matrix unit wants them; the queries of a key head are three.
    let (dim, dim_v) = (capacity - 16, capacity - 32);
    let hidden = Heads { n_head: 3, n_head_kv: 1, dim, dim_v, window: 20, softcap: 5.0, ..plain };
    [("all keys", plain), ("a window, scores capped", hidden)]
}

/// `attend_split_<type>_<capacity>`
pub fn split(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    let (ty, capacity) = typed(rest)?;
    let with = |(what, heads): (&'static str, Heads)| {
        let (spans, splits) = ([(0, 1), (32, 1), (75, 1)], 2);
        let mut case = Case::new(base, kernel, what);
        let cached = cached(&mut case, &heads, &spans);
        let (q, want) = attended(&mut case, &heads, &spans, &cached);
        let q = case.numbers(Number::F32, &q);
        let piece = case.room(4 * spans.len() * heads.n_head * splits * (capacity + 2));
        let within = of_row(&want, heads.dim_v, 2e-5);
        let reading = Reading::Parts { splits, capacity, width: heads.dim_v };
        case.wants.push(Want { name: "joined elements", piece: piece.clone(), reading, numbers: want, within });
        case.launch([spans.len(), heads.n_head_kv, splits], 128);
        case.at(&q).at(&piece).at(&cached.spans).at(&cached.tables);
        sizes(&mut case, &heads, &cached);
        case.sizes(&[splits]);
        case
    };
    Some(forms(ty, capacity).map(with).to_vec())
}

/// `attend_combine_<capacity>` and `attend_combine_q8_<capacity>`
pub fn combine(base: u64, kernel: &str, rest: &str) -> Option<Case> {
    let coded = rest.strip_prefix("q8_");
    let capacity: usize = coded.unwrap_or(rest).parse().ok()?;
    let (rows, n_head, splits, width) = (2, 3, 3, capacity - 32);
    let mut case = Case::new(base, kernel, "3 splits, one of them empty");
    let (mut parts, mut want) = (Vec::new(), Vec::new());
    for row in 0..rows * n_head {
        let mut own = Vec::new();
        for split in 0..splits {
            let empty = split == row % 2 + 1;
            let size = if empty { 0.0 } else { 1.0 };
            own.extend(case.random.normal(capacity, size));
            let score = Number::F32.rounded(&[case.random.unit()])[0];
            own.extend(if empty { [f64::NEG_INFINITY, 0.0] } else { [score, 1.5 + split as f64] });
        }
        want.extend(join(&own, capacity, width));
        parts.extend(own);
    }
    let within = of_row(&want, width, 2e-5);
    let parts = case.numbers(Number::F32, &parts);
    let out = case.result("elements", Number::F32, want.clone(), within);
    case.launch([rows, n_head, 1], 64).at(&parts).at(&out);
    if coded.is_some() {
        codes(&mut case, &want, 2e-5);
    }
    case.sizes(&[n_head, width, splits]);
    Some(case)
}

/// `attend_tile_<type>_<capacity>` and, with halves in f16, `attend_mma_<capacity>`
pub fn tile(base: u64, kernel: &str, ty: Number, capacity: usize, part: f64) -> Vec<Case> {
    let with = |(what, heads): (&'static str, Heads)| {
        // A sequence that begins, one tile and a row; one in the middle of a block.
        let spans = [(0, 17), (45, 3)];
        let mut case = Case::new(base, kernel, what);
        let cached = cached(&mut case, &heads, &spans);
        let (q, want) = attended(&mut case, &heads, &spans, &cached);
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

/// `attend_mma_<capacity>`: queries and weights are f16, too.
pub fn mma(base: u64, kernel: &str, rest: &str) -> Option<Vec<Case>> {
    Some(tile(base, kernel, Number::F16, rest.parse().ok()?, 5e-3))
}
