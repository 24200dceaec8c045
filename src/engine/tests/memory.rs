//! Engines short of cache: they grow, give way, refuse, and give back.

use std::sync::atomic::Ordering;

use super::fake::*;
use crate::engine::message::EngineError;
use crate::engine::{StartError, start};
use crate::pool::budget::Kind;

#[tokio::test]
async fn the_minimum_is_reserved_or_the_engine_does_not_start() {
    let setup = Setup::new(vec![group(None), group(Some(64))], 100, 20);
    let budget = setup.budget.clone();
    let (handle, control) = setup.start();
    // The windowed group needs no more than its window, a step, and a block at the edge: more than
    // 20 blocks here.
    assert_eq!((budget.used() / BLOCK_BYTES, control.n_slabs.load(Ordering::SeqCst)), (39, 39));
    drop(handle);
    let mut setup = Setup::new(vec![group(None)], 10, 11);
    let control = Default::default();
    let backend = fake(&setup.groups, Default::default(), &control);
    setup.options.ledgers[0].reserved = Some(setup.budget.reserve("fake", Kind::Cache, 4 * BLOCK_BYTES).expect("fits"));
    let refused = start(setup.options, Box::new(backend), &setup.groups, N_VOCAB, std::sync::Arc::<Pieces>::default());
    assert!(matches!(refused.err(), Some(StartError::Cache(_))));
    assert_eq!(setup.budget.used(), 0);
}

#[tokio::test]
async fn what_was_reserved_before_is_used() {
    let mut setup = Setup::new(vec![group(None)], 10, 10);
    setup.options.ledgers[0].reserved =
        Some(setup.budget.reserve("fake", Kind::Cache, 10 * BLOCK_BYTES).expect("fits"));
    let budget = setup.budget.clone();
    let (handle, _) = setup.start();
    assert_eq!(budget.used(), 10 * BLOCK_BYTES);
    handle.stop(true).await;
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn sequences_give_way_and_lose_nothing() {
    let groups = vec![group(None)];
    // 5 requests of up to 4 blocks, 9 blocks.
    let mut setup = Setup::new(groups.clone(), 9, 1);
    setup.options.max_batch = 5;
    let (handle, _) = setup.start();
    let events: Vec<_> = (0..5)
        .map(|i| {
            let mut r = request(&prompt(i, 30), 90);
            r.ignore_eos = true;
            handle.submit(r).expect("accepted")
        })
        .collect();
    for (i, events) in events.into_iter().enumerate() {
        let got = outcome(events).await;
        let mut text = prompt(i as u64, 30);
        for id in got.ids() {
            let row = reference(&groups, &text);
            assert!(row[..SUPPRESSED as usize].iter().all(|&x| x <= row[id as usize]));
            text.push(id);
        }
        assert_eq!(text.len(), 120);
    }
    assert!(handle.stats().preempted > 0, "the test is to cause preemption");
    assert_eq!((handle.stats().kv_blocks_used, handle.stats().kv_blocks_total), (0, 9));
}

#[tokio::test]
async fn what_does_not_fit_alone_fails_with_numbers() {
    let setup = Setup::new(vec![group(None)], 5, 1).script(100, &[1; 100]);
    let (handle, control) = setup.start();
    let got = run(&handle, request(&prompt(1, 160), 1)).await;
    let numbers = EngineError::CacheMemory { needed: 6 * BLOCK_BYTES, available: 5 * BLOCK_BYTES };
    assert_eq!((got.end.expect_err("too long"), control.n_steps()), (numbers.clone(), 0));
    // It fits at first, and then no longer.
    let got = run(&handle, request(&prompt(1, 100), 100)).await;
    assert_eq!((got.tokens.len(), got.end.expect_err("too long")), (61, numbers));
    // Another is none the worse for it.
    assert_eq!(run(&handle, request(&prompt(1, 100), 20)).await.tokens.len(), 20);
}

#[tokio::test]
async fn idle_slabs_are_given_back() {
    let setup = Setup::new(vec![group(None), group(Some(40))], 100, 2).script(200, &[1; 100]);
    let budget = setup.budget.clone();
    let (handle, control) = setup.start();
    let minimum = budget.used();
    assert_eq!(minimum / BLOCK_BYTES, 4);
    let got = run(&handle, request(&prompt(1, 200), 30)).await;
    assert_eq!(got.tokens.len(), 30);
    let grown = budget.used();
    assert!(grown > minimum);
    assert_eq!(handle.release_idle_slabs().await, grown - minimum);
    assert_eq!((budget.used(), handle.stats().kv_bytes), (minimum, minimum));
    assert_eq!(control.n_slabs.load(Ordering::SeqCst), 4);
    // While a sequence runs, its slabs stay.
    control.hold();
    let events = handle.submit(request(&prompt(1, 200), 30)).expect("accepted");
    control.allow(3);
    while handle.stats().decode_tokens < 33 {
        tokio::task::yield_now().await;
    }
    let release = tokio::spawn({
        let handle = handle.clone();
        async move { handle.release_idle_slabs().await }
    });
    tokio::task::yield_now().await;
    control.allow_all();
    release.await.expect("answers");
    assert_eq!(outcome(events).await.tokens.len(), 30);
}

#[tokio::test]
async fn an_unused_cache_does_not_make_the_engine_grow() {
    let setup = Setup::new(vec![group(None)], 1000, 1);
    let budget = setup.budget.clone();
    let (handle, _) = setup.start();
    for i in 0..50 {
        run(&handle, request(&prompt(i, 300), 1)).await;
    }
    // 10 blocks are in use at a time; as many may be kept.
    assert!(budget.used() / BLOCK_BYTES <= 22, "{} blocks", budget.used() / BLOCK_BYTES);
}

#[tokio::test]
async fn a_cache_can_have_a_most() {
    let mut setup = Setup::new(vec![group(None)], 1000, 1);
    setup.options.cache_max = Some(5 * BLOCK_BYTES);
    let budget = setup.budget.clone();
    let (handle, _) = setup.start();
    let got = run(&handle, request(&prompt(1, 300), 1)).await;
    assert!(matches!(got.end, Err(EngineError::CacheMemory { .. })));
    run(&handle, request(&prompt(1, 150), 1)).await.finish();
    assert_eq!(budget.used(), 5 * BLOCK_BYTES);
}
