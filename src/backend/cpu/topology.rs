//! Which cores this process may use: physical cores with their hardware threads from sysfs,
//! narrowed by the affinity mask and by the CPU quota of the control group.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// A physical core: the logical CPUs of it that this process may run on, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Logical CPUs (hardware threads), at least one.
    pub cpus: Vec<usize>,
}

/// What this process may use of the machine's processors.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Physical cores with at least one allowed logical CPU, by their first one.
    pub cores: Vec<Core>,
    /// CPUs' worth of time the control group grants (`cpu.max`), if it limits at all.
    pub quota: Option<f64>,
}

impl Topology {
    /// Reads the running system. Where sysfs says nothing, each allowed CPU is a core.
    pub fn read() -> Self {
        let allowed = allowed_cpus();
        let cores = cores_of(Path::new("/sys/devices/system/cpu"), &allowed);
        let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { cores, quota: quota_of(Path::new("/sys/fs/cgroup"), &memberships) }
    }

    /// How many workers to run if the user asked for `asked` (0 = as many as is sensible: the
    /// physical cores, but no more than the quota pays for, since a throttled group stops all of
    /// its threads at once and those that spin use up the others' time).
    pub fn workers(&self, asked: usize) -> usize {
        if asked > 0 {
            return asked;
        }
        let paid = self.quota.map_or(usize::MAX, |q| (q + 0.01) as usize);
        self.cores.len().min(paid).max(1)
    }
}

/// Logical CPUs of the calling thread's affinity mask.
fn allowed_cpus() -> Vec<usize> {
    match sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..CpuSet::count()).filter(|&i| set.is_set(i).unwrap_or(false)).collect(),
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// Groups `allowed` by physical core as `root` (`/sys/devices/system/cpu`) describes them.
fn cores_of(root: &Path, allowed: &[usize]) -> Vec<Core> {
    let mut cores: Vec<Core> = Vec::new();
    for &cpu in allowed {
        if cores.iter().any(|c| c.cpus.contains(&cpu)) {
            continue;
        }
        let topology = root.join(format!("cpu{cpu}/topology"));
        let list = fs::read_to_string(topology.join("core_cpus_list"))
            .or_else(|_| fs::read_to_string(topology.join("thread_siblings_list")));
        let mut cpus = list.ok().and_then(|l| parse_list(&l)).unwrap_or_default();
        cpus.retain(|c| allowed.contains(c));
        if !cpus.contains(&cpu) {
            cpus = vec![cpu];
        }
        cores.push(Core { cpus });
    }
    cores
}

/// A list as sysfs prints it: `0,64` or `0-3,8`.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut out = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b): (usize, usize) = (a.parse().ok()?, b.parse().ok()?);
        if b < a || b - a > CpuSet::count() {
            return None;
        }
        out.extend(a..=b);
    }
    out.sort_unstable();
    Some(out)
}

/// The tightest CPU limit from the process's group up to the root; `memberships` is
/// `/proc/self/cgroup`. Knows the unified hierarchy and the older `cpu` controller.
fn quota_of(root: &Path, memberships: &str) -> Option<f64> {
    let mut tightest: Option<f64> = None;
    for line in memberships.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let base = match controllers {
            "" => root.to_path_buf(),
            c if c.split(',').any(|c| c == "cpu") => root.join(c),
            _ => continue,
        };
        let mut dir = PathBuf::from(path.trim_start_matches('/'));
        loop {
            if let Some(q) = limit_in(&base.join(&dir)) {
                tightest = Some(tightest.map_or(q, |t| t.min(q)));
            }
            if !dir.pop() {
                break;
            }
        }
    }
    tightest
}

/// The limit that one group's files state.
fn limit_in(dir: &Path) -> Option<f64> {
    let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<f64>().ok();
    let (quota, period) = match fs::read_to_string(dir.join("cpu.max")) {
        Ok(text) => {
            let mut words = text.split_whitespace();
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?)
        }
        Err(_) => (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?),
    };
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn siblings_are_one_core_and_the_mask_narrows() {
        let dir = tempfile::tempdir().unwrap();
        for cpu in 0..4 {
            let core = cpu % 2;
            write(dir.path(), &format!("cpu{cpu}/topology/core_cpus_list"), &format!("{core},{}\n", core + 2));
        }
        let all = cores_of(dir.path(), &[0, 1, 2, 3]);
        assert_eq!(all, [Core { cpus: vec![0, 2] }, Core { cpus: vec![1, 3] }]);
        let some = cores_of(dir.path(), &[1, 2]);
        assert_eq!(some, [Core { cpus: vec![1] }, Core { cpus: vec![2] }]);
        // Without sysfs every CPU counts.
        assert_eq!(cores_of(&dir.path().join("none"), &[0, 2]).len(), 2);
    }

    #[test]
    fn lists_are_read_as_the_kernel_prints_them() {
        assert_eq!(parse_list("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        assert_eq!(parse_list("5"), Some(vec![5]));
        assert_eq!(parse_list("3-1"), None);
        assert_eq!(parse_list("x"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a/cpu.max", "150000 100000\n");
        write(dir.path(), "a/b/cpu.max", "max 100000\n");
        assert_eq!(quota_of(dir.path(), "0::/a/b\n"), Some(1.5));
        assert_eq!(quota_of(dir.path(), "0::/c\n"), None);
        write(dir.path(), "cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n");
        write(dir.path(), "cpu,cpuacct/x/cpu.cfs_period_us", "100000\n");
        write(dir.path(), "cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
        write(dir.path(), "cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota_of(dir.path(), "4:cpu,cpuacct:/x\n"), Some(2.0));
    }

    #[test]
    fn the_quota_bounds_the_default_only() {
        let cores = (0..4).map(|c| Core { cpus: vec![c] }).collect();
        let mut t = Topology { cores, quota: None };
        assert_eq!((t.workers(0), t.workers(7)), (4, 7));
        t.quota = Some(2.5);
        assert_eq!((t.workers(0), t.workers(7)), (2, 7));
        t.quota = Some(0.2);
        assert_eq!(t.workers(0), 1);
    }

    #[test]
    fn the_running_system_has_a_core() {
        let t = Topology::read();
        assert!(!t.cores.is_empty() && t.cores.iter().all(|c| !c.cpus.is_empty()));
    }
}
