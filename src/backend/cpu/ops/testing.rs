//! What the tests of the ops share: teams of all kinds, random data, distances.

use crate::backend::cpu::workers::{CpuPool, Team};
use crate::simd::Tier;

/// Runs `body` with each tier of this CPU and 1, 2 and 3 workers.
pub fn each_team(mut body: impl FnMut(&mut Team<'_>)) {
    for tier in Tier::available() {
        for threads in 1..=3 {
            let pool = CpuPool::new(threads, tier);
            body(&mut pool.acquire());
        }
    }
}

/// `n` numbers between `-scale` and `scale`, the same for the same seed (xorshift, Marsaglia 2003).
pub fn random(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

/// Random bytes.
pub fn random_bytes(seed: u64, n: usize) -> Vec<u8> {
    random(seed, n, 1.0).into_iter().map(|x| ((x + 1.0) * 128.0) as u8).collect()
}

/// Largest distance, relative to the larger of 1 and the wanted value.
pub fn worst(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(&g, &w)| (f64::from(g) - w).abs() / w.abs().max(1.0))
        .fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
}
