//! Texts: the same however they are batched, chunked or reused, and cut where they should be.

use proptest::prelude::*;

use super::fake::*;
use crate::engine::message::{EngineError, FinishReason, Sampling};
use crate::plan::cache::CacheGroup;

fn without_eog(tokens: &[u32]) -> &[u32] {
    tokens.strip_suffix(&[EOG]).unwrap_or(tokens)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn all_groups() -> Vec<CacheGroup> {
    vec![group(None), group(Some(40)), group(Some(7))]
}

#[tokio::test]
async fn a_text_is_what_the_model_says() {
    let groups = vec![group(None)];
    let (handle, control) = Setup::plain().start();
    let prompt = prompt(1, 100);
    let got = run(&handle, request(&prompt, 50)).await;
    let want = greedy(&groups, &prompt, 50);
    assert_eq!(got.ids(), without_eog(&want));
    assert_eq!(got.text(), text(&want));
    let finish = got.finish();
    assert_eq!((finish.prompt_tokens, finish.completion_tokens as usize), (100, want.len()));
    assert_eq!(control.n_steps(), want.len(), "one step for the prompt and one for each further token");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Many requests at once, some with common beginnings, in small chunks, with little memory:
    /// each gets the text that it would get alone and without a cache.
    #[test]
    fn arrangement_does_not_matter(
        requests in prop::collection::vec((0u64..3, 1usize..140, 0u64..3, 0usize..60, 1u32..40, any::<bool>()), 1..14),
        step_tokens in 8usize..100,
        shared in 1usize..40,
        max_batch in 1usize..8,
        blocks in 24u64..60,
        n_groups in 1usize..4,
    ) {
        let groups = all_groups()[..n_groups].to_vec();
        let mut setup = Setup::new(groups.clone(), blocks, 1);
        setup.options.step_tokens = step_tokens;
        setup.options.step_tokens_shared = shared;
        setup.options.max_batch = max_batch;
        let budget = setup.budget.clone();
        let (handle, _) = setup.start();
        runtime().block_on(async {
            let mut events = Vec::new();
            for (common, n_common, own, n_own, n_new, share) in requests {
                let mut p = prompt(common, n_common);
                p.extend(prompt(100 + own, n_own));
                let mut r = request(&p, n_new);
                r.cache_prompt = share;
                events.push((p, n_new, handle.submit(r).expect("accepted")));
            }
            for (p, n_new, events) in events {
                let got = outcome(events).await;
                match &got.end {
                    Ok(_) => assert_eq!(got.ids(), without_eog(&greedy(&groups, &p, n_new as usize))),
                    Err(EngineError::CacheMemory { needed, available }) => {
                        assert!(needed > available);
                        let most = (p.len() + n_new as usize).div_ceil(32) as u64 * n_groups as u64;
                        assert!(most > blocks - n_groups as u64, "{most} blocks are within {blocks}");
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            assert_eq!(handle.stats().kv_blocks_used, 0);
            handle.stop(true).await;
        });
        assert_eq!(budget.used(), 0);
    }

    /// A seed's text does not depend on who else is in the batch.
    #[test]
    fn seeds_repeat(seed: u64, others in 0u64..5, top_k in prop_oneof![Just(0u32), 1u32..20], top_p in 0.3f32..1.1) {
        let (handle, _) = Setup::plain().start();
        let sampled = || {
            let mut r = request(&prompt(9, 20), 30);
            r.sampling = Sampling { seed, top_k, top_p, repeat_penalty: 1.2, frequency_penalty: 0.1, ..Sampling::default() };
            r
        };
        runtime().block_on(async {
            let alone = run(&handle, sampled()).await.ids();
            let company: Vec<_> = (0..others).map(|i| handle.submit(request(&prompt(i, 50), 40)).expect("accepted")).collect();
            assert_eq!(run(&handle, sampled()).await.ids(), alone);
            drop(company);
        });
    }
}

#[tokio::test]
async fn a_common_beginning_is_computed_once() {
    for groups in [vec![group(None)], all_groups(), vec![group(Some(40))]] {
        let (handle, control) = Setup::new(groups.clone(), 1000, 4).start();
        let first = prompt(1, 200);
        let got = run(&handle, request(&first, 30)).await;
        assert_eq!(got.cached, Some(0));
        // The next turn of a chat: all that was said, and more.
        let mut second = [first.clone(), got.ids()].concat();
        // The last token of the first text was never computed.
        let n_computed = second.len() - 1;
        second.extend(prompt(2, 50));
        let got = run(&handle, request(&second, 30)).await;
        assert_eq!(got.cached, Some((n_computed / 32 * 32) as u32));
        assert_eq!(got.finish().cached_tokens, (n_computed / 32 * 32) as u32);
        assert_eq!(got.ids(), without_eog(&greedy(&groups, &second, 30)));
        // The same prompt again: its last token at least is computed.
        let again = [&second[..], &[1; 32]].concat()[..256].to_vec();
        run(&handle, request(&again, 1)).await;
        let n = control.n_steps();
        let got = run(&handle, request(&again, 1)).await;
        assert_eq!(got.cached, Some(224));
        assert_eq!(control.steps.lock().expect("not poisoned")[n..], [[32]]);
        // Who wants no part in it takes and leaves nothing.
        let mut private = request(&second, 1);
        private.cache_prompt = false;
        assert_eq!(run(&handle, private).await.cached, Some(0));
        let mut private = request(&prompt(3, 100), 1);
        private.cache_prompt = false;
        run(&handle, private).await;
        assert_eq!(run(&handle, request(&prompt(3, 100), 1)).await.cached, Some(0));
    }
}

#[tokio::test]
async fn long_prompts_come_in_chunks_beside_others() {
    let mut setup = Setup::plain().script(1, &[1; 60]);
    setup.options.step_tokens = 64;
    setup.options.step_tokens_shared = 16;
    let (handle, control) = setup.start();
    control.hold();
    let first = handle.submit(request(&[1], 40)).expect("accepted");
    control.allow(3);
    while handle.stats().decode_tokens < 3 {
        tokio::task::yield_now().await;
    }
    // A step is in flight already; the prompt joins the next.
    let second = handle.submit(request(&prompt(2, 100), 1)).expect("accepted");
    while handle.stats().waiting < 1 {
        tokio::task::yield_now().await;
    }
    control.allow_all();
    let (first, second) = (outcome(first).await, outcome(second).await);
    assert_eq!((first.tokens.len(), second.tokens.len()), (40, 1));
    let steps = control.steps.lock().expect("not poisoned").clone();
    let chunks: Vec<Vec<usize>> = steps.into_iter().filter(|s| s.len() == 2).collect();
    assert_eq!(chunks, [[1, 16], [1, 16], [1, 16], [1, 16], [1, 16], [1, 16], [1, 4]]);
}

#[tokio::test]
async fn stop_strings_end_the_text_across_tokens() {
    let letters: Vec<u32> = (1..=26).collect();
    let (handle, _) = Setup::plain().script(1, &letters).start();
    let mut r = request(&[1], 26);
    r.stop = vec!["xyz!".to_owned(), "def".to_owned()];
    let got = run(&handle, r).await;
    assert_eq!((got.text().as_str(), got.finish().reason), ("abc", FinishReason::Stop));
    assert_eq!(got.tokens.iter().map(|t| t.text.len()).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0]);
    assert_eq!(got.finish().completion_tokens, 6);
    let mut r = request(&[1], 26);
    r.stop = vec!["xyz!".to_owned()];
    let got = run(&handle, r).await;
    assert_eq!(got.text(), "abcdefghijklmnopqrstuvwxyz");
    assert_eq!((&got.finish().text[..], got.finish().reason), (&b"xyz"[..], FinishReason::Length));
}

#[tokio::test]
async fn characters_stay_whole() {
    let (handle, _) = Setup::plain().script(1, &[1, CRAB_FIRST, CRAB_SECOND, CRAB_FIRST, EOG]).start();
    let got = run(&handle, request(&[1], 26)).await;
    let texts: Vec<&[u8]> = got.tokens.iter().map(|t| &t.text[..]).collect();
    assert_eq!(texts, [b"a", &b""[..], "🦀".as_bytes(), b""]);
    assert_eq!(&got.finish().text[..], "\u{fffd}".as_bytes());
    assert_eq!(got.finish().completion_tokens, 5, "the end token counts");
}

#[tokio::test]
async fn end_tokens_can_be_ignored() {
    let (handle, _) = Setup::plain().script(1, &[1, EOG, 2, EOG, 3]).start();
    let got = run(&handle, request(&[1], 5)).await;
    assert_eq!((got.ids(), got.finish().reason), (vec![1], FinishReason::Stop));
    let mut r = request(&[1], 5);
    r.ignore_eos = true;
    let got = run(&handle, r).await;
    assert_eq!((got.text().as_str(), got.finish().reason), ("abc", FinishReason::Length));
}

#[tokio::test]
async fn suppressed_tokens_do_not_come() {
    let (handle, _) = Setup::plain().script(1, &[1, SUPPRESSED, 2]).start();
    let mut r = request(&[1], 3);
    r.ignore_eos = true;
    let ids = run(&handle, r).await.ids();
    assert!(ids[0] == 1 && ids[1] != SUPPRESSED && ids[2] == 2, "{ids:?}");
}

#[tokio::test]
async fn the_context_is_the_end() {
    let mut setup = Setup::plain().script(10, &[1; 100]);
    setup.options.context = 50;
    let (handle, _) = setup.start();
    let mut r = request(&prompt(1, 10), 0);
    r.max_tokens = None;
    let got = run(&handle, r).await;
    assert_eq!((got.tokens.len(), got.finish().reason), (40, FinishReason::Length));
    assert_eq!(run(&handle, request(&prompt(1, 49), 9)).await.tokens.len(), 1);
    let refused = handle.submit(request(&prompt(1, 50), 1)).expect_err("no room for a token");
    assert_eq!(refused, EngineError::ContextLength { prompt: 50, context: 50 });
}

#[tokio::test]
async fn senseless_requests_are_refused() {
    let (handle, control) = Setup::plain().start();
    assert!(matches!(handle.submit(request(&[], 1)), Err(EngineError::Invalid(_))));
    assert!(matches!(handle.submit(request(&[N_VOCAB as u32], 1)), Err(EngineError::Invalid(_))));
    let got = run(&handle, request(&[1], 0)).await;
    assert_eq!((got.tokens.len(), got.finish().reason), (0, FinishReason::Length));
    assert_eq!((control.n_steps(), handle.stats().requests), (0, 1));
}

#[tokio::test]
async fn log_probabilities_are_the_models() {
    let groups = [group(None)];
    let (handle, _) = Setup::plain().start();
    let p = prompt(4, 40);
    let mut r = request(&p, 10);
    r.logprobs = Some(3);
    r.ignore_eos = true;
    // The bias changes what is chosen, not what is reported.
    r.sampling.logit_bias = vec![(5, 100.0)];
    let got = run(&handle, r).await;
    let mut text = p;
    for token in &got.tokens {
        let row = reference(&groups, &text);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let logprob = |t: u32| f64::from(row[t as usize]) - sum.ln();
        let (chosen, others) = token.logprobs.as_deref().expect("asked for");
        assert_eq!((token.id, chosen.token, others.len()), (5, 5, 3));
        let mut order: Vec<u32> = (0..N_VOCAB as u32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        for (c, want) in std::iter::once(chosen).chain(others).zip(std::iter::once(5).chain(order)) {
            assert_eq!(c.token, want);
            assert!((f64::from(c.logprob) - logprob(want)).abs() < 1e-4);
        }
        text.push(token.id);
    }
    assert_eq!(got.tokens.len(), 10);
}

#[tokio::test]
async fn numbers_add_up() {
    let (handle, _) = Setup::plain().start();
    let p = prompt(1, 100);
    let mut r = request(&p, 10);
    r.ignore_eos = true;
    run(&handle, r.clone()).await;
    let got = run(&handle, r).await;
    let s = handle.stats();
    assert_eq!((s.requests, s.failed, s.cancelled, s.running, s.waiting), (2, 0, 0, 0, 0));
    assert_eq!((s.cached_tokens, s.decode_tokens, s.prefill_tokens), (96, 20, 104));
    assert_eq!((s.queued.count(), s.first_token.count(), s.gap.count()), (2, 2, 18));
    assert_eq!(s.steps, 20);
    assert!(s.prefill_rate > 0.0 && s.decode_rate > 0.0 && s.prefill_s > 0.0 && s.decode_s > 0.0);
    assert_eq!(s.kv_blocks_used, 0);
    assert!(s.kv_blocks_kept >= 3 && s.kv_blocks_total >= s.kv_blocks_kept);
    let f = got.finish();
    assert!(f.decode.as_nanos() > 0 && f.prefill.as_nanos() > 0);
}
