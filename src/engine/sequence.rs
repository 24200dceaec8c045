//! One request in the engine: its tokens, how the next is chosen, and what its client is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Vocabulary;
use super::cache::Tables;
use super::emit::Emitter;
use super::events::{Request, State};
use super::message::{Candidate, EngineError, Event, Finish, FinishReason, Generate, Text};
use super::ring::Ring;
use super::sample::{Sampler, Scratch, log_probability};
use super::stats::Stats;
use crate::base::limits::EVENTS_AHEAD;

/// What became of a sequence when a token was chosen.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It goes on.
    Continues,
    /// It ends.
    Ends(FinishReason),
    /// The model gave no numbers to choose from.
    Fails(EngineError),
}

/// Memory of the engine that all sequences use in turn.
pub(super) struct Workspace {
    pub(super) sampling: Scratch,
    text: Vec<u8>,
}

impl Workspace {
    pub(super) fn new(n_vocab: usize) -> Self {
        Self { sampling: Scratch::new(n_vocab), text: Vec::with_capacity(4096) }
    }
}

/// See the module.
pub(super) struct Sequence {
    pub(super) request: Arc<Request>,
    /// Prompt and text.
    pub(super) tokens: Vec<u32>,
    n_prompt: usize,
    /// Tokens at which it ends.
    pub(super) max_total: usize,
    sampler: Sampler,
    emitter: Emitter,
    logprobs: Option<u8>,
    ignore_eos: bool,
    /// See `Generate::cache_prompt`.
    pub(super) share: bool,
    pub(super) tables: Tables,
    cached: u32,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    /// Checks a request against the model; `suppressed` tokens will not be generated.
    pub(super) fn new(
        generate: Generate,
        context: u32,
        n_vocab: usize,
        suppressed: &[u32],
    ) -> Result<Self, EngineError> {
        let n_prompt = generate.prompt.len();
        if n_prompt == 0 {
            return Err(EngineError::Invalid("the prompt is empty".to_owned()));
        }
        if n_prompt >= context as usize {
            let prompt = u32::try_from(n_prompt).unwrap_or(u32::MAX);
            return Err(EngineError::ContextLength { prompt, context });
        }
        if let Some(token) = generate.prompt.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(EngineError::Invalid(format!("token {token} is not in the vocabulary of {n_vocab} tokens")));
        }
        let most = context as usize - n_prompt;
        let n_new = generate.max_tokens.map_or(most, |n| most.min(n as usize));
        let candidates = generate.logprobs.map_or(0, |n| usize::from(n) + 1);
        let request = Request::new(generate.id, n_prompt as u32, Ring::new(n_new.min(EVENTS_AHEAD), candidates));
        let mut sampling = generate.sampling;
        sampling.logit_bias.extend(suppressed.iter().map(|&t| (t, f32::NEG_INFINITY)));
        let mut tokens = generate.prompt;
        tokens.reserve_exact(n_new);
        Ok(Self {
            request: Arc::new(request),
            max_total: n_prompt + n_new,
            n_prompt,
            tokens,
            sampler: Sampler::new(sampling),
            emitter: Emitter::new(&generate.stop),
            logprobs: generate.logprobs,
            ignore_eos: generate.ignore_eos,
            share: generate.cache_prompt,
            tables: Tables::default(),
            cached: 0,
            started: None,
            first_token: None,
            last_token: None,
        })
    }

    fn n_generated(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    /// Work on it begins (again), with so many tokens found in the cache.
    pub(super) fn start(&mut self, cached: u32, now: Instant, stats: &Stats) {
        self.request.set_state(State::Prefill);
        if self.request.start(cached) {
            self.cached = cached;
            self.started = Some(now);
            stats.queued.add(now.duration_since(self.request.since));
            stats.cached_tokens.add(u64::from(cached));
        }
    }

    /// Chooses its next token from a row of logits and tells the client.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        v: &dyn Vocabulary,
        work: &mut Workspace,
        now: Instant,
        stats: &Stats,
    ) -> Verdict {
        let Some(token) = self.sampler.sample(logits, &self.tokens, &mut work.sampling) else {
            return Verdict::Fails(EngineError::Failed("it gave no finite logits for this text".to_owned()));
        };
        self.tokens.push(token);
        stats.decode_tokens.add(1);
        self.request.set_state(State::Decode);
        match self.last_token.replace(now) {
            Some(last) => stats.gap.add(now.duration_since(last)),
            None => {
                self.first_token = Some(now);
                stats.first_token.add(now.duration_since(self.request.since));
            }
        }
        if !self.ignore_eos && v.is_eog(token) {
            return Verdict::Ends(FinishReason::Stop);
        }
        work.text.clear();
        let stopped = self.emitter.push(v.piece(token), &mut work.text);
        let chosen = self
            .logprobs
            .map(|n| Candidate { token, logprob: log_probability(logits, token, usize::from(n), &mut work.sampling) });
        let logprobs = chosen.map(|c| (c, work.sampling.alternatives()));
        if !self.request.token(token, &work.text, logprobs) {
            tracing::warn!(request = self.request.id, "its client reads too slowly: cancelled");
            return Verdict::Ends(FinishReason::Cancelled);
        }
        match (stopped, self.tokens.len() >= self.max_total) {
            (true, _) => Verdict::Ends(FinishReason::Stop),
            (false, true) => Verdict::Ends(FinishReason::Length),
            (false, false) => Verdict::Continues,
        }
    }

    /// The event that ends it.
    pub(super) fn finish(&mut self, reason: FinishReason, stats: &Stats) -> Event {
        let mut text = Vec::new();
        self.emitter.finish(&mut text);
        let between = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => b.duration_since(a),
            _ => Duration::ZERO,
        };
        let finish = Finish {
            reason,
            text: Text::from_vec(text),
            prompt_tokens: self.n_prompt as u32,
            cached_tokens: self.cached,
            completion_tokens: self.n_generated() as u32,
            queued: between(Some(self.request.since), self.started),
            prefill: between(self.started, self.first_token),
            decode: between(self.first_token, self.last_token),
        };
        if finish.prefill > Duration::ZERO {
            stats
                .prefill_rate
                .add(f64::from(finish.prompt_tokens - finish.cached_tokens) / finish.prefill.as_secs_f64());
            stats.service_s.add((finish.prefill + finish.decode).as_secs_f64());
        }
        if finish.decode > Duration::ZERO {
            stats.decode_rate.add(f64::from(finish.completion_tokens - 1) / finish.decode.as_secs_f64());
        }
        Event::Finished(finish)
    }
}
