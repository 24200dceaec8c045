//! Memory: what an integrated GPU may take, what the processor sees, who else needs it.

use super::{Case, Finding, Severity, size};
use crate::probe::driver::PAGE;

/// Linux from which compute programs get the machine's memory on an integrated GPU, not only what
/// the firmware set aside ("drm/amdkfd: Let VRAM allocations go to GTT domain on small APUs").
const UNIFIED: (u32, u32) = (6, 10);
/// Linux from which TTM's limit is the size of the GTT ("drm/amdgpu: Set GTT size equal to TTM mem
/// limit"). Before, the size was half of the memory, or `amdgpu.gttsize`.
const LIMIT_IS_SIZE: (u32, u32) = (6, 5);
/// Linux from which `amdgpu.gttsize` is marked as going away (its page of module parameters).
const SIZE_DEPRECATED: (u32, u32) = (6, 15);
/// Least memory that is left to the system when the limit is raised, bytes.
const LEFT: u64 = 8 << 30;

/// How much of the machine's memory an integrated GPU may take, and how to raise it.
pub(super) fn gtt(case: &Case) -> Vec<Finding> {
    let (gpu, driver) = (&case.machine.gpu, &case.machine.driver);
    let node = gpu.nodes.iter().find(|n| n.integrated && gpu.set_aside(n, case.build.targets).is_none());
    let Some((node, card)) = node.and_then(|n| Some((n, n.card.as_ref()?))) else { return Vec::new() };
    let (own, gtt) = (card.vram_total.unwrap_or(0), card.gtt_total.unwrap_or(0));
    let mut found = Vec::new();
    let kernel = driver.kernel();
    if kernel < UNIFIED && own < gtt {
        let what = format!(
            "Linux {} gives compute programs only the {} that the firmware set aside for {}",
            driver.release,
            size(own),
            node.label()
        );
        let fix = format!("use Linux {}.{} or later, or set more aside in the firmware's setup", UNIFIED.0, UNIFIED.1);
        found.push(Finding::new("gtt", Severity::Warning, what).fix(fix));
    }
    if let Some(mib) = driver.argument("amdgpu.gttsize").filter(|_| kernel >= SIZE_DEPRECATED) {
        let argument = format!("amdgpu.gttsize={mib}");
        let what = format!("{argument} is deprecated since Linux 6.15, and overrides {}.pages_limit", driver.ttm);
        found.push(Finding::new("gtt", Severity::Warning, what).fix(driver.remove_argument(&argument)));
    }
    let total = case.machine.memory_total.unwrap_or(0);
    let target = total.saturating_sub(LEFT.max(total / 8)) >> 30 << 30;
    // The driver takes the larger of both for compute programs; a gain of a tenth is worth a start.
    let now = own.max(gtt);
    if target > now + now / 10 {
        let pages = target / PAGE;
        let limit = format!("{}.pages_limit={pages}", driver.ttm);
        let arguments = match kernel < LIMIT_IS_SIZE {
            true => format!("amdgpu.gttsize={} {limit}", target >> 20),
            false => limit,
        };
        let what = format!(
            "{} may take {} of the machine's {}; {} would leave the system enough",
            node.label(),
            size(gtt),
            size(total),
            size(target)
        );
        found.push(Finding::new("gtt", Severity::Note, what).fix(driver.add_arguments(&arguments)));
    }
    found
}

/// Memory of a card that the processor cannot address: resizable BAR is off.
pub(super) fn bar(case: &Case) -> Vec<Finding> {
    let discrete = case.machine.gpu.nodes.iter().filter(|n| !n.integrated);
    let small = discrete.filter_map(|n| {
        let card = n.card.as_ref()?;
        let (visible, total) = (card.vram_visible?, card.vram_total?);
        (visible < total).then(|| {
            let what = format!(
                "resizable BAR is off for {}: the processor sees {} of its {}; copies to it go through a window",
                n.label(),
                size(visible),
                size(total)
            );
            Finding::new("rebar", Severity::Warning, what).fix(
                "sudo systemctl reboot --firmware-setup, and turn on \"Above 4G Decoding\" and \"Re-Size BAR Support\"",
            )
        })
    });
    small.collect()
}

/// A desktop on a card that models run on.
pub(super) fn display(case: &Case) -> Vec<Finding> {
    let gpu = &case.machine.gpu;
    let working = gpu.nodes.iter().filter(|n| gpu.set_aside(n, case.build.targets).is_none() && case.has_kernels(n));
    let shown = working.filter_map(|n| {
        let connectors = &n.card.as_ref()?.displays;
        (!connectors.is_empty()).then(|| {
            let what =
                format!("a display hangs on {} ({}): the desktop takes memory there", n.label(), connectors.join(", "));
            let other = gpu.nodes.iter().any(|o| o.node != n.node && o.integrated);
            let fix = match other {
                true => "plug it into the mainboard's connector (the integrated GPU), or raise memory.gpu_reserve",
                false => "if models crowd it out: [memory] gpu_reserve = \"2GiB\" in /etc/rocmforge/rocmforged.toml",
            };
            Finding::new("display", Severity::Note, what).fix(fix)
        })
    });
    shown.collect()
}
