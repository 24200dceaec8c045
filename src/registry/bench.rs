//! `bench`: a loaded model's speed, by ordinary requests to its engine.

use super::error::RegistryError;
use super::handle::Handle;
use super::loaded::Loaded;
use crate::base::limits::{BENCH_REPETITIONS_MAX, CONTEXT_MAX, MAX_BATCH_CAP};
use crate::engine::bench::{Spec, run};
use crate::engine::message::EngineError;
use crate::proto::admin::{BenchRequest, BenchResult, BenchRun};

impl Handle<Loaded> {
    /// Runs a benchmark; the model is loaded if it is not, and stays loaded meanwhile.
    ///
    /// # Errors
    /// As [`Handle::acquire`]; what the engine refuses.
    pub async fn bench(&self, request: &BenchRequest, threads: u32) -> Result<BenchResult, RegistryError> {
        let bounds = [
            ("n_prompt", request.n_prompt, CONTEXT_MAX),
            ("n_gen", request.n_gen, CONTEXT_MAX),
            ("depth", request.depth, CONTEXT_MAX),
            ("batch", request.batch, MAX_BATCH_CAP as u32),
            ("repetitions", request.repetitions, BENCH_REPETITIONS_MAX),
        ];
        for (name, value, most) in bounds {
            if value > most {
                return Err(RegistryError::Invalid(format!("{name} is {value}; it can be up to {most}")));
            }
        }
        if request.batch == 0 || request.repetitions == 0 || request.n_prompt == 0 && request.n_gen == 0 {
            return Err(RegistryError::Invalid(
                "batch and repetitions are at least 1, and so is n_prompt or n_gen".to_owned(),
            ));
        }
        let lease = self.lease(&request.model).await?;
        let model = &lease.model;
        let BenchRequest { n_prompt, n_gen, depth, batch, repetitions, .. } = *request;
        let needed = u64::from(depth) + u64::from(n_prompt.max(n_gen)) + 2;
        if needed > u64::from(model.context) {
            let text = format!(
                "{needed} tokens are needed, the context of {} is {}: take less of n_prompt, n_gen or depth",
                model.id, model.context
            );
            return Err(RegistryError::Invalid(text));
        }
        let runs = run(&model.engine, Spec { n_prompt, n_gen, depth, batch, repetitions }).await;
        let runs = runs.map_err(|e| match e {
            EngineError::QueueFull { retry_after_s, .. } => RegistryError::Busy { what: e.to_string(), retry_after_s },
            EngineError::Failed(reason) | EngineError::DeviceLost(reason) => {
                RegistryError::Failed { model: model.id.clone(), reason, retry_after_s: None }
            }
            EngineError::Stopping => RegistryError::Cancelled { model: model.id.clone() },
            e => RegistryError::Invalid(e.to_string()),
        })?;
        Ok(BenchResult {
            model: model.id.clone(),
            device: model.device.clone(),
            threads,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runs: runs.into_iter().map(|r| BenchRun { test: r.test, rates: r.rates }).collect(),
        })
    }
}
