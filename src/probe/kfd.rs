//! AMD GPUs as the kernel's compute driver (KFD) lists them, and why they are used or not.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::sysfs::{entries, text};

/// PCI vendor id of AMD graphics.
const AMD: &str = "0x1002";

/// A GPU of the KFD topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuNode {
    /// Number of its topology node.
    pub node: u32,
    /// Name of the chip (`navi31`).
    pub name: String,
    /// Instruction set (`gfx1100`).
    pub gfx: String,
    /// Bytes of its memory.
    pub memory: u64,
}

/// AMD GPUs of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Whether `/dev/kfd` is there.
    pub kfd: bool,
    /// Whether this process may open it.
    pub allowed: bool,
    /// GPUs that the driver sees.
    pub nodes: Vec<GpuNode>,
    /// PCI addresses of AMD display controllers, with a driver or without.
    pub pci: Vec<String>,
}

impl Gpu {
    pub(super) fn probe(root: &Path) -> Self {
        let device = root.join("dev/kfd");
        let nodes = entries(&root.join("sys/class/kfd/kfd/topology/nodes"));
        let mut nodes: Vec<GpuNode> = nodes.iter().filter_map(|dir| node(dir)).collect();
        nodes.sort_by_key(|n| n.node);
        let pci = entries(&root.join("sys/bus/pci/devices"));
        let display = |dir: &Path| {
            // 0x03 is the class of display controllers, 0x12 that of accelerators (Instinct).
            text(&dir.join("vendor")).as_deref() == Some(AMD)
                && text(&dir.join("class")).is_some_and(|c| c.starts_with("0x03") || c.starts_with("0x12"))
        };
        let address = |dir: &Path| dir.file_name().map(|n| n.to_string_lossy().into_owned());
        Self {
            kfd: device.exists(),
            allowed: access(&device, AccessFlags::R_OK | AccessFlags::W_OK).is_ok(),
            nodes,
            pci: pci.iter().filter(|d| display(d)).filter_map(|d| address(d)).collect(),
        }
    }

    /// Whether the driver shows a GPU that this process may use.
    pub fn usable(&self) -> bool {
        self.kfd && self.allowed && !self.nodes.is_empty()
    }

    pub(super) fn reason(&self) -> String {
        if !self.kfd {
            return match &self.pci[..] {
                [] => "no /dev/kfd: no AMD GPU driver loaded".to_owned(),
                pci => format!(
                    "no /dev/kfd, though an AMD GPU is there (PCI {}): the amdgpu driver is not loaded",
                    pci.join(", ")
                ),
            };
        }
        if self.nodes.is_empty() {
            return "/dev/kfd is there, but the AMD driver sees no GPU".to_owned();
        }
        let gpus: Vec<&str> = self.nodes.iter().map(|n| n.gfx.as_str()).collect();
        if !self.allowed {
            return format!(
                "{} found, but /dev/kfd may not be opened: add this user to the groups render and video",
                gpus.join(", ")
            );
        }
        format!("{} found", gpus.join(", "))
    }
}

/// Reads a topology node; `None` for one that is a processor.
fn node(dir: &Path) -> Option<GpuNode> {
    let properties = text(&dir.join("properties"))?;
    if property(&properties, "simd_count")? == 0 {
        return None;
    }
    let memory = |bank: &Path| {
        let bank = text(&bank.join("properties"))?;
        // Heap types 1 and 2 are memory of the device, public or private.
        matches!(property(&bank, "heap_type")?, 1 | 2).then(|| property(&bank, "size_in_bytes")).flatten()
    };
    Some(GpuNode {
        node: dir.file_name()?.to_str()?.parse().ok()?,
        name: text(&dir.join("name")).unwrap_or_default(),
        gfx: gfx(property(&properties, "gfx_target_version")?),
        memory: entries(&dir.join("mem_banks")).iter().filter_map(|b| memory(b)).sum(),
    })
}

fn property(properties: &str, name: &str) -> Option<u64> {
    properties.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `gfx_target_version` is major * 10000 + minor * 100 + stepping; the name has the last two as
/// one hexadecimal digit each: 90010 is gfx90a.
fn gfx(version: u64) -> String {
    format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100)
}
