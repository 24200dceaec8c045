//! The life of the daemon, from bound sockets to the last connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;

use super::config::{Config, Effective, InForce, Sources};
use super::devices;
use super::house::{Ask, Control, House, Site, Tenant};
use super::listen::{self, Listener};
use super::log::LevelSwitch;
use super::serve::Server;
use super::signals::{Asked, Signals};
use super::systemd::{self, Systemd};
use super::watchdog::{self, Pulse};
use crate::base::limits;
use crate::probe::{GpuNode, Machine};

/// Keys that a reload takes over; all others need a restart.
const RELOADABLE: &[&str] = &[
    "log.level",
    "models.dirs",
    "models.autoload",
    "memory.ram_budget",
    "memory.gpu_budget",
    "memory.gpu_reserve",
    "http.drain_secs",
];

/// Runs until a signal or an admin ends it.
pub(super) fn run(
    sources: Sources,
    effective: Effective,
    mut systemd: Systemd,
    level: LevelSwitch,
    build: impl FnOnce(Site) -> anyhow::Result<House>,
) -> anyhow::Result<()> {
    let config = &effective.config;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = effective.file.as_ref().map_or("defaults".to_owned(), |f| f.display().to_string()),
        "rocmforged starts"
    );
    for w in &effective.warnings {
        tracing::warn!("{w}");
    }
    let machine = Machine::probe(Path::new("/"));
    device(config, &machine)?;
    raise_descriptors();

    let mut public = Vec::new();
    for address in &config.http.listen {
        public.extend(listen::public(address)?);
    }
    let admin = listen::admin(&config.admin.socket, std::mem::take(&mut systemd.sockets))?;
    let addresses = Addresses { public: public.iter().map(Listener::address).collect(), admin: admin.address() };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("io")
        .build()
        .context("cannot start the I/O threads")?;
    let (control, asks) = Control::new();
    let listen = addresses.public.clone();
    let inside = runtime.enter();
    let in_force = Arc::new(InForce::new(&effective));
    let site = Site { config: config.clone(), listen, effective: Arc::clone(&in_force), machine, control };
    let house = build(site)?;
    drop(inside);
    let life = Life { sources, config: effective.config, in_force, level, addresses, asks, watchdog: systemd.watchdog };
    let result = runtime.block_on(life.live(public, admin, house));
    // A blocking job (a rendering, a tokenization) whose client has gone is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Says what this machine has; an error if a GPU is asked for and it is plain that none can be
/// used. What else may stand in the way shows when the devices are opened.
fn device(config: &Config, machine: &Machine) -> anyhow::Result<()> {
    if let (Err(why), "gpu") = (devices::wanted(config, machine), config.device.kind.as_str()) {
        anyhow::bail!("device.use is gpu, but no GPU can be used: {why}; use auto or cpu");
    }
    let (cpu, gpus) = (&machine.cpu, &machine.gpu.nodes);
    let gpus = gpus.iter().map(GpuNode::label).collect::<Vec<_>>().join(", ");
    tracing::info!(processor = cpu.model, cores = cpu.cores, gpus, "this machine");
    Ok(())
}

/// Connections and mapped files need descriptors; the soft limit is often 1024.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(e) = raised {
        tracing::warn!(error = %e, "the limit of open files was not raised");
    }
}

struct Addresses {
    public: Vec<String>,
    admin: String,
}

struct Life {
    sources: Sources,
    config: Config,
    in_force: Arc<InForce>,
    level: LevelSwitch,
    addresses: Addresses,
    asks: mpsc::Receiver<Ask>,
    watchdog: Option<Duration>,
}

impl Life {
    async fn live(mut self, public: Vec<Listener>, admin: Listener, house: House) -> anyhow::Result<()> {
        let mut signals = Signals::new().context("cannot listen to signals")?;
        let tenant: Arc<dyn Tenant> = house.tenant.into();
        let public = Server::start(public, &house.public, limits::HTTP_CONNECTIONS_MAX).context("cannot serve")?;
        let admin = Server::start(vec![admin], &house.admin, limits::ADMIN_CONNECTIONS_MAX).context("cannot serve")?;
        let pulse = Pulse::new();
        if let Some(timeout) = self.watchdog {
            watchdog::start(timeout, &pulse, systemd::watchdog).context("cannot start the watchdog's thread")?;
        }
        let beat = tokio::spawn(beat(Arc::clone(&tenant), pulse, self.watchdog));
        let status = self.status();
        tracing::info!(listen = self.addresses.public.join(", "), admin = self.addresses.admin, "ready");
        systemd::ready(&status);

        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Stop => break,
                    Asked::Reload => {
                        // Its problems are in the log.
                        let _ = self.reload(&*tenant, None).await;
                    }
                },
                Some(ask) = self.asks.recv() => match ask {
                    Ask::Drain(uid) => {
                        tracing::info!(uid, "asked to finish and stop");
                        break;
                    }
                    Ask::Reload(uid, reply) => {
                        // Whoever asked may have gone.
                        let _ = reply.send(self.reload(&*tenant, uid).await);
                    }
                },
            }
        }
        self.stop(signals, public, admin, &*tenant).await;
        beat.abort();
        Ok(())
    }

    fn status(&self) -> String {
        format!("serving on {}", self.addresses.public.join(", "))
    }

    /// Reads the configuration again and takes over what can change. Loaded models stay.
    async fn reload(&mut self, tenant: &dyn Tenant, uid: Option<u32>) -> Result<Vec<String>, String> {
        systemd::reloading();
        let result = self.take_over(tenant, uid).await;
        match &result {
            Ok(later) if later.is_empty() => tracing::info!(uid, "configuration read again"),
            Ok(later) => tracing::warn!(uid, keys = later.join(", "), "configuration read again; these need a restart"),
            Err(e) => tracing::error!(uid, "the configuration was not taken over: {e}"),
        }
        systemd::ready(&self.status());
        result
    }

    async fn take_over(&mut self, tenant: &dyn Tenant, uid: Option<u32>) -> Result<Vec<String>, String> {
        let new = self.sources.load().map_err(|e| e.to_string())?;
        for w in &new.warnings {
            tracing::warn!("{w}");
        }
        let (now, later): (Vec<_>, Vec<_>) =
            new.changed(&self.config).into_iter().partition(|k| RELOADABLE.contains(&k.as_str()));
        tenant.reload(&new.config, self.addresses.public.clone(), uid).await?;
        self.level.set(&new.config.log.level);
        if !now.is_empty() {
            tracing::info!(keys = now.join(", "), "changed");
        }
        // What needs a restart keeps its old value here, so that the next reload names it again.
        self.config.log.level.clone_from(&new.config.log.level);
        self.config.models.dirs.clone_from(&new.config.models.dirs);
        self.config.models.autoload = new.config.models.autoload;
        self.config.memory.clone_from(&new.config.memory);
        self.config.http.drain_secs = new.config.http.drain_secs;
        self.in_force.set(&new.in_force(self.config.clone()));
        Ok(later)
    }

    /// Finishes requests until the deadline or a second signal, then ends every connection.
    async fn stop(&self, mut signals: Signals, public: Server, admin: Server, tenant: &dyn Tenant) {
        let deadline = Duration::from_secs(self.config.http.drain_secs);
        tracing::info!(deadline_s = deadline.as_secs(), "stopping: running requests are finished");
        systemd::stopping("finishing running requests");
        systemd::extend_timeout(deadline + limits::DRAIN_CANCEL + Duration::from_secs(5));
        let (cut_public, cut_admin) = (public.cut(), admin.cut());
        let finish = async {
            // Requests that were on their way when the port closed are still served; only then
            // does the tenant refuse new ones.
            let tenant = async {
                tokio::time::sleep(limits::DRAIN_LINGER).await;
                tenant.drain(deadline).await;
            };
            tokio::join!(public.drain(), tenant);
            // Last, so that `forgectl status` can watch the stop.
            admin.drain().await;
        };
        tokio::select! {
            () = finish => tracing::info!("stopped: every request was finished"),
            () = tokio::time::sleep(deadline + limits::DRAIN_CANCEL) => {
                tracing::warn!("stopped: the deadline cut connections");
            }
            () = signals.stop() => tracing::warn!("stopped at once: a second signal came"),
        }
        cut_public.cancel();
        cut_admin.cancel();
    }
}

/// Asks everything that must answer, over and over; tells systemd when its answer changes.
async fn beat(tenant: Arc<dyn Tenant>, pulse: Arc<Pulse>, watchdog: Option<Duration>) {
    let every = watchdog.map_or(limits::PULSE_INTERVAL, |w| (w / 8).min(limits::PULSE_INTERVAL));
    let mut last = String::new();
    loop {
        if let Some(status) = tenant.pulse().await {
            pulse.beat();
            if status != last {
                systemd::status(&status);
                last = status;
            }
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests;
