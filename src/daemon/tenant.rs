//! What the daemon serves: registry, CPU workers and the two routers, joined.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::config::{Config, Context as ContextSize};
use super::devices::{self, CPU, Devices};
use super::heap;
use super::house::{Answer, Control, House, Site, Tenant};
use super::selftest;
use crate::api::{admin, http};
use crate::backend::cpu::CpuPool;
use crate::base::limits::ANSWER_WAIT;
use crate::policy::placement::Use;
use crate::probe::Machine;
use crate::proto::admin::{AdminError, ModelState, Reloaded};
use crate::registry::gpu::Gpu;
use crate::registry::load::{LoadOptions, ModelLoader, Target, kv_type};
use crate::registry::{self, Options, Registry, Reload};
use crate::simd::Tier;
use crate::telemetry::events::DecisionLog;
use crate::telemetry::metrics::Metrics;

/// Builds what is served.
///
/// # Errors
/// A value of the configuration that this machine or this build cannot honour, by its key.
pub fn build(site: Site) -> anyhow::Result<House> {
    let config = &site.config;
    let tier = Tier::parse(&config.cpu.simd).context("cpu.simd")?;
    kv_type(&config.engine.kv_type).map_err(anyhow::Error::msg).context("engine.kv_type")?;
    let pool = CpuPool::new(config.cpu.threads, tier);
    let Devices { sites, targets } = devices::open(config, &site.machine, &pool)?;
    let gpus = sites.iter().zip(&targets).filter_map(|(s, t)| match t {
        Target::Gpu(gpu) => Some((s.id.clone(), Arc::clone(gpu))),
        _ => None,
    });
    let gpus: Vec<(String, Arc<Gpu>)> = gpus.collect();
    let options = Options {
        dirs: config.models.dirs.clone(),
        preload: config.models.preload.clone(),
        autoload: config.models.autoload,
        device: device_use(&config.device.kind),
        listen: site.listen.clone(),
        trim: heap::trim,
        ..Options::new(sites)
    };
    let engines = LoadOptions {
        max_batch: config.engine.max_batch,
        queue: config.engine.queue,
        context: match config.engine.context {
            ContextSize::Auto => None,
            ContextSize::Tokens(n) => Some(n),
        },
        cache_min: config.engine.cache_min,
        kv_type: config.engine.kv_type.clone(),
        ..LoadOptions::default()
    };
    let loader = Arc::new(ModelLoader::new(targets, engines));
    let registry = Registry::start(options, loader, Arc::new(DecisionLog::new()));
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), tier.name()).context("metrics")?);

    let api = http::Api::new(registry.clone(), metrics, config.http.max_body.0);
    let public = http::router(api);
    let (control, stop) = (site.control.clone(), site.control);
    let effective = Arc::clone(&site.effective);
    let admin = admin::router(Arc::new(admin::Admin {
        registry: registry.clone(),
        threads: pool.threads() as u32,
        config: Box::new(move || effective.json()),
        reload: Box::new(move |uid| reload(control.clone(), uid)),
        selftest: selftest::wish(gpus.clone()),
        drain: Box::new(move |uid| {
            let stop = stop.clone();
            Box::pin(async move { stop.drain(uid).await })
        }),
    }));
    let admin = admin.merge(public.clone());
    let machine = site.machine;
    Ok(House { public, admin, tenant: Box::new(Models { registry, pool, machine, gpus }) })
}

/// `forgectl reload`: what needs a restart is no error, but it is said.
fn reload(control: Control, uid: Option<u32>) -> admin::Task<Result<Reloaded, AdminError>> {
    Box::pin(async move {
        let error = |message| AdminError { code: "bad_configuration".to_owned(), message, detail: Value::Null };
        control.reload(uid).await.map(|needs_restart| Reloaded { needs_restart }).map_err(error)
    })
}

fn device_use(name: &str) -> Use {
    match name {
        "gpu" => Use::Gpu,
        "cpu" => Use::Cpu,
        _ => Use::Auto,
    }
}

/// The models, to the daemon.
struct Models {
    registry: registry::Handle,
    pool: Arc<CpuPool>,
    /// What was there when the daemon started: a share of memory is taken of what was to spare then.
    machine: Machine,
    /// GPUs by their ids.
    gpus: Vec<(String, Arc<Gpu>)>,
}

impl Drop for Models {
    /// The daemon stops. A worker sees that, unless it is stopped itself; and a load that hangs in
    /// one keeps it.
    fn drop(&mut self) {
        for (_, gpu) in &self.gpus {
            gpu.end();
        }
    }
}

impl Tenant for Models {
    fn reload<'a>(
        &'a self,
        config: &'a Config,
        listen: Vec<String>,
        uid: Option<u32>,
    ) -> Answer<'a, Result<(), String>> {
        Box::pin(async move {
            let gpus = self.gpus.iter().map(|(id, gpu)| {
                let info = &gpu.info;
                (id.clone(), devices::gpu_budget(config, &self.machine, info.pci.as_deref(), info.free))
            });
            let ram = devices::ram_budget(config, self.machine.memory_available);
            let budgets = gpus.chain([(CPU.to_owned(), ram)]).collect();
            let changes = Reload {
                dirs: Some(config.models.dirs.clone()),
                autoload: Some(config.models.autoload),
                budgets,
                listen: Some(listen),
            };
            self.registry.reload(changes, uid).await.map_err(|e| e.to_string())
        })
    }

    fn drain(&self, deadline: Duration) -> Answer<'_, ()> {
        Box::pin(async move {
            if let Err(e) = self.registry.drain(deadline, None).await {
                tracing::warn!("models were not drained: {e}");
            }
        })
    }

    fn pulse(&self) -> Answer<'_, Option<String>> {
        Box::pin(async move {
            let models = tokio::time::timeout(ANSWER_WAIT, self.registry.list()).await.ok()?.ok()?;
            if !self.pool.alive() {
                return None;
            }
            let count = |state| models.iter().filter(|m| m.state == state).count();
            let mut line = format!("{} models ready", count(ModelState::Ready));
            for (state, what) in [(ModelState::Loading, "loading"), (ModelState::Failed, "failed")] {
                if count(state) > 0 {
                    line += &format!(", {} {what}", count(state));
                }
            }
            Some(line)
        })
    }
}
