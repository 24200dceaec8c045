//! AMD GPUs on the PCI bus, with a driver or without, and what the amdgpu driver tells of them.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::sysfs::{entries, inside, text};

/// PCI vendor id of AMD graphics.
const AMD: &str = "0x1002";

/// A GPU on the PCI bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Card {
    /// `0000:03:00.0`
    pub address: String,
    /// Kernel driver that it is bound to: `amdgpu`, `vfio-pci`, …
    pub driver: Option<String>,
    /// Number of its render node: 128 is `/dev/dri/renderD128`.
    pub render: Option<u32>,
    /// Bytes of its own memory; of an integrated one, what the firmware set aside.
    pub vram_total: Option<u64>,
    /// Bytes of it in use.
    pub vram_used: Option<u64>,
    /// Bytes of it that the processor can address.
    pub vram_visible: Option<u64>,
    /// Bytes of the machine's memory that may be mapped for it.
    pub gtt_total: Option<u64>,
    /// Connectors with a display: `DP-1`.
    pub displays: Vec<String>,
    /// PCIe lanes: in use, and of the card.
    pub lanes: Option<(u32, u32)>,
}

impl Card {
    /// All of the machine, in the order of their addresses.
    pub(super) fn all(root: &Path) -> Vec<Self> {
        let devices = entries(&inside(root, "/sys/bus/pci/devices"));
        devices.iter().filter(|dir| display(dir)).filter_map(|dir| Self::read(dir)).collect()
    }

    fn read(dir: &Path) -> Option<Self> {
        let number = |file: &str| text(&dir.join(file))?.parse::<u64>().ok();
        let lanes = |file: &str| number(file).and_then(|n| u32::try_from(n).ok());
        let mut card = Self {
            address: dir.file_name()?.to_str()?.to_owned(),
            driver: fs::read_link(dir.join("driver")).ok().and_then(|d| Some(d.file_name()?.to_str()?.to_owned())),
            vram_total: number("mem_info_vram_total"),
            vram_used: number("mem_info_vram_used"),
            vram_visible: number("mem_info_vis_vram_total"),
            gtt_total: number("mem_info_gtt_total"),
            lanes: lanes("current_link_width").zip(lanes("max_link_width")),
            ..Self::default()
        };
        for node in entries(&dir.join("drm")) {
            let name = node.file_name()?.to_str()?.to_owned();
            if let Some(minor) = name.strip_prefix("renderD") {
                card.render = minor.parse().ok();
            }
            for connector in entries(&node) {
                // `card1-DP-1`, beside files such as `dev`.
                let connector_name = connector.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let Some(connector_name) = connector_name.strip_prefix(&format!("{name}-")) else { continue };
                if text(&connector.join("status")).as_deref() == Some("connected") {
                    card.displays.push(connector_name.to_owned());
                }
            }
        }
        Some(card)
    }

    /// Its render node's path.
    pub fn render_path(&self) -> Option<String> {
        self.render.map(|minor| format!("/dev/dri/renderD{minor}"))
    }
}

/// Whether a PCI function is an AMD GPU.
fn display(dir: &Path) -> bool {
    // 0x03 is the class of display controllers, 0x12 that of accelerators (Instinct).
    text(&dir.join("vendor")).as_deref() == Some(AMD)
        && text(&dir.join("class")).is_some_and(|c| c.starts_with("0x03") || c.starts_with("0x12"))
}
