//! A generation from the client's side: choices run by engines, put together into an answer.

use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use serde_json::Value;

use super::answer::{Answer, Choice};
use super::error::ApiError;
use super::logprobs::{Entries, Form};
use super::params::Params;
use super::sse::Frames;
use crate::base::limits::{KV_BLOCK_TOKENS, SSE_SILENCE_INTERVAL};
use crate::engine::events::Events;
use crate::engine::message::{Event, Finish, FinishReason, Generate, Token};
use crate::registry::Lease;
use crate::telemetry::metrics::{Metrics, ModelMetrics};

/// A prompt, ready for the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Text that precedes the answer (`echo`).
    pub echo: String,
}

/// Log-probabilities that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// In which form.
    pub form: Form,
    /// Alternatives a position.
    pub top: u8,
}

/// What is to be generated.
pub struct Job {
    /// What the bodies repeat.
    pub answer: Answer,
    /// The prompts, `params.n` choices for each.
    pub prompts: Vec<Prompt>,
    /// Log-probabilities wanted.
    pub logprobs: Option<Logprobs>,
    /// Field that the prompts came in, for errors: `messages` or `prompt`.
    pub param: &'static str,
    /// When the request came.
    pub arrived: Instant,
}

/// The choices of one request while engines work on them. Dropping it cancels them all.
pub struct Choices {
    answer: Answer,
    // Held until the last token, so that the model is not evicted under it.
    lease: Lease,
    slots: Vec<Slot>,
    per_prompt: usize,
    param: &'static str,
    metrics: ModelMetrics,
    arrived: Instant,
    /// Slot that is asked first, so that none is starved by a faster one.
    turn: usize,
}

struct Slot {
    events: Option<Events>,
    /// Not submitted yet: it waits until the first choice of its prompt has left the prompt in
    /// the prefix cache.
    deferred: Option<Generate>,
    /// Tokens that were counted.
    tokens: u32,
    echo: String,
    entries: Option<Entries>,
    last_token: Option<Instant>,
    finish: Option<Finish>,
}

/// What happened to a choice.
#[derive(Debug)]
enum Step {
    /// Work on it began; the text begins with this.
    Started(String),
    /// Text came, with its `logprobs` member.
    Text(String, Value),
    /// It is complete, after this last text.
    Ended(String, Value),
}

impl Choices {
    /// Submits every choice: `params.n` for each prompt.
    ///
    /// # Errors
    /// What the engine refuses, as an answer; choices submitted before are cancelled.
    pub fn submit(job: Job, lease: Lease, params: &Params, metrics: &Metrics) -> Result<Self, ApiError> {
        let Job { answer, prompts, logprobs, param, arrived } = job;
        let per_prompt = params.n as usize;
        let mut slots = Vec::with_capacity(prompts.len() * per_prompt);
        for prompt in prompts {
            for _ in 0..per_prompt {
                let index = slots.len();
                let mut sampling = params.sampling.clone();
                // Choices of one seed differ from each other, and come again with it.
                sampling.seed = sampling.seed.wrapping_add(index as u64);
                let generate = Generate {
                    id: if index == 0 { answer.id.clone() } else { format!("{}-{index}", answer.id) },
                    prompt: prompt.tokens.clone(),
                    sampling,
                    max_tokens: params.max_tokens,
                    stop: params.stop.clone(),
                    logprobs: logprobs.map(|l| l.top),
                    ignore_eos: params.ignore_eos,
                    cache_prompt: params.cache_prompt,
                };
                let defer = index % per_prompt != 0 && generate.cache_prompt && generate.prompt.len() > KV_BLOCK_TOKENS;
                let submit = |g| lease.model.engine.submit(g).map_err(|e| ApiError::engine(&e, &lease.model.id, param));
                let (events, deferred) = if defer { (None, Some(generate)) } else { (Some(submit(generate)?), None) };
                slots.push(Slot {
                    events,
                    deferred,
                    tokens: 0,
                    echo: prompt.echo.clone(),
                    entries: logprobs.map(|l| Entries::new(l.form, prompt.echo.chars().count())),
                    last_token: None,
                    finish: None,
                });
            }
        }
        let metrics = metrics.model(&lease.model.id);
        Ok(Self { answer, lease, slots, per_prompt, param, metrics, arrived, turn: 0 })
    }

    /// Waits for all choices and returns the answer's body.
    ///
    /// # Errors
    /// The first failure of a choice.
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        let mut texts = vec![String::new(); self.slots.len()];
        let mut logprobs: Vec<Value> = vec![Value::Null; self.slots.len()];
        while let Some((i, step)) = self.next().await? {
            match step {
                Step::Started(text) => texts[i] += &text,
                Step::Text(text, more) | Step::Ended(text, more) => {
                    texts[i] += &text;
                    append(&mut logprobs[i], more);
                }
            }
        }
        let slots = self.slots.iter_mut().zip(texts).zip(logprobs).enumerate();
        let choices: Vec<_> = slots
            .filter_map(|(index, ((slot, text), logprobs))| {
                Some(Choice { index, text, logprobs, finish: slot.finish.take()? })
            })
            .collect();
        Ok(self.answer.whole(&choices, self.per_prompt))
    }

    /// Sends all choices as chunks, and the end.
    ///
    /// # Errors
    /// The first failure of a choice; nothing after it was sent.
    pub async fn stream(mut self, frames: &Frames) -> Result<(), ApiError> {
        loop {
            let next = match tokio::time::timeout(SSE_SILENCE_INTERVAL, self.next()).await {
                Ok(next) => next?,
                Err(_) => {
                    frames.comment("waiting").await;
                    continue;
                }
            };
            let Some((i, step)) = next else { break };
            match step {
                Step::Started(echo) => {
                    if let Some(first) = self.answer.first(i) {
                        frames.data(&first).await;
                    }
                    if !echo.is_empty() {
                        frames.data(&self.answer.delta(i, &echo, &Value::Null)).await;
                    }
                }
                Step::Text(text, logprobs) => frames.data(&self.answer.delta(i, &text, &logprobs)).await,
                Step::Ended(text, logprobs) => {
                    if !text.is_empty() {
                        frames.data(&self.answer.delta(i, &text, &logprobs)).await;
                    }
                    if let Some(finish) = &self.slots[i].finish {
                        frames.data(&self.answer.last(i, finish)).await;
                    }
                }
            }
        }
        if self.answer.include_usage {
            let finishes = self.slots.iter().filter_map(|s| s.finish.as_ref());
            frames.data(&self.answer.usage_chunk(finishes, self.per_prompt)).await;
        }
        frames.done().await;
        Ok(())
    }

    /// What happens next to any choice; `None` once all have ended. Cancel-safe.
    async fn next(&mut self) -> Result<Option<(usize, Step)>, ApiError> {
        loop {
            let Some((i, event)) = self.event().await else { return Ok(None) };
            if let Some(step) = self.on_event(i, event)? {
                return Ok(Some((i, step)));
            }
        }
    }

    /// The next event of any choice.
    async fn event(&mut self) -> Option<(usize, Option<Event>)> {
        if self.slots.iter().all(|s| s.events.is_none()) {
            return None;
        }
        let (count, slots) = (self.slots.len(), &mut self.slots);
        self.turn = (self.turn + 1) % count;
        let turn = self.turn;
        std::future::poll_fn(|cx| {
            for i in (turn..count).chain(0..turn) {
                let Some(events) = &mut slots[i].events else { continue };
                // A receive that is dropped while pending loses nothing and leaves its waker.
                if let Poll::Ready(event) = pin!(events.recv()).poll(cx) {
                    return Poll::Ready(Some((i, event)));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Submits the choices that waited for choice `i`'s prompt.
    fn submit_deferred(&mut self, i: usize) -> Result<(), ApiError> {
        for slot in self.slots.iter_mut().skip(i + 1).take(self.per_prompt - 1) {
            if let Some(generate) = slot.deferred.take() {
                let submitted = self.lease.model.engine.submit(generate);
                slot.events = Some(submitted.map_err(|e| ApiError::engine(&e, &self.lease.model.id, self.param))?);
            }
        }
        Ok(())
    }

    fn on_event(&mut self, i: usize, event: Option<Event>) -> Result<Option<Step>, ApiError> {
        if i.is_multiple_of(self.per_prompt) && matches!(event, Some(Event::Token(_) | Event::Finished(_))) {
            self.submit_deferred(i)?;
        }
        let slot = &mut self.slots[i];
        match event {
            Some(Event::Started { prompt_tokens, cached_tokens }) => {
                self.metrics.prompt_tokens.inc_by(u64::from(prompt_tokens));
                self.metrics.cached_tokens.inc_by(u64::from(cached_tokens));
                Ok(Some(Step::Started(std::mem::take(&mut slot.echo))))
            }
            Some(Event::Token(token)) => {
                let now = Instant::now();
                match slot.last_token.replace(now) {
                    None => self.metrics.ttft.observe((now - self.arrived).as_secs_f64()),
                    Some(last) => self.metrics.inter_token.observe((now - last).as_secs_f64()),
                }
                self.metrics.completion_tokens.inc();
                slot.tokens += 1;
                let tokenizer = &self.lease.model.tokenizer;
                Ok(slot.on_token(token, |id| tokenizer.piece(id).to_vec()))
            }
            Some(Event::Finished(finish)) => {
                slot.events = None;
                self.metrics.queue.observe(finish.queued.as_secs_f64());
                // The end-of-generation token counts, and has no event.
                let uncounted = finish.completion_tokens.saturating_sub(slot.tokens);
                self.metrics.completion_tokens.inc_by(u64::from(uncounted));
                if finish.reason == FinishReason::Cancelled {
                    return Err(ApiError::permanent("The request was cancelled: by an admin, or with its model."));
                }
                Ok(Some(slot.on_finish(finish)))
            }
            Some(Event::Failed(e)) => {
                slot.events = None;
                Err(ApiError::engine(&e, &self.lease.model.id, self.param))
            }
            None => {
                slot.events = None;
                Err(ApiError::internal("The model's engine stopped in the middle of the request."))
            }
        }
    }
}

impl Slot {
    fn on_token(&mut self, token: Token, piece: impl Fn(u32) -> Vec<u8>) -> Option<Step> {
        if let (Some(entries), Some(logprobs)) = (&mut self.entries, &token.logprobs) {
            entries.push(&logprobs.0, &logprobs.1, piece);
        }
        (!token.text.is_empty()).then(|| Step::Text(text(&token.text), self.take_entries()))
    }

    fn on_finish(&mut self, finish: Finish) -> Step {
        let tail = text(&finish.text);
        if tail.is_empty()
            && finish.reason == FinishReason::Stop
            && let Some(entries) = &mut self.entries
        {
            // These tokens were the end-of-generation token or the stop string.
            entries.drop_waiting();
        }
        self.finish = Some(finish);
        Step::Ended(tail, self.take_entries())
    }

    fn take_entries(&mut self) -> Value {
        self.entries.as_mut().map_or(Value::Null, Entries::take)
    }
}

/// The engine sends whole characters only; anything else would be its mistake, not a panic here.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Appends the lists of `more` to the lists of `all`, at any depth of objects.
fn append(all: &mut Value, more: Value) {
    match (all, more) {
        (Value::Array(all), Value::Array(more)) => all.extend(more),
        (Value::Object(all), Value::Object(more)) => {
            for (name, value) in more {
                append(all.entry(name).or_insert(Value::Null), value);
            }
        }
        (all, more) if all.is_null() => *all = more,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_appended_and_scalars_stay() {
        let mut all = Value::Null;
        append(&mut all, json!({"content":[1],"refusal":null}));
        append(&mut all, json!({"content":[2,3],"refusal":null}));
        assert_eq!(all, json!({"content":[1,2,3],"refusal":null}));
    }
}
