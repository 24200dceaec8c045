//! The loop of an engine's thread.
//!
//! Each turn: take what arrived, drop what was cancelled, plan a step, submit it, take what arrived
//! meanwhile, wait for it, choose tokens. An engine without work blocks on its queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use super::cache::{Cache, CacheOptions, Fit};
use super::events::State;
use super::handle::{Command, Failure, Handle, Shared, Stop};
use super::message::{EngineError, Event, FinishReason};
use super::schedule::{Admission, Bounds, Entry, Key, Room, Schedule, Step};
use super::sequence::{Sequence, Verdict, Workspace};
use super::{Options, StartError, Vocabulary};
use crate::backend::{Backend, BackendError};
use crate::base::limits::{
    KV_BLOCK_TOKENS, STEP_DEADLINE_FACTOR, STEP_DEADLINE_FLOOR, STEP_DEADLINE_TOKENS, STEP_POLL,
};
use crate::plan::batch::Batch;
use crate::plan::cache::CacheGroup;

/// Places in the queue besides those for requests: one `Wake` at a time, and one to spare.
const QUEUE_EXTRA: usize = 2;
/// Most block table entries that are allocated ahead for a batch (16 MiB).
const TABLE_ENTRIES_AHEAD: usize = 1 << 22;

type Sequences = Vec<Option<Box<Sequence>>>;

struct Engine {
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    backend: Box<dyn Backend>,
    vocabulary: Arc<dyn Vocabulary>,
    cache: Cache,
    n_groups: usize,
    schedule: Schedule,
    /// By key.
    sequences: Sequences,
    free_keys: Vec<Key>,
    step: Step,
    batch: Batch,
    workspace: Workspace,
    step_bytes: u64,
    /// All handles are gone: nothing more will arrive.
    abandoned: bool,
}

/// See [`super::start`].
pub(super) fn start(
    options: Options,
    mut backend: Box<dyn Backend>,
    groups: &[CacheGroup],
    n_vocab: usize,
    vocabulary: Arc<dyn Vocabulary>,
) -> Result<Handle, StartError> {
    let shared = Arc::new(Shared::new(&options, backend.device(), n_vocab, Arc::clone(&vocabulary)));
    let cache = CacheOptions {
        owner: options.model,
        ledgers: options.ledgers,
        min_tokens: options.cache_min,
        max_bytes: options.cache_max,
        step_tokens: options.step_tokens as u32,
    };
    let cache = Cache::new(groups, cache, &mut *backend)?;
    shared.stats.cache(cache.usage());
    let (tx, rx) = sync_channel(shared.max_requests + QUEUE_EXTRA);
    let table_entries = options.max_batch * groups.len() * (options.context as usize).div_ceil(KV_BLOCK_TOKENS);
    let engine = Engine {
        commands: rx,
        backend,
        vocabulary,
        cache,
        n_groups: groups.len(),
        schedule: Schedule::new(Bounds {
            max_batch: options.max_batch,
            step_tokens: options.step_tokens as u32,
            step_tokens_shared: options.step_tokens_shared as u32,
        }),
        sequences: (0..shared.max_requests).map(|_| None).collect(),
        free_keys: (0..shared.max_requests as Key).rev().collect(),
        step: Step::default(),
        batch: Batch::with_capacity(
            options.step_tokens,
            options.max_batch,
            groups.len(),
            table_entries.min(TABLE_ENTRIES_AHEAD),
        ),
        workspace: Workspace::new(n_vocab),
        step_bytes: options.step_bytes,
        abandoned: false,
        shared: Arc::clone(&shared),
    };
    let handle = Handle::new(Arc::clone(&shared), tx);
    std::thread::Builder::new().name(format!("engine {}", shared.model)).spawn(move || {
        // The engine is dropped inside, so that `ended` means that its memory is back.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = engine;
            engine.run()
        }));
        shared.close(match result {
            Ok(Ok(())) => None,
            Ok(Err(BackendError::Lost(reason))) => Some(Failure::Device(reason)),
            Ok(Err(e)) => Some(Failure::Model(e.to_string())),
            Err(panic) => Some(Failure::Model(format!("panic: {}", panic_message(&*panic)))),
        });
        shared.set_ended();
    })?;
    Ok(handle)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// When a step of so many tokens is late.
fn deadline(step_bytes: u64, tokens: u32) -> Duration {
    // At a slow 1 GB/s a byte takes a nanosecond.
    let passes = 1 + tokens / STEP_DEADLINE_TOKENS;
    STEP_DEADLINE_FLOOR + Duration::from_nanos(step_bytes) * passes * STEP_DEADLINE_FACTOR
}

/// The schedule's view of blocks.
struct Blocks<'a> {
    cache: &'a mut Cache,
    backend: &'a mut dyn Backend,
    sequences: &'a mut Sequences,
}

impl Blocks<'_> {
    fn sequence(&mut self, key: Key) -> Option<&mut Sequence> {
        self.sequences[key as usize].as_deref_mut()
    }
}

impl Room for Blocks<'_> {
    fn admit(&mut self, waiting: &Entry, running: &[Entry]) -> Admission {
        let Some(s) = self.sequences[waiting.key as usize].as_deref_mut() else { return Admission::Later };
        let mut tables = std::mem::take(&mut s.tables);
        let cached = self.cache.attach(&mut tables, &s.tokens, s.max_total as u32, s.share);
        // Each gets its next token too, so that nobody is admitted only to give way at once.
        let others =
            running.iter().filter_map(|e| self.sequences[e.key as usize].as_deref().map(|s| (&s.tables, e.total + 1)));
        let fit = self.cache.fits(&tables, waiting.total + 1, others);
        if fit != Fit::Yes {
            self.cache.release(&mut tables);
        }
        if let Some(s) = self.sequence(waiting.key) {
            s.tables = tables;
        }
        match fit {
            Fit::Yes => Admission::Now { cached },
            Fit::Later => Admission::Later,
            Fit::Never { needed, available } => Admission::Never { needed, available },
        }
    }

    fn grow(&mut self, key: Key, want: u32) -> u32 {
        match self.sequences[key as usize].as_deref_mut() {
            Some(s) => self.cache.grow(&mut s.tables, want, self.backend),
            None => 0,
        }
    }

    fn release(&mut self, key: Key) {
        if let Some(s) = self.sequences[key as usize].as_deref_mut() {
            self.cache.release(&mut s.tables);
        }
    }

    fn shortage(&self, total: u32) -> (u64, u64) {
        self.cache.shortage(total)
    }
}

impl Engine {
    fn run(&mut self) -> Result<(), BackendError> {
        loop {
            if self.schedule.is_idle() && !self.wait_for_work() {
                return Ok(());
            }
            self.take_commands();
            self.drop_cancelled();
            if self.shared.is_closed() {
                return Ok(());
            }
            self.plan();
            if !self.step.works.is_empty() {
                self.execute()?;
            }
            self.shared.stats.cache(self.cache.usage());
        }
    }

    /// Blocks until something arrives; false if the engine is to end.
    fn wait_for_work(&mut self) -> bool {
        self.shared.set_busy(None);
        self.shared.stats.running.set(0);
        loop {
            self.take_commands();
            if !self.schedule.is_idle() {
                return true;
            }
            if self.abandoned || self.shared.stop() != Stop::No || self.shared.is_closed() {
                return false;
            }
            match self.commands.recv() {
                Ok(command) => self.take(command),
                Err(_) => return false,
            }
        }
    }

    /// Takes requests that have arrived; also while a step is in flight.
    fn take_queued(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.abandoned = true;
                    break;
                }
            }
        }
    }

    /// Takes all that has arrived, without waiting; between two steps.
    fn take_commands(&mut self) {
        self.take_queued();
        if let Some(waiting) = self.shared.take_release() {
            let bytes = self.cache.release_idle(&mut *self.backend);
            self.shared.stats.cache(self.cache.usage());
            for tx in waiting {
                // Who asked may have gone.
                let _ = tx.send(bytes);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Wake => self.shared.woken(),
            Command::Submit(sequence) => match self.free_keys.pop() {
                Some(key) => {
                    self.schedule.add(key, sequence.tokens.len() as u32);
                    self.sequences[key as usize] = Some(sequence);
                }
                // There are as many keys as there may be requests.
                None => self.shared.end(&sequence.request, Event::Failed(EngineError::Stopping)),
            },
        }
    }

    fn drop_cancelled(&mut self) {
        let all = self.shared.stop() == Stop::Now;
        for key in 0..self.sequences.len() {
            let Some(s) = self.sequences[key].as_deref_mut() else { continue };
            if all || s.request.is_cancelled() {
                let event = s.finish(FinishReason::Cancelled, &self.shared.stats);
                self.end(key as Key, event);
            }
        }
    }

    /// Ends a sequence everywhere.
    fn end(&mut self, key: Key, event: Event) {
        self.schedule.remove(key);
        if let Some(mut s) = self.sequences[key as usize].take() {
            self.cache.release(&mut s.tables);
            self.free_keys.push(key);
            // Before the client knows the end: numbers that it reads then include it.
            self.shared.stats.running.set(self.schedule.running().len() as u64);
            self.shared.stats.cache(self.cache.usage());
            self.shared.end(&s.request, event);
        }
    }

    fn plan(&mut self) {
        let mut blocks = Blocks { cache: &mut self.cache, backend: &mut *self.backend, sequences: &mut self.sequences };
        self.schedule.plan(&mut blocks, &mut self.step);
        let stats = &self.shared.stats;
        stats.running.set(self.schedule.running().len() as u64);
        let now = Instant::now();
        for &(key, cached) in &self.step.admitted {
            if let Some(s) = self.sequences[key as usize].as_deref_mut() {
                s.start(cached, now, stats);
            }
        }
        for &key in &self.step.preempted {
            stats.preempted.add(1);
            if let Some(s) = self.sequences[key as usize].as_deref() {
                s.request.set_state(State::Waiting);
            }
        }
        for i in 0..self.step.refused.len() {
            let (key, needed, available) = self.step.refused[i];
            self.end(key, Event::Failed(EngineError::CacheMemory { needed, available }));
        }
    }

    fn fill_batch(&mut self) {
        self.batch.clear();
        let works = || self.step.works.iter().filter_map(|w| Some((w, self.sequences[w.key as usize].as_deref()?)));
        for (w, s) in works() {
            let n = w.tokens as usize;
            let tokens = &s.tokens[w.from as usize..][..n];
            self.batch.push(tokens, w.from, w.last.then_some(n - 1));
        }
        for group in 0..self.n_groups {
            for (w, s) in works() {
                let n_blocks = (w.from + w.tokens).div_ceil(KV_BLOCK_TOKENS as u32) as usize;
                self.batch.push_table(&s.tables.table(group)[..n_blocks]);
            }
        }
    }

    /// Computes the planned step and what follows from it.
    fn execute(&mut self) -> Result<(), BackendError> {
        self.fill_batch();
        let n_tokens = self.batch.tokens.len() as u32;
        let n_decode = self.step.works.iter().filter(|w| w.last && w.tokens == 1).count() as u32;
        let begin = Instant::now();
        let allowed = deadline(self.step_bytes, n_tokens);
        self.shared.set_busy(Some(begin + allowed));
        self.backend.submit(&self.batch, &[])?;
        let output = loop {
            self.take_queued();
            if let Some(output) = self.backend.poll(STEP_POLL)? {
                break output;
            }
            if begin.elapsed() > allowed {
                let s = allowed.as_secs();
                return Err(BackendError::Lost(format!("a step of {n_tokens} tokens took longer than {s} s")));
            }
        };
        let now = Instant::now();
        let stats = &self.shared.stats;
        stats.step(now.duration_since(begin), n_tokens - n_decode, n_decode);
        if output.width != self.shared.n_vocab || output.rows.len() < self.batch.outputs.len() * output.width {
            let (n, width) = (output.rows.len(), output.width);
            return Err(BackendError::Unsupported(format!("the step gave {n} logits in rows of {width}")));
        }
        let mut rows = output.rows.chunks_exact(output.width);
        let mut ended = smallvec::SmallVec::<[(Key, Event); 4]>::new();
        for work in &self.step.works {
            let Some(s) = self.sequences[work.key as usize].as_deref_mut() else { continue };
            self.cache.commit(&mut s.tables, &s.tokens, work.tokens);
            let row = if work.last { rows.next() } else { None };
            let verdict = match row {
                _ if s.request.is_cancelled() => Verdict::Ends(FinishReason::Cancelled),
                Some(row) => s.choose(row, &*self.vocabulary, &mut self.workspace, now, stats),
                None => Verdict::Continues,
            };
            self.schedule.done(work, work.last && verdict == Verdict::Continues);
            match verdict {
                Verdict::Continues => {}
                Verdict::Ends(reason) => ended.push((work.key, s.finish(reason, stats))),
                Verdict::Fails(error) => ended.push((work.key, Event::Failed(error))),
            }
        }
        for (key, event) in ended {
            self.end(key, event);
        }
        Ok(())
    }
}
