//! Counters of a launch.

use std::collections::HashMap;

/// Pages of which lines are noted before they get into the table: most accesses are near earlier ones.
const RECENT: usize = 16;

/// What a launch did.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Wave instructions; a dual instruction counts once.
    pub instructions: u64,
    /// Waves.
    pub waves: u64,
    /// Bytes that lanes loaded from device memory.
    pub loaded: u64,
    /// Bytes that lanes stored to device memory, atomics included.
    pub stored: u64,
    /// Bytes that lanes moved to and from local memory.
    pub lds: u64,
    /// Extra passes of local memory accesses, see [`crate::lds::conflicts`].
    pub conflicts: u64,
    /// Lines of 64 bytes touched, a bit each, by page of 4 KiB.
    pages: HashMap<u64, u64>,
    /// The same of pages touched lately, page `p` at `p % RECENT`.
    recent: [(u64, u64); RECENT],
}

impl Stats {
    /// Notes the lines of an access.
    #[inline]
    pub fn touch(&mut self, at: u64, n: u64) {
        for line in at / 64..=(at + n - 1) / 64 {
            let (page, bit) = (line / 64, 1 << (line % 64));
            let noted = &mut self.recent[page as usize % RECENT];
            if noted.0 != page {
                if noted.1 != 0 {
                    *self.pages.entry(noted.0).or_default() |= noted.1;
                }
                *noted = (page, 0);
            }
            noted.1 |= bit;
        }
    }

    /// Unique lines of 64 and of 128 bytes.
    pub fn lines(&self) -> (usize, usize) {
        let mut pages = self.pages.clone();
        for (page, bits) in self.recent {
            *pages.entry(page).or_default() |= bits;
        }
        let sum = |f: fn(u64) -> u64| pages.values().map(|b| f(*b).count_ones() as usize).sum();
        (sum(|b| b), sum(|b| (b | b >> 1) & 0x5555_5555_5555_5555))
    }

    /// Adds another thread's counters.
    pub fn add(&mut self, other: &Stats) {
        self.instructions += other.instructions;
        self.waves += other.waves;
        self.loaded += other.loaded;
        self.stored += other.stored;
        self.lds += other.lds;
        self.conflicts += other.conflicts;
        for (page, bits) in other.pages.iter().map(|(p, b)| (*p, *b)).chain(other.recent) {
            *self.pages.entry(page).or_default() |= bits;
        }
    }

    /// Columns of [`row`](Stats::row).
    pub const HEADER: &str = "kernel\tgrid\tblock\twaves\twave_instructions\tbytes_loaded\tbytes_stored\tlines_64\tlines_128\tlds_bytes\tlds_conflicts\tseconds";

    /// One line of the table.
    pub fn row(&self, kernel: &str, grid: [u32; 3], block: [u32; 3], seconds: f64) -> String {
        let d = |v: [u32; 3]| format!("{},{},{}", v[0], v[1], v[2]);
        let (l64, l128) = self.lines();
        format!(
            "{kernel}\t{}\t{}\t{}\t{}\t{}\t{}\t{l64}\t{l128}\t{}\t{}\t{seconds:.6}",
            d(grid),
            d(block),
            self.waves,
            self.instructions,
            self.loaded,
            self.stored,
            self.lds,
            self.conflicts
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_once() {
        let mut s = Stats::default();
        s.touch(60, 8);
        s.touch(0, 4);
        s.touch(256, 4);
        assert_eq!(s.lines(), (3, 2));
        // Pages that share a place among the recent ones, again and again, and another thread's.
        let mut other = Stats::default();
        for at in [0, 4096 * RECENT as u64, 64, 4096 * RECENT as u64, 4096 * 2 * RECENT as u64] {
            other.touch(at, 4);
        }
        assert_eq!(other.lines(), (4, 3));
        s.add(&other);
        assert_eq!(s.lines(), (5, 4));
    }
}
