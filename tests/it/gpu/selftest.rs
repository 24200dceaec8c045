//! The self-test on device "host": every kernel of the build is right, and a wrong one is found by name.

use std::ops::ControlFlow;
use std::sync::Arc;

use rocmforge::backend::hip::module::Kernels;
use rocmforge::backend::hip::{HipBackend, selftest};
use rocmforge::plan::cache::KvType;
use rocmforge::quant::GgmlType;

use super::device::{Gpu, gpu};
use super::faults::alone;
use super::plan::plan;

#[test]
fn every_kernel_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut told = Vec::new();
    let report = selftest::run(&gpu.device, &gpu.kernels, &mut |name| told.push(name.to_owned())).expect("it runs");
    println!("{} kernels in {:?}", report.kernels, report.took);
    let failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!((told.len(), report.kernels as usize), (gpu.kernels.all().len(), told.len()));
}

/// Kernels that have others to stand in for them, and one that has none.
#[test]
fn a_wrong_kernel_is_found_by_name_and_others_do_its_work() {
    for kernel in ["gemv_q8_0_c1", "rope_store_f16", "attend_mma_64"] {
        alone("selftest::replaced", &[("HOSTHIP_WRONG_IN", kernel)]);
    }
    alone("selftest::refused", &[("HOSTHIP_WRONG_IN", "gemm_q8_0")]);
}

/// Takes the wrong kernel out, which the environment names.
fn found() -> (String, Kernels) {
    let kernel = std::env::var("HOSTHIP_WRONG_IN").expect("set");
    let gpu = gpu().expect("asked for in `alone`");
    let report = selftest::run(&gpu.device, &gpu.kernels, &mut |_| ()).expect("it runs");
    let wrong: Vec<&str> = report.failures.iter().map(|f| f.kernel.as_str()).collect();
    assert_eq!(wrong, [kernel.as_str()], "{:?}", report.failures);
    assert!(report.failures[0].expected != report.failures[0].got, "{:?}", report.failures);
    let mut kernels = Kernels::embedded(&gpu.device).expect("sound objects");
    kernels.leave_out(&kernel);
    assert!(kernels.get(&kernel).is_none() && kernels.is_left_out(&kernel));
    (kernel, kernels)
}

#[test]
#[ignore = "run by a_wrong_kernel_is_found_by_name_and_others_do_its_work"]
fn replaced() {
    super::agree::every_op_with(&found().1, GgmlType::Q8_0);
}

#[test]
#[ignore = "run by a_wrong_kernel_is_found_by_name_and_others_do_its_work"]
fn refused() {
    let ((kernel, kernels), gpu) = (found(), gpu().expect("asked for in `alone`"));
    let plan = Arc::new(plan(GgmlType::Q8_0, KvType::F16));
    let made = HipBackend::new(&gpu.device, &kernels, plan, Gpu::options(64), &mut |_, _| ControlFlow::Continue(()));
    let why = made.err().expect("there is no other").to_string();
    assert!(why.ends_with(&format!("GPU kernel {kernel} failed the self-test")), "{why}");
}
