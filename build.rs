//! Compiles the GPU kernels into the library, if there is a clang that can: see kernels/gate.
//!
//! `ROCMFORGE_CLANG` names the compiler. `ROCMFORGE_GPU_TARGETS` lists the chips: names, `all`, or
//! `none`; without it gfx1100 for a debug build, all for a release. Without a compiler the build goes
//! on, and the binary says that it has no kernels and why.

#[path = "kernels/gate/mod.rs"]
mod gate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use gate::{Kernels, Toolchain};

fn main() -> ExitCode {
    for path in ["build.rs", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["ROCMFORGE_CLANG", "ROCMFORGE_GPU_TARGETS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            for line in e.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let var = |name: &str| env::var(name).ok();
    let need = |name: &str| var(name).ok_or(format!("cargo sets no {name}"));
    let out = PathBuf::from(need("OUT_DIR")?);
    let wish = var("ROCMFORGE_GPU_TARGETS");
    let targets = gate::targets(wish.as_deref(), need("PROFILE")? == "release")?;
    if targets.is_empty() {
        return write(&out, &[], "", Some("built with ROCMFORGE_GPU_TARGETS=none"), None);
    }
    let tools = match Toolchain::find(var("ROCMFORGE_CLANG").as_deref()) {
        Ok(tools) => tools,
        // Whoever asks for targets or for a compiler wants them.
        Err(e) if wish.is_some() || var("ROCMFORGE_CLANG").is_some() => return Err(e),
        Err(e) => {
            println!("cargo::warning=no GPU kernels in this build: {e}");
            return write(&out, &[], "", Some(&format!("built without kernels: {e}")), None);
        }
    };
    let sources = Path::new(&need("CARGO_MANIFEST_DIR")?).join("kernels");
    let jobs = var("NUM_JOBS").and_then(|n| n.parse().ok()).unwrap_or(1);
    let kernels = gate::build(&tools, &sources, &targets, &out.join("kernels"), jobs)?;
    write(&out, &targets, &tools.version, None, Some(&kernels))
}

/// What `src/backend/hip/objects.rs` includes.
fn write(
    out: &Path,
    targets: &[String],
    compiler: &str,
    absent: Option<&str>,
    kernels: Option<&Kernels>,
) -> Result<(), String> {
    let put = |name: &str, bytes: &[u8]| fs::write(out.join(name), bytes).map_err(|e| format!("{name}: {e}"));
    put("kernels.zst", kernels.map_or(&[], |k| &k.archive))?;
    put("kernels.tsv", kernels.map_or(&[][..], |k| k.manifest.as_bytes()))?;
    let code = format!(
        "/// Chips that this build has kernels for.\npub const TARGETS: &[&str] = &{targets:?};\n\
         /// What compiled them.\npub const COMPILER: &str = {compiler:?};\n\
         /// Why there are none.\npub const ABSENT: Option<&str> = {absent:?};\n\
         /// A line for each kernel of each chip, after a line of column names: what it takes.\n\
         pub const MANIFEST: &str = include_str!(\"kernels.tsv\");\n\
         const ARCHIVE: &[u8] = include_bytes!(\"kernels.zst\");\n"
    );
    put("kernels.rs", code.as_bytes())
}
