//! Who may open the devices, and whether the unit lets the service do so.

use std::collections::BTreeMap;

use super::{Case, Finding, Severity};
use crate::probe::access::{DeviceFile, User};

/// Device files of the GPUs.
fn devices<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a DeviceFile> {
    case.machine.gpu.kfd.iter().chain(&case.machine.gpu.renders)
}

/// Whether the user may open the device files.
pub(super) fn files(case: &Case) -> Vec<Finding> {
    let gpu = &case.machine.gpu;
    let opens = |f: &&DeviceFile| if case.own { f.opens } else { f.permits(case.user) };
    let mut refused: BTreeMap<u32, Vec<&DeviceFile>> = BTreeMap::new();
    devices(case).filter(|f| !opens(f)).for_each(|f| refused.entry(f.gid).or_default().push(f));
    let mut found: Vec<Finding> = refused.values().map(|files| refusal(case, files)).collect();
    let missing =
        gpu.cards.iter().filter_map(|c| c.render_path()).filter(|p| !gpu.renders.iter().any(|r| r.path == *p));
    let missing: Vec<String> = missing.collect();
    if gpu.kfd.is_some() && !missing.is_empty() {
        let what = format!("{} is not there", missing.join(", "));
        let fix = match case.machine.driver.container {
            true => "start the container with --device /dev/dri",
            false => "sudo udevadm trigger --subsystem-match=drm",
        };
        // One render node may be kept from a container on purpose.
        let severity = if gpu.renders.is_empty() { Severity::Problem } else { Severity::Note };
        found.push(Finding::new("permission", severity, what).fix(fix));
    }
    if found.is_empty() && gpu.kfd.is_some() {
        let what = format!("{} may open /dev/kfd and the render nodes", case.user.name);
        found.push(Finding::new("permission", Severity::Ok, what));
    }
    found
}

/// Why the user may not open `files`, which are of one group.
fn refusal(case: &Case, files: &[&DeviceFile]) -> Finding {
    let (user, first) = (case.user, files[0]);
    let list: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
    let list = list.join(", ");
    let group = case.machine.accounts.group(first.gid);
    let owned = format!("group {}, mode {:04o}", group.unwrap_or(&first.gid.to_string()), first.mode);
    let problem = |what: String, fix: String| Finding::new("permission", Severity::Problem, what).fix(fix);
    if first.permits(user) {
        let what = format!("permission: {} may open {list} by its mode ({owned}), but the kernel refuses", user.name);
        return problem(
            what,
            "allow it in the cgroup (systemd: DeviceAllow=char-kfd rw and char-drm rw; a container: --device /dev/kfd \
             --device /dev/dri), and look for a denial of SELinux or AppArmor in sudo dmesg"
                .to_owned(),
        );
    }
    if user.listed.contains(&first.gid) && first.group_permits() {
        let what = format!(
            "permission: {} was added to the group {} after this session began, and may not open {list} yet",
            user.name,
            group.unwrap_or_default()
        );
        return problem(what, case.restart().to_owned());
    }
    match group {
        // Nobody should be in the group of root: the device's rule is missing.
        Some(name) if first.group_permits() && first.gid != 0 => problem(
            format!("permission: {} may not open {list} ({owned})", user.name),
            format!("add it to the group: sudo usermod -aG {name} {}, then {}", user.name, case.restart()),
        ),
        None if first.group_permits() && first.gid != 0 => problem(
            format!("permission: {} may not open {list} ({owned}, which has no name here)", user.name),
            match case.machine.driver.container {
                true => format!("start the container with --group-add {}", first.gid),
                false => format!("sudo groupadd -g {} render && sudo usermod -aG render {}", first.gid, user.name),
            },
        ),
        _ => problem(
            format!("permission: only root may open {list} ({owned})"),
            format!(
                "printf 'SUBSYSTEM==\"kfd\", GROUP=\"render\", MODE=\"0660\"\\nKERNEL==\"renderD*\", GROUP=\"render\", \
                 MODE=\"0660\"\\n' | sudo tee /etc/udev/rules.d/70-rocmforge.rules && sudo udevadm control --reload && \
                 sudo udevadm trigger && sudo usermod -aG render {}",
                user.name
            ),
        ),
    }
}

/// Whoever runs this, where the service's user was looked at: a daemon of one's own needs it.
pub(super) fn this_user(case: &Case) -> Vec<Finding> {
    let this: &User = &case.machine.accounts.this;
    let refused: Vec<&DeviceFile> = devices(case).filter(|f| !f.opens).collect();
    if case.own || refused.is_empty() {
        return Vec::new();
    }
    let own = Case { user: this, own: true, ..*case };
    let finding = refusal(&own, &refused);
    vec![Finding { severity: Severity::Note, what: format!("{} (for a daemon of your own)", finding.what), ..finding }]
}

/// What the unit says about devices.
pub(super) fn unit(case: &Case) -> Vec<Finding> {
    let Some(unit) = &case.machine.unit else { return Vec::new() };
    let files = [std::slice::from_ref(&unit.path), &unit.dropins].concat().join(", ");
    let edit = "sudo systemctl edit rocmforged, and add [Service]";
    let problem = |what: String, fix: String| Finding::new("unit", Severity::Problem, what).fix(fix);
    let restart = "then sudo systemctl restart rocmforged";
    if unit.private_devices {
        let what = format!("PrivateDevices=yes hides /dev/kfd from the service ({files})");
        return vec![problem(what, format!("{edit} PrivateDevices=no, {restart}"))];
    }
    let mut missing = Vec::new();
    if !unit.admits("/dev/kfd", "kfd") {
        missing.push("DeviceAllow=char-kfd rw");
    }
    let cards = case.machine.gpu.cards.iter().filter_map(|c| c.render_path());
    let paths: Vec<String> = cards.collect();
    let path = |p: &String| unit.admits(p, "drm");
    if !(unit.admits("", "drm") || !paths.is_empty() && paths.iter().all(path)) {
        missing.push("DeviceAllow=char-drm rw");
    }
    if missing.is_empty() {
        return Vec::new();
    }
    let policy = if unit.policy.is_empty() { "auto" } else { &unit.policy };
    let what = format!(
        "the unit keeps GPUs from the service: DevicePolicy={policy} without {} ({files})",
        missing.join(" and ")
    );
    vec![problem(what, format!("{edit} {}, {restart}", missing.join(" and ")))]
}
