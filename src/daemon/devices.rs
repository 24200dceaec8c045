//! The devices that models can run on: each GPU through a worker process, then the CPU.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Amount, Config};
use super::systemd;
use crate::backend::cpu::CpuPool;
use crate::backend::hip::objects;
use crate::backend::remote::process::Unusable;
use crate::base::limits::{RAM_BUDGET_PERCENT, WORKER_EXIT, WORKER_START};
use crate::policy::placement::SiteKind;
use crate::pool::budget::Budget;
use crate::probe::Machine;
use crate::registry::Site;
use crate::registry::gpu::Gpu;
use crate::registry::load::Target;

/// Names of the CPU in lists, budgets and metrics.
pub(super) const CPU: &str = "cpu";
/// What the rest of a start takes at most.
const START_SPARE: Duration = Duration::from_secs(30);
/// A runtime named by the user is asked even where the kernel shows no GPU.
const LIBRARY: &str = "ROCMFORGE_HIP_LIBRARY";

/// Devices, with what loads models onto them; both in the same order.
pub(super) struct Devices {
    pub sites: Vec<Site>,
    pub targets: Vec<Target>,
}

/// Opens all devices that the configuration allows. One that cannot be used is there too, with
/// the reason.
///
/// # Errors
/// A GPU is demanded, and there is none.
pub(super) fn open(config: &Config, machine: &Machine, pool: &Arc<CpuPool>) -> anyhow::Result<Devices> {
    let (mut sites, mut targets) = (Vec::new(), Vec::new());
    let why_not = match wanted(config, machine) {
        Ok(()) => gpus(config, &mut sites, &mut targets).err(),
        Err(why) => Some(why),
    };
    if let (Some(why), "gpu") = (&why_not, config.device.kind.as_str()) {
        anyhow::bail!("device.use is gpu, but no GPU can be used: {why}; use auto or cpu");
    }
    let description = format!("{}, {} threads, {}", machine.cpu.model, pool.threads(), pool.tier().name());
    sites.push(Site {
        id: CPU.to_owned(),
        name: format!("{CPU} {}", pool.tier().name()),
        kind: SiteKind::Cpu,
        description,
        budget: Budget::new(ram_budget(config, machine.memory_available)),
        reason: why_not.unwrap_or_else(|| "for models that no GPU can hold".to_owned()),
        unusable: None,
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
fn wanted(config: &Config, machine: &Machine) -> Result<(), String> {
    if config.device.kind == "cpu" {
        return Err("device.use is cpu".to_owned());
    }
    if let Some(why) = objects::ABSENT {
        return Err(format!("no GPU kernels in this binary: {why}"));
    }
    let named = env::var_os(LIBRARY).is_some_and(|v| !v.is_empty());
    if named || machine.gpu.usable() { Ok(()) } else { Err(machine.reason()) }
}

/// Starts a worker for each device that the runtime shows; why there is none.
fn gpus(config: &Config, sites: &mut Vec<Site>, targets: &mut Vec<Target>) -> Result<(), String> {
    let (mut index, mut count, mut why_not) = (0, 1, String::new());
    while index < count {
        let log = config.log.clone();
        // A runtime that hangs is waited for; systemd's patience with a start has to last as long.
        systemd::extend_timeout(WORKER_START + WORKER_EXIT + START_SPARE);
        let opened = Gpu::open(move || {
            let mut command = Command::new("/proc/self/exe");
            command.arg0("rocmforged").args(["gpu-worker", "--index", &index.to_string()]);
            command.args(["--log", &log.level, "--log-format", &log.format]);
            command
        });
        let id = format!("gpu{index}");
        match opened {
            Ok(gpu) => {
                count = gpu.info.count;
                sites.push(site(config, id, &gpu));
                targets.push(Target::Gpu(gpu));
            }
            Err(Unusable { reason: why, count: shown }) => {
                // The next one may do: an integrated GPU often comes first.
                count = count.max(shown);
                why_not.clone_from(&why);
                sites.push(Site {
                    name: "gpu".to_owned(),
                    kind: SiteKind::Gpu,
                    description: "GPU".to_owned(),
                    budget: Budget::new(0),
                    reason: why.clone(),
                    unusable: Some(why),
                    id,
                });
                targets.push(Target::Unusable);
            }
        }
        index += 1;
    }
    if sites.iter().any(|s| s.unusable.is_none()) { Ok(()) } else { Err(why_not) }
}

fn site(config: &Config, id: String, gpu: &Gpu) -> Site {
    let info = &gpu.info;
    let version = (info.runtime_version / 10_000_000, info.runtime_version / 100_000 % 100);
    Site {
        id,
        name: gpu.name(),
        kind: SiteKind::Gpu,
        description: format!("{}, {}, HIP {}.{}", info.name, info.arch, version.0, version.1),
        budget: Budget::new(gpu_budget(config, info.free)),
        reason: match &info.visibility {
            None => format!("{} is there", info.library),
            Some(set) => format!("{} is there ({set})", info.library),
        },
        unusable: None,
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

/// `memory.gpu_budget` in bytes, on a GPU with `free` bytes when its worker started.
pub(super) fn gpu_budget(config: &Config, free: u64) -> u64 {
    let usable = free.saturating_sub(config.memory.gpu_reserve.0);
    match config.memory.gpu_budget {
        Amount::Auto => usable,
        Amount::Percent(p) => usable / 100 * u64::from(p),
        Amount::Bytes(size) => size.0,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::daemon::config::Surroundings;
    use crate::simd::Tier;

    #[test]
    fn a_gpu_that_cannot_be_used_is_refused_with_the_reason_if_it_was_demanded() {
        let mut config = Config::defaults(&Surroundings::default());
        let machine = Machine::probe(Path::new("/nowhere"));
        let pool = CpuPool::new(1, Tier::Scalar);
        let found = open(&config, &machine, &pool).expect("auto falls back");
        assert!(found.sites.iter().any(|s| s.id == CPU && s.unusable.is_none()));
        config.device.kind = "gpu".to_owned();
        let why = open(&config, &machine, &pool).err().expect("no GPU").to_string();
        assert!(why.contains("device.use is gpu") && why.ends_with("; use auto or cpu"), "{why}");
    }
}
