//! One model in the worker: loaded, then whatever its doorbell asks for.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::Worker;
use crate::backend::hip::device::Device;
use crate::backend::hip::{HipBackend, Options, StartError};
use crate::backend::remote::mailbox::{Command, Mailbox};
use crate::backend::remote::wire::{FromWorker, LoadFailure, LoadOrder};
use crate::backend::{Backend, BackendError};
use crate::base::limits::{LOAD_EVENT_INTERVAL, STEP_POLL};
use crate::gguf::Gguf;
use crate::model::{Model, PlanOptions};
use crate::plan::batch::Batch;
use crate::plan::cache::KvType;
use crate::plan::op::CacheId;

/// A doorbell is asked for without sleeping for so long.
const BELL_SPIN: Duration = Duration::from_micros(300);

/// Loads the model, says how it went, and serves it until it is closed or the daemon is gone.
pub(super) fn run(worker: &Worker, order: &LoadOrder, files: Vec<File>, cancelled: &AtomicBool) {
    let id = order.id;
    // A daemon that waits must hear of a panic, too; its own text is in the log.
    let loaded = caught(|| load(worker, order, files, cancelled))
        .unwrap_or_else(|| Err(LoadFailure::Device("loading panicked in the GPU worker".to_owned())));
    worker.loads().remove(&id);
    match loaded {
        Ok((backend, mailbox, bell)) => {
            worker.say(&FromWorker::Loaded { id, device: backend.device() });
            serve(&worker.device, backend, mailbox, bell);
        }
        Err(why) => worker.say(&FromWorker::Failed { id, why }),
    }
}

/// What `work` gives; nothing if it panics.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn load(
    worker: &Worker,
    order: &LoadOrder,
    files: Vec<File>,
    cancelled: &AtomicBool,
) -> Result<(HipBackend, Mailbox, UnixStream), LoadFailure> {
    let mut files = files.into_iter();
    let (Some(memory), Some(bell)) = (files.next(), files.next()) else {
        return Err(LoadFailure::Device("a load without its descriptors".to_owned()));
    };
    let mailbox = Mailbox::open(&memory, order.shape).map_err(|e| LoadFailure::Device(e.to_string()))?;
    let invalid = |e: String| LoadFailure::Invalid(e);
    let gguf =
        Gguf::from_files(files.zip(order.files.iter().cloned()).collect()).map_err(|e| invalid(e.to_string()))?;
    let model = Model::from_gguf(&gguf).map_err(|e| invalid(e.to_string()))?;
    let kv_type = KvType::parse(&order.kv_type).ok_or_else(|| invalid(format!("caches of `{}`", order.kv_type)))?;
    model.takes_caches(kv_type).map_err(|e| invalid(e.to_string()))?;
    let another = || invalid("the file is another one than the daemon saw".to_owned());
    let whole = model.plan(&PlanOptions { kv_type });
    let plan = match order.first_layer {
        None => whole,
        Some(layer) => whole.split(layer).map(|[_, rest]| rest).ok_or_else(another)?,
    };
    let shape = &order.shape;
    let input_width = plan.input.map_or(0, |id| plan.buffer(id).width);
    if (plan.n_vocab, plan.caches.len(), input_width) != (shape.n_vocab, shape.groups, shape.input_width) {
        return Err(another());
    }
    let options = Options {
        max_tokens: shape.max_tokens,
        max_outputs: shape.max_outputs,
        max_spans: shape.max_spans,
        table_entries: shape.table_entries,
        ..Options::default()
    };
    let mut told = Instant::now();
    let mut progress = |done, total| {
        if told.elapsed() >= LOAD_EVENT_INTERVAL || done == total {
            told = Instant::now();
            worker.say(&FromWorker::Progress { id: order.id, done, total });
        }
        if cancelled.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let backend = HipBackend::new(&worker.device, &worker.kernels, Arc::new(plan), options, &mut progress);
    let backend = backend.map_err(|e| match e {
        StartError::Cancelled => LoadFailure::Cancelled,
        StartError::Backend(BackendError::Unsupported(why)) => LoadFailure::Unsupported(why),
        StartError::Backend(e @ BackendError::OutOfMemory { .. }) => LoadFailure::OutOfMemory(e.to_string()),
        StartError::Backend(BackendError::Lost(why)) => LoadFailure::Lost(why),
        StartError::Backend(e) => LoadFailure::Device(e.to_string()),
    })?;
    if gguf.poisoned() {
        return Err(LoadFailure::Device(BackendError::Poisoned.to_string()));
    }
    Ok((backend, mailbox, UnixStream::from(OwnedFd::from(bell))))
}

/// Answers the doorbell. A daemon that is gone is noticed by the main thread, which ends the
/// process.
fn serve(device: &Device, mut backend: HipBackend, mut mailbox: Mailbox, mut bell: UnixStream) {
    let shape = *mailbox.shape();
    let mut batch =
        Batch::with_capacity(shape.max_tokens, shape.max_spans, shape.groups, shape.groups * shape.table_entries);
    let mut byte = [0];
    while rung(&mut bell, &mut byte) {
        let command = mailbox.command();
        if command == Some(Command::Close) {
            // Asked of the runtime, so that what is told was measured.
            let free = || device.memory().map_or(0, |(free, _)| free);
            let before = free();
            drop(backend);
            mailbox.set_outcome(Ok(free().saturating_sub(before)));
            let _ = bell.write_all(&byte);
            return;
        }
        let outcome = caught(|| match command {
            Some(Command::Step) => step(&mut backend, &mut mailbox, &mut batch),
            Some(Command::AddSlab { group }) => backend.add_slab(CacheId(group)).map(u64::from),
            Some(Command::RemoveSlab { group, first }) => {
                backend.remove_slab(CacheId(group), first);
                Ok(0)
            }
            Some(Command::Close) | None => Err(BackendError::Lost("a command that is not known".to_owned())),
        });
        // Nobody knows what a panic left running on the device.
        let outcome = outcome.unwrap_or_else(|| Err(BackendError::Lost("the GPU worker panicked".to_owned())));
        mailbox.set_outcome(outcome.as_ref().map(|n| *n));
        if bell.write_all(&byte).is_err() {
            return;
        }
    }
}

/// Waits for the doorbell; false if the daemon is gone. The next step of a model that is being used comes
/// within moments, in which it is asked for: being woken up would take about as long.
fn rung(bell: &mut UnixStream, byte: &mut [u8; 1]) -> bool {
    let until = Instant::now() + BELL_SPIN;
    while Instant::now() < until {
        match recv(bell.as_raw_fd(), byte, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => std::thread::yield_now(),
            answer => return answer == Ok(1),
        }
    }
    bell.read(byte).is_ok_and(|n| n == 1)
}

/// Runs the step in the mailbox; the result is its number of outputs. The daemon keeps the
/// deadline, and ends this process when it is over.
fn step(backend: &mut HipBackend, mailbox: &mut Mailbox, batch: &mut Batch) -> Result<u64, BackendError> {
    mailbox.take(batch)?;
    backend.submit(batch, mailbox.input(batch.tokens.len()))?;
    loop {
        if let Some(output) = backend.poll(STEP_POLL)? {
            mailbox.set_logits(output.rows);
            return Ok(batch.outputs.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        assert_eq!(caught(|| 5), Some(5));
        assert_eq!(caught(|| -> u32 { panic!("planted") }), None);
    }
}
