//! The kernel and its amdgpu driver: version, arguments, what keeps the driver from loading.

use std::fs;
use std::path::Path;

use super::sysfs::{entries, inside, text};

/// Bytes of a page that `ttm.pages_limit` counts.
pub const PAGE: u64 = 4096;

/// What keeps the driver from loading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A file below modprobe.d.
    File(String),
    /// An argument of the kernel.
    Argument(String),
}

/// How arguments of the kernel are changed on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loader {
    Grubby,
    Grub,
    Unknown,
}

/// The kernel and its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// `6.14.0-27-generic`
    pub release: String,
    /// Whether amdgpu is loaded (or part of the kernel).
    pub loaded: bool,
    /// Its version, if it is not the kernel's own.
    pub version: Option<String>,
    /// What keeps it from loading.
    pub block: Option<Block>,
    /// The module that holds memory for GPUs: `ttm`, or `amdttm` of AMD's packaged driver.
    pub ttm: String,
    /// Pages that GPUs may take of the machine's memory.
    pub pages_limit: Option<u64>,
    /// Whether this is a container.
    pub container: bool,
    arguments: Vec<String>,
    loader: Loader,
}

impl Driver {
    pub(super) fn probe(root: &Path) -> Self {
        let at = |path: &str| inside(root, path);
        let line = text(&at("/proc/cmdline")).unwrap_or_default();
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let ttm = if at("/sys/module/amdttm").exists() { "amdttm" } else { "ttm" };
        let is = |path: &str| at(path).exists();
        Self {
            release: text(&at("/proc/sys/kernel/osrelease")).unwrap_or_else(|| "of unknown version".to_owned()),
            loaded: is("/sys/module/amdgpu"),
            version: text(&at("/sys/module/amdgpu/version")),
            block: block(root, &arguments),
            ttm: ttm.to_owned(),
            pages_limit: text(&at(&format!("/sys/module/{ttm}/parameters/pages_limit"))).and_then(|n| n.parse().ok()),
            container: ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"].iter().any(|f| is(f)),
            loader: match () {
                () if is("/usr/sbin/grubby") || is("/usr/bin/grubby") || is("/sbin/grubby") => Loader::Grubby,
                () if is("/usr/sbin/update-grub") && is("/etc/default/grub") => Loader::Grub,
                () => Loader::Unknown,
            },
            arguments,
        }
    }

    /// Major and minor version of the kernel.
    pub fn kernel(&self) -> (u32, u32) {
        let mut parts = self.release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// The value of an argument of the kernel.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().rev().find_map(|a| a.strip_prefix(name)?.strip_prefix('='))
    }

    /// The command that adds arguments of the kernel.
    pub fn add_arguments(&self, arguments: &str) -> String {
        match self.loader {
            Loader::Grubby => format!("sudo grubby --update-kernel=ALL --args=\"{arguments}\" && sudo reboot"),
            Loader::Grub => format!(
                "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {arguments}\"' | sudo tee \
                 /etc/default/grub.d/rocmforge.cfg && sudo update-grub && sudo reboot"
            ),
            Loader::Unknown => format!("add `{arguments}` to the kernel's arguments in the boot loader, then reboot"),
        }
    }

    /// The command that takes an argument of the kernel away.
    pub fn remove_argument(&self, argument: &str) -> String {
        match self.loader {
            Loader::Grubby => {
                format!("sudo grubby --update-kernel=ALL --remove-args=\"{argument}\" && sudo reboot")
            }
            Loader::Grub => format!(
                "sudo sed -i 's/ *{argument}//' /etc/default/grub /etc/default/grub.d/*.cfg && sudo update-grub && sudo \
                 reboot"
            ),
            Loader::Unknown => format!("take `{argument}` from the kernel's arguments in the boot loader, then reboot"),
        }
    }
}

fn block(root: &Path, arguments: &[String]) -> Option<Block> {
    let lists = |a: &str| {
        let names = a.strip_prefix("modprobe.blacklist=").or_else(|| a.strip_prefix("module_blacklist="));
        names.is_some_and(|n| n.split(',').any(|n| n == "amdgpu"))
    };
    let blocks = |a: &&String| *a == "nomodeset" || *a == "amdgpu.modeset=0" || lists(a);
    if let Some(argument) = arguments.iter().find(blocks) {
        return Some(Block::Argument(argument.clone()));
    }
    // A file in /etc hides one of the same name elsewhere, which is then no reason.
    for folder in ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"] {
        for file in entries(&inside(root, folder)) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hidden = folder != "/etc/modprobe.d" && inside(root, "/etc/modprobe.d").join(&name).exists();
            if !name.ends_with(".conf") || hidden {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap_or_default();
            let stops = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["blacklist", "amdgpu", ..] => true,
                    ["install", "amdgpu", program, ..] => program.ends_with("/false") || program.ends_with("/true"),
                    _ => false,
                }
            };
            if text.lines().any(stops) {
                return Some(Block::File(format!("{folder}/{name}")));
            }
        }
    }
    None
}
