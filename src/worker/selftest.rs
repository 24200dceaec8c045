//! The self-test in the worker, before it is ready: which kernels are used.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Options;
use crate::backend::hip::device::Device;
use crate::backend::hip::module::Kernels;
use crate::backend::hip::selftest;
use crate::backend::remote::selftest::{Records, Tested};
use crate::backend::remote::wire::{FromWorker, Wire};
use crate::base::limits::SELFTEST_FAILURES_MAX;

/// What a result depends on: the device, its drivers and the kernels (`objects`). What changes with the
/// test itself has another version.
fn key(device: &Device, objects: &[Vec<u8>]) -> String {
    // Another build may hash otherwise: that costs a test.
    let mut hasher = DefaultHasher::new();
    objects.hash(&mut hasher);
    // The driver in the kernel: its own version where it was built apart, else that of the kernel.
    let driver = ["/sys/module/amdgpu/version", "/proc/sys/kernel/osrelease"];
    let driver = driver.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    format!(
        "{} {} ({}), HIP {} {}, driver {}, rocmforge {} {:016x}",
        device.pci.as_deref().unwrap_or("-"),
        device.arch,
        device.name,
        device.runtime_version,
        device.driver_version.unwrap_or(0),
        driver.trim(),
        env!("CARGO_PKG_VERSION"),
        hasher.finish()
    )
}

/// Leaves out of `kernels` what an earlier test of this device with this driver found wrong, or what one
/// does that is run now; says so.
///
/// # Errors
/// Why the device cannot be used.
pub(super) fn run(
    device: &Device,
    kernels: &mut Kernels,
    objects: &[Vec<u8>],
    options: &Options,
    wire: &Wire,
) -> Result<(), String> {
    let key = key(device, objects);
    let say = |message: &FromWorker| {
        if let Err(e) = wire.send(message, &[]) {
            tracing::error!("the daemon does not listen: {e}");
            super::end();
        }
    };
    options.without.iter().for_each(|name| kernels.leave_out(name));
    let known = options.record.as_deref().filter(|_| !options.test).and_then(|path| Records::find(path, &key));
    if let Some(known) = known {
        known.failures.iter().for_each(|f| kernels.leave_out(&f.kernel));
        say(&FromWorker::Tested { result: known, fresh: false });
        return Ok(());
    }
    let mut testing = |name: &str| say(&FromWorker::Testing { kernel: name.to_owned() });
    let report = selftest::run(device, kernels, &mut testing).map_err(|e| e.to_string())?;
    for failure in &report.failures {
        tracing::error!(device = device.label(), "a kernel failed the self-test and is not used: {failure}");
        kernels.leave_out(&failure.kernel);
    }
    let (n, wrong, millis) = (report.kernels, report.failures.len(), report.took.as_millis() as u64);
    tracing::info!(device = device.label(), kernels = n, wrong, millis, "self-test");
    let first = report.failures.first().map(ToString::to_string).unwrap_or_default();
    let mut failures = report.failures;
    failures.truncate(SELFTEST_FAILURES_MAX);
    let name = device.pci.clone().unwrap_or_else(|| format!("device {}", options.index));
    say(&FromWorker::Tested { result: Tested { device: name, key, kernels: n, millis, failures }, fresh: true });
    if wrong > SELFTEST_FAILURES_MAX {
        return Err(format!("{wrong} of {n} kernels failed the self-test, the first: {first}"));
    }
    Ok(())
}
