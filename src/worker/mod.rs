//! The GPU worker process: one device, all models on it, driven by the daemon.
//!
//! Its standard input is a socket to the daemon (`backend::remote::wire`). It opens the HIP
//! runtime, says what device it found, and loads what it is asked to: each model gets a thread
//! that answers the model's doorbell. When the daemon's end closes, the process ends at once,
//! whatever its queues do.

mod model;
mod selftest;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::backend::hip::bandwidth;
use crate::backend::hip::device::Device;
use crate::backend::hip::module::Kernels;
use crate::backend::hip::objects;
use crate::backend::hip::sys::Hip;
use crate::backend::remote::wire::{DeviceInfo, FromWorker, LoadFailure, LoadOrder, NotUsable, ToWorker, Wire};

/// What all models of the worker share.
struct Worker {
    device: Device,
    kernels: Kernels,
    wire: Wire,
    /// Loads under way that can be given up.
    loads: Mutex<HashMap<u64, Arc<AtomicBool>>>,
}

impl Worker {
    /// Tells the daemon something; if it is gone, so is the reason to go on.
    fn say(&self, message: &FromWorker) {
        if let Err(e) = self.wire.send(message, &[]) {
            tracing::error!("the daemon does not listen: {e}");
            end();
        }
    }

    fn loads(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<AtomicBool>>> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A terminal's Ctrl-C and a service's stop reach the whole group, this process too: it must live until
/// the daemon has finished its requests. Threads that are started later inherit the mask.
fn keep_signals_away() {
    let stops = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
    let mask: SigSet = stops.into_iter().collect();
    // Cannot fail for these; if it did, a stop would only be less orderly.
    let _ = mask.thread_block();
}

/// Ends the process now: an orderly exit would wait for a runtime that may hang.
fn end() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}

/// Ends the process when the daemon's end of the socket closes, even while the runtime is being
/// opened and nobody listens.
fn watch(daemon: &OwnedFd) {
    loop {
        // A hang-up is reported without being asked for.
        let mut socket = [PollFd::new(daemon.as_fd(), PollFlags::empty())];
        match poll(&mut socket, PollTimeout::NONE) {
            Ok(_) => end(),
            Err(nix::Error::EINTR) => {}
            Err(e) => {
                tracing::error!("the daemon cannot be watched: {e}");
                return;
            }
        }
    }
}

/// What a worker is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of the device, of those that the runtime shows.
    pub index: u32,
    /// PCI addresses of devices that are left alone.
    pub skip: Vec<String>,
    /// File with results of earlier self-tests.
    pub record: Option<PathBuf>,
    /// Test the kernels whatever was found earlier.
    pub test: bool,
    /// Kernels that are neither tested nor used.
    pub without: Vec<String>,
}

/// Runs the worker until the daemon's end of the socket closes.
pub fn run(options: &Options) -> Result<(), String> {
    keep_signals_away();
    let stdin = || std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| format!("standard input: {e}"));
    let (wire, daemon) = (Wire::from_fd(stdin()?), stdin()?);
    let (begins, begun) = mpsc::channel();
    let watching = std::thread::Builder::new().name("daemon".to_owned()).spawn(move || {
        let _ = begins.send(());
        watch(&daemon);
    });
    watching.map_err(|e| format!("no thread to watch the daemon: {e}"))?;
    // A thread that starts may need the dynamic linker, which is locked while a library is opened.
    let _ = begun.recv();
    let (device, kernels) = match open(options, &wire) {
        Ok(found) => found,
        Err(why) => {
            let said = wire.send(&FromWorker::Unusable(why), &[]);
            return said.map_err(|e| format!("standard input is no socket of the daemon: {e}"));
        }
    };
    let (free, total) = device.memory().map_err(|e| e.to_string())?;
    let info = DeviceInfo {
        name: device.name.clone(),
        arch: device.arch.clone(),
        pci: device.pci.clone(),
        total,
        free,
        compute_units: device.properties.compute_units,
        integrated: device.properties.integrated,
        bandwidth: bandwidth::measure(&device),
        library: device.hip().path().to_owned(),
        runtime_version: device.runtime_version,
        count: device.hip().device_count().unwrap_or(1),
        visibility: device.visibility.clone(),
    };
    let worker = Arc::new(Worker { device, kernels, wire, loads: Mutex::new(HashMap::new()) });
    worker.say(&FromWorker::Ready(info));
    loop {
        match worker.wire.receive::<ToWorker>() {
            Ok(Some((ToWorker::Load(order), files))) => load(&worker, order, files),
            Ok(Some((ToWorker::Cancel { id }, _))) => {
                if let Some(cancelled) = worker.loads().get(&id) {
                    cancelled.store(true, Ordering::Relaxed);
                }
            }
            Ok(None) => end(),
            Err(e) => {
                tracing::error!("the daemon said what makes no sense: {e}");
                end();
            }
        }
    }
}

fn open(options: &Options, wire: &Wire) -> Result<(Device, Kernels), NotUsable> {
    let index = options.index;
    let hip = Hip::find().map_err(|e| e.to_string())?;
    let count = hip.device_count().map_err(|e| e.to_string())?;
    if index >= count {
        let reason = format!("{} shows {count} devices, device {index} is not among them", hip.path());
        return Err(NotUsable { reason, pci: None, count });
    }
    // Before the device is touched: opening an integrated one takes memory of the machine.
    let pci = hip.pci_id(index);
    let opened = match &pci {
        Some(pci) if options.skip.contains(pci) => Err(format!("the GPU at {pci} is left alone")),
        _ => device(hip, options, wire),
    };
    opened.map_err(|reason| NotUsable { reason, pci, count })
}

fn device(hip: &'static Hip, options: &Options, wire: &Wire) -> Result<(Device, Kernels), String> {
    let device = Device::open(hip, options.index).map_err(|e| e.to_string())?;
    if !objects::TARGETS.contains(&device.arch.as_str()) {
        let there = objects::ABSENT.map_or_else(|| format!("it has {}", objects::TARGETS.join(", ")), str::to_owned);
        return Err(format!("{} has no kernels in this build ({there})", device.arch));
    }
    let objects = objects::for_target(&device.arch).map_err(|e| e.to_string())?;
    let mut kernels = Kernels::load(&device, &objects).map_err(|e| e.to_string())?;
    selftest::run(&device, &mut kernels, &objects, options, wire)?;
    Ok((device, kernels))
}

/// Starts a model's thread.
fn load(worker: &Arc<Worker>, order: LoadOrder, files: Vec<File>) {
    let (id, cancelled) = (order.id, Arc::new(AtomicBool::new(false)));
    worker.loads().insert(id, Arc::clone(&cancelled));
    let ours = Arc::clone(worker);
    let name = format!("gpu {}", order.model);
    let spawned = std::thread::Builder::new().name(name).spawn(move || model::run(&ours, &order, files, &cancelled));
    if let Err(e) = spawned {
        worker.loads().remove(&id);
        worker.say(&FromWorker::Failed { id, why: LoadFailure::Device(format!("no thread for the model: {e}")) });
    }
}
