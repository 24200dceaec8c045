//! Device "host" and the kernels it runs, built when the sources are newer.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rocmforge::backend::hip::device::Device;
use rocmforge::backend::hip::module::Kernels;
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
    let clang = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    if !["clang++-19", "clang++"].iter().any(|c| clang(c)) {
        eprintln!("SKIPPED: no clang that builds kernels and device \"host\"");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gpu");
    let run = |script: &str, args: &[&Path]| {
        let done = Command::new("sh").arg(root.join(script)).args(args).status().expect("sh runs");
        assert!(done.success(), "{script} failed");
    };
    let (objects, host) = (out.join("objects"), out.join("host"));
    run("kernels/compile.sh", &[&objects, Path::new("gfx1100")]);
    run("tests/devices/host/build.sh", &[&host]);
    let hip = Hip::open(&host.join("libamdhip64.so")).expect("device \"host\"");
    let device = Device::open(hip, 0).expect("it has one device");
    assert_eq!(device.arch, "gfx1100");
    let files = std::fs::read_dir(&objects).expect("the folder").flatten().map(|e| e.path());
    let objects: Vec<Vec<u8>> = files
        .filter(|p| p.extension().is_some_and(|e| e == "hsaco"))
        .map(|p| std::fs::read(&p).expect("an object"))
        .collect();
    let kernels = Kernels::load(&device, &objects).expect("sound objects");
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
