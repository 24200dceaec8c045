//! Environment variables that the runtime obeys, here and in the unit.

use super::{Case, Finding, Severity};
use crate::probe::kfd::gfx;
use crate::probe::{OVERRIDE, VISIBILITY};

/// Variables that hide, renumber or rename GPUs.
pub(super) fn variables(case: &Case) -> Vec<Finding> {
    let here = case.machine.environment.iter().map(|(name, value)| {
        let place = "this shell's environment";
        (name, value, place, format!("unset {name}"))
    });
    let unit = case.machine.unit.iter().flat_map(|u| &u.environment).map(|(name, value)| {
        let place = "the unit's environment";
        (name, value, place, format!("sudo systemctl edit --full rocmforged, and take {name} out of Environment="))
    });
    let found = here.chain(unit).filter_map(|(name, value, place, fix)| {
        if name == OVERRIDE {
            return Some(renamed(case, value, place, fix));
        }
        VISIBILITY.contains(&name.as_str()).then(|| hidden(name, value, place, fix))
    });
    found.collect()
}

fn hidden(name: &str, value: &str, place: &str, fix: String) -> Finding {
    if value.trim().is_empty() || value.trim() == "-1" {
        let what = format!("{name}={value} in {place} hides every GPU");
        return Finding::new("environment", Severity::Warning, what).fix(fix);
    }
    // The daemon numbers what the runtime leaves.
    let what =
        format!("{name}={value} in {place}: a daemon with it sees only these GPUs, and gpu0 is the first of them");
    Finding::new("environment", Severity::Note, what).fix(fix)
}

fn renamed(case: &Case, value: &str, place: &str, fix: String) -> Finding {
    let says = format!("{OVERRIDE}={value} in {place}");
    let finding = |severity, what: String| Finding::new("environment", severity, what).fix(fix);
    let Some(target) = target(value) else {
        return finding(Severity::Warning, format!("{says} is no version such as 11.0.0"));
    };
    let targets = case.build.targets;
    if !targets.contains(&target.as_str()) {
        return finding(
            Severity::Problem,
            format!("{says}: every GPU is taken for {target}, which has no kernels here"),
        );
    }
    let nodes = &case.machine.gpu.nodes;
    match nodes.iter().find(|n| n.gfx != target) {
        None => finding(Severity::Note, format!("{says} changes nothing: {target} is what is there")),
        Some(n) if targets.contains(&n.gfx.as_str()) => finding(
            Severity::Warning,
            format!(
                "{says}: {} is taken for {target}; this build has its own kernels, no override is needed",
                n.label()
            ),
        ),
        Some(n) => finding(
            Severity::Warning,
            format!("{says}: {} runs the kernels of {target}, which may fail on it", n.label()),
        ),
    }
}

/// The target that a value of `HSA_OVERRIDE_GFX_VERSION` names: `10.3.0` is gfx1030.
pub(super) fn target(value: &str) -> Option<String> {
    let parts: Vec<u64> = value.trim().split('.').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [major, minor, stepping] = parts[..] else { return None };
    (minor < 16 && stepping < 16).then(|| gfx(major * 10_000 + minor * 100 + stepping))
}
