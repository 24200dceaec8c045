//! What a request's client and its engine share: state, marks, and the tokens on their way.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::message::{Candidate, Event};
use super::ring::Ring;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In the queue, or waiting again after it gave its blocks up.
    Waiting,
    /// Its prompt is being computed.
    Prefill,
    /// It generates.
    Decode,
}

const WAITING: u8 = 0;
const PREFILL: u8 = 1;
const DECODE: u8 = 2;

/// A request as others than its client see it.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestInfo {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Tokens generated so far.
    pub completion_tokens: u32,
    /// Since it came.
    pub age: Duration,
}

/// The shared part of a request. One engine writes, one client reads, anyone may cancel.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) since: Instant,
    pub(super) prompt_tokens: u32,
    state: AtomicU8,
    completion_tokens: AtomicU32,
    /// Nobody wants it any more: the client has gone, or somebody cancelled it.
    cancelled: AtomicBool,
    /// Tokens found in the cache, once it has started.
    started: OnceLock<u32>,
    ring: Ring,
    /// `Finished` or `Failed`.
    end: OnceLock<Event>,
    waker: AtomicWaker,
}

impl Request {
    pub(super) fn new(id: String, prompt_tokens: u32, ring: Ring) -> Self {
        Self {
            id,
            since: Instant::now(),
            prompt_tokens,
            state: AtomicU8::new(WAITING),
            completion_tokens: AtomicU32::new(0),
            cancelled: AtomicBool::new(false),
            started: OnceLock::new(),
            ring,
            end: OnceLock::new(),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn info(&self) -> RequestInfo {
        RequestInfo {
            id: self.id.clone(),
            state: match self.state.load(Ordering::Relaxed) {
                PREFILL => State::Prefill,
                DECODE => State::Decode,
                _ => State::Waiting,
            },
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
            age: self.since.elapsed(),
        }
    }

    pub(super) fn set_state(&self, state: State) {
        let state = match state {
            State::Waiting => WAITING,
            State::Prefill => PREFILL,
            State::Decode => DECODE,
        };
        self.state.store(state, Ordering::Relaxed);
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Tells the client that work begins; true the first time.
    pub(super) fn start(&self, cached_tokens: u32) -> bool {
        let first = self.started.set(cached_tokens).is_ok();
        if first {
            self.waker.wake();
        }
        first
    }

    /// Tells the client a token; false if too many are ahead of it already.
    pub(super) fn token(&self, id: u32, text: &[u8], logprobs: Option<(Candidate, &[Candidate])>) -> bool {
        self.completion_tokens.fetch_add(1, Ordering::Relaxed);
        let fits = self.ring.push(id, text, logprobs);
        self.waker.wake();
        fits
    }

    /// Tells the client the end; false if it was told one already.
    pub(super) fn end(&self, event: Event) -> bool {
        let first = self.end.set(event).is_ok();
        if first {
            self.waker.wake();
        }
        first
    }
}

/// The events of one request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct Events {
    request: Arc<Request>,
    told_started: bool,
    told_end: bool,
}

impl Events {
    pub(super) fn new(request: Arc<Request>) -> Self {
        Self { request, told_started: false, told_end: false }
    }

    /// The next event; `None` after the last one (`Finished` or `Failed`). May be dropped and
    /// called again: no event gets lost.
    pub async fn recv(&mut self) -> Option<Event> {
        poll_fn(|cx| {
            if let Some(event) = self.try_recv() {
                return Poll::Ready(Some(event));
            }
            if self.told_end {
                return Poll::Ready(None);
            }
            self.request.waker.register(cx.waker());
            // What came between the look and the registration woke nobody.
            match self.try_recv() {
                Some(event) => Poll::Ready(Some(event)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The next event if there is one now.
    pub fn try_recv(&mut self) -> Option<Event> {
        if self.told_end {
            return None;
        }
        // The engine writes start, tokens, end in this order; the end is looked for first, so that
        // what was written before it is seen.
        let end = self.request.end.get();
        if !self.told_started {
            if let Some(&cached_tokens) = self.request.started.get() {
                self.told_started = true;
                return Some(Event::Started { prompt_tokens: self.request.prompt_tokens, cached_tokens });
            }
        } else if let Some(token) = self.request.ring.pop() {
            return Some(Event::Token(token));
        }
        self.told_end = end.is_some();
        end.cloned()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.request.cancel();
    }
}
