//! Devices that refuse, fail, hang or vanish. The device takes its orders from the environment when
//! it is loaded: each case is a process of its own.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocmforge::backend::hip::StartError;
use rocmforge::backend::{Backend, BackendError};
use rocmforge::plan::batch::Batch;
use rocmforge::plan::cache::KvType;
use rocmforge::plan::op::CacheId;
use rocmforge::quant::GgmlType;

use super::device::{Gpu, gpu};
use super::plan::plan;

/// Runs the ignored test `name` in a process with `vars`; what it says.
#[track_caller]
pub fn alone(name: &str, vars: &[(&str, &str)]) -> String {
    if gpu().is_none() {
        return String::new();
    }
    let mut test = Command::new(std::env::current_exe().expect("this test"));
    test.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]).envs(vars.iter().copied());
    let out = test.output().expect("runs");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{name} with {vars:?}:\n{text}");
    text
}

/// Loads the small plan and runs steps of one token until something happens.
fn run(steps: u32) -> Result<(), StartError> {
    let gpu = gpu().expect("asked for in `alone`");
    let plan = Arc::new(plan(GgmlType::Q8_0, KvType::F16));
    let mut backend = gpu.start(&plan, Gpu::options(4))?;
    for group in 0..2 {
        backend.add_slab(CacheId(group))?;
    }
    for pos in 0..steps {
        let mut batch = Batch::default();
        batch.push(&[pos % 50], pos, [0]);
        for _ in 0..2 {
            batch.push_table(&[0]);
        }
        backend.submit(&batch, &[])?;
        let begin = Instant::now();
        while backend.poll(Duration::from_millis(20))?.is_none() {
            if begin.elapsed() > Duration::from_secs(2) {
                return Err(BackendError::Lost("late".to_owned()).into());
            }
        }
    }
    Ok(())
}

/// Whichever allocation is refused, the activations', one of the weights' or a slab's.
#[test]
fn memory_that_is_refused() {
    if gpu().is_none() {
        return;
    }
    let refused = (1..).step_by(7).take_while(|n: &u32| {
        let said = alone("faults::refused", &[("HOSTHIP_FAIL_MALLOC", &n.to_string())]);
        said.contains("refused: out of memory")
    });
    assert!(refused.count() >= 5, "there are over 30 allocations");
    let said = alone("faults::refused", &[("HOSTHIP_MEMORY_MB", "1")]);
    assert!(said.contains("refused: out of memory"), "{said}");
}

#[test]
#[ignore = "run by memory_that_is_refused"]
fn refused() {
    let Err(error) = run(1) else { return };
    println!("refused: {error}");
    let StartError::Backend(BackendError::OutOfMemory { device, bytes, .. }) = error else { panic!("{error}") };
    assert!(device == "gpu gfx1100" && bytes > 0);
    let (free, total) = gpu().expect("open").device.memory().expect("told");
    assert_eq!(free, total, "what was taken is given back");
}

#[test]
fn a_device_that_fails_or_vanishes_is_lost() {
    for (name, at) in [("HOSTHIP_FAIL_LAUNCH", "1"), ("HOSTHIP_FAIL_LAUNCH", "40"), ("HOSTHIP_LOSE_AT", "33")] {
        alone("faults::lost", &[(name, at)]);
        alone("faults::lost", &[(name, at), ("HOSTHIP_LAZY", "1")]);
    }
}

#[test]
#[ignore = "run by a_device_that_fails_or_vanishes_is_lost"]
fn lost() {
    let error = run(8).expect_err("the device failed");
    let StartError::Backend(BackendError::Lost(why)) = error else { panic!("{error}") };
    assert!(why.contains("gpu gfx1100") && why.contains("719 (launch failure)"), "{why}");
}

#[test]
fn a_device_that_hangs_does_not_hold_its_caller() {
    alone("faults::hung", &[("HOSTHIP_HANG_AT", "30")]);
}

#[test]
#[ignore = "run by a_device_that_hangs_does_not_hold_its_caller"]
fn hung() {
    let error = run(8).expect_err("the device hangs");
    assert!(matches!(&error, StartError::Backend(BackendError::Lost(why)) if why == "late"), "{error}");
}

/// The device works only when it is asked, and its blocks run backwards: what nobody waits for is
/// not there.
#[test]
fn nothing_depends_on_order_or_on_luck() {
    alone("faults::lazy", &[("HOSTHIP_LAZY", "1"), ("HOSTHIP_ORDER", "reverse")]);
}

#[test]
#[ignore = "run by nothing_depends_on_order_or_on_luck"]
fn lazy() {
    super::agree::every_op_in_f32();
}
