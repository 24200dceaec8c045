//! The HIP runtime's library: where it is looked for, and what lies there.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::sysfs::{entries, inside, text};

/// Names that the library has had, newest first. An installation for running programs only has no
/// bare name, and a runtime after 7 may keep its interface under that one.
pub const SONAMES: [&str; 4] = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"];
/// The environment variable that names the only library to take.
pub const NAMED: &str = "ROCMFORGE_HIP_LIBRARY";
/// Oldest version of HIP that will do.
pub const MAJOR_MIN: u32 = 6;
/// Folders that the dynamic linker searches on common distributions, besides those of its cache.
const SYSTEM: &[&str] =
    &["/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib"];

/// Files to try, in order. A file named by the user is the only one; a name without a folder is
/// for the dynamic linker to find. `installed` are folders of ROCm.
pub fn candidates(var: impl Fn(&str) -> Option<OsString>, installed: &[PathBuf]) -> Vec<OsString> {
    let set = |name: &str| var(name).filter(|v| !v.is_empty());
    if let Some(path) = set(NAMED) {
        return vec![path];
    }
    let within = |dir: &Path| SONAMES.map(|n| dir.join("lib").join(n).into_os_string());
    let roots = ["ROCM_PATH", "HIP_PATH"].iter().filter_map(|name| set(name));
    let mut names: Vec<OsString> = roots.flat_map(|root| within(Path::new(&root))).collect();
    names.extend(SONAMES.map(OsString::from));
    names.extend(installed.iter().flat_map(|root| within(root)));
    names
}

/// Folders of ROCm in `opt`, newest first.
pub fn installed(opt: &Path) -> Vec<PathBuf> {
    let mut found = entries(opt);
    found.retain(|p| p.file_name().and_then(OsStr::to_str).is_some_and(|n| n.starts_with("rocm")));
    found.reverse();
    found
}

/// A library that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it was found.
    pub path: String,
    /// Name of the file that the path leads to, with its version: `libamdhip64.so.6.4.60401`.
    pub file: String,
}

impl Library {
    /// Major version of HIP, by the file's name.
    pub fn major(&self) -> Option<u32> {
        self.file.strip_prefix("libamdhip64.so.")?.split('.').next()?.parse().ok()
    }
}

/// The runtime, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// Libraries that are there, in the order in which they are tried.
    pub libraries: Vec<Library>,
    /// The only one that is tried, if the user named one.
    pub named: Option<String>,
    /// ROCm's folders with the version that each tells.
    pub rocm: Vec<(String, String)>,
    /// How to install one here.
    pub install: String,
}

impl Runtime {
    pub(super) fn probe(root: &Path, var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |p: PathBuf| p.strip_prefix(root).map_or(p.clone(), |rest| Path::new("/").join(rest));
        let rocm: Vec<PathBuf> = installed(&inside(root, "/opt")).into_iter().map(absolute).collect();
        let folders = system(root, var);
        let mut libraries: Vec<Library> = Vec::new();
        for name in candidates(var, &rocm) {
            let name = name.to_string_lossy().into_owned();
            let places = match name.contains('/') {
                true => vec![name],
                false => folders.iter().map(|f| format!("{f}/{name}")).collect(),
            };
            for path in places {
                let Ok(real) = fs::canonicalize(inside(root, &path)) else { continue };
                let file = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
                // /lib is often /usr/lib, and a soname a link to the file with the full version.
                let known = |l: &Library| fs::canonicalize(inside(root, &l.path)).is_ok_and(|r| r == real);
                if !libraries.iter().any(known) {
                    libraries.push(Library { path, file });
                }
            }
        }
        let version = |dir: &PathBuf| {
            let dir = dir.to_string_lossy();
            Some((dir.to_string(), text(&inside(root, &format!("{dir}/.info/version")))?))
        };
        Self {
            libraries,
            named: var(NAMED).filter(|v| !v.is_empty()).map(|v| v.to_string_lossy().into_owned()),
            rocm: rocm.iter().filter_map(version).collect(),
            install: install(root),
        }
    }
}

/// How to install the runtime on the distribution below `root`.
pub fn install(root: &Path) -> String {
    let release = fs::read_to_string(inside(root, "/etc/os-release")).unwrap_or_default();
    let value = |key: &str| release.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().replace('"', "");
    let ids = format!("{} {}", value("ID="), value("ID_LIKE="));
    let is = |name: &str| ids.split_whitespace().any(|id| id == name);
    // What Debian and Ubuntu have themselves has long been HIP 5; Fedora and Arch follow AMD.
    let repository = "set up AMD's repository (https://rocm.docs.amd.com/projects/install-on-linux), then ";
    match () {
        () if value("ID=") == "fedora" => "sudo dnf install rocm-hip".to_owned(),
        () if is("arch") => "sudo pacman -S hip-runtime-amd".to_owned(),
        () if is("debian") || is("ubuntu") => format!("{repository}sudo apt install hip-runtime-amd"),
        () if is("suse") || is("sles") => format!("{repository}sudo zypper install hip-runtime-amd"),
        () if is("rhel") || is("fedora") => format!("{repository}sudo dnf install hip-runtime-amd"),
        () => format!("install the HIP runtime of ROCm {MAJOR_MIN} or later, or name its file in {NAMED}"),
    }
}

/// Folders in which the dynamic linker finds a library by its name.
fn system(root: &Path, var: &dyn Fn(&str) -> Option<OsString>) -> Vec<String> {
    let path = var("LD_LIBRARY_PATH").map(|v| v.to_string_lossy().into_owned()).unwrap_or_default();
    let mut folders: Vec<String> = path.split(':').filter(|f| f.starts_with('/')).map(str::to_owned).collect();
    // The cache is a table of offsets into strings with end bytes, paths among them.
    let cache = fs::read(inside(root, "/etc/ld.so.cache")).unwrap_or_default();
    for entry in cache.split(|b| *b == 0).filter_map(|s| std::str::from_utf8(s).ok()) {
        if let Some((folder, _)) = entry.rsplit_once('/').filter(|(f, n)| f.starts_with('/') && SONAMES.contains(n)) {
            folders.push(folder.to_owned());
        }
    }
    folders.extend(SYSTEM.iter().map(|f| (*f).to_owned()));
    folders
}
