//! Compiles the kernels for AMD's chips, refuses those that would run badly, and packs them for the
//! binary. Part of the build script (`build.rs`).

mod archive;
mod compile;
mod limits;
mod remarks;
mod toolchain;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

pub use compile::Object;
pub use toolchain::Toolchain;

/// Chips of a release: all that the kernels are compiled for.
const RELEASE: &[&str] = &[
    "gfx906", "gfx908", "gfx90a", "gfx942", "gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035",
    "gfx1036", "gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1200", "gfx1201",
];

/// The chip of test device rdna3, and of development.
const DEBUG: &[&str] = &["gfx1100"];

/// The chips to compile for: `wish` is `ROCMFORGE_GPU_TARGETS`, names separated by commas or spaces,
/// `all`, or `none`.
pub fn targets(wish: Option<&str>, release: bool) -> Result<Vec<String>, String> {
    let chosen: Vec<&str> = match wish.map(str::trim) {
        None | Some("") => if release { RELEASE } else { DEBUG }.to_vec(),
        Some("none") => Vec::new(),
        Some("all") => RELEASE.to_vec(),
        Some(names) => names.split([',', ' ']).filter(|n| !n.is_empty()).collect(),
    };
    let unknown = chosen.iter().find(|t| !RELEASE.contains(*t));
    match unknown {
        Some(t) => Err(format!("ROCMFORGE_GPU_TARGETS: {t} is not one of {}", RELEASE.join(" "))),
        None => Ok(chosen.into_iter().map(str::to_owned).collect()),
    }
}

/// What a build embeds.
pub struct Kernels {
    /// Compressed objects.
    pub archive: Vec<u8>,
    /// A line for each kernel of each target: see [`limits::HEADER`].
    pub manifest: String,
}

/// Compiles every `.hip` file in `sources` for `targets`, reusing what `cache` has; all objects pass
/// [`limits::check`].
///
/// # Errors
/// What clang or the limits say.
pub fn build(
    tools: &Toolchain,
    sources: &Path,
    targets: &[String],
    cache: &Path,
    jobs: usize,
) -> Result<Kernels, String> {
    fs::create_dir_all(cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(sources).map_err(|e| format!("{}: {e}", sources.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|e| e == "hip") {
            files.push(path);
        }
    }
    files.sort();
    // By file, then chip: neighbours in the archive are nearly the same bytes.
    let wanted: Vec<(&PathBuf, &String)> = files.iter().flat_map(|f| targets.iter().map(move |t| (f, t))).collect();

    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((file, target)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let made = compile::object(tools, file, target, cache);
                    let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                    let failed = made.is_err();
                    done.push(made);
                    if failed {
                        // Others stop at their next file.
                        next.fetch_add(wanted.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    let mut objects = done.into_iter().collect::<Result<Vec<Object>, String>>()?;
    objects.sort_by(|a, b| (&a.file, &a.target).cmp(&(&b.file, &b.target)));

    let mut manifest = format!("{}\n", limits::HEADER);
    for object in &objects {
        manifest += &object.manifest;
    }
    limits::check(&manifest)?;
    compile::prune(cache, &objects)?;
    let archive = archive::pack(&objects, cache)?;
    Ok(Kernels { archive, manifest })
}
