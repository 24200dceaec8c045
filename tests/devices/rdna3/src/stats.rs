//! Counters of a launch.

use std::collections::HashSet;

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
    /// Lines of 64 bytes touched.
    lines: HashSet<u64>,
    /// The line touched last: most accesses are neighbours.
    last: u64,
}

impl Stats {
    /// Notes the lines of an access.
    #[inline]
    pub fn touch(&mut self, at: u64, n: u64) {
        for line in at / 64..=(at + n - 1) / 64 {
            if line != self.last {
                self.last = line;
                self.lines.insert(line);
            }
        }
    }

    /// Unique lines of 64 and of 128 bytes.
    pub fn lines(&self) -> (usize, usize) {
        let wide: HashSet<u64> = self.lines.iter().map(|l| l / 2).collect();
        (self.lines.len(), wide.len())
    }

    /// Adds another thread's counters.
    pub fn add(&mut self, other: &Stats) {
        self.instructions += other.instructions;
        self.waves += other.waves;
        self.loaded += other.loaded;
        self.stored += other.stored;
        self.lds += other.lds;
        self.conflicts += other.conflicts;
        self.lines.extend(&other.lines);
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
    }
}
