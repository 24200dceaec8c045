//! One kernel file for one chip, or what an earlier build made of it.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::limits;
use super::remarks;
use super::toolchain::Toolchain;

/// One flag a line; the same for everybody who compiles kernels.
const FLAGS: &str = include_str!("../flags");

/// A code object.
pub struct Object {
    /// `norm`.
    pub file: String,
    /// `gfx1100`.
    pub target: String,
    /// Its lines of the manifest.
    pub manifest: String,
    /// Where it is kept.
    pub path: PathBuf,
}

/// The object of `source` for `target`, from `cache` if nothing that it is made of has changed.
pub fn object(tools: &Toolchain, source: &Path, target: &str, cache: &Path) -> Result<Object, String> {
    let file = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut text = BTreeMap::new();
    closure(source, &mut text)?;
    let mut hash = DefaultHasher::new();
    (FLAGS, target, &tools.version, tools.objdump.is_some(), limits::fingerprint(), &text).hash(&mut hash);
    let path = cache.join(format!("{file}.{target}.{:016x}.hsaco", hash.finish()));
    let notes = path.with_extension("tsv");
    let manifest = match fs::read_to_string(&notes) {
        Ok(manifest) if path.exists() => manifest,
        _ => {
            let manifest = compile(tools, source, &file, target, &path)?;
            fs::write(&notes, &manifest).map_err(|e| format!("{}: {e}", notes.display()))?;
            manifest
        }
    };
    Ok(Object { file, target: target.to_owned(), manifest, path })
}

/// The texts of a file and of all that it includes, by path.
fn closure(path: &Path, text: &mut BTreeMap<PathBuf, String>) -> Result<(), String> {
    if text.contains_key(path) {
        return Ok(());
    }
    let source = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let names: Vec<PathBuf> = source
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("#include \"")?.split('"').next())
        .map(|name| folder.join(name))
        // Of other devices' builds: host.h and cuda.h lie elsewhere.
        .filter(|path| path.exists())
        .collect();
    text.insert(path.to_owned(), source);
    names.iter().try_for_each(|name| closure(name, text))
}

fn compile(tools: &Toolchain, source: &Path, file: &str, target: &str, to: &Path) -> Result<String, String> {
    let folder = source.parent().unwrap_or(Path::new("."));
    let unfinished = to.with_extension("part");
    // From within the folder, so that no path of this machine gets into the object.
    let out = Command::new(&tools.clang)
        .current_dir(folder)
        .args(FLAGS.split_whitespace())
        .arg(format!("--offload-arch={target}"))
        .arg("-Rpass-analysis=kernel-resource-usage")
        .arg(format!("{file}.hip"))
        .arg("-o")
        .arg(&unfinished)
        .output()
        .map_err(|e| format!("{}: {e}", tools.clang.display()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        let errors: Vec<&str> = said.lines().filter(|l| !l.contains("remark:")).collect();
        return Err(format!("{file}.hip for {target}:\n{}", errors.join("\n")));
    }
    let mut kernels = remarks::read(&said);
    if kernels.is_empty() {
        return Err(format!("{file}.hip for {target}: clang says nothing of its kernels"));
    }
    if let Some(objdump) = &tools.objdump {
        let out = Command::new(objdump)
            .arg("-d")
            .arg(&unfinished)
            .output()
            .map_err(|e| format!("{}: {e}", objdump.display()))?;
        limits::find_instructions(&String::from_utf8_lossy(&out.stdout), target, &mut kernels);
    }
    fs::rename(&unfinished, to).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(kernels.iter().map(|k| limits::line(target, file, k)).collect())
}

/// Removes what earlier builds left in `cache`.
pub fn prune(cache: &Path, objects: &[Object]) -> Result<(), String> {
    for entry in fs::read_dir(cache).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if !objects.iter().any(|o| o.path.with_extension("") == path.with_extension("")) {
            fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    Ok(())
}
