//! How the rest of the daemon reaches an engine. Nothing here waits for a step.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::events::{Events, Request, RequestInfo};
use super::message::{EngineError, Event, FinishReason, Generate};
use super::sequence::Sequence;
use super::stats::{Snapshot, Stats};
use super::{Options, Vocabulary};
use crate::base::limits::{RETRY_AFTER_MAX_SECS, SERVICE_GUESS};

/// What an engine takes out of its queue.
pub(super) enum Command {
    /// A request.
    Submit(Box<Sequence>),
    /// Look at the marks in [`Shared`].
    Wake,
}

/// How an engine is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    No,
    /// When all requests have ended.
    Drained,
    /// After the step in flight.
    Now,
}

/// Whether an engine's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    Runs,
    /// It was declared failed from outside and may never end.
    Stuck,
    /// It has dropped everything.
    Ended,
}

/// Why an engine failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The model, or the program.
    Model(String),
    /// The device went away under it.
    Device(String),
}

impl Failure {
    fn reason(&self) -> &str {
        match self {
            Failure::Model(reason) | Failure::Device(reason) => reason,
        }
    }
}

/// What an engine's thread and its handles share.
pub(super) struct Shared {
    pub(super) model: String,
    pub(super) device: String,
    pub(super) context: u32,
    pub(super) n_vocab: usize,
    vocabulary: Arc<dyn Vocabulary>,
    pub(super) max_batch: usize,
    /// Requests that may be in the engine: those it works on and those that wait.
    pub(super) max_requests: usize,
    pub(super) stats: Stats,
    epoch: Instant,
    /// Requests in the engine or on their way to it.
    n_requests: AtomicUsize,
    stop: AtomicU8,
    /// Nothing is accepted any more, and nobody will look at what is in the queue.
    closed: AtomicBool,
    failed: OnceLock<Failure>,
    /// Deadline of the step in flight in nanoseconds since `epoch`; 0 = idle.
    busy_until: AtomicU64,
    // A std mutex: held for a few instructions when a request comes, ends or is looked at.
    requests: Mutex<Vec<Arc<Request>>>,
    wake_queued: AtomicBool,
    // Those who wait for idle slabs to be given back; the flag spares the engine the lock.
    release: Mutex<Vec<oneshot::Sender<u64>>>,
    release_asked: AtomicBool,
    thread: watch::Sender<Thread>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(options: &Options, device: String, n_vocab: usize, vocabulary: Arc<dyn Vocabulary>) -> Self {
        Self {
            model: options.model.clone(),
            device,
            context: options.context,
            n_vocab,
            vocabulary,
            max_batch: options.max_batch,
            max_requests: options.max_batch + options.queue,
            stats: Stats::default(),
            epoch: Instant::now(),
            n_requests: AtomicUsize::new(0),
            stop: AtomicU8::new(Stop::No as u8),
            closed: AtomicBool::new(false),
            failed: OnceLock::new(),
            busy_until: AtomicU64::new(0),
            requests: Mutex::new(Vec::new()),
            wake_queued: AtomicBool::new(false),
            release: Mutex::new(Vec::new()),
            release_asked: AtomicBool::new(false),
            thread: watch::Sender::new(Thread::Runs),
        }
    }

    pub(super) fn stop(&self) -> Stop {
        match self.stop.load(Ordering::Relaxed) {
            0 => Stop::No,
            1 => Stop::Drained,
            _ => Stop::Now,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The engine took a `Wake` out of its queue.
    pub(super) fn woken(&self) {
        // A swap, to see the marks of those who relied on this `Wake`.
        self.wake_queued.swap(false, Ordering::AcqRel);
    }

    pub(super) fn set_busy(&self, deadline: Option<Instant>) {
        let ns = deadline.map_or(0, |d| d.saturating_duration_since(self.epoch).as_nanos().max(1) as u64);
        self.busy_until.store(ns, Ordering::Relaxed);
    }

    /// Those who asked for idle slabs to be given back.
    pub(super) fn take_release(&self) -> Option<Vec<oneshot::Sender<u64>>> {
        if !self.release_asked.load(Ordering::Acquire) {
            return None;
        }
        let mut waiting = lock(&self.release);
        self.release_asked.store(false, Ordering::Release);
        Some(std::mem::take(&mut waiting))
    }

    /// Tells a request its end, and counts and forgets it.
    pub(super) fn end(&self, request: &Arc<Request>, event: Event) {
        let counter = match &event {
            Event::Finished(f) if f.reason == FinishReason::Cancelled => &self.stats.cancelled,
            Event::Finished(_) => &self.stats.requests,
            _ => &self.stats.failed,
        };
        let mut requests = lock(&self.requests);
        let Some(at) = requests.iter().position(|r| Arc::ptr_eq(r, request)) else {
            // The engine was declared failed meanwhile, and the request told so.
            return;
        };
        requests.remove(at);
        drop(requests);
        // Before the client knows: it may submit again at once.
        self.n_requests.fetch_sub(1, Ordering::Relaxed);
        counter.add(1);
        request.end(event);
    }

    /// Accepts nothing more and ends what there is: with the reason, if the engine failed.
    pub(super) fn close(&self, failed: Option<Failure>) {
        if let Some(reason) = failed {
            tracing::error!(model = self.model, reason = reason.reason(), "engine failed");
            // The first reason is the cause of later ones.
            let _ = self.failed.set(reason);
        }
        self.closed.store(true, Ordering::Release);
        let requests = std::mem::take(&mut *lock(&self.requests));
        let error = self.closed_error();
        for request in requests {
            if request.end(Event::Failed(error.clone())) {
                self.stats.failed.add(1);
            }
        }
        self.n_requests.store(0, Ordering::Relaxed);
        self.stats.running.set(0);
        self.set_busy(None);
        for waiting in std::mem::take(&mut *lock(&self.release)) {
            let _ = waiting.send(0);
        }
    }

    /// The engine's thread has dropped everything.
    pub(super) fn set_ended(&self) {
        self.thread.send_replace(Thread::Ended);
    }

    fn closed_error(&self) -> EngineError {
        match self.failed.get() {
            Some(Failure::Model(reason)) => EngineError::Failed(reason.clone()),
            Some(Failure::Device(reason)) => EngineError::DeviceLost(reason.clone()),
            None => EngineError::Stopping,
        }
    }

    fn waiting(&self) -> usize {
        self.n_requests.load(Ordering::Relaxed).saturating_sub(self.stats.running.get() as usize)
    }

    /// Seconds after which a place in the queue is likely free.
    fn retry_after_s(&self, waiting: usize) -> u64 {
        let measured = self.stats.service_s.get();
        let service_s = if measured > 0.0 { measured } else { SERVICE_GUESS.as_secs_f64() };
        let s = (waiting + 1) as f64 * service_s / self.max_batch as f64;
        (s.ceil() as u64).clamp(1, RETRY_AFTER_MAX_SECS)
    }
}

/// An engine, as the rest of the daemon sees it. Cheap to clone; the engine ends when the last
/// one is dropped and its requests have ended.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, commands: SyncSender<Command>) -> Self {
        Self { shared, commands }
    }

    /// Submits a request; never blocks.
    ///
    /// # Errors
    /// A request that can be refused at once: `ContextLength`, `Invalid`, `QueueFull`, `Failed`,
    /// `Stopping`.
    pub fn submit(&self, generate: Generate) -> Result<Events, EngineError> {
        let shared = &self.shared;
        if shared.is_closed() || shared.stop() != Stop::No {
            return Err(shared.closed_error());
        }
        let mut sequence = Sequence::new(generate, shared.context, shared.n_vocab, shared.vocabulary.suppressed())?;
        let request = Arc::clone(&sequence.request);
        if sequence.tokens.len() == sequence.max_total {
            // Nothing is to be generated.
            sequence.start(0, Instant::now(), &shared.stats);
            shared.stats.requests.add(1);
            request.end(sequence.finish(FinishReason::Length, &shared.stats));
            return Ok(Events::new(request));
        }
        let place = |n: usize| (n < shared.max_requests).then_some(n + 1);
        if shared.n_requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_err() {
            let waiting = shared.waiting();
            return Err(EngineError::QueueFull { waiting, retry_after_s: shared.retry_after_s(waiting) });
        }
        lock(&shared.requests).push(Arc::clone(&request));
        // A closing engine ends what it finds in the list; what came later sees that it closed.
        if shared.is_closed() {
            return Err(shared.closed_error());
        }
        match self.commands.try_send(Command::Submit(Box::new(sequence))) {
            Ok(()) => Ok(Events::new(request)),
            // There are as many places as there may be requests.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                let error = shared.closed_error();
                shared.end(&request, Event::Failed(error.clone()));
                Err(error)
            }
        }
    }

    /// The engine's numbers.
    pub fn stats(&self) -> Snapshot {
        self.shared.stats.read(self.shared.waiting())
    }

    /// Forgets what was counted so far: a warm-up is nobody's request. Everything of a request is
    /// counted before its last event, so nothing of one that has ended comes after.
    pub fn forget_stats(&self) {
        self.shared.stats.forget();
    }

    /// The requests in the engine, in order of arrival.
    pub fn requests(&self) -> Vec<RequestInfo> {
        lock(&self.shared.requests).iter().map(|r| r.info()).collect()
    }

    /// Cancels the requests with this id within one step; false if there is none.
    pub fn cancel(&self, id: &str) -> bool {
        let requests = lock(&self.shared.requests);
        let mut found = false;
        for request in requests.iter().filter(|r| r.id == id) {
            request.cancel();
            found = true;
        }
        found
    }

    /// Ends the engine and waits until its thread has given everything back. With `drain`,
    /// requests that it has are finished first; otherwise they are cancelled. May be called again
    /// with less patience. Does not wait for a thread that [`Handle::fail`] gave up.
    pub async fn stop(&self, drain: bool) {
        let stop = if drain { Stop::Drained } else { Stop::Now };
        self.shared.stop.fetch_max(stop as u8, Ordering::Relaxed);
        self.wake();
        let mut thread = self.shared.thread.subscribe();
        // The sender lives in `shared`: it cannot be gone.
        let _ = thread.wait_for(|&t| t != Thread::Runs).await;
    }

    /// Why the engine failed, if it did.
    pub fn failed(&self) -> Option<String> {
        self.shared.failed.get().map(|f| f.reason().to_owned())
    }

    /// Whether it failed because its device went away.
    pub fn device_lost(&self) -> bool {
        matches!(self.shared.failed.get(), Some(Failure::Device(_)))
    }

    /// Whether the engine's thread has ended and given everything back.
    pub fn ended(&self) -> bool {
        *self.shared.thread.borrow() == Thread::Ended
    }

    /// When the step in flight is late; `None` if none is. An engine past this moment is stuck.
    pub fn busy_until(&self) -> Option<Instant> {
        match self.shared.busy_until.load(Ordering::Relaxed) {
            0 => None,
            ns => Some(self.shared.epoch + Duration::from_nanos(ns)),
        }
    }

    /// Declares the engine failed from outside (its step is late): its requests end with an error
    /// and nothing more is accepted. Its thread ends if its step ever does.
    pub fn fail(&self, reason: &str) {
        self.end_with(Failure::Model(reason.to_owned()));
    }

    /// The same if its device went away.
    pub fn lose_device(&self, reason: &str) {
        self.end_with(Failure::Device(reason.to_owned()));
    }

    fn end_with(&self, failure: Failure) {
        self.shared.close(Some(failure));
        self.shared.thread.send_if_modified(|t| {
            let runs = *t == Thread::Runs;
            if runs {
                *t = Thread::Stuck;
            }
            runs
        });
        self.wake();
    }

    /// Gives slabs of the cache that no sequence uses back to the ledger, down to the minimum, and
    /// the prefixes in them with it. Returns the bytes; waits for the step in flight.
    pub async fn release_idle_slabs(&self) -> u64 {
        let (tx, rx) = oneshot::channel();
        lock(&self.shared.release).push(tx);
        self.shared.release_asked.store(true, Ordering::Release);
        if self.shared.is_closed() {
            return 0;
        }
        self.wake();
        rx.await.unwrap_or(0)
    }

    /// Where the engine runs, as users read it: `cpu avx512`.
    pub fn device(&self) -> &str {
        &self.shared.device
    }

    /// Tokens of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.shared.n_vocab
    }

    /// Most tokens of a sequence.
    pub fn context(&self) -> u32 {
        self.shared.context
    }

    fn wake(&self) {
        let queued = self.shared.wake_queued.swap(true, Ordering::AcqRel);
        if !queued && self.commands.try_send(Command::Wake).is_err() {
            // Full or gone: then the engine will look at its marks anyway, or has ended.
            self.shared.wake_queued.store(false, Ordering::Release);
        }
    }
}
