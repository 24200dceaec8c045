//! Device "host", built when its sources are newer, with the kernels that the build put into the library.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rocmforge::backend::hip::device::Device;
use rocmforge::backend::hip::module::Kernels;
use rocmforge::backend::hip::objects;
use rocmforge::backend::hip::sys::Hip;
use rocmforge::backend::hip::{HipBackend, Options, StartError};
use rocmforge::plan::Plan;

/// The device and its kernels.
pub struct Gpu {
    pub device: Device,
    pub kernels: Kernels,
}

/// The device; `None`, said aloud, where it cannot be built.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(open).as_ref()
}

fn open() -> Option<Gpu> {
    if let Some(why) = objects::ABSENT {
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let host = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("device-host");
    let done = Command::new("sh").arg(root.join("tests/devices/host/build.sh")).arg(&host).status().expect("sh runs");
    assert!(done.success(), "device \"host\" cannot be built");
    let hip = Hip::open(&host.join("libamdhip64.so")).expect("device \"host\"");
    let device = Device::open(hip, 0).expect("it has one device");
    assert_eq!(device.arch, "gfx1100");
    let kernels = Kernels::embedded(&device).expect("sound objects");
    Some(Gpu { device, kernels })
}

impl Gpu {
    /// Each piece of memory its own allocation: what reaches beyond its end is noticed.
    pub fn options(max_tokens: usize) -> Options {
        Options {
            max_tokens,
            max_outputs: max_tokens,
            max_spans: max_tokens.min(16),
            table_entries: 256,
            chunk_bytes: 0,
        }
    }

    /// A backend for `plan`.
    pub fn start(&self, plan: &Arc<Plan>, options: Options) -> Result<HipBackend, StartError> {
        HipBackend::new(&self.device, &self.kernels, Arc::clone(plan), options, &mut |_, _| ControlFlow::Continue(()))
    }
}
