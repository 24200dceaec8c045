//! `forgectl selftest`: the kernels of all GPUs against the CPU.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Mutex;

use crate::api::admin::Wish;
use crate::proto::admin::AdminError;
use crate::proto::selftest::{KernelFailure, SelfTest};
use crate::registry::gpu::Gpu;

/// Tests `gpus`, one after the other, and for one who asks at a time.
pub(super) fn wish(gpus: Vec<(String, Arc<Gpu>)>) -> Wish<Result<Vec<SelfTest>, AdminError>> {
    let turn = Arc::new(Mutex::new(()));
    Box::new(move |uid| {
        let (turn, gpus) = (Arc::clone(&turn), gpus.clone());
        Box::pin(async move {
            let turn = turn.lock_owned().await;
            let tested = tokio::task::spawn_blocking(move || {
                // Whoever asked may go; the next one waits until this one is done.
                let _turn = turn;
                gpus.iter().map(|(id, gpu)| test(id, gpu, uid)).collect::<Vec<_>>()
            });
            tested.await.map_err(|e| AdminError {
                code: "internal".to_owned(),
                message: format!("the self-test failed: {e}"),
                detail: Value::Null,
            })
        })
    })
}

fn test(id: &str, gpu: &Gpu, uid: Option<u32>) -> SelfTest {
    let result = SelfTest { device: id.to_owned(), description: gpu.name(), ..SelfTest::default() };
    match gpu.selftest() {
        Ok(tested) => {
            tracing::info!(uid, device = id, kernels = tested.kernels, wrong = tested.left_out(), "self-test");
            let failure = |f: crate::backend::hip::selftest::Failure| KernelFailure {
                kernel: f.kernel,
                case: f.case,
                expected: f.expected,
                got: f.got,
                tolerance: f.tolerance,
            };
            SelfTest {
                kernels: tested.kernels,
                passed: tested.kernels - tested.failures.len() as u32,
                seconds: tested.millis as f64 / 1000.0,
                failures: tested.failures.into_iter().map(failure).collect(),
                ..result
            }
        }
        Err(why) => {
            tracing::error!(uid, device = id, "the self-test failed: {}", why.reason);
            SelfTest { error: Some(why.reason), ..result }
        }
    }
}
