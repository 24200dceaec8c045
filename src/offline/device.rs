//! What `eval` runs on: the CPU's workers, or a GPU in this process (there is nobody else to lose).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::backend::cpu::{CpuBackend, CpuPool};
use crate::backend::hip::device::Device as HipDevice;
use crate::backend::hip::module::Kernels;
use crate::backend::hip::sys::Hip;
use crate::backend::hip::{HipBackend, Options, StartError};
use crate::backend::{Backend, BackendError};
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::plan::Plan;

/// A device of `eval`.
#[derive(Clone)]
pub enum Device {
    /// The CPU.
    Cpu(Arc<CpuPool>),
    /// A GPU.
    Gpu(Arc<Gpu>),
}

/// An opened GPU with its kernels.
pub struct Gpu {
    device: HipDevice,
    kernels: Kernels,
}

impl Gpu {
    /// Opens the first device that the HIP runtime shows.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn open() -> Result<Arc<Self>, String> {
        let hip = Hip::find().map_err(|e| e.to_string())?;
        let device = HipDevice::open(hip, 0).map_err(|e| e.to_string())?;
        let kernels = Kernels::embedded(&device).map_err(|e| e.to_string())?;
        Ok(Arc::new(Self { device, kernels }))
    }
}

impl Device {
    /// A backend for `plan` with steps of up to `tokens` tokens of `sequences` sequences, each up to
    /// `context` long, and up to `outputs` rows of logits.
    pub(super) fn start(
        &self,
        plan: &Arc<Plan>,
        tokens: usize,
        outputs: usize,
        sequences: usize,
        context: usize,
    ) -> Result<Box<dyn Backend>, BackendError> {
        match self {
            Device::Cpu(pool) => Ok(Box::new(CpuBackend::new(Arc::clone(plan), Arc::clone(pool), tokens, outputs)?)),
            Device::Gpu(gpu) => {
                let options = Options {
                    max_tokens: tokens,
                    max_outputs: outputs,
                    max_spans: sequences,
                    table_entries: sequences * context.div_ceil(KV_BLOCK_TOKENS),
                    ..Options::default()
                };
                let go_on = &mut |_, _| ControlFlow::Continue(());
                match HipBackend::new(&gpu.device, &gpu.kernels, Arc::clone(plan), options, go_on) {
                    Ok(backend) => Ok(Box::new(backend)),
                    Err(StartError::Backend(e)) => Err(e),
                    Err(StartError::Cancelled) => unreachable!("nobody gives it up"),
                }
            }
        }
    }
}
