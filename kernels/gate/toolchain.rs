//! Finds a clang that can compile for AMD's chips.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest clang that knows all chips.
const VERSION_LEAST: u32 = 19;

/// A clang and what belongs to it.
pub struct Toolchain {
    /// `clang++`.
    pub clang: PathBuf,
    /// `clang 19.1.7`.
    pub version: String,
    /// `llvm-objdump`, if it is there.
    pub objdump: Option<PathBuf>,
}

impl Toolchain {
    /// `$ROCMFORGE_CLANG` (`named`), or the newest clang of the path.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn find(named: Option<&str>) -> Result<Self, String> {
        if let Some(name) = named.filter(|n| !n.is_empty()) {
            return Self::probe(Path::new(name)).map_err(|e| format!("ROCMFORGE_CLANG: {e}"));
        }
        let mut why = format!("no clang++ {VERSION_LEAST} or newer");
        for name in ["clang++-22", "clang++-21", "clang++-20", "clang++-19", "clang++"] {
            match Self::probe(Path::new(name)) {
                Ok(found) => return Ok(found),
                Err(e) if e.contains("not found") => {}
                Err(e) => why = e,
            }
        }
        Err(why)
    }

    fn probe(clang: &Path) -> Result<Self, String> {
        let name = clang.display();
        let ask = |arg: &str| -> Result<String, String> {
            let out = Command::new(clang).arg(arg).output().map_err(|e| format!("{name} not found ({e})"))?;
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        };
        let said = ask("--version")?;
        let number = said.split("clang version ").nth(1).and_then(|s| s.split([' ', '\n']).next()).unwrap_or("");
        let number = number.split(['+', '~', '-']).next().unwrap_or("");
        let major: u32 = number.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0);
        if major < VERSION_LEAST {
            return Err(format!("{name} is version {number}, {VERSION_LEAST} is needed"));
        }
        if !ask("--print-targets")?.contains("amdgcn") {
            return Err(format!("{name} cannot compile for AMD GPUs"));
        }
        // clang prints the bare name where it found no such program.
        let program = |p: &str| {
            Some(PathBuf::from(ask(&format!("-print-prog-name={p}")).ok()?.trim())).filter(|p| p.is_absolute())
        };
        if program("ld.lld").is_none() {
            return Err(format!("{name} has no ld.lld beside it (package lld)"));
        }
        Ok(Self { clang: clang.to_owned(), version: format!("clang {number}"), objdump: program("llvm-objdump") })
    }
}
