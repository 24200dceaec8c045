//! The GPUs themselves: which there are, kernels for them, how they are attached.

use super::{Case, Finding, Severity, setup, size};

/// GPUs that the kernel does not let this process see.
pub(super) fn hidden(case: &Case) -> Vec<Finding> {
    let hidden = case.machine.gpu.hidden;
    if hidden == 0 {
        return Vec::new();
    }
    let what = format!("{hidden} GPUs are hidden from this process: its cgroup may not open their render nodes");
    vec![Finding::new("hidden", Severity::Problem, what).fix(
        "sudo systemctl edit rocmforged, and add [Service] DeviceAllow=char-drm rw; in a container --device /dev/dri",
    )]
}

/// Cards that amdgpu has and its compute driver has not.
pub(super) fn without_compute(case: &Case) -> Vec<Finding> {
    let gpu = &case.machine.gpu;
    if gpu.kfd.is_none() || gpu.nodes.is_empty() || gpu.hidden > 0 {
        return Vec::new();
    }
    let known = |address: &str| gpu.nodes.iter().any(|n| n.pci() == Some(address));
    let others = gpu.cards.iter().filter(|c| !known(&c.address));
    let found = others.map(|card| match card.driver.as_deref() {
        Some("amdgpu") => {
            let what = format!("the GPU at {} has no compute driver: too old, or without PCIe atomics", card.address);
            Finding::new("gpu", Severity::Warning, what).fix("sudo dmesg | grep kfd")
        }
        Some(other) => {
            Finding::new("gpu", Severity::Note, format!("the GPU at {} is bound to {other}: not used", card.address))
        }
        None => Finding::new("gpu", Severity::Warning, format!("the GPU at {} has no driver", card.address))
            .fix("sudo modprobe amdgpu, and if that fails sudo dmesg | grep amdgpu"),
    });
    found.collect()
}

/// Each GPU, and whether this build has kernels for it.
pub(super) fn kernels(case: &Case) -> Vec<Finding> {
    let gpu = &case.machine.gpu;
    if let Some(why) = case.build.absent.filter(|_| !gpu.nodes.is_empty()) {
        return vec![setup::no_kernels(why)];
    }
    let any = gpu.nodes.iter().any(|n| case.has_kernels(n) && gpu.set_aside(n, case.build.targets).is_none());
    let mut found = Vec::new();
    for node in &gpu.nodes {
        let label = node.label();
        if !case.has_kernels(node) {
            let target = case.effective(node);
            let what = format!("{target} has no kernels in this build: {label} is not used");
            // Where another GPU does the work, this one is no problem.
            let severity = if any { Severity::Note } else { Severity::Problem };
            let list = case.build.targets.join(" ");
            found.push(Finding::new("gpu", severity, what).fix(format!("use a build for it (this one has {list})")));
        } else if let Some(why) = gpu.set_aside(node, case.build.targets) {
            let what = format!("{label} is left alone: {why}");
            let fix = "if it shall be used: [device] allow_igpu = true in /etc/rocmforge/rocmforged.toml";
            found.push(Finding::new("gpu", Severity::Note, what).fix(fix));
        } else {
            found.push(Finding::new("gpu", Severity::Ok, format!("{label}: {}", held(node))));
        }
    }
    found
}

/// Its memory, in words.
fn held(node: &crate::probe::GpuNode) -> String {
    let card = node.card.as_ref();
    let own = card.and_then(|c| c.vram_total).unwrap_or(node.memory);
    let used = card.and_then(|c| c.vram_used).map(|n| format!(", {} used", size(n))).unwrap_or_default();
    match card.and_then(|c| c.gtt_total).filter(|_| node.integrated) {
        Some(gtt) => format!("integrated, {} set aside and up to {} of the machine's memory", size(own), size(gtt)),
        None => format!("{}{used}", size(own)),
    }
}

/// Lanes that a card has and does not use.
pub(super) fn lanes(case: &Case) -> Vec<Finding> {
    let discrete = case.machine.gpu.nodes.iter().filter(|n| !n.integrated);
    let narrow = discrete.filter_map(|n| {
        let (now, most) = n.card.as_ref()?.lanes?;
        // 8 of 16 costs little; an idle card may also give lanes back.
        (now > 0 && now < most && now <= 4).then(|| {
            let what = format!("{} is attached by {now} of its {most} PCIe lanes: models load slowly", n.label());
            Finding::new("pcie", Severity::Warning, what).fix("move it to a slot with more lanes, without a riser")
        })
    });
    narrow.collect()
}
