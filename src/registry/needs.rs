//! What a model needs on each device: as a whole, and for every way to divide its layers.

use super::facts;
use super::gpu::Gpu;
use super::load::{LoadOptions, Target};
use crate::backend::cpu::{CpuBackend, CpuPool};
use crate::engine::cache;
use crate::gguf::Gguf;
use crate::plan::Plan;
use crate::policy::admission::Need;
use crate::policy::placement::{Needs, Share, Way};

/// All ways to run `plan` with contexts of `context` tokens on `targets`, counted to the byte.
pub(super) fn of(targets: &[Target], options: &LoadOptions, gguf: &Gguf, plan: &Plan, context: u32) -> Needs {
    let counter = Counter { options, gguf, context };
    let cpu = targets.iter().enumerate().find_map(|(site, t)| match t {
        Target::Cpu(pool) => Some((site, &**pool)),
        _ => None,
    });
    let gpus = || {
        targets.iter().enumerate().filter_map(|(site, t)| match t {
            Target::Gpu(gpu) => Some((site, &**gpu)),
            _ => None,
        })
    };
    let n_layer = plan.layers.len();
    let mut ways = Vec::new();
    if let Some((site, pool)) = cpu.filter(|_| gpus().next().is_some()) {
        for layers in 1..n_layer {
            let Some([first, rest]) = plan.split(n_layer - layers) else { continue };
            let on_cpu = counter.cpu(pool, &first, first.weight_bytes());
            for (gpu_site, gpu) in gpus() {
                let on_cpu = counter.beside(on_cpu, &rest);
                let shares = [Share { site: gpu_site, need: counter.gpu(gpu, &rest) }, Share { site, need: on_cpu }];
                ways.push(Way { shares: ledgers(gpu, shares), layers: Some(layers as u32) });
            }
        }
    }
    for (site, target) in targets.iter().enumerate() {
        let mut way = match target {
            Target::Cpu(pool) => Way::whole(site, counter.cpu(pool, plan, gguf.file_bytes)),
            Target::Gpu(gpu) => Way::whole(site, counter.gpu(gpu, plan)),
            Target::Unusable => Way::whole(site, Need::default()),
        };
        if let (Target::Gpu(gpu), Some((site, _))) = (target, cpu) {
            let tables = Need { tables: facts::tables(&gguf.meta), ..Need::default() };
            way.shares = ledgers(gpu, [way.shares[0], Share { site, need: counter.beside(tables, plan) }]);
        }
        ways.push(way);
    }
    Needs { ways, n_layer: n_layer as u32 }
}

/// What is taken of each ledger: of one, where the GPU's memory is the machine's.
fn ledgers(gpu: &Gpu, [on_gpu, on_cpu]: [Share; 2]) -> Vec<Share> {
    match gpu.info.integrated {
        false => vec![on_gpu, on_cpu],
        true => vec![Share { need: on_gpu.need.plus(on_cpu.need), ..on_gpu }],
    }
}

struct Counter<'a> {
    options: &'a LoadOptions,
    gguf: &'a Gguf,
    context: u32,
}

impl Counter<'_> {
    fn cache(&self, plan: &Plan) -> u64 {
        let tokens = self.options.cache_min.min(self.context);
        cache::minimum_bytes(&plan.caches, plan.part, tokens, self.options.step_tokens as u32)
    }

    /// A plan on the CPU; `weights` are mapped bytes.
    fn cpu(&self, pool: &CpuPool, plan: &Plan, weights: u64) -> Need {
        Need {
            weights,
            cache: self.cache(plan),
            activations: CpuBackend::activation_bytes(plan, pool, self.options.step_tokens, self.options.max_batch),
            tables: facts::tables(&self.gguf.meta),
        }
    }

    fn gpu(&self, gpu: &Gpu, plan: &Plan) -> Need {
        gpu.need(plan, &self.options.steps(self.context), self.cache(plan))
    }

    /// What is needed on the CPU beside `need` if `plan` runs on a GPU.
    fn beside(&self, need: Need, plan: &Plan) -> Need {
        let bytes = Gpu::host_bytes(plan, &self.options.steps(self.context));
        Need { activations: need.activations + bytes, ..need }
    }
}
