//! The CPU backend against the goldens, on every tier this machine has.

use std::sync::Arc;

use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::backend::split::SplitBackend;
use rocmforge::offline::drive::{Driver, Part};
use rocmforge::plan::Plan;
use rocmforge::simd::Tier;

use crate::goldens::{best, max_difference, rms_difference, tiny};

/// Most tokens of a step in these tests.
const STEP: usize = 64;

/// A plan on its backend.
pub fn driver(plan: &Arc<Plan>, tier: Tier, max_tokens: usize, max_outputs: usize) -> Driver {
    let pool = CpuPool::new(0, tier);
    let backend = CpuBackend::new(Arc::clone(plan), pool, max_tokens, max_outputs).expect("all kernels exist");
    Driver::new(Box::new(backend), plan.caches.clone())
}

/// Logits of all of `tokens`, fed to a new sequence in steps of `chunk`.
fn logits(driver: &mut Driver, sequence: usize, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let part = Part { sequence, tokens, outputs: 0..tokens.len() };
        out.extend_from_slice(driver.step(&[part]).expect("a step").rows);
    }
    out
}

#[test]
fn f32_logits_and_greedy_text_are_exact() {
    for tier in Tier::available() {
        for golden in tiny().iter().filter(|g| g.llama_cpp_rms.is_none()) {
            let mut driver = driver(&Arc::new(golden.plan()), tier, STEP, STEP);
            let sequence = driver.add();
            let all = logits(&mut driver, sequence, &golden.tokens, STEP);
            let difference = max_difference(&all, &golden.logits());
            println!("{} {}: {difference}", golden.name, tier.name());
            assert!(difference <= 1e-3, "{} on {}: logits differ by {difference}", golden.name, tier.name());
            let mut next = best(&all[all.len() - golden.n_vocab..]);
            for (i, id) in golden.greedy.iter().enumerate() {
                assert_eq!(next, *id, "{} on {}: token {i} of the continuation", golden.name, tier.name());
                next = best(&logits(&mut driver, sequence, &[next], 1));
            }
        }
    }
}

/// Weights in every format: no further from the exact result than llama.cpp's own path, be it in
/// one prefill or token by token.
#[test]
fn quantized_logits_are_as_good_as_llama_cpp() {
    let mut worse = Vec::new();
    for tier in Tier::available() {
        for golden in tiny() {
            let Some(theirs) = golden.llama_cpp_rms else { continue };
            let mut driver = driver(&Arc::new(golden.plan()), tier, STEP, STEP);
            for (path, chunk) in [("prefill", STEP), ("decode", 1)] {
                let sequence = driver.add();
                let ours = rms_difference(&logits(&mut driver, sequence, &golden.tokens, chunk), &golden.logits());
                println!("{} {} {path}: {ours:.5} of {theirs:.5}", golden.name, tier.name());
                if ours.is_nan() || ours > 1.05 * theirs || ours > 0.05 * f64::from(golden.std) {
                    worse.push(format!(
                        "{} on {} in {path}: {ours:.5}, llama.cpp {theirs:.5}",
                        golden.name,
                        tier.name()
                    ));
                }
            }
        }
    }
    assert!(worse.is_empty(), "further from the exact result:\n{}", worse.join("\n"));
}

/// However tokens are cut into steps and whoever else is in the batch, the logits stay the same.
#[test]
fn chunks_and_batches_agree() {
    for golden in tiny() {
        let exact = golden.llama_cpp_rms.is_none();
        let plan = Arc::new(golden.plan());
        let mut driver = driver(&plan, Tier::detect(), 4 * STEP, 4 * STEP);
        let tokens = &golden.tokens;
        let sequence = driver.add();
        let whole = logits(&mut driver, sequence, tokens, STEP);
        let check = |got: &[f32], want: &[f32], how: &str| {
            if exact {
                let d = max_difference(got, want);
                assert!(d <= 1e-4, "{}, {how}: logits differ by {d}", golden.name);
            } else {
                let d = rms_difference(got, want);
                assert!(d <= 0.05 * f64::from(golden.std), "{}, {how}: logits differ by {d} rms", golden.name);
            }
        };
        for chunk in [1, 3, 7, 16] {
            driver.clear(sequence);
            let cut = logits(&mut driver, sequence, tokens, chunk);
            check(&cut, &whole, &format!("chunks of {chunk}"));
        }

        // Three sequences at different places, one of them prefilled while the others decode.
        let n = tokens.len();
        let [a, b, c] = std::array::from_fn(|_| driver.add());
        logits(&mut driver, a, &tokens[..n - 2], STEP);
        logits(&mut driver, b, &tokens[..n / 2], STEP);
        for (i, at_b) in [(n - 2, n / 2), (n - 1, n / 2 + 1)] {
            driver.clear(c);
            let parts = [
                Part { sequence: b, tokens: &tokens[at_b..at_b + 1], outputs: 0..1 },
                Part { sequence: c, tokens, outputs: 1..4 },
                Part { sequence: a, tokens: &tokens[i..i + 1], outputs: 0..1 },
            ];
            let got = driver.step(&parts).expect("a step").rows;
            let v = golden.n_vocab;
            check(&got[..v], &whole[at_b * v..][..v], "decoded beside a prefill");
            check(&got[v..4 * v], &whole[v..4 * v], "prefilled beside decodes");
            check(&got[4 * v..], &whole[i * v..][..v], "decoded last");
        }
    }
}

/// Copies in one batch are the same to the last bit: a row does not depend on the others.
#[test]
fn copies_in_a_batch_are_equal() {
    for golden in tiny().iter().filter(|g| g.name != "gemma3-62") {
        let plan = Arc::new(golden.plan());
        for copies in [2, 5, 9] {
            let mut driver = driver(&plan, Tier::detect(), copies * 4, copies * 4);
            let sequences: Vec<usize> = (0..copies).map(|_| driver.add()).collect();
            for tokens in golden.tokens.chunks(4) {
                let part = |&sequence| Part { sequence, tokens, outputs: 0..tokens.len() };
                let parts: Vec<Part> = sequences.iter().map(part).collect();
                let logits = driver.step(&parts).expect("a step").rows;
                let size = tokens.len() * golden.n_vocab;
                for copy in logits.chunks_exact(size) {
                    assert_eq!(copy, &logits[..size], "{}: {copies} copies differ", golden.name);
                }
            }
        }
    }
}

/// A step without outputs fills the cache all the same.
#[test]
fn steps_without_outputs_count() {
    for golden in tiny().iter().filter(|g| g.name == "llama-gqa" || g.name == "gemma3") {
        let mut driver = driver(&Arc::new(golden.plan()), Tier::detect(), STEP, 1);
        let sequence = driver.add();
        let (last, first) = golden.tokens.split_last().expect("tokens");
        let part = Part { sequence, tokens: first, outputs: 0..0 };
        assert!(driver.step(&[part]).expect("a step").rows.is_empty());
        let got = logits(&mut driver, sequence, &[*last], 1);
        let all = golden.logits();
        let difference = max_difference(&got, &all[all.len() - golden.n_vocab..]);
        assert!(difference <= 1e-3, "{}: {difference}", golden.name);
    }
}

/// Caches in f16 cost little.
#[test]
fn f16_caches_are_close() {
    use rocmforge::model::PlanOptions;
    use rocmforge::plan::cache::KvType;
    for golden in tiny().iter().filter(|g| g.llama_cpp_rms.is_none()) {
        let plan = golden.open().plan(&PlanOptions { kv_type: KvType::F16 });
        let mut driver = driver(&Arc::new(plan), Tier::detect(), STEP, STEP);
        let sequence = driver.add();
        let difference = rms_difference(&logits(&mut driver, sequence, &golden.tokens, 5), &golden.logits());
        assert!(difference <= 2e-3 * f64::from(golden.std), "{}: {difference} rms", golden.name);
        assert!(difference > 0.0, "{}: keys cannot survive f16 exactly", golden.name);
    }
}

/// Caches in q8_0 are within what formats of 8 bits may cost, in one prefill and token by token.
#[test]
fn q8_0_caches_are_close() {
    use rocmforge::model::PlanOptions;
    use rocmforge::plan::cache::KvType;
    let mut seen = 0;
    for golden in tiny().iter().filter(|g| g.llama_cpp_rms.is_none()) {
        let model = golden.open();
        if model.takes_caches(KvType::Q8_0).is_err() {
            continue;
        }
        seen += 1;
        let plan = Arc::new(model.plan(&PlanOptions { kv_type: KvType::Q8_0 }));
        let exact = golden.logits();
        for tier in Tier::available() {
            let mut driver = driver(&plan, tier, STEP, STEP);
            for chunk in [STEP, 5, 1] {
                let sequence = driver.add();
                let difference = rms_difference(&logits(&mut driver, sequence, &golden.tokens, chunk), &exact);
                let part = difference / f64::from(golden.std);
                println!("{} {} steps of {chunk}: {part:.5} standard deviations", golden.name, tier.name());
                assert!(part <= 0.05, "{} on {}, steps of {chunk}: {part}", golden.name, tier.name());
                assert!(part > 0.0, "{}: keys cannot survive q8_0 exactly", golden.name);
            }
        }
    }
    assert!(seen >= 3, "{seen} models have heads of whole groups");
}

/// Divided anywhere between its layers, a model computes the same bits.
#[test]
fn both_halves_together_are_the_whole() {
    let tier = Tier::detect();
    for golden in tiny() {
        let plan = Arc::new(golden.plan());
        let run = |driver: &mut Driver, chunk| {
            let sequence = driver.add();
            logits(driver, sequence, &golden.tokens, chunk)
        };
        let mut whole = driver(&plan, tier, STEP, STEP);
        let wanted = [STEP, 1, 7].map(|chunk| (chunk, run(&mut whole, chunk)));
        for layer in 1..plan.layers.len() {
            let parts = plan.split(layer).expect("a cut");
            let pool = CpuPool::new(0, tier);
            let part = |plan: &Plan| {
                let part = CpuBackend::new(Arc::new(plan.clone()), Arc::clone(&pool), STEP, STEP);
                Box::new(part.expect("all kernels exist"))
            };
            let backend = SplitBackend::new(part(&parts[0]), part(&parts[1]), &parts);
            let mut halves = Driver::new(Box::new(backend), parts[0].caches.clone());
            for (chunk, wanted) in &wanted {
                let got = run(&mut halves, *chunk);
                assert!(got == *wanted, "{} cut before layer {layer}, steps of {chunk}", golden.name);
            }
        }
    }
}
