//! Environment variables, read once: README.md lists them.

use std::sync::OnceLock;

/// In which order the waves of a block run between barriers, and the blocks of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// First to last.
    Forward,
    /// Last to first.
    Reverse,
    /// Slices of random length of random waves; the same seed gives the same run within a block.
    Random(u64),
}

/// Settings of a launch.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that execute blocks.
    pub threads: usize,
    /// Order of waves and blocks.
    pub order: Order,
    /// Report uses of registers that no wait covers.
    pub waits: bool,
    /// Report LDS races.
    pub races: bool,
    /// Instructions a wave may execute before the launch counts as hung.
    pub limit: u64,
    /// Collect cache lines and byte counts.
    pub stats: bool,
}

impl Default for Options {
    fn default() -> Options {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options { threads, order: Order::Forward, waits: true, races: true, limit: 1 << 34, stats: false }
    }
}

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = var(name)?;
    match text.parse() {
        Ok(n) => Some(n),
        Err(_) => {
            eprintln!("rdna3: {name}={text} is no number; ignored");
            None
        }
    }
}

/// File that statistics go to.
pub fn stats_file() -> Option<&'static str> {
    static FILE: OnceLock<Option<String>> = OnceLock::new();
    FILE.get_or_init(|| var("RDNA3_STATS")).as_deref()
}

/// Whether a fault ends the process, as ROCm's default handler does.
pub fn abort_on_fault() -> bool {
    var("RDNA3_ABORT").is_some_and(|v| v != "0")
}

/// The settings that the environment asks for.
pub fn options() -> &'static Options {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let mut o = Options { stats: stats_file().is_some(), ..Options::default() };
        if let Some(n) = number("RDNA3_THREADS") {
            o.threads = (n as usize).max(1);
        }
        if let Some(n) = number("RDNA3_LIMIT") {
            o.limit = n;
        }
        o.waits = number("RDNA3_WAITS") != Some(0);
        o.races = number("RDNA3_RACES") != Some(0);
        o.order = match var("RDNA3_ORDER").as_deref() {
            None | Some("forward") => Order::Forward,
            Some("reverse") => Order::Reverse,
            Some(text) => match text.strip_prefix("random:").and_then(|s| s.parse().ok()) {
                Some(seed) => Order::Random(seed),
                None => {
                    eprintln!("rdna3: RDNA3_ORDER={text} is not forward, reverse or random:SEED; forward it is");
                    Order::Forward
                }
            },
        };
        o
    })
}
