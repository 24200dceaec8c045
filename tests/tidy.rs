//! The rules of the house, as a test: see docs/ARCHITECTURE.md, "Modules and what each may import".

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module and the modules it may name.
const IMPORTS: &[(&str, &str)] = &[
    ("base", ""),
    ("telemetry", "base"),
    ("proto", "base"),
    ("probe", "base"),
    ("pool", "base"),
    ("policy", "base pool"),
    ("simd", "base"),
    ("quant", "base simd"),
    ("gguf", "base quant"),
    ("tokenizer", "base gguf"),
    ("chat", "base"),
    ("plan", "base quant"),
    ("model", "base quant gguf plan"),
    ("backend", "base pool probe simd quant plan"),
    ("engine", "base telemetry pool quant tokenizer plan model backend"),
    ("registry", "base telemetry proto pool policy probe simd gguf tokenizer chat plan model backend engine"),
    ("api", "base telemetry proto tokenizer chat engine registry"),
    ("offline", "base pool policy simd quant gguf tokenizer plan model backend engine"),
    ("worker", "base gguf plan model backend"),
    ("ctl", "base proto probe"),
    (
        "daemon",
        "base telemetry proto probe pool policy simd quant gguf tokenizer chat plan model backend engine registry api \
         offline worker",
    ),
];

/// Crates that only some modules may use, so that HTTP, configuration and templates stay where they are.
const CRATES: &[(&str, &str)] = &[
    ("axum", "api daemon"),
    ("tower_http", "api"),
    ("hyper", "api daemon ctl"),
    ("hyper_util", "daemon ctl"),
    ("figment", "daemon"),
    ("toml", "daemon"),
    ("sd_notify", "daemon"),
    ("minijinja", "chat"),
    ("minijinja_contrib", "chat"),
    ("prometheus", "telemetry"),
    ("clap", "ctl daemon"),
    ("indicatif", "ctl"),
    ("comfy_table", "ctl"),
    ("memmap2", "gguf backend"),
    ("hip_sys", "backend"),
    ("libloading", "backend"),
    ("ruzstd", "backend"),
];

/// The only files that may say `unsafe`; each opens by saying what it guarantees to safe callers.
const UNSAFE: &[&str] = &[
    "src/backend/cpu/workers.rs",
    "src/backend/cpu/workers/fpu.rs",
    "src/backend/cpu/workers/tiles.rs",
    "src/backend/hip/memory.rs",
    "src/backend/hip/module.rs",
    "src/backend/hip/stream.rs",
    "src/backend/hip/sys.rs",
    "src/backend/hip/sys/table.rs",
    "src/backend/remote/mailbox.rs",
    "src/backend/remote/process.rs",
    "src/daemon/heap.rs",
    "src/daemon/systemd.rs",
    "src/gguf/map.rs",
    "src/simd/amx.rs",
    "src/simd/tiers.rs",
    "src/simd/x86.rs",
];

/// Data tables may be longer than [`LINES_MAX`].
const LONG: &[&str] = &[];
const LINES_MAX: usize = 500;

struct Source {
    path: String,
    text: String,
    /// Only tests compile it: some parent declares it under `#[cfg(test)]`.
    test: bool,
}

impl Source {
    /// Code before the tests at the file's end, without comments: (line number, line).
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let end = match self.test {
            true => 0,
            false => self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len()),
        };
        self.text[..end].lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or("")))
    }

    /// Paths (without `.rs`) of the modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let path = Path::new(&self.path);
        let home = match path.file_stem().and_then(|s| s.to_str()) {
            Some("mod" | "lib") | None => path.parent().unwrap_or(path).to_path_buf(),
            Some(_) => path.with_extension(""),
        };
        let declared = self.text.split("#[cfg(test)]\n").skip(1);
        let names = declared.filter_map(|rest| {
            let line = rest.lines().find(|l| !l.starts_with("#["))?;
            line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';')
        });
        names.map(|n| home.join(n).to_string_lossy().into_owned()).collect()
    }

    /// The module under `src/` that the file belongs to; binaries and lib.rs belong to none.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let (module, _) = rest.split_once('/')?;
        (module != "bin").then_some(module)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("readable folder").path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "target" && n != ".git") {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.retain(|p| p.extension().is_some_and(|e| e == "rs"));
    paths.sort();
    let mut found: Vec<Source> = paths
        .into_iter()
        .map(|p| Source {
            text: fs::read_to_string(&p).expect("readable source"),
            path: p.strip_prefix(root()).expect("inside").to_string_lossy().into_owned(),
            test: false,
        })
        .collect();
    let test_modules: Vec<String> = found.iter().flat_map(|s| s.test_modules()).collect();
    for s in &mut found {
        s.test = test_modules.iter().any(|m| s.path == format!("{m}.rs") || s.path.starts_with(&format!("{m}/")));
    }
    found
}

fn report(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}", offences.join("\n  "));
}

fn allowed(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|m| m == name)
}

/// Words after `prefix` in a line: for `crate::`, the modules it names.
fn names_after<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).filter_map(move |(at, _)| {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            return None;
        }
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        (end > 0).then(|| &rest[..end])
    })
}

fn has_word(line: &str, word: &str) -> bool {
    names_after(line, word).next().is_none()
        && line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            !part(before) && !part(after)
        })
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut offences = Vec::new();
    for s in sources("src") {
        let Some(module) = s.module() else { continue };
        let Some((_, list)) = IMPORTS.iter().find(|(m, _)| *m == module) else {
            offences.push(format!("{}: module `{module}` is not in the table", s.path));
            continue;
        };
        for (n, line) in s.code() {
            if line.contains("crate::{") {
                offences.push(format!("{}:{n}: name one module a line after `crate::`", s.path));
            }
            for name in names_after(line, "crate::") {
                if name != module && !allowed(list, name) {
                    offences.push(format!("{}:{n}: {module} may not import {name}", s.path));
                }
            }
        }
    }
    report("imports against the table in docs/ARCHITECTURE.md:", &offences);
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut offences = Vec::new();
    for s in sources("src") {
        let Some(module) = s.module() else { continue };
        for (n, line) in s.code() {
            for (krate, list) in CRATES {
                let path = format!("{krate}::");
                if names_after(line, &path).next().is_some() && !allowed(list, module) {
                    offences.push(format!("{}:{n}: {krate} is for: {list}", s.path));
                }
            }
        }
    }
    report("crates outside their rooms:", &offences);
}

#[test]
fn unsafe_is_confined_and_explained() {
    let mut offences = Vec::new();
    let all = sources("src");
    for s in &all {
        // Outside of string literals.
        let said = |line: &str| line.split('"').step_by(2).any(|part| has_word(part, "unsafe"));
        let uses = s.code().find(|(_, line)| said(line));
        match (uses, UNSAFE.contains(&s.path.as_str())) {
            (Some((n, _)), false) => offences.push(format!("{}:{n}: unsafe outside the listed files", s.path)),
            (Some(_), true) => {
                let head: String = s.text.lines().take_while(|l| l.starts_with("//!")).collect();
                if !head.to_lowercase().contains("guarantees to safe callers") {
                    offences.push(format!("{}: the head must say what it guarantees to safe callers", s.path));
                }
            }
            (None, true) => offences.push(format!("{}: listed without need", s.path)),
            (None, false) => {}
        }
    }
    let gone = UNSAFE.iter().filter(|path| !all.iter().any(|s| s.path == **path));
    offences.extend(gone.map(|path| format!("{path}: listed, and not there")));
    report("unsafe:", &offences);
}

#[test]
fn files_are_reachable_documented_and_short() {
    let mut offences = Vec::new();
    let all = sources("src");
    for s in &all {
        if !s.text.starts_with("//!") {
            offences.push(format!("{}: does not open with //!", s.path));
        }
        let lines = s.text.lines().count();
        if lines > LINES_MAX && !LONG.contains(&s.path.as_str()) {
            offences.push(format!("{}: {lines} lines, {LINES_MAX} are allowed", s.path));
        }
        let path = Path::new(&s.path);
        let (Some(stem), Some(dir)) = (path.file_stem().and_then(|x| x.to_str()), path.parent()) else { continue };
        if dir == Path::new("src/bin") || s.path == "src/lib.rs" {
            continue;
        }
        let (name, home) = if stem == "mod" {
            (dir.file_name().and_then(|x| x.to_str()).unwrap_or(""), dir.parent().unwrap_or(dir))
        } else {
            (stem, dir)
        };
        let declared = format!("mod {name};");
        let parents = if home == Path::new("src") {
            vec!["src/lib.rs".to_owned()]
        } else {
            vec![format!("{}/mod.rs", home.display()), format!("{}.rs", home.display())]
        };
        if !all.iter().any(|p| parents.contains(&p.path) && p.text.contains(&declared)) {
            offences.push(format!("{}: no `{declared}` reaches it", s.path));
        }
        if ["utils", "util", "helpers", "helper", "manager", "misc", "common"].contains(&name) {
            offences.push(format!("{}: says nothing about what is in it", s.path));
        }
    }
    report("files:", &offences);
}

#[test]
fn nothing_unfinished_outside_tests() {
    let mut offences = Vec::new();
    for s in sources("src") {
        for (n, line) in s.code() {
            for banned in [".unwrap()", "todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"] {
                if line.contains(banned) {
                    offences.push(format!("{}:{n}: {banned}", s.path));
                }
            }
        }
    }
    report("left in the code:", &offences);
}

#[test]
fn a_model_is_data() {
    let mut offences = Vec::new();
    for s in sources("src") {
        // registry/facts.rs shows the name, also of a file that no row fits; it compares nothing.
        if s.path == "src/model/archs.rs" || s.path == "src/registry/facts.rs" {
            continue;
        }
        for (n, line) in s.code() {
            if line.contains("general.architecture") {
                offences.push(format!("{}:{n}: only model/archs.rs reads general.architecture", s.path));
            }
        }
    }
    report("architectures:", &offences);
}

#[test]
fn no_path_of_somebody_s_machine() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "docs", "etc", "systemd", "packaging", "kernels", ".ci"] {
        walk(&root().join(folder), &mut files);
    }
    for name in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "Cargo.toml"] {
        files.push(root().join(name));
    }
    let this = root().join("tests/tidy.rs");
    let mut offences = BTreeSet::new();
    for path in files.iter().filter(|p| **p != this) {
        let Ok(text) = fs::read_to_string(path) else { continue };
        for needle in [env!("CARGO_MANIFEST_DIR"), "/root/"] {
            if text.contains(needle) {
                offences.insert(format!("{}: {needle}", path.display()));
            }
        }
    }
    report("machine paths:", &offences.into_iter().collect::<Vec<_>>());
}
