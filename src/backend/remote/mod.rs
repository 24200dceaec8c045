//! A backend in another process: steps go through shared memory, the rest through a socket.
//!
//! HIP is driven by a worker process, because a GPU's memory fault aborts the process and a hung
//! queue cannot be cancelled: both must cost one worker, not the daemon. What crosses the border
//! is this backend's interface and nothing else. The engine, its scheduler and its ledger stay in
//! the daemon, where they also see the CPU, so that a model whose worker died still has its
//! sequences as tokens.
//!
//! - [`wire`]: what daemon and worker say to each other about loading ([`wire::ToWorker`],
//!   [`wire::FromWorker`]), as messages of a socket that also carries descriptors.
//! - [`mailbox`]: a model's shared memory; one step at a time is in it.
//! - [`process`]: a worker, as the daemon sees it.
//! - [`selftest`]: what a worker's test of its kernels comes to, and what is kept of it.
//!
//! A step costs two system calls on each side and copies its logits once more. A worker that died
//! is noticed at once, because its end of the model's doorbell closes.

pub mod mailbox;
pub mod process;
pub mod selftest;
pub mod wire;

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};

use self::mailbox::{Command, Mailbox};
use self::process::Process;
use super::{Backend, BackendError, Output};
use crate::base::limits::WORKER_ANSWER;
use crate::plan::batch::Batch;
use crate::plan::op::CacheId;

/// One model on a device that a worker process drives.
pub struct RemoteBackend {
    model: String,
    mailbox: Mailbox,
    doorbell: UnixStream,
    process: Arc<Process>,
    device: String,
    /// Bytes of the device that were free again when the model had left it.
    freed: Arc<AtomicU64>,
    in_flight: bool,
    /// When the step was handed over.
    since: Instant,
    /// How long the last step took: the next one will take about as long.
    last: Duration,
}

/// A step's end is asked for without sleeping for this long around the time the last one took: being
/// woken up takes about as long as choosing the next token.
const SPIN: Duration = Duration::from_micros(200);

impl RemoteBackend {
    fn new(model: &str, mailbox: Mailbox, doorbell: UnixStream, process: Arc<Process>, device: String) -> Self {
        let (model, since, last) = (model.to_owned(), Instant::now(), Duration::ZERO);
        let freed = Arc::default();
        Self { model, mailbox, doorbell, process, device, freed, in_flight: false, since, last }
    }

    /// Where it leaves, once it was dropped, how many bytes of the device became free by that, as the
    /// device's runtime counts them.
    pub fn freed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.freed)
    }

    /// Hands the mailbox over to the worker.
    fn ring(&mut self, command: Command) -> Result<(), BackendError> {
        self.mailbox.set_command(command);
        self.doorbell.write_all(&[1]).map_err(|_| self.lost())
    }

    /// Waits up to `wait` for the mailbox to come back.
    fn answered(&mut self, wait: Duration) -> Result<bool, BackendError> {
        let mut bell = [PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut bell, Some(wait.into()), None) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(e) => return Err(BackendError::Lost(format!("waiting for the worker: {e}"))),
        }
        let mut byte = [0];
        match self.doorbell.read(&mut byte) {
            Ok(1) => Ok(true),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(false),
            Ok(_) | Err(_) => Err(self.lost()),
        }
    }

    /// The same for a step, whose end is expected.
    fn finished(&mut self, wait: Duration) -> Result<bool, BackendError> {
        let begin = Instant::now();
        let (expected, until) = (self.since + self.last, begin + wait);
        let sleep = expected.saturating_duration_since(begin).saturating_sub(SPIN);
        if !sleep.is_zero() && self.answered(sleep.min(wait))? {
            return Ok(true);
        }
        while Instant::now() < (expected + SPIN).min(until) {
            if self.answered(Duration::ZERO)? {
                return Ok(true);
            }
            std::thread::yield_now();
        }
        self.answered(until.saturating_duration_since(Instant::now()))
    }

    /// A command that is no step, answered before anything else happens.
    fn call(&mut self, command: Command) -> Result<u64, BackendError> {
        assert!(!self.in_flight, "{command:?} during a step");
        self.ring(command)?;
        let until = Instant::now() + WORKER_ANSWER;
        while Instant::now() < until {
            if self.answered(until.saturating_duration_since(Instant::now()))? {
                return self.outcome();
            }
        }
        let s = WORKER_ANSWER.as_secs();
        let what = format!("it did not answer {command:?} of {} within {s} s", self.model);
        self.process.kill(&what);
        Err(BackendError::Lost(what))
    }

    /// What came of a command. A device that is lost takes its worker along: only another one can
    /// use it again, and the other models there would learn it one by one.
    fn outcome(&self) -> Result<u64, BackendError> {
        let outcome = self.mailbox.outcome();
        if let Err(BackendError::Lost(why)) = &outcome {
            self.process.kill(why);
        }
        outcome
    }

    /// Why the worker is gone; it is asked for no longer than it takes the system to say so.
    fn lost(&self) -> BackendError {
        BackendError::Lost(self.process.death())
    }
}

impl Backend for RemoteBackend {
    fn device(&self) -> String {
        self.device.clone()
    }

    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
        self.call(Command::AddSlab { group: group.0 }).map(|block| block as u32)
    }

    fn remove_slab(&mut self, group: CacheId, first: u32) {
        // A worker that is gone has given everything back; the next step says so.
        let _ = self.call(Command::RemoveSlab { group: group.0, first });
    }

    fn submit(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        self.mailbox.put(batch, input)?;
        self.ring(Command::Step)?;
        (self.in_flight, self.since) = (true, Instant::now());
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        if !self.in_flight || !self.finished(wait)? {
            return Ok(None);
        }
        (self.in_flight, self.last) = (false, self.since.elapsed());
        let n_outputs = self.outcome()? as usize;
        if n_outputs > self.mailbox.shape().max_outputs {
            let what = format!("a step of {} gave {n_outputs} outputs", self.model);
            self.process.kill(&what);
            return Err(BackendError::Lost(what));
        }
        Ok(Some(Output { rows: self.mailbox.logits(n_outputs), width: self.mailbox.shape().n_vocab }))
    }
}

impl Drop for RemoteBackend {
    fn drop(&mut self) {
        if self.in_flight {
            // The step is late, or its engine panicked: nobody knows when the worker will answer.
            self.process.kill(&format!("a step of {} was given up", self.model));
            return;
        }
        if self.process.dead().is_some() {
            return;
        }
        // So that the device's memory is back when this returns.
        if let Ok(bytes) = self.call(Command::Close) {
            self.freed.store(bytes, Ordering::Relaxed);
        }
    }
}
