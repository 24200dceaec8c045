//! Logits of the GPU's path are those of the CPU's, in prefill, decode, and batches of both.

use std::ops::ControlFlow;
use std::sync::Arc;

use rocmforge::backend::Backend;
use rocmforge::backend::cpu::{CpuBackend, CpuPool};
use rocmforge::backend::hip::HipBackend;
use rocmforge::backend::hip::module::Kernels;
use rocmforge::backend::split::SplitBackend;
use rocmforge::model::PlanOptions;
use rocmforge::offline::drive::{Driver, Part};
use rocmforge::plan::Plan;
use rocmforge::plan::cache::KvType;
use rocmforge::quant::GgmlType;
use rocmforge::simd::Tier;

use super::device::{Gpu, gpu};
use super::goldens::{Tiny, max_difference, rms_difference, tiny};
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

fn hip(gpu: &Gpu, kernels: &Kernels, plan: &Arc<Plan>) -> Driver {
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let backend = HipBackend::new(&gpu.device, kernels, Arc::clone(plan), Gpu::options(STEP), go_on);
    driver(backend.expect("all kernels exist"), plan)
}

/// The layers before `layer` on the CPU, the rest on the GPU.
fn divided(gpu: &Gpu, plan: &Plan, layer: usize) -> Driver {
    let parts = plan.split(layer).expect("a cut");
    let pool = CpuPool::new(1, Tier::detect());
    let first = CpuBackend::new(Arc::new(parts[0].clone()), pool, STEP, STEP).expect("all kernels exist");
    let rest = gpu.start(&Arc::new(parts[1].clone()), Gpu::options(STEP)).expect("all kernels exist");
    driver(SplitBackend::new(Box::new(first), Box::new(rest), &parts), &parts[0])
}

/// Logits of all of `tokens`, fed to a new sequence in steps of `chunk`.
fn logits(driver: &mut Driver, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let sequence = driver.add();
    let mut out = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let part = Part { sequence, tokens, outputs: 0..tokens.len() };
        out.extend_from_slice(driver.step(&[part]).expect("a step").rows);
    }
    driver.clear(sequence);
    out
}

/// How far two paths may be apart.
#[derive(Clone, Copy)]
enum Within {
    /// Any logit by so much.
    Max(f32),
    /// In the root mean square, by so many standard deviations of the logits.
    Rms(f64),
}

/// F32 agrees to rounding, but prefill with a cache in f16 or q8_0 has queries and probabilities in f16, too,
/// and a key may get another code than on the CPU; others agree within the error of activations in 8 bits.
fn within(f32_weights: bool, kv_type: KvType) -> Within {
    match (f32_weights, kv_type) {
        (true, KvType::F32) => Within::Max(1e-3),
        (true, KvType::F16) => Within::Rms(0.005),
        (true, KvType::Q8_0) => Within::Rms(0.02),
        (false, _) => Within::Rms(0.05),
    }
}

impl Within {
    /// For a single row: both paths have errors of their own, which scatter more in it than in all rows.
    fn row(self) -> Self {
        match self {
            Within::Max(most) => Within::Max(most),
            Within::Rms(most) => Within::Rms(2.0 * most),
        }
    }
}

fn check(name: &str, how: &str, within: Within, got: &[f32], want: &[f32]) {
    match within {
        Within::Max(most) => {
            let d = max_difference(got, want);
            assert!(d <= most, "{name}, {how}: logits differ by {d}");
        }
        Within::Rms(most) => {
            let n = want.len() as f64;
            let mean = want.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let std = (want.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt();
            let d = rms_difference(got, want) / std;
            println!("{name}, {how}: {d:.5} of the standard deviation");
            assert!(d <= most, "{name}, {how}: logits differ by {d} standard deviations");
        }
    }
}

/// The GPU's path with all kernels, and divided with the CPU.
fn compare(gpu: &Gpu, name: &str, plan: &Arc<Plan>, within: Within, tokens: &[u32]) {
    compare_with(hip(gpu, &gpu.kernels, plan), name, plan, within, tokens);
    // What the halves compute does not depend on the caches' type.
    let f32_caches = plan.caches.iter().all(|c| c.kv_type == KvType::F32);
    if plan.layers.len() > 1 && f32_caches {
        let layer = plan.layers.len() / 2;
        let n = plan.layers.len() - layer;
        compare_with(divided(gpu, plan, layer), &format!("{name}, {n} layers on it"), plan, within, tokens);
    }
}

/// Chunks of all kinds: prefill, each size of decode kernels, and what is left over.
fn compare_with(mut hip: Driver, name: &str, plan: &Arc<Plan>, within: Within, tokens: &[u32]) {
    let mut cpu = cpu(plan);
    let want = logits(&mut cpu, tokens, STEP);
    for chunk in [STEP, 1, 2, 3, 7, 19] {
        check(name, &format!("steps of {chunk}"), within, &logits(&mut hip, tokens, chunk), &want);
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
    let got = hip.step(&parts).expect("a step").rows.to_vec();
    check(name, "decoded before a prefill", within.row(), &got[..v], &want[(n - 3) * v..][..v]);
    check(name, "prefilled between decodes", within.row(), &got[v..4 * v], &want[v..4 * v]);
    check(name, "decoded after a prefill", within.row(), &got[4 * v..], &want[at * v..][..v]);
    for i in 1..3 {
        let part = |sequence, at: usize| Part { sequence, tokens: &tokens[at..at + 1], outputs: 0..1 };
        let got = hip.step(&[part(b, at + i), part(a, n - 3 + i)]).expect("a step").rows.to_vec();
        check(name, "decoded together", within.row(), &got[..v], &want[(at + i) * v..][..v]);
        check(name, "decoded together", within.row(), &got[v..], &want[(n - 3 + i) * v..][..v]);
    }
}

/// Coded weights: no further from the exact result than llama.cpp's own path, in prefill and decode.
fn as_good_as_llama_cpp(gpu: &Gpu, golden: &Tiny, theirs: f64) {
    let mut hip = hip(gpu, &gpu.kernels, &Arc::new(golden.plan()));
    for chunk in [STEP, 1] {
        let ours = rms_difference(&logits(&mut hip, &golden.tokens, chunk), &golden.logits());
        println!("{}, steps of {chunk}: {ours:.5} of {theirs:.5}", golden.name);
        let good = ours <= 1.05 * theirs && ours <= 0.05 * f64::from(golden.std);
        assert!(good, "{}, steps of {chunk}: {ours:.5} from the exact logits, llama.cpp {theirs:.5}", golden.name);
    }
}

#[test]
fn tiny_models() {
    let Some(gpu) = gpu() else { return };
    for golden in tiny() {
        let f32_weights = golden.llama_cpp_rms.is_none();
        let model = golden.open();
        if let Some(theirs) = golden.llama_cpp_rms {
            as_good_as_llama_cpp(gpu, &golden, theirs);
        }
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
            // What a q8_0 cache does to the result does not depend on the weights' format.
            if kv_type == KvType::Q8_0 && (!f32_weights || model.takes_caches(kv_type).is_err()) {
                continue;
            }
            let plan = Arc::new(model.plan(&PlanOptions { kv_type }));
            compare(gpu, &format!("{} {kv_type:?}", golden.name), &plan, within(f32_weights, kv_type), &golden.tokens);
        }
    }
}

/// [`every_op`] with the plainest weights.
pub fn every_op_in_f32() {
    let gpu = gpu().expect("asked for before");
    let plan = Arc::new(plan::plan(GgmlType::F32, KvType::F32));
    compare(gpu, "every op", &plan, within(true, KvType::F32), &tokens());
}

/// [`every_op`] with weights of `ty` and only these kernels.
pub fn every_op_with(kernels: &Kernels, ty: GgmlType) {
    let gpu = gpu().expect("asked for before");
    let plan = Arc::new(plan::plan(ty, KvType::F16));
    compare_with(hip(gpu, kernels, &plan), "every op", &plan, within(false, KvType::F16), &tokens()[..60]);
}

fn tokens() -> Vec<u32> {
    (0..150u32).map(|i| (i * 17 + i * i * 3) % plan::VOCAB as u32).collect()
}

/// Layer norms, biases, windows, scales, both rotations, long enough for several blocks.
#[test]
fn every_op() {
    let Some(gpu) = gpu() else { return };
    for ty in [GgmlType::F32, GgmlType::Q8_0, GgmlType::Q4_K, GgmlType::Q6_K] {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
            if kv_type == KvType::Q8_0 && ty != GgmlType::F32 {
                continue;
            }
            let plan = Arc::new(plan::plan(ty, kv_type));
            compare(
                gpu,
                &format!("every op {} {kv_type:?}", ty.name()),
                &plan,
                within(ty == GgmlType::F32, kv_type),
                &tokens(),
            );
        }
    }
}
