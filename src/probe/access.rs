//! Who may open a device file: its owner, group and mode, against a user and the groups it is in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use super::sysfs::inside;

/// A device file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceFile {
    /// `/dev/kfd`
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Whether this process may read and write it, as the kernel says: access lists and the
    /// cgroup's device policy are in this, unlike in the mode.
    pub opens: bool,
}

impl DeviceFile {
    pub(super) fn probe(root: &Path, path: &str) -> Option<Self> {
        let file = inside(root, path);
        let meta = fs::metadata(&file).ok()?;
        Some(Self {
            path: path.to_owned(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            opens: access(&file, AccessFlags::R_OK | AccessFlags::W_OK).is_ok(),
        })
    }

    /// Whether owner, group and mode let `user` read and write it.
    pub fn permits(&self, user: &User) -> bool {
        let shift = match user {
            u if u.uid == 0 => return true,
            u if u.uid == self.uid => 6,
            u if u.groups.contains(&self.gid) => 3,
            _ => 0,
        };
        self.mode >> shift & 6 == 6
    }

    /// Whether its group may read and write it.
    pub fn group_permits(&self) -> bool {
        self.mode >> 3 & 6 == 6
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name; its number if it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Groups in force: for this process those that it has.
    pub groups: Vec<u32>,
    /// Groups that the files list it in: what a new login or a restarted service gets.
    pub listed: Vec<u32>,
}

/// Users and groups of the machine, as far as they matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// Whoever runs this process.
    pub this: User,
    /// The user of the service, if it exists.
    pub service: Option<User>,
    /// (name, number) of each group.
    groups: Vec<(String, u32)>,
}

impl Accounts {
    /// `service` is the name of the service's user.
    pub(super) fn probe(root: &Path, service: &str) -> Self {
        // Image-based systems keep the distribution's own users and groups below /usr/lib.
        let read = |name: &str| {
            let files = [format!("/etc/{name}"), format!("/usr/lib/{name}")];
            files.map(|f| fs::read_to_string(inside(root, &f)).unwrap_or_default()).concat()
        };
        let (passwd, group) = (read("passwd"), read("group"));
        let split = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let passwd: Vec<_> = passwd.lines().map(split).filter(|f| f.len() >= 4).collect();
        let group: Vec<_> = group.lines().map(split).filter(|f| f.len() >= 4).collect();
        let listed = |name: &str| {
            let primary = passwd.iter().filter(|f| f[0] == name).filter_map(|f| f[3].parse().ok());
            let member = group.iter().filter(|f| f[3].split(',').any(|m| m == name)).filter_map(|f| f[2].parse().ok());
            primary.chain(member).collect::<Vec<u32>>()
        };
        let (uid, groups) = process(root);
        let name = passwd.iter().find(|f| f[2].parse() == Ok(uid)).map_or_else(|| uid.to_string(), |f| f[0].clone());
        let service = passwd.iter().find(|f| f[0] == service).and_then(|f| {
            let groups = listed(service);
            Some(User { name: f[0].clone(), uid: f[2].parse().ok()?, listed: groups.clone(), groups })
        });
        Self {
            this: User { listed: listed(&name), name, uid, groups },
            service,
            groups: group.iter().filter_map(|f| Some((f[0].clone(), f[2].parse().ok()?))).collect(),
        }
    }

    /// A group's name.
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.iter().find(|g| g.1 == gid).map(|g| g.0.as_str())
    }
}

/// User and groups of this process, from its status file.
fn process(root: &Path) -> (u32, Vec<u32>) {
    let status = fs::read_to_string(inside(root, "/proc/self/status")).unwrap_or_default();
    let numbers = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>()
    };
    // Real, effective, saved, file system: the second decides what may be opened.
    let effective = |key: &str| numbers(key).get(1).copied();
    let mut groups = numbers("Groups:");
    groups.extend(effective("Gid:"));
    (effective("Uid:").unwrap_or(u32::MAX), groups)
}
