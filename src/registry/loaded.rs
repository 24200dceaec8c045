//! A loaded model: its engine, and what requests need besides.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::loader::{Facts, Grant, Resident};
use crate::backend::remote::process::Process;
use crate::base::limits::STOP_POLL;
use crate::chat::Template;
use crate::engine::Vocabulary;
use crate::engine::events::State;
use crate::engine::handle::Handle;
use crate::proto::admin::{ModelStats, RequestInfo};
use crate::tokenizer::Tokenizer;

/// A loaded model.
pub struct Loaded {
    /// Its id.
    pub id: String,
    /// Its engine.
    pub engine: Handle,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template.
    pub template: Arc<Template>,
    /// Largest context of a request, tokens.
    pub context: u32,
    /// Where it runs, as users read it: `cpu avx512`.
    pub device: String,
    /// Width of its logits.
    pub n_vocab: usize,
    /// What is known about it.
    pub facts: Arc<Facts>,
    /// The worker of its GPU, if it is on one.
    pub worker: Option<Arc<Process>>,
    /// Bytes that its GPU got back, once it has ended.
    pub freed: Arc<AtomicU64>,
    /// Its bytes in the ledger, given back with it.
    pub grant: Grant,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("id", &self.id).field("device", &self.device).finish_non_exhaustive()
    }
}

impl Resident for Loaded {
    fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn context(&self) -> u32 {
        self.context
    }

    fn stats(&self) -> ModelStats {
        let s = self.engine.stats();
        ModelStats {
            id: self.id.clone(),
            running: s.running,
            waiting: s.waiting,
            requests: s.requests,
            failed: s.failed,
            cancelled: s.cancelled,
            prefill_tokens: s.prefill_tokens,
            cached_tokens: s.cached_tokens,
            decode_tokens: s.decode_tokens,
            prefill_rate: s.prefill_rate,
            decode_rate: s.decode_rate,
            kv_blocks_used: s.kv_blocks_used,
            kv_blocks_total: s.kv_blocks_total,
        }
    }

    fn requests(&self) -> Vec<RequestInfo> {
        let info = |r: crate::engine::events::RequestInfo| RequestInfo {
            id: r.id,
            model: self.id.clone(),
            state: match r.state {
                State::Waiting => "waiting",
                State::Prefill => "prefill",
                State::Decode => "decode",
            }
            .to_owned(),
            prompt_tokens: r.prompt_tokens,
            completion_tokens: r.completion_tokens,
            age_s: r.age.as_secs_f64(),
        };
        self.engine.requests().into_iter().map(info).collect()
    }

    fn cancel(&self, request: &str) -> bool {
        self.engine.cancel(request)
    }

    fn failed(&self) -> Option<String> {
        // A worker that died between two requests is noticed without a step.
        if let Some(death) = self.worker.as_ref().and_then(|w| w.dead())
            && self.engine.failed().is_none()
        {
            self.engine.lose_device(&death);
        }
        self.engine.failed()
    }

    fn device_lost(&self) -> bool {
        self.engine.device_lost()
    }

    fn late(&self) -> Option<Duration> {
        self.engine.busy_until().and_then(|due| Instant::now().checked_duration_since(due))
    }

    fn fail(&self, reason: &str) {
        if self.engine.failed().is_some() {
            return;
        }
        // A late step is the device's fault; whoever looks first, its engine or the registry.
        match self.worker {
            Some(_) => self.engine.lose_device(reason),
            None => self.engine.fail(reason),
        }
    }

    fn device_freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    fn release_idle(&self) {
        let engine = self.engine.clone();
        tokio::spawn(async move { engine.release_idle_slabs().await });
    }

    fn stop(&self, drain: bool) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let engine = self.engine.clone();
        Box::pin(async move {
            engine.stop(drain).await;
            // An engine that was given up in the middle of a step still has its memory.
            while !engine.ended() {
                tokio::time::sleep(STOP_POLL).await;
            }
        })
    }
}

/// The tokenizer as its engine sees it.
pub(super) struct Pieces(pub Arc<Tokenizer>);

impl Vocabulary for Pieces {
    fn piece(&self, id: u32) -> &[u8] {
        self.0.piece(id)
    }

    fn is_eog(&self, id: u32) -> bool {
        self.0.is_eog(id)
    }

    fn suppressed(&self) -> &[u32] {
        self.0.suppressed()
    }
}
