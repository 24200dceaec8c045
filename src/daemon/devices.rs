//! The devices that models can run on: each GPU through a worker process, then the CPU.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Amount, Config, Reserve};
use super::systemd;
use crate::backend::cpu::CpuPool;
use crate::backend::hip::objects;
use crate::backend::remote::selftest::{Records, Tested};
use crate::backend::remote::wire::NotUsable;
use crate::base::limits::{
    GPU_RESERVE, GPU_RESERVE_DISPLAY, RAM_BUDGET_PERCENT, SELFTEST, SELFTEST_TRIES, WORKER_EXIT, WORKER_START,
};
use crate::policy::placement::SiteKind;
use crate::pool::budget::Budget;
use crate::probe::doctor::{self, Build};
use crate::probe::library::NAMED;
use crate::probe::{GpuNode, Machine};
use crate::registry::gpu::Gpu;
use crate::registry::load::Target;
use crate::registry::{Condition, Site};

/// Names of the CPU in lists, budgets and metrics.
pub(super) const CPU: &str = "cpu";
/// File of results of self-tests, in the folder for state.
const SELFTESTS: &str = "gpu-selftest.json";
/// What the rest of a start takes at most.
const START_SPARE: Duration = Duration::from_secs(30);

/// Devices, with what loads models onto them; both in the same order.
pub(super) struct Devices {
    pub sites: Vec<Site>,
    pub targets: Vec<Target>,
}

/// What this build has for GPUs.
pub(super) const BUILD: Build = Build { targets: objects::TARGETS, absent: objects::ABSENT };

/// Opens all devices that the configuration allows. One that cannot be used is there too, with
/// the reason.
///
/// # Errors
/// `device.use` is `gpu` and no GPU can be used.
pub(super) fn open(config: &Config, machine: &Machine, pool: &Arc<CpuPool>) -> anyhow::Result<Devices> {
    let (mut sites, mut targets) = (Vec::new(), Vec::new());
    let ram = Budget::new(ram_budget(config, machine.memory_available));
    let why_not = match wanted(config, machine) {
        Ok(()) => gpus(config, machine, &ram, &mut sites, &mut targets).err(),
        Err(why) => Some(why),
    };
    if let Some(why) = why_not.as_ref().filter(|_| config.device.kind == "gpu") {
        anyhow::bail!("device.use is gpu, but no GPU can be used: {why}; use auto or cpu");
    }
    let description = format!("{}, {} threads, {}", machine.cpu.model, pool.threads(), pool.tier().name());
    sites.push(Site {
        id: CPU.to_owned(),
        name: format!("{CPU} {}", pool.tier().name()),
        kind: SiteKind::Cpu,
        description,
        pci: None,
        budget: ram,
        most: None,
        // Nobody compares it where there is no GPU.
        bandwidth: sites.iter().any(|s| s.unusable.is_none()).then(|| pool.read_bandwidth()),
        reason: why_not.unwrap_or_else(|| "for models that no GPU can hold".to_owned()),
        unusable: None,
        condition: None,
    });
    targets.push(Target::Cpu(Arc::clone(pool)));
    for site in &sites {
        let budget = site.budget.total();
        match &site.unusable {
            None => tracing::info!(device = site.id, site.description, budget, "models run here: {}", site.reason),
            Some(why) => tracing::warn!(device = site.id, "no model runs here: {why}"),
        }
    }
    Ok(Devices { sites, targets })
}

/// Whether a GPU is to be looked for.
pub(super) fn wanted(config: &Config, machine: &Machine) -> Result<(), String> {
    if config.device.kind == "cpu" {
        return Err("device.use is cpu".to_owned());
    }
    let named = env::var_os(NAMED).is_some_and(|v| !v.is_empty());
    match doctor::obstacle(machine, BUILD) {
        // A runtime named by the user is asked even where the kernel shows no GPU.
        Some(why) if !named || BUILD.absent.is_some() => Err(why),
        _ => Ok(()),
    }
}

/// GPUs that are left alone, each with its PCI address and why.
fn set_aside(config: &Config, machine: &Machine) -> Vec<(String, String)> {
    if config.device.allow_igpu {
        return Vec::new();
    }
    let why = |node: &GpuNode| {
        let why = machine.gpu.set_aside(node, BUILD.targets)?;
        let why = format!("{} is left alone: {why}; device.allow_igpu = true uses it", node.label());
        Some((node.pci()?.to_owned(), why))
    };
    machine.gpu.nodes.iter().filter_map(why).collect()
}

/// Starts a worker for each device that the runtime shows; why there is none.
fn gpus(
    config: &Config,
    machine: &Machine,
    ram: &Arc<Budget>,
    sites: &mut Vec<Site>,
    targets: &mut Vec<Target>,
) -> Result<(), String> {
    let aside = set_aside(config, machine);
    let records = Arc::new(Records::new(config.state_dir.join(SELFTESTS)));
    let (mut index, mut count, mut why_not) = (0, 1, String::new());
    while index < count {
        let log = config.log.clone();
        let skip: Vec<String> = aside.iter().flat_map(|(pci, _)| ["--skip".to_owned(), pci.clone()]).collect();
        // A runtime or a kernel that hangs is waited for; systemd's patience with a start has to last as long.
        systemd::extend_timeout((WORKER_START + SELFTEST + WORKER_EXIT) * SELFTEST_TRIES as u32 + START_SPARE);
        let command = move || {
            let mut command = Command::new("/proc/self/exe");
            command.arg0("rocmforged").args(["gpu-worker", "--index", &index.to_string()]);
            command.args(["--log", &log.level, "--log-format", &log.format]).args(&skip);
            command
        };
        let opened = Gpu::open(command, Some(Arc::clone(&records)));
        let id = format!("gpu{index}");
        match opened {
            Ok(gpu) => {
                count = gpu.info.count;
                sites.push(site(config, machine, id, &gpu, ram));
                targets.push(Target::Gpu(gpu));
            }
            Err(why) => {
                // A worker that dies has not counted; the devices after its own may be sound.
                count = if why.count > 0 { why.count } else { count.max(machine.gpu.nodes.len() as u32) };
                if index >= count {
                    break;
                }
                let site = unusable(machine, id, why, &aside);
                // The GPU that was to be used says more than one that was not.
                if why_not.is_empty() || !aside.iter().any(|(pci, _)| Some(pci) == site.pci.as_ref()) {
                    why_not.clone_from(&site.reason);
                }
                sites.push(site);
                targets.push(Target::Unusable);
            }
        }
        index += 1;
    }
    if sites.iter().any(|s| s.unusable.is_none()) { Ok(()) } else { Err(why_not) }
}

/// A GPU that no model runs on.
fn unusable(machine: &Machine, id: String, why: NotUsable, aside: &[(String, String)]) -> Site {
    let node = machine.gpu.nodes.iter().find(|n| n.pci().is_some() && n.pci() == why.pci.as_deref());
    let why_aside = aside.iter().find(|(pci, _)| Some(pci) == why.pci.as_ref()).map(|(_, why)| why.clone());
    let reason = why_aside.unwrap_or(why.reason);
    Site {
        name: "gpu".to_owned(),
        kind: SiteKind::Gpu,
        description: node.map_or_else(|| "GPU".to_owned(), GpuNode::label),
        pci: why.pci,
        budget: Budget::new(0),
        most: None,
        bandwidth: None,
        reason: reason.clone(),
        unusable: Some(reason),
        condition: None,
        id,
    }
}

/// A GPU that models can run on; `ram` is the ledger of the machine's memory.
fn site(config: &Config, machine: &Machine, id: String, gpu: &Arc<Gpu>, ram: &Arc<Budget>) -> Site {
    let info = &gpu.info;
    let own = gpu_budget(config, machine, info.pci.as_deref(), info.free);
    let shared = if info.integrated { ", in the machine's memory" } else { "" };
    let version = (info.runtime_version / 10_000_000, info.runtime_version / 100_000 % 100);
    Site {
        id,
        name: gpu.name(),
        kind: SiteKind::Gpu,
        description: format!("{}, {}, HIP {}.{}{shared}", info.name, info.arch, version.0, version.1),
        pci: info.pci.clone(),
        budget: if info.integrated { Arc::clone(ram) } else { Budget::new(own) },
        most: info.integrated.then_some(own),
        bandwidth: info.bandwidth.map(|b| b as f64),
        reason: match &info.visibility {
            None => format!("{} is there", info.library),
            Some(set) => format!("{} is there ({set})", info.library),
        } + &left_out(gpu.tested()),
        unusable: None,
        condition: Some(Arc::clone(gpu) as Arc<dyn Condition>),
    }
}

/// What a device's self-test cost it, after the reason for using it.
fn left_out(tested: Option<Tested>) -> String {
    match tested.filter(|t| !t.failures.is_empty()) {
        None => String::new(),
        Some(t) => format!("; kernels that failed the self-test and are not used: {}", t.left_out()),
    }
}

/// `memory.ram_budget` in bytes, on a machine with `available` bytes to spare at the start.
pub(super) fn ram_budget(config: &Config, available: Option<u64>) -> u64 {
    let percent = |p: u8| available.map_or(u64::MAX, |bytes| bytes / 100 * u64::from(p));
    match config.memory.ram_budget {
        Amount::Auto => percent(RAM_BUDGET_PERCENT),
        Amount::Percent(p) => percent(p),
        Amount::Bytes(size) => size.0,
    }
}

/// `memory.gpu_budget` in bytes, on the GPU at `pci` with `free` bytes when its worker started.
pub(super) fn gpu_budget(config: &Config, machine: &Machine, pci: Option<&str>, free: u64) -> u64 {
    let shows = || machine.gpu.cards.iter().any(|c| Some(c.address.as_str()) == pci && !c.displays.is_empty());
    let reserve = match config.memory.gpu_reserve {
        Reserve::Auto if shows() => GPU_RESERVE_DISPLAY,
        Reserve::Auto => GPU_RESERVE,
        Reserve::Bytes(size) => size.0,
    };
    let usable = free.saturating_sub(reserve);
    match config.memory.gpu_budget {
        Amount::Auto => usable,
        Amount::Percent(p) => usable / 100 * u64::from(p),
        Amount::Bytes(size) => size.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Size;
    use super::super::config::Surroundings;
    use super::*;
    use crate::probe::fixture::{NAVI31, RAPHAEL, Spec, Tree};

    fn ryzen() -> Machine {
        Tree::default().gpu(RAPHAEL).machine()
    }

    #[test]
    fn a_small_integrated_gpu_is_listed_with_the_reason_and_used_if_allowed() {
        let (machine, mut config) = (ryzen(), Config::defaults(&Surroundings::default()));
        let aside = set_aside(&config, &machine);
        let why = NotUsable { reason: "left alone".into(), pci: Some("0000:13:00.0".into()), count: 1 };
        let site = unusable(&machine, "gpu0".into(), why, &aside);
        assert_eq!(site.description, "gfx1036 (raphael) at 0000:13:00.0");
        let reason = site.unusable.expect("it is not used");
        assert!(reason.contains("2 compute units") && reason.contains("device.allow_igpu = true"), "{reason}");
        config.device.allow_igpu = true;
        assert_eq!(set_aside(&config, &machine), []);
    }

    #[test]
    fn a_gpu_with_a_display_is_left_more_unless_the_configuration_says_how_much() {
        let status = "sys/bus/pci/devices/0000:03:00.0/drm/card1/card1-DP-1/status";
        let machine = Tree::default().gpu(NAVI31).gpu(Spec { node: 2, bus: 0x63, minor: 129, ..NAVI31 });
        let machine = machine.with(&[(status, "connected\n")]).machine();
        let mut config = Config::defaults(&Surroundings::default());
        let budget = |config: &Config, pci| gpu_budget(config, &machine, pci, 24 << 30) >> 20;
        assert_eq!(budget(&config, Some("0000:03:00.0")), 23 << 10);
        // Another card has none, and of a device that the kernel does not show nothing is known.
        for pci in [Some("0000:63:00.0"), Some("0000:07:00.0"), None] {
            assert_eq!(budget(&config, pci), (24 << 10) - 512, "{pci:?}");
        }
        config.memory.gpu_reserve = Reserve::Bytes(Size(4 << 30));
        assert_eq!(budget(&config, Some("0000:03:00.0")), 20 << 10);
        config.memory.gpu_budget = Amount::Percent(50);
        // Whole hundredths of bytes, as for the host's memory.
        assert_eq!(budget(&config, Some("0000:03:00.0")), ((20_u64 << 30) / 100 * 50) >> 20);
    }

    #[test]
    fn a_worker_that_knows_no_device_still_gives_its_reason() {
        let site = unusable(&ryzen(), "gpu0".into(), NotUsable::from("it died".to_owned()), &[]);
        assert_eq!((site.description.as_str(), site.unusable.as_deref()), ("GPU", Some("it died")));
    }
}
