//! AMD GPUs as the kernel's compute driver (KFD) lists them, joined with the PCI bus.

use std::path::Path;

use serde::Serialize;

use super::access::DeviceFile;
use super::pci::Card;
use super::sysfs::{entries, inside, text};

/// Targets that exist only beside a processor, sharing its memory: "APU" in the table of
/// processors of LLVM's AMDGPUUsage. gfx942 is not here: an MI300A is no less than an MI300X.
const INTEGRATED: &[&str] = &[
    "gfx700", "gfx801", "gfx902", "gfx909", "gfx90c", "gfx1013", "gfx1033", "gfx1035", "gfx1036", "gfx1037", "gfx1103",
    "gfx1150", "gfx1151", "gfx1152", "gfx1153",
];
/// A card of a target that is newer than the table counts as integrated below this.
const DISCRETE_MEMORY_MIN: u64 = 2 << 30;
/// Compute units up to which an integrated GPU is there to show a desktop: the processor beside it
/// computes faster.
const DISPLAY_UNITS: u32 = 2;

/// A GPU of the KFD topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GpuNode {
    /// Number of its topology node.
    pub node: u32,
    /// Name of the chip (`navi31`).
    pub name: String,
    /// Instruction set (`gfx1100`).
    pub gfx: String,
    /// Bytes of its memory, as compute programs see it.
    pub memory: u64,
    /// Compute units; 0 if not told.
    pub units: u32,
    /// Whether it shares the processor's memory.
    pub integrated: bool,
    /// The PCI device, if it was found.
    pub card: Option<Card>,
}

impl GpuNode {
    /// Its PCI address.
    pub fn pci(&self) -> Option<&str> {
        self.card.as_ref().map(|c| c.address.as_str())
    }

    /// `gfx1100 (navi31) at 0000:03:00.0`
    pub fn label(&self) -> String {
        let name = if self.name.is_empty() { String::new() } else { format!(" ({})", self.name) };
        let at = self.pci().map_or_else(|| format!(", KFD node {}", self.node), |pci| format!(" at {pci}"));
        format!("{}{name}{at}", self.gfx)
    }
}

/// AMD GPUs of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// `/dev/kfd`, if it is there.
    pub kfd: Option<DeviceFile>,
    /// Render nodes of the AMD GPUs that have one.
    pub renders: Vec<DeviceFile>,
    /// GPUs that the compute driver shows, in its order.
    pub nodes: Vec<GpuNode>,
    /// Topology nodes that the kernel does not let this process read: GPUs whose render node the
    /// cgroup's device policy forbids.
    pub hidden: usize,
    /// AMD GPUs on the PCI bus, with a driver or without.
    pub cards: Vec<Card>,
}

impl Gpu {
    pub(super) fn probe(root: &Path) -> Self {
        let cards = Card::all(root);
        let dirs = entries(&inside(root, "/sys/class/kfd/kfd/topology/nodes"));
        let mut nodes: Vec<GpuNode> = dirs.iter().filter_map(|dir| node(dir, &cards)).collect();
        nodes.sort_by_key(|n| n.node);
        Self {
            kfd: DeviceFile::probe(root, "/dev/kfd"),
            renders: cards
                .iter()
                .filter_map(|c| c.render_path().and_then(|path| DeviceFile::probe(root, &path)))
                .collect(),
            nodes,
            hidden: dirs.iter().filter(|dir| text(&dir.join("properties")).is_none()).count(),
            cards,
        }
    }

    /// Why a GPU is left alone unless `device.allow_igpu` says otherwise, if it is; `targets` are
    /// those that there are kernels for.
    pub fn set_aside(&self, node: &GpuNode, targets: &[&str]) -> Option<String> {
        let usable = |n: &&GpuNode| !n.integrated && targets.contains(&n.gfx.as_str());
        if !node.integrated {
            return None;
        }
        if let Some(discrete) = self.nodes.iter().find(usable) {
            return Some(format!("integrated, beside {}", discrete.label()));
        }
        let small = (1..=DISPLAY_UNITS).contains(&node.units);
        small.then(|| format!("integrated, with {} compute units: the processor is faster", node.units))
    }
}

/// Reads a topology node; `None` for one that is a processor.
fn node(dir: &Path, cards: &[Card]) -> Option<GpuNode> {
    let properties = text(&dir.join("properties"))?;
    let get = |name: &str| property(&properties, name);
    let simds = get("simd_count")?;
    if simds == 0 {
        return None;
    }
    let memory = |bank: &Path| {
        let bank = text(&bank.join("properties"))?;
        // Heap types 1 and 2 are memory of the device, public or private.
        matches!(property(&bank, "heap_type")?, 1 | 2).then(|| property(&bank, "size_in_bytes")).flatten()
    };
    // A partition of a card has the card's address with other low bits, but its own render node.
    let render = get("drm_render_minor").filter(|minor| *minor != 0);
    let address = get("location_id").map(|id| address(get("domain").unwrap_or(0), id));
    let by_render = cards.iter().find(|c| render.is_some() && c.render.map(u64::from) == render);
    let card = by_render.or_else(|| cards.iter().find(|c| Some(&c.address) == address.as_ref())).cloned();
    let gfx = gfx(get("gfx_target_version")?);
    Some(GpuNode {
        node: dir.file_name()?.to_str()?.parse().ok()?,
        name: text(&dir.join("name")).unwrap_or_default(),
        memory: entries(&dir.join("mem_banks")).iter().filter_map(|b| memory(b)).sum(),
        units: u32::try_from(simds / get("simd_per_cu").filter(|n| *n > 0).unwrap_or(2)).unwrap_or(0),
        integrated: integrated(&gfx, get("cpu_cores_count").unwrap_or(0), card.as_ref()),
        gfx,
        card,
    })
}

/// Whether a GPU shares the processor's memory. Sysfs does not say so; what decides is the table of
/// targets, then a node that is processor and GPU in one (old APUs), then, for targets that the
/// table does not know yet, hardly any memory of its own and more of the machine's.
fn integrated(gfx: &str, cpu_cores: u64, card: Option<&Card>) -> bool {
    let small = |c: &Card| {
        let own = c.vram_total.unwrap_or(u64::MAX);
        own < DISCRETE_MEMORY_MIN && c.gtt_total.is_some_and(|gtt| gtt > own)
    };
    INTEGRATED.contains(&gfx) || cpu_cores > 0 || card.is_some_and(small)
}

fn property(properties: &str, name: &str) -> Option<u64> {
    properties.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `location_id` is bus, device and function, as PCI packs them into 16 bits.
fn address(domain: u64, location: u64) -> String {
    format!("{domain:04x}:{:02x}:{:02x}.{}", location >> 8 & 0xff, location >> 3 & 0x1f, location & 7)
}

/// `gfx_target_version` is major * 10000 + minor * 100 + stepping; the name has the last two as
/// one hexadecimal digit each: 90010 is gfx90a.
pub(super) fn gfx(version: u64) -> String {
    format!("gfx{}{:x}{:x}", version / 10_000, version / 100 % 100, version % 100)
}
