//! Packs code objects: names and bytes one after the other, compressed with zstd.
//! `src/backend/hip/objects.rs` reads it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::compile::Object;

/// For each object a line `FILE TARGET BYTES`, then so many bytes.
pub fn pack(objects: &[Object], cache: &Path) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    for o in objects {
        let bytes = fs::read(&o.path).map_err(|e| format!("{}: {e}", o.path.display()))?;
        plain.extend_from_slice(format!("{} {} {}\n", o.file, o.target, bytes.len()).as_bytes());
        plain.extend_from_slice(&bytes);
    }
    compress(&plain, cache)
}

/// By the zstd program, whose best level halves what the library's only level makes.
fn compress(plain: &[u8], cache: &Path) -> Result<Vec<u8>, String> {
    let (from, to) = (cache.join("archive"), cache.join("archive.zst"));
    let said = |e: std::io::Error| format!("{}: {e}", from.display());
    fs::write(&from, plain).map_err(said)?;
    let packed = Command::new("zstd").args(["-19", "--long=24", "-q", "-f"]).arg(&from).arg("-o").arg(&to).status();
    let made = match packed {
        Ok(status) if status.success() => fs::read(&to).map_err(said)?,
        _ => ruzstd::encoding::compress_to_vec(plain, ruzstd::encoding::CompressionLevel::Fastest),
    };
    for path in [from, to] {
        // The second is not there without the program.
        let _ = fs::remove_file(path);
    }
    Ok(made)
}
