//! Driver, device file, runtime: what must be installed and loaded.

use super::{Case, Finding, Severity};
use crate::probe::driver::Block;
use crate::probe::library::{MAJOR_MIN, NAMED};

/// Kernel and driver.
pub(super) fn driver(case: &Case) -> Vec<Finding> {
    let driver = &case.machine.driver;
    let version = match (&driver.version, driver.loaded) {
        (Some(version), _) => format!("amdgpu {version}"),
        (None, true) => "its own amdgpu".to_owned(),
        (None, false) => "without amdgpu".to_owned(),
    };
    vec![Finding::new("driver", Severity::Ok, format!("Linux {}, {version}", driver.release))]
}

/// Whether this build has kernels at all.
pub(super) fn build(case: &Case) -> Vec<Finding> {
    case.build.absent.iter().map(|why| no_kernels(why)).collect()
}

/// What a build without kernels means.
pub(super) fn no_kernels(why: &str) -> Finding {
    Finding::new("kernels", Severity::Problem, format!("no GPU kernels in this binary ({why})"))
        .fix("install a release build, or build with clang 19 or later and lld")
}

/// `/dev/kfd`: there, or why not.
pub(super) fn kfd(case: &Case) -> Vec<Finding> {
    let (gpu, driver) = (&case.machine.gpu, &case.machine.driver);
    let problem = |what: String| Finding::new("kfd", Severity::Problem, what);
    if gpu.kfd.is_some() {
        if gpu.nodes.is_empty() && gpu.hidden == 0 {
            let found = problem("/dev/kfd is there, but the AMD driver sees no GPU".to_owned());
            return vec![found.fix("sudo dmesg | grep -E 'kfd|amdgpu'")];
        }
        return Vec::new();
    }
    if driver.container && !(gpu.cards.is_empty() && gpu.nodes.is_empty()) {
        let group = gpu.renders.first().map_or("$(stat -c %g /dev/kfd)".to_owned(), |r| r.gid.to_string());
        return vec![problem("no /dev/kfd in this container".to_owned()).fix(format!(
            "start it with `docker run --device /dev/kfd --device /dev/dri --group-add {group} …` (podman: the same)"
        ))];
    }
    let addresses: Vec<&str> = gpu.cards.iter().map(|c| c.address.as_str()).collect();
    if addresses.is_empty() {
        return vec![Finding::new("kfd", Severity::Note, "no /dev/kfd: no AMD GPU driver loaded, no AMD GPU found")];
    }
    let there = format!("no /dev/kfd, though an AMD GPU is there (PCI {})", addresses.join(", "));
    let found = match (&driver.block, driver.loaded) {
        (_, true) => problem(format!("{there}: amdgpu is loaded, its compute driver (KFD) did not start"))
            .fix("sudo dmesg | grep -E 'kfd|amdgpu'"),
        (Some(Block::File(path)), _) => problem(format!("{there}: the amdgpu driver is blacklisted in {path}")).fix(
            // The initramfs has a copy of the file.
            format!(
                "sudo sed -i '/amdgpu/s/^/#/' {path} && (sudo update-initramfs -u || sudo dracut -f) && sudo reboot"
            ),
        ),
        (Some(Block::Argument(argument)), _) => {
            problem(format!("{there}: the kernel's argument {argument} keeps the amdgpu driver away"))
                .fix(driver.remove_argument(argument))
        }
        // vfio-pci: the card was given away on purpose.
        (None, false) => match gpu.cards.iter().find_map(|c| c.driver.as_deref()) {
            Some(other) => problem(format!("{there}: it is bound to {other}")).fix(format!(
                "give it back to amdgpu: take the binding to {other} out of /etc/modprobe.d and the kernel's \
                 arguments, then reboot"
            )),
            None => problem(format!("{there}: the amdgpu driver is not loaded"))
                .fix("sudo modprobe amdgpu, and if that fails sudo dmesg | grep amdgpu"),
        },
    };
    vec![found]
}

/// The HIP runtime's library.
pub(super) fn library(case: &Case) -> Vec<Finding> {
    let runtime = &case.machine.runtime;
    // Without a GPU there is nothing to run it on.
    if case.machine.gpu.cards.is_empty() && case.machine.gpu.nodes.is_empty() {
        return Vec::new();
    }
    let problem = |what: String, fix: String| vec![Finding::new("library", Severity::Problem, what).fix(fix)];
    let Some(first) = runtime.libraries.first() else {
        return match &runtime.named {
            Some(path) => problem(format!("{path}, named by {NAMED}, is not there"), format!("unset {NAMED}")),
            None => problem("libamdhip64 not found".to_owned(), runtime.install.clone()),
        };
    };
    let good = |major: Option<u32>| major.is_none_or(|m| m >= MAJOR_MIN);
    match runtime.libraries.iter().find(|l| good(l.major())) {
        // A library that is too old is passed over for one that comes later.
        Some(library) => {
            let file =
                if library.path.ends_with(&library.file) { String::new() } else { format!(" ({})", library.file) };
            vec![Finding::new("library", Severity::Ok, format!("HIP runtime {}{file}", library.path))]
        }
        None => problem(
            format!("{} is of HIP {}; {MAJOR_MIN} or later is needed", first.path, first.major().unwrap_or(0)),
            runtime.install.clone(),
        ),
    }
}

/// Which ROCm is installed.
pub(super) fn rocm(case: &Case) -> Vec<Finding> {
    let said = case.machine.runtime.rocm.iter();
    // /opt/rocm is a link to one of the others.
    let mut versions: Vec<(String, String)> = said.cloned().collect();
    versions.sort_by_key(|(dir, _)| std::cmp::Reverse(dir.len()));
    let mut seen = Vec::new();
    versions.retain(|(_, version)| {
        let new = !seen.contains(version);
        seen.push(version.clone());
        new
    });
    let list: Vec<String> = versions.iter().map(|(dir, version)| format!("{version} in {dir}")).collect();
    match list.len() {
        0 => Vec::new(),
        1 => vec![Finding::new("rocm", Severity::Ok, format!("ROCm {}", list[0]))],
        _ => vec![Finding::new("rocm", Severity::Note, format!("several ROCm: {}", list.join(", ")))],
    }
}
