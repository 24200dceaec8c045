//! What this machine has: processor, memory, AMD GPUs and why they are used or not.
//!
//! Reads files under a root folder (`/`, or a fixture tree in tests) and asks the kernel nothing
//! else: it opens no device and loads no library, so that daemon, doctor and tests share it.

mod kfd;
mod sysfs;

use std::path::Path;

pub use kfd::{Gpu, GpuNode};
pub use sysfs::Cpu;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor.
    pub cpu: Cpu,
    /// Memory that a new program may take without swapping, bytes (`MemAvailable`).
    pub memory_available: Option<u64>,
    /// Memory in all, bytes.
    pub memory_total: Option<u64>,
    /// AMD GPUs.
    pub gpu: Gpu,
}

impl Machine {
    /// Looks at the machine under `root`.
    pub fn probe(root: &Path) -> Self {
        Self {
            cpu: Cpu::probe(root),
            memory_available: sysfs::meminfo(root, "MemAvailable"),
            memory_total: sysfs::meminfo(root, "MemTotal"),
            gpu: Gpu::probe(root),
        }
    }

    /// One line for the log and for `forgectl devices`: which GPUs there are, or why none can be
    /// used.
    pub fn reason(&self) -> String {
        self.gpu.reason()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Writes (path, content) under a fresh root.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        dir
    }

    #[test]
    fn cores_are_counted_once_however_many_threads_they_have() {
        let r = root(&[
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 9B14\n\nprocessor\t: 1\nmodel name\t: other\n"),
            ("proc/meminfo", "MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:    9000 kB\n"),
            ("sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
            ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0\n"),
            ("sys/devices/system/cpu/cpu1/topology/core_id", "0\n"),
            ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "0\n"),
            ("sys/devices/system/cpu/cpu2/topology/core_id", "0\n"),
            ("sys/devices/system/cpu/cpu2/topology/physical_package_id", "1\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
        ]);
        let m = Machine::probe(r.path());
        assert_eq!(m.cpu, Cpu { model: "AMD EPYC 9B14".into(), cores: 2, threads: 3 });
        assert_eq!((m.memory_total, m.memory_available), (Some(16_384_000), Some(9_216_000)));
        assert_eq!(m.reason(), "no /dev/kfd: no AMD GPU driver loaded");
    }

    #[test]
    fn an_empty_root_still_gives_a_processor() {
        let r = root(&[]);
        let m = Machine::probe(r.path());
        assert!(m.cpu.cores >= 1 && m.cpu.threads >= m.cpu.cores);
        assert_eq!(m.cpu.model, "unknown processor");
        assert_eq!(m.memory_total, None);
    }

    #[test]
    fn a_gpu_without_its_driver_is_named() {
        let r = root(&[
            ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x1002\n"),
            ("sys/bus/pci/devices/0000:03:00.0/class", "0x030000\n"),
            ("sys/bus/pci/devices/0000:03:00.1/vendor", "0x1002\n"),
            ("sys/bus/pci/devices/0000:03:00.1/class", "0x040300\n"),
        ]);
        let reason = Machine::probe(r.path()).reason();
        assert!(reason.contains("no /dev/kfd") && reason.contains("0000:03:00.0"), "{reason}");
        assert!(!reason.contains("03:00.1"), "an audio function is no GPU: {reason}");
    }

    #[test]
    fn kfd_nodes_are_read_and_the_processor_among_them_is_no_gpu() {
        const NODES: &str = "sys/class/kfd/kfd/topology/nodes";
        let at = |tail: &str| format!("{NODES}/{tail}");
        let r = root(&[
            ("dev/kfd", ""),
            (&at("0/properties"), "cpu_cores_count 16\nsimd_count 0\ngfx_target_version 0\n"),
            (&at("1/name"), "navi31\n"),
            (&at("1/properties"), "cpu_cores_count 0\nsimd_count 192\ngfx_target_version 110000\n"),
            (&at("1/mem_banks/0/properties"), "heap_type 1\nsize_in_bytes 25753026560\n"),
            (&at("2/properties"), "simd_count 304\ngfx_target_version 90010\n"),
        ]);
        let m = Machine::probe(r.path());
        assert!(m.gpu.kfd);
        assert_eq!(
            m.gpu.nodes,
            [
                GpuNode { node: 1, name: "navi31".into(), gfx: "gfx1100".into(), memory: 25_753_026_560 },
                GpuNode { node: 2, name: String::new(), gfx: "gfx90a".into(), memory: 0 },
            ]
        );
        let reason = m.reason();
        assert!(reason.contains("gfx1100") && reason.contains("gfx90a"), "{reason}");
    }

    #[test]
    fn a_driver_without_gpus_says_so() {
        let r = root(&[("dev/kfd", "")]);
        assert!(Machine::probe(r.path()).reason().contains("sees no GPU"));
    }
}
