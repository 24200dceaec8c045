//! A GPU's self-test: what its worker found, and a new one on request.

use std::process::Command;
use std::sync::PoisonError;

use super::Gpu;
use crate::backend::remote::selftest::{Tested, start};
use crate::backend::remote::wire::NotUsable;

impl Gpu {
    /// What came of the test of the worker that runs.
    pub fn tested(&self) -> Option<Tested> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.process.as_ref().and_then(|p| p.tested()).cloned()
    }

    /// Tests all kernels now, in a worker that is made for it: models in the other one go on, whatever a
    /// kernel does. What it finds wrong is left out by workers that are started later.
    ///
    /// # Errors
    /// Why the device cannot be used.
    pub fn selftest(&self) -> Result<Tested, NotUsable> {
        let command = || -> Command {
            let mut command = (self.command)();
            command.arg("--test");
            command
        };
        let worker = start(&command, &|| Box::new(|| ()), self.records.as_deref()).and_then(|p| self.mine(p))?;
        worker.tested().cloned().ok_or_else(|| "the GPU worker did not test anything".to_owned().into())
    }
}
