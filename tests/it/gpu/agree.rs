//! Logits of the GPU's path are those of the CPU's, in prefill, decode, and batches of both.

use std::sync::Arc;

use rocmforge::backend::Backend;
use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::model::PlanOptions;
use rocmforge::offline::drive::{Driver, Part};
use rocmforge::plan::Plan;
use rocmforge::plan::cache::KvType;
use rocmforge::quant::GgmlType;
use rocmforge::simd::Tier;

use super::device::{Gpu, gpu};
use super::goldens::{max_difference, rms_difference, tiny};
use super::plan;

/// Most tokens of a step.
const STEP: usize = 64;

fn driver(backend: impl Backend + 'static, plan: &Plan) -> Driver {
    Driver::new(Box::new(backend), plan.caches.clone())
}

fn cpu(plan: &Arc<Plan>) -> Driver {
    let pool = CpuPool::new(1, Tier::detect());
    driver(CpuBackend::new(Arc::clone(plan), pool, STEP, STEP).expect("all kernels exist"), plan)
}

fn hip(gpu: &Gpu, plan: &Arc<Plan>) -> Driver {
    driver(gpu.start(plan, Gpu::options(STEP)).expect("all kernels exist"), plan)
}

/// Logits of all of `tokens`, fed to a new sequence in steps of `chunk`.
fn logits(driver: &mut Driver, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = driver.add();
    let mut out = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let part = Part { sequence, tokens, outputs: 0..tokens.len() };
        out.extend_from_slice(driver.step(&[part]).expect("a step").logits);
    }
    driver.clear(sequence);
    out
}

/// Whether two paths agree: F32 to rounding, others within the error of activations in 8 bits.
fn check(name: &str, how: &str, exact: bool, got: &[f32], want: &[f32]) {
    if exact {
        let d = max_difference(got, want);
        assert!(d <= 1e-3, "{name}, {how}: logits differ by {d}");
        return;
    }
    let n = want.len() as f64;
    let mean = want.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let std = (want.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let d = rms_difference(got, want) / std;
    println!("{name}, {how}: {d:.5} of the standard deviation");
    assert!(d <= 0.05, "{name}, {how}: logits differ by {d} standard deviations");
}

/// Chunks of all kinds: prefill, each size of decode kernels, and what is left over.
fn compare(gpu: &Gpu, name: &str, plan: &Arc<Plan>, exact: bool, tokens: &[u32]) {
    let (mut cpu, mut hip) = (cpu(plan), hip(gpu, plan));
    let want = logits(&mut cpu, tokens, STEP);
    for chunk in [STEP, 1, 2, 3, 7, 19] {
        check(name, &format!("steps of {chunk}"), exact, &logits(&mut hip, tokens, chunk), &want);
    }
    // Sequences at different places: one that decodes, a prefill, and one more that decodes; then
    // two that decode, whose step is recorded and replayed.
    let (n, v) = (tokens.len(), plan.n_vocab);
    let [a, b, c] = std::array::from_fn(|_| hip.add());
    for (sequence, upto) in [(a, n - 3), (b, n / 2)] {
        for tokens in tokens[..upto].chunks(STEP) {
            hip.step(&[Part { sequence, tokens, outputs: 0..0 }]).expect("a step without outputs");
        }
    }
    let at = n / 2;
    let m = n.min(20);
    let parts = [
        Part { sequence: a, tokens: &tokens[n - 3..n - 2], outputs: 0..1 },
        Part { sequence: c, tokens: &tokens[..m], outputs: 1..4 },
        Part { sequence: b, tokens: &tokens[at..at + 1], outputs: 0..1 },
    ];
    let got = hip.step(&parts).expect("a step").logits.to_vec();
    check(name, "decoded before a prefill", exact, &got[..v], &want[(n - 3) * v..][..v]);
    check(name, "prefilled between decodes", exact, &got[v..4 * v], &want[v..4 * v]);
    check(name, "decoded after a prefill", exact, &got[4 * v..], &want[at * v..][..v]);
    for i in 1..3 {
        let part = |sequence, at: usize| Part { sequence, tokens: &tokens[at..at + 1], outputs: 0..1 };
        let got = hip.step(&[part(b, at + i), part(a, n - 3 + i)]).expect("a step").logits.to_vec();
        check(name, "decoded together", exact, &got[..v], &want[(at + i) * v..][..v]);
        check(name, "decoded together", exact, &got[v..], &want[(n - 3 + i) * v..][..v]);
    }
}

#[test]
fn tiny_models() {
    let Some(gpu) = gpu() else { return };
    for golden in tiny() {
        let exact = golden.llama_cpp_rms.is_none();
        let model = golden.open();
        for kv_type in [KvType::F32, KvType::F16] {
            let plan = Arc::new(model.plan(&PlanOptions { kv_type }));
            compare(gpu, &format!("{} {kv_type:?}", golden.name), &plan, exact, &golden.tokens);
        }
    }
}

/// [`every_op`] with the plainest weights.
pub fn every_op_in_f32() {
    let gpu = gpu().expect("asked for before");
    let plan = Arc::new(plan::plan(GgmlType::F32, KvType::F32));
    compare(gpu, "every op", &plan, true, &tokens());
}

fn tokens() -> Vec<u32> {
    (0..150u32).map(|i| (i * 17 + i * i * 3) % plan::VOCAB as u32).collect()
}

/// Layer norms, biases, windows, scales, both rotations, long enough for several blocks.
#[test]
fn every_op() {
    let Some(gpu) = gpu() else { return };
    for ty in [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4_K, GgmlType::Q6_K] {
        for kv_type in [KvType::F32, KvType::F16] {
            let plan = Arc::new(plan::plan(ty, kv_type));
            compare(gpu, &format!("every op {} {kv_type:?}", ty.name()), &plan, ty == GgmlType::F32, &tokens());
        }
    }
}
