//! The service's systemd unit with its drop-ins, as the files have it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::sysfs::{entries, inside};

/// The unit.
const NAME: &str = "rocmforged.service";
/// Where units lie; an earlier folder's file hides a later one's of the same name.
const FOLDERS: &[&str] = &[
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What the unit says about devices and about its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// The file.
    pub path: String,
    /// Drop-ins, in the order they apply.
    pub dropins: Vec<String>,
    /// `User=`
    pub user: Option<String>,
    /// `PrivateDevices=`
    pub private_devices: bool,
    /// `DevicePolicy=`, empty if not set.
    pub policy: String,
    /// `DeviceAllow=`: (device or class, permissions).
    pub allow: Vec<(String, String)>,
    /// `Environment=`
    pub environment: Vec<(String, String)>,
}

impl Unit {
    /// The unit below `root`, if there is one.
    pub(super) fn probe(root: &Path) -> Option<Self> {
        let path = FOLDERS.iter().map(|f| format!("{f}/{NAME}")).find(|p| inside(root, p).exists())?;
        let mut unit = Self { path, ..Self::default() };
        let mut dropins = BTreeMap::new();
        for folder in FOLDERS.iter().rev() {
            let dir = format!("{folder}/{NAME}.d");
            for file in entries(&inside(root, &dir)) {
                if let Some(name) = file.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".conf")) {
                    dropins.insert(name.to_owned(), format!("{dir}/{name}"));
                }
            }
        }
        unit.dropins = dropins.into_values().collect();
        for file in [std::slice::from_ref(&unit.path), &unit.dropins].concat() {
            unit.apply(&fs::read_to_string(inside(root, &file)).unwrap_or_default());
        }
        Some(unit)
    }

    fn apply(&mut self, text: &str) {
        let mut section = "";
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                section = line;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else { continue };
            let value = value.trim();
            match key.trim() {
                "User" => self.user = Some(value.to_owned()),
                "PrivateDevices" => self.private_devices = ["yes", "true", "on", "1"].contains(&value),
                "DevicePolicy" => value.clone_into(&mut self.policy),
                // An empty list forgets what was listed before.
                "DeviceAllow" if value.is_empty() => self.allow.clear(),
                "DeviceAllow" => {
                    let (device, how) = value.split_once(char::is_whitespace).unwrap_or((value, "rwm"));
                    self.allow.push((device.to_owned(), how.trim().to_owned()));
                }
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => self.environment.extend(assignments(value)),
                _ => {}
            }
        }
    }

    /// Whether a device may be opened: its path, and its class in `/proc/devices`.
    pub fn admits(&self, path: &str, class: &str) -> bool {
        if self.policy != "closed" && self.policy != "strict" && self.allow.is_empty() {
            return true;
        }
        let fits = |spec: &str| match spec.strip_prefix("char-") {
            None => spec == path,
            Some(name) => name.strip_suffix('*').map_or(name == class, |start| class.starts_with(start)),
        };
        self.allow.iter().any(|(spec, how)| fits(spec) && how.contains('r') && how.contains('w'))
    }
}

/// `A=1 "B=2 3"` as names and values.
fn assignments(line: &str) -> Vec<(String, String)> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ' ' | '\t') => words.push(String::new()),
            (_, c) => words.iter_mut().next_back().into_iter().for_each(|w| w.push(c)),
        }
    }
    words.iter().filter_map(|w| w.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}
