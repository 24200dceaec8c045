//! What this machine has: processor, memory, AMD GPUs and why they are used or not.
//!
//! Reads files under a root folder (`/`, or a fixture tree in tests) and the environment, and asks
//! the kernel nothing else but whether a file may be opened: it opens no device and loads no
//! library, so that daemon, doctor and tests share it.

pub mod access;
pub mod doctor;
pub mod driver;
#[cfg(test)]
pub mod fixture;
pub mod kfd;
pub mod library;
pub mod pci;
mod sysfs;
pub mod unit;

use std::env;
use std::ffi::OsString;
use std::path::Path;

use access::Accounts;
use driver::Driver;
pub use kfd::{Gpu, GpuNode};
use library::Runtime;
pub use sysfs::Cpu;
use unit::Unit;

/// The service's user, if no unit says another.
const SERVICE_USER: &str = "rocmforge";
/// Environment variables by which the runtime itself hides or renumbers devices.
pub const VISIBILITY: [&str; 4] =
    ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"];
/// The environment variable that makes the runtime take every GPU for another chip.
pub const OVERRIDE: &str = "HSA_OVERRIDE_GFX_VERSION";

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
    /// The kernel and its driver.
    pub driver: Driver,
    /// The HIP runtime's files.
    pub runtime: Runtime,
    /// Users and groups.
    pub accounts: Accounts,
    /// The service's unit, if it is installed.
    pub unit: Option<Unit>,
    /// Variables of this process's environment that the runtime obeys.
    pub environment: Vec<(String, String)>,
}

impl Machine {
    /// Looks at the machine under `root`, in this process's environment.
    pub fn probe(root: &Path) -> Self {
        Self::probe_with(root, &|name| env::var_os(name))
    }

    /// Looks at the machine under `root` with other environment variables.
    pub fn probe_with(root: &Path, var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let unit = Unit::probe(root);
        let user = unit.as_ref().and_then(|u| u.user.as_deref()).unwrap_or(SERVICE_USER);
        let set = |name: &&str| Some(((*name).to_owned(), var(name)?.to_string_lossy().into_owned()));
        Self {
            cpu: Cpu::probe(root),
            memory_available: sysfs::meminfo(root, "MemAvailable"),
            memory_total: sysfs::meminfo(root, "MemTotal"),
            gpu: Gpu::probe(root),
            driver: Driver::probe(root),
            runtime: Runtime::probe(root, var),
            accounts: Accounts::probe(root, user),
            environment: VISIBILITY.iter().chain([&OVERRIDE]).filter_map(set).collect(),
            unit,
        }
    }

    /// A variable of [`Machine::environment`].
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|v| v.0 == name).map(|v| v.1.as_str())
    }
}

#[cfg(test)]
mod tests;
