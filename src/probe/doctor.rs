//! What stands between this machine's GPUs and their use: findings, each with its fix.
//!
//! One list of rules serves `forgectl doctor` and the daemon's own reason for not using a GPU. A
//! rule looks at a [`Case`] and opens nothing.

mod devices;
mod environment;
mod memory;
mod permission;
mod setup;
#[cfg(test)]
mod tests;

use serde::Serialize;

use super::access::User;
use super::{GpuNode, Machine, OVERRIDE};

/// What a build has for GPUs. This module cannot see the backend: whoever asks passes it on, and
/// for `forgectl` that is the binary's `main`, so that it answers for itself with the daemon down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Chips that it has kernels for.
    pub targets: &'static [&'static str],
    /// Why it has none, if so.
    pub absent: Option<&'static str>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It costs memory or speed.
    Warning,
    /// A GPU cannot be used.
    Problem,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule that found it.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a line.
    pub what: String,
    /// What to do about it: a command where there is one.
    pub fix: Option<String>,
}

impl Finding {
    /// A finding that needs nothing done.
    pub fn new(check: &'static str, severity: Severity, what: impl Into<String>) -> Self {
        Self { check, severity, what: what.into(), fix: None }
    }

    /// The same with a fix.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// What and fix as one line.
    pub fn line(&self) -> String {
        match &self.fix {
            None => self.what.clone(),
            Some(fix) => format!("{}: {fix}", self.what),
        }
    }
}

/// Who is to use the GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The service, or whoever runs this where none is installed.
    Service,
    /// This process.
    Process,
}

/// What a rule looks at.
struct Case<'a> {
    machine: &'a Machine,
    build: Build,
    /// The user that is to use the GPUs.
    user: &'a User,
    /// Whether that is this process, whose access the kernel itself tells.
    own: bool,
}

impl Case<'_> {
    /// The target that the runtime will say a GPU has.
    fn effective(&self, node: &GpuNode) -> String {
        self.machine.variable(OVERRIDE).and_then(environment::target).unwrap_or_else(|| node.gfx.clone())
    }

    /// Whether this build has kernels for a GPU.
    fn has_kernels(&self, node: &GpuNode) -> bool {
        self.build.targets.contains(&self.effective(node).as_str())
    }

    /// What to do so that the user's new groups are in force.
    fn restart(&self) -> &'static str {
        match self.service() {
            true => "sudo systemctl restart rocmforged",
            false => "log out and in again",
        }
    }

    /// Whether the user is the service's.
    fn service(&self) -> bool {
        self.machine.accounts.service.as_ref().is_some_and(|s| s.uid == self.user.uid)
    }
}

/// A rule: what it finds, in the order to say it.
type Rule = fn(&Case) -> Vec<Finding>;

/// All rules, those that explain others first.
const RULES: &[Rule] = &[
    setup::driver,
    setup::kfd,
    devices::hidden,
    devices::without_compute,
    devices::kernels,
    permission::files,
    permission::this_user,
    permission::unit,
    setup::library,
    setup::rocm,
    memory::gtt,
    memory::bar,
    memory::display,
    devices::lanes,
    environment::variables,
];

/// Rules whose problems keep the daemon from using any GPU. The library is not among them: only
/// the dynamic linker knows for sure, so that the worker says it.
const OBSTACLES: &[Rule] = &[setup::build, setup::kfd, devices::hidden, permission::files, devices::kernels];

/// All findings.
pub fn examine(machine: &Machine, build: Build) -> Vec<Finding> {
    let case = case(machine, build, Subject::Service);
    RULES.iter().flat_map(|rule| rule(&case)).collect()
}

/// Why this process can use no GPU, in a line with the fix; `None` if nothing is known to stand in
/// its way.
pub fn obstacle(machine: &Machine, build: Build) -> Option<String> {
    let case = case(machine, build, Subject::Process);
    // A machine without a GPU is no problem, but has none to use.
    let blocks = |f: &Finding| f.severity == Severity::Problem || f.check == "kfd";
    let found = OBSTACLES.iter().flat_map(|rule| rule(&case)).find(blocks);
    found.map(|f| f.line())
}

fn case(machine: &Machine, build: Build, subject: Subject) -> Case<'_> {
    let (this, service) = (&machine.accounts.this, machine.accounts.service.as_ref());
    let user = match subject {
        Subject::Service => service.unwrap_or(this),
        Subject::Process => this,
    };
    Case { machine, build, user, own: user.uid == this.uid }
}

/// Bytes in a unit that people read.
fn size(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1.0 { format!("{} MiB", bytes >> 20) } else { format!("{gib:.1} GiB") }
}
