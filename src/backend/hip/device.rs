//! A GPU as the runtime shows it.

use super::sys::{self, Hip, HipError, Properties};
use crate::backend::BackendError;

/// An opened device. It is the same for all models on it; opening one allocates nothing there.
#[derive(Clone, Debug)]
pub struct Device {
    hip: &'static Hip,
    index: u32,
    /// `Radeon RX 7900 XTX`.
    pub name: String,
    /// Instruction set without its features: `gfx1100`.
    pub arch: String,
    /// `0000:03:00.0`: what the kernel calls it, so that it can be found in sysfs.
    pub pci: Option<String>,
    /// Properties.
    pub properties: Properties,
    /// Version of the runtime as HIP packs it (60342134 is 6.3.42134).
    pub runtime_version: i32,
    /// Version of the driver, likewise.
    pub driver_version: Option<i32>,
    /// Environment variables that hide or renumber devices. The runtime itself obeys them, so that
    /// `index` counts what they leave.
    pub visibility: Option<String>,
}

impl Device {
    /// Opens device `index` of those that the runtime shows.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn open(hip: &'static Hip, index: u32) -> Result<Self, HipError> {
        hip.set_device(index)?;
        let properties = hip.properties(index)?;
        let (runtime_version, driver_version) = hip.versions()?;
        Ok(Self {
            hip,
            index,
            name: hip.device_name(index)?,
            arch: properties.arch.split(':').next().unwrap_or_default().to_owned(),
            pci: hip.pci_id(index),
            properties,
            runtime_version,
            driver_version,
            visibility: sys::visibility(),
        })
    }

    /// Its runtime.
    pub fn hip(&self) -> &'static Hip {
        self.hip
    }

    /// As users read it: `gpu gfx1100`.
    pub fn label(&self) -> String {
        format!("gpu {}", self.arch)
    }

    /// Makes it the device of this thread's calls. An engine's backend is made on one thread and
    /// used on another.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn select(&self) -> Result<(), BackendError> {
        self.hip.set_device(self.index).map_err(|e| self.error(e, 0, "selecting the device"))
    }

    /// Free and total memory, bytes.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn memory(&self) -> Result<(u64, u64), HipError> {
        self.hip.set_device(self.index)?;
        self.hip.memory()
    }

    /// `error` of a call about `bytes` bytes for `what`.
    pub fn error(&self, error: HipError, bytes: u64, what: &str) -> BackendError {
        error.into_backend(&self.label(), bytes, what)
    }
}
