//! Processor and memory, from `/proc` and `/sys/devices/system/cpu`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its name, as the kernel has it.
    pub model: String,
    /// Physical cores.
    pub cores: usize,
    /// Hardware threads.
    pub threads: usize,
}

impl Cpu {
    /// Looks under `root`. Where sysfs has no topology (containers), each thread counts as a core.
    pub(super) fn probe(root: &Path) -> Self {
        let info = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, v)| v.trim()));
        let mut cores = BTreeSet::new();
        let mut threads = 0;
        for cpu in entries(&root.join("sys/devices/system/cpu")) {
            let topology = cpu.join("topology");
            // A thread that is offline has no topology.
            let id = |file: &str| text(&topology.join(file))?.parse::<i64>().ok();
            if let Some(core) = id("core_id") {
                threads += 1;
                cores.insert((id("physical_package_id").unwrap_or(0), core));
            }
        }
        if threads == 0 {
            let online = std::thread::available_parallelism().map_or(1, |n| n.get());
            let model = model.unwrap_or("unknown processor").to_owned();
            return Self { model, cores: online, threads: online };
        }
        Self { model: model.unwrap_or("unknown processor").to_owned(), cores: cores.len(), threads }
    }
}

/// A line of `/proc/meminfo` in bytes.
pub(super) fn meminfo(root: &Path, key: &str) -> Option<u64> {
    let info = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A small file's text without blanks around it.
pub(super) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
}

/// What lies in a folder, sorted by name; nothing if it cannot be read.
pub(super) fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// A path of the machine below `root`.
pub(super) fn inside(root: &Path, path: &str) -> std::path::PathBuf {
    root.join(path.trim_start_matches('/'))
}
