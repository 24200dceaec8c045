//! What this process really uses: the kernel's own account.

use std::fs;

/// Before anybody has looked.
pub(super) const UNKNOWN: u64 = 0;

/// Private memory of the process: `Private_Dirty` + `Swap` of `/proc/self/smaps_rollup`, in bytes.
/// Mapped weights are clean pages of the page cache and do not count. Walks all mappings: some
/// milliseconds for a large one, so not for an I/O thread.
pub fn private() -> u64 {
    fs::read_to_string("/proc/self/smaps_rollup").map_or(UNKNOWN, |text| sum(&text))
}

fn sum(rollup: &str) -> u64 {
    let kib = |line: &str| line.split_ascii_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let wanted = |line: &&str| line.starts_with("Private_Dirty:") || line.starts_with("Swap:");
    rollup.lines().filter(wanted).map(kib).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_numbers() {
        let text = "7f0 ---p 00 [rollup]\nRss:  900 kB\nPrivate_Clean: 5 kB\nPrivate_Dirty:  120 kB\nSwap:  8 kB\nSwapPss: 8 kB\n";
        assert_eq!(sum(text), 128 * 1024);
    }

    #[test]
    fn a_large_buffer_is_seen_and_seen_to_go() {
        const BYTES: usize = 64 << 20;
        let before = private();
        let buffer = vec![1u8; BYTES];
        let with = private();
        assert!(with >= before + BYTES as u64 * 9 / 10, "{before} -> {with}");
        drop(std::hint::black_box(buffer));
        assert!(private() <= with - BYTES as u64 * 9 / 10);
    }
}
