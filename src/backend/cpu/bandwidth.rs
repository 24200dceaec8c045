//! How fast the workers read memory: measured, so that placement can compare it with a GPU's.

use std::hint::black_box;
use std::time::Instant;

use super::CpuPool;
use crate::base::limits::BANDWIDTH_BYTES;

/// Words that a worker takes at a time.
const TILE: usize = 1 << 16;
/// Readings of which the fastest counts.
const TRIES: usize = 3;

impl CpuPool {
    /// Bytes a second at which all workers together read memory.
    pub fn read_bandwidth(&self) -> f64 {
        // Written, as untouched pages would all be the same one.
        let words: Vec<u64> = (0..(BANDWIDTH_BYTES / 8) as u64).collect();
        let read = || {
            let since = Instant::now();
            self.acquire().for_each_tile(words.len().div_ceil(TILE), |tile, _| {
                let end = words.len().min((tile + 1) * TILE);
                black_box(words[tile * TILE..end].iter().fold(0u64, |sum, w| sum.wrapping_add(*w)));
            });
            since.elapsed()
        };
        let fastest = (0..TRIES).map(|_| read()).min().unwrap_or_default();
        BANDWIDTH_BYTES as f64 / fastest.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Tier;

    #[test]
    fn memory_is_read_at_a_speed_that_can_be() {
        let speed = CpuPool::new(1, Tier::detect()).read_bandwidth();
        assert!((1e8..1e13).contains(&speed), "{speed} bytes a second");
    }
}
