//! A worker process, as the daemon sees it: started, asked to load, watched, killed.
//!
//! Guarantees to safe callers: a descriptor that arrived in a message is owned once.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::RemoteBackend;
use super::mailbox::{Mailbox, Shape};
use super::selftest::{Tested, Watch};
use super::wire::{DeviceInfo, FromWorker, LoadFailure, LoadOrder, NotUsable, ToWorker, Wire};
use crate::base::limits::{SELFTEST, SELFTEST_KERNEL, WORKER_EXIT, WORKER_POLL, WORKER_STALL, WORKER_START};

/// Takes over a descriptor that came with a message.
pub(super) fn adopt(raw: RawFd) -> File {
    // SAFETY: the system made this descriptor for the message; nobody else knows it.
    unsafe { File::from_raw_fd(raw) }
}

/// A model to load in a worker.
pub struct Wish<'a> {
    /// The model's id.
    pub model: &'a str,
    /// Its opened files with their names.
    pub files: Vec<(BorrowedFd<'a>, String)>,
    /// Element type of the caches.
    pub kv_type: &'a str,
    /// The layers from this one on; `None` for all of the model.
    pub first_layer: Option<usize>,
    /// The largest step.
    pub shape: Shape,
}

/// A running worker. It ends when the last one is dropped.
pub struct Process {
    info: DeviceInfo,
    tested: Option<Tested>,
    wire: Arc<Wire>,
    child: Mutex<Child>,
    loads: Mutex<HashMap<u64, mpsc::Sender<FromWorker>>>,
    next: AtomicU64,
    /// Why it is being killed, if it is.
    verdict: OnceLock<String>,
    on_death: Box<dyn Fn() + Send + Sync>,
    /// How it ended.
    death: Mutex<Option<String>>,
    died: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts `command` with one end of a socket as its standard input and waits for its device.
    /// `on_death` is called when it has died; `watch` hears of the test of its kernels.
    ///
    /// # Errors
    /// Why the device cannot be used.
    pub fn start(
        mut command: Command,
        on_death: Box<dyn Fn() + Send + Sync>,
        watch: &mut Watch,
    ) -> Result<Arc<Self>, NotUsable> {
        let (ours, theirs) = Wire::pair().map_err(|e| format!("no socket for the GPU worker: {e}"))?;
        command.stdin(Stdio::from(theirs.into_fd())).stdout(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("the GPU worker cannot be started: {e}"))?;
        // The child has the other end; ours must be the only other one, or its end goes unnoticed.
        drop(command);
        let (hello, first) = mpsc::channel();
        let wire = Arc::new(ours);
        let listening = Arc::clone(&wire);
        let (later, process) = mpsc::channel::<std::sync::Weak<Self>>();
        let spawned = std::thread::Builder::new().name("gpu worker".to_owned()).spawn(move || {
            loop {
                let Ok(Some((message, _))) = listening.receive::<FromWorker>() else { return };
                let testing = matches!(message, FromWorker::Testing { .. } | FromWorker::Tested { .. });
                if hello.send(message).is_err() {
                    return;
                }
                if !testing {
                    break;
                }
            }
            let Ok(process) = process.recv() else { return };
            listen(&listening, &process);
        });
        let info = match spawned {
            Ok(_) => greeted(&first, watch),
            Err(e) => Err(Silence::Said(format!("no thread for the GPU worker: {e}").into())),
        };
        let info = info.map_err(|why| {
            let how = reap(&mut child);
            let during = watch.testing().map(|kernel| format!("the self-test of kernel {kernel}"));
            match (why, during) {
                (Silence::Said(why), None) => why,
                (Silence::Said(why), Some(during)) => NotUsable { reason: format!("{during}: {}", why.reason), ..why },
                (Silence::Death, None) => format!("the GPU worker died at its start ({how})").into(),
                (Silence::Death, Some(during)) => format!("the GPU worker died in {during} ({how})").into(),
                (Silence::Late(s), None) => format!("the GPU runtime did not start within {s} s").into(),
                (Silence::Late(s), Some(during)) => format!("{during} did not end within {s} s").into(),
            }
        })?;
        let process = Arc::new(Self {
            info,
            tested: watch.tested(),
            wire,
            child: Mutex::new(child),
            loads: Mutex::new(HashMap::new()),
            next: AtomicU64::new(0),
            verdict: OnceLock::new(),
            on_death,
            death: Mutex::new(None),
            died: Condvar::new(),
        });
        // The thread waits for just this.
        let _ = later.send(Arc::downgrade(&process));
        Ok(process)
    }

    /// The device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What came of the self-test of its kernels.
    pub fn tested(&self) -> Option<&Tested> {
        self.tested.as_ref()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// How it ended, or why it is being ended; nothing can be asked of it then.
    pub fn dead(&self) -> Option<String> {
        let death = lock(&self.death).clone();
        death.or_else(|| self.verdict.get().map(|why| sentence(why)))
    }

    /// Waits up to `wait` for its end; whether it has ended, and its memory is free.
    pub fn gone_within(&self, wait: Duration) -> bool {
        let death = lock(&self.death);
        let waited = self.died.wait_timeout_while(death, wait, |d| d.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }

    /// Why it does not answer: how it ended, which the system says within moments.
    pub(super) fn death(&self) -> String {
        if self.verdict.get().is_none() {
            self.gone_within(WORKER_EXIT);
        }
        self.dead().unwrap_or_else(|| "the GPU worker closed its end".to_owned())
    }

    /// Ends it at once; all its models are lost. Its end may take a while.
    pub fn kill(&self, why: &str) {
        if lock(&self.death).is_some() || self.verdict.set(why.to_owned()).is_err() {
            return;
        }
        tracing::error!(device = self.info.arch, "{}", sentence(why));
        // It may have ended by itself.
        let _ = lock(&self.child).kill();
        (self.on_death)();
    }

    /// Loads a model. `progress` is told bytes done and in all, and whether to go on is its answer.
    ///
    /// # Errors
    /// [`LoadFailure`]; nothing of the model stays on the device.
    pub fn load(
        self: &Arc<Self>,
        wish: &Wish<'_>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<RemoteBackend, LoadFailure> {
        self.load_within(WORKER_STALL, wish, progress)
    }

    fn load_within(
        self: &Arc<Self>,
        stall: Duration,
        wish: &Wish<'_>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<RemoteBackend, LoadFailure> {
        let device = |what: &str, e: std::io::Error| LoadFailure::Device(format!("{what}: {e}"));
        let (mailbox, memory) = Mailbox::new(wish.shape).map_err(|e| device("shared memory for steps", e))?;
        let (bell, theirs) = UnixStream::pair().map_err(|e| device("a doorbell", e))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (news, inbox) = mpsc::channel();
        lock(&self.loads).insert(id, news);
        let order = LoadOrder {
            id,
            model: wish.model.to_owned(),
            files: wish.files.iter().map(|f| f.1.clone()).collect(),
            kv_type: wish.kv_type.to_owned(),
            first_layer: wish.first_layer,
            shape: wish.shape,
        };
        let mut descriptors = vec![memory.as_fd(), theirs.as_fd()];
        descriptors.extend(wish.files.iter().map(|f| f.0));
        let sent = self.wire.send(&ToWorker::Load(order), &descriptors);
        drop(theirs);
        let result = match sent {
            Ok(()) => self.follow(id, &inbox, stall, progress),
            Err(e) if e.kind() == ErrorKind::InvalidInput => Err(LoadFailure::Device(e.to_string())),
            Err(_) => Err(LoadFailure::Lost(self.death())),
        };
        lock(&self.loads).remove(&id);
        if let Err(LoadFailure::Lost(why)) = &result {
            self.kill(why);
        }
        Ok(RemoteBackend::new(wish.model, mailbox, bell, Arc::clone(self), result?))
    }

    fn follow(
        &self,
        id: u64,
        inbox: &mpsc::Receiver<FromWorker>,
        stall: Duration,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<String, LoadFailure> {
        let (mut last, mut heard, mut cancelled) = ((0, 0), Instant::now(), false);
        loop {
            match inbox.recv_timeout(WORKER_POLL) {
                Ok(FromWorker::Progress { done, total, .. }) => (last, heard) = ((done, total), Instant::now()),
                Ok(FromWorker::Loaded { device, .. }) => return Ok(device),
                Ok(FromWorker::Failed { why, .. }) => return Err(why),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(LoadFailure::Lost(self.death())),
            }
            if let Some(death) = self.dead() {
                return Err(LoadFailure::Lost(death));
            }
            if heard.elapsed() > stall {
                // Not `Lost`: another worker would be waited for as long.
                let what = format!("a load said nothing for {} s", stall.as_secs());
                self.kill(&what);
                return Err(LoadFailure::Device(what));
            }
            if !progress(last.0, last.1) && !cancelled {
                cancelled = true;
                // If it cannot be told it is gone, which the next look shows.
                let _ = self.wire.send(&ToWorker::Cancel { id }, &[]);
            }
        }
    }
}

/// Why a worker is not ready.
enum Silence {
    /// It, or the system, said so.
    Said(NotUsable),
    /// It has closed its socket.
    Death,
    /// It took longer than so many seconds.
    Late(u64),
}

/// Waits until a worker is ready. A test of kernels has a bound of its own, and each kernel one.
fn greeted(first: &mpsc::Receiver<FromWorker>, watch: &mut Watch) -> Result<DeviceInfo, Silence> {
    let (mut limit, mut since, mut end) = (WORKER_START, Instant::now(), None);
    loop {
        let left = (limit - since.elapsed().min(limit))
            .min(end.map_or(limit, |end: Instant| end.saturating_duration_since(Instant::now())));
        match first.recv_timeout(left) {
            Ok(FromWorker::Ready(info)) => return Ok(info),
            Ok(FromWorker::Unusable(why)) => return Err(Silence::Said(why)),
            Ok(message @ (FromWorker::Testing { .. } | FromWorker::Tested { .. })) => {
                (limit, since) = (SELFTEST_KERNEL, Instant::now());
                end = end.or_else(|| Some(Instant::now() + SELFTEST));
                watch.hear(&message);
            }
            Ok(other) => return Err(Silence::Said(format!("the GPU worker began with {other:?}").into())),
            Err(RecvTimeoutError::Disconnected) => return Err(Silence::Death),
            Err(RecvTimeoutError::Timeout) if since.elapsed() >= limit => return Err(Silence::Late(limit.as_secs())),
            // All of them are slow: it is not the fault of the one that is running.
            Err(RecvTimeoutError::Timeout) => {
                watch.acquit();
                let why = format!("the self-test did not end within {} s", SELFTEST.as_secs());
                return Err(Silence::Said(why.into()));
            }
        }
    }
}

/// Passes on what a worker says until it ends.
fn listen(wire: &Wire, process: &std::sync::Weak<Process>) {
    let said = loop {
        match wire.receive::<FromWorker>() {
            Ok(Some((message, _))) => {
                let Some(process) = process.upgrade() else { return };
                let id = match &message {
                    FromWorker::Progress { id, .. } | FromWorker::Loaded { id, .. } | FromWorker::Failed { id, .. } => {
                        *id
                    }
                    FromWorker::Ready(_)
                    | FromWorker::Unusable(_)
                    | FromWorker::Testing { .. }
                    | FromWorker::Tested { .. } => continue,
                };
                if let Some(load) = lock(&process.loads).get(&id) {
                    // Whoever waited may have gone.
                    let _ = load.send(message);
                }
            }
            Ok(None) => break None,
            Err(e) => break Some(e),
        }
    };
    let Some(process) = process.upgrade() else { return };
    if let Some(e) = said {
        process.kill(&format!("it said what makes no sense ({e})"));
    }
    let how = ended(&process);
    let death = match process.verdict.get() {
        Some(why) => sentence(why),
        None => {
            let death = format!("the GPU worker died ({how})");
            tracing::error!(device = process.info.arch, "{death}");
            death
        }
    };
    *lock(&process.death) = Some(death);
    process.died.notify_all();
    // Loads that wait hear of it.
    lock(&process.loads).clear();
    (process.on_death)();
}

fn sentence(verdict: &str) -> String {
    format!("the GPU worker was ended: {verdict}")
}

/// Ends a child and waits for it, but not for one that the kernel cannot end now (a thread of it is
/// inside a driver that hangs): that one stays behind until it can.
fn reap(child: &mut Child) -> String {
    let _ = child.kill();
    let until = Instant::now() + WORKER_EXIT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Err(e) => return e.to_string(),
            Ok(None) if Instant::now() > until => return "it does not end".to_owned(),
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Waits for the end of a worker that has closed its socket; the lock is free in between.
fn ended(process: &Process) -> String {
    let until = Instant::now() + WORKER_EXIT;
    loop {
        match lock(&process.child).try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Err(e) => return e.to_string(),
            Ok(None) => {}
        }
        if Instant::now() > until {
            process.kill("it closed its socket and did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        reap(self.child.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests;
