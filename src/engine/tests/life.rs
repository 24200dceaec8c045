//! Engines and requests that end before their time.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fake::*;
use crate::base::limits::EVENTS_AHEAD;
use crate::engine::events::State;
use crate::engine::handle::Handle;
use crate::engine::message::{EngineError, Event, FinishReason};

/// Waits until the engine says so.
async fn until(handle: &Handle, what: impl Fn(&Handle) -> bool) {
    let start = Instant::now();
    while !what(handle) {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", handle.stats());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn endless(id: &str) -> crate::engine::message::Generate {
    let mut r = request(&prompt(7, 40), 3000);
    r.id = id.to_owned();
    r.ignore_eos = true;
    r
}

#[tokio::test]
async fn a_client_that_leaves_cancels_within_a_step() {
    let (handle, control) = Setup::plain().start();
    control.hold();
    let mut events = handle.submit(endless("a")).expect("accepted");
    control.allow(2);
    assert!(matches!(events.recv().await, Some(Event::Started { prompt_tokens: 40, .. })));
    assert!(matches!(events.recv().await, Some(Event::Token(_))));
    assert!(matches!(events.recv().await, Some(Event::Token(_))));
    until(&handle, |_| control.n_steps() == 3).await;
    drop(events);
    control.allow(1);
    until(&handle, |h| h.stats().cancelled == 1).await;
    assert_eq!((control.n_steps(), handle.stats().decode_tokens), (3, 2), "the step in flight is the last");
    assert_eq!((handle.stats().kv_blocks_used, handle.requests().len()), (0, 0));
}

#[tokio::test]
async fn requests_are_listed_and_cancelled_by_id() {
    let mut setup = Setup::plain();
    setup.options.max_batch = 1;
    let (handle, control) = setup.start();
    control.hold();
    let a = handle.submit(endless("a")).expect("accepted");
    let b = handle.submit(endless("b")).expect("accepted");
    control.allow(3);
    until(&handle, |h| h.requests()[0].completion_tokens == 3).await;
    let list: Vec<_> =
        handle.requests().into_iter().map(|r| (r.id, r.state, r.prompt_tokens, r.completion_tokens)).collect();
    assert_eq!(list, [("a".to_owned(), State::Decode, 40, 3), ("b".to_owned(), State::Waiting, 40, 0)]);
    assert!(handle.cancel("b") && handle.cancel("a") && !handle.cancel("c"));
    control.allow_all();
    let (a, b) = (outcome(a).await, outcome(b).await);
    assert_eq!((a.finish().reason, a.finish().completion_tokens), (FinishReason::Cancelled, 3));
    assert_eq!((b.finish().reason, b.cached), (FinishReason::Cancelled, None));
    assert!(!handle.cancel("a"));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut setup = Setup::plain();
    setup.options.max_batch = 2;
    setup.options.queue = 3;
    let (handle, control) = setup.start();
    control.hold();
    let all: Vec<_> = (0..5).map(|_| handle.submit(request(&[1], 2)).expect("accepted")).collect();
    until(&handle, |h| h.stats().running == 2).await;
    let refused = handle.submit(request(&[1], 2)).expect_err("full");
    // (3 + 1) requests at 5 s, two at a time.
    assert_eq!(refused, EngineError::QueueFull { waiting: 3, retry_after_s: 10 });
    control.allow_all();
    for events in all {
        outcome(events).await.finish();
    }
    outcome(handle.submit(request(&[1], 2)).expect("there is room again")).await.finish();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cancelled() {
    // A window, so that the fake's steps stay short.
    let mut setup = Setup::new(vec![group(Some(7))], 1000, 4);
    setup.options.context = 30_000;
    let (handle, _) = setup.start();
    let mut slow = endless("slow");
    slow.max_tokens = None;
    let events = handle.submit(slow).expect("accepted");
    run(&handle, request(&prompt(2, 10), 20)).await.finish();
    until(&handle, |h| h.stats().cancelled == 1).await;
    let got = outcome(events).await;
    assert_eq!(got.finish().reason, FinishReason::Cancelled);
    assert!((EVENTS_AHEAD..3 * EVENTS_AHEAD).contains(&got.tokens.len()), "{} tokens", got.tokens.len());
    assert_eq!(handle.stats().kv_blocks_used, 0);
}

#[tokio::test]
async fn a_failing_step_fails_the_engine_and_every_request() {
    for panics in [false, true] {
        let mut setup = Setup::plain();
        setup.options.max_batch = 1;
        let budget = setup.budget.clone();
        let (handle, control) = setup.start();
        let at = if panics { &control.panic_at } else { &control.fail_at };
        at.store(3, Ordering::SeqCst);
        control.hold();
        let all: Vec<_> = (0..3).map(|_| handle.submit(endless("a")).expect("accepted")).collect();
        control.allow_all();
        for events in all {
            let error = outcome(events).await.end.expect_err("failed");
            assert!(error.to_string().contains("the test asked for it"), "{error}");
            // The failing step is a lost device, which is no fault of the model's.
            assert_eq!(matches!(error, EngineError::DeviceLost(_)), !panics, "{error}");
        }
        until(&handle, Handle::ended).await;
        assert!(control.dropped.load(Ordering::SeqCst) && budget.used() == 0, "all memory is back");
        assert!(handle.failed().is_some_and(|r| r.contains("the test asked for it")));
        assert_eq!(handle.device_lost(), !panics);
        assert!(matches!(
            (panics, handle.submit(request(&[1], 1))),
            (true, Err(EngineError::Failed(_))) | (false, Err(EngineError::DeviceLost(_)))
        ));
        assert_eq!((handle.stats().failed, handle.busy_until()), (3, None));
        assert_eq!(handle.release_idle_slabs().await, 0);
        handle.stop(true).await;
    }
}

#[tokio::test]
async fn a_text_without_numbers_fails_alone() {
    let (handle, control) = Setup::plain().start();
    control.nan_at.store(2, Ordering::SeqCst);
    let got = run(&handle, endless("a")).await;
    assert!(matches!(got.end, Err(EngineError::Failed(_))));
    assert_eq!((got.tokens.len(), handle.stats().kv_blocks_used), (1, 0));
    run(&handle, request(&[1], 3)).await.finish();
    assert_eq!(handle.failed(), None);
}

#[tokio::test]
async fn stopping_drains_or_cancels() {
    for drain in [true, false] {
        let setup = Setup::plain();
        let budget = setup.budget.clone();
        let (handle, control) = setup.start();
        control.hold();
        let mut r = endless("a");
        r.max_tokens = Some(10);
        let events = handle.submit(r).expect("accepted");
        control.allow(2);
        until(&handle, |_| control.n_steps() == 3).await;
        let stop = tokio::spawn({
            let handle = handle.clone();
            async move { handle.stop(drain).await }
        });
        until(&handle, |h| h.submit(request(&[1], 1)).is_err()).await;
        assert_eq!(handle.submit(request(&[1], 1)).err(), Some(EngineError::Stopping));
        assert!(!stop.is_finished());
        control.allow_all();
        let got = outcome(events).await;
        let want = if drain { (FinishReason::Length, 10) } else { (FinishReason::Cancelled, 3) };
        assert_eq!((got.finish().reason, got.finish().completion_tokens), want);
        stop.await.expect("ends");
        assert!(control.dropped.load(Ordering::SeqCst) && budget.used() == 0 && handle.ended());
        assert_eq!(handle.failed(), None);
    }
}

#[tokio::test]
async fn impatience_ends_a_drain() {
    let (handle, _) = Setup::plain().start();
    let events = handle.submit(endless("a")).expect("accepted");
    let drain = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop(true).await }
    });
    handle.stop(false).await;
    drain.await.expect("ends");
    let reason = outcome(events).await.finish().reason;
    assert!(matches!(reason, FinishReason::Cancelled | FinishReason::Length));
}

#[tokio::test]
async fn an_engine_without_handles_finishes_its_requests_and_ends() {
    let (handle, control) = Setup::plain().start();
    let events = handle.submit(request(&prompt(1, 40), 5)).expect("accepted");
    drop(handle);
    outcome(events).await.finish();
    let start = Instant::now();
    while !control.dropped.load(Ordering::SeqCst) {
        assert!(start.elapsed() < Duration::from_secs(60));
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stuck_engine_can_be_given_up() {
    let mut setup = Setup::plain();
    setup.options.step_bytes = 1 << 30;
    let (handle, control) = setup.start();
    assert_eq!(handle.busy_until(), None);
    control.hold();
    let events = handle.submit(endless("a")).expect("accepted");
    until(&handle, |h| h.busy_until().is_some()).await;
    let allowed = handle.busy_until().expect("busy").saturating_duration_since(Instant::now()).as_secs();
    assert!((45..52).contains(&allowed), "30 s and 20 times a second, not {allowed}");
    handle.fail("step is late");
    assert_eq!(outcome(events).await.end, Err(EngineError::Failed("step is late".to_owned())));
    handle.stop(false).await;
    assert!(!handle.ended());
    control.allow_all();
    until(&handle, Handle::ended).await;
    assert_eq!((handle.stats().failed, handle.stats().cancelled), (1, 0));
}

#[tokio::test]
async fn an_idle_engine_uses_no_time() {
    let (handle, control) = Setup::plain().start();
    run(&handle, request(&[1], 3)).await;
    let n = control.n_steps();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((control.n_steps(), handle.busy_until()), (n, None));
}
