//! The bodies that go back: chat completions, text completions, their chunks and their accounts.

use serde_json::{Map, Value, json};

use crate::engine::message::{Finish, FinishReason};

/// Which of the two endpoints an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// What every body of one answer repeats.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Which endpoint.
    pub shape: Shape,
    /// `chatcmpl-…` or `cmpl-…`.
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    /// Id of the model.
    pub model: String,
    /// Whether chunks have a `usage` member.
    pub include_usage: bool,
}

/// A choice that is complete.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its number.
    pub index: usize,
    /// All its text.
    pub text: String,
    /// Its `logprobs` member, or null.
    pub logprobs: Value,
    /// Why it ended.
    pub finish: Finish,
}

/// Version as `system_fingerprint`: what changes answers to the same seed.
const FINGERPRINT: &str = concat!("rocmforge-", env!("CARGO_PKG_VERSION"));

impl Answer {
    fn head(&self, object: &str) -> Map<String, Value> {
        let mut m = Map::new();
        m.insert("id".to_owned(), json!(self.id));
        m.insert("object".to_owned(), json!(object));
        m.insert("created".to_owned(), json!(self.created));
        m.insert("model".to_owned(), json!(self.model));
        m.insert("system_fingerprint".to_owned(), json!(FINGERPRINT));
        m
    }

    fn chunk(&self, choices: Value, usage: Value) -> Map<String, Value> {
        let mut m = self.head(match self.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        });
        m.insert("choices".to_owned(), choices);
        if self.include_usage {
            m.insert("usage".to_owned(), usage);
        }
        m
    }

    /// First chunk of a choice: its role. Text completions have none.
    pub fn first(&self, index: usize) -> Option<String> {
        let delta = json!({ "role": "assistant", "content": "" });
        let choice = json!([{ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }]);
        (self.shape == Shape::Chat).then(|| Value::Object(self.chunk(choice, Value::Null)).to_string())
    }

    /// A chunk of text.
    pub fn delta(&self, index: usize, text: &str, logprobs: &Value) -> String {
        let choice = match self.shape {
            Shape::Chat => {
                json!({ "index": index, "delta": { "content": text }, "logprobs": logprobs, "finish_reason": null })
            }
            Shape::Text => json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": null }),
        };
        Value::Object(self.chunk(json!([choice]), Value::Null)).to_string()
    }

    /// Last chunk of a choice: why it ended, and its timings.
    pub fn last(&self, index: usize, finish: &Finish) -> String {
        let reason = reason(finish.reason);
        let choice = match self.shape {
            Shape::Chat => json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": reason }),
            Shape::Text => json!({ "index": index, "text": "", "logprobs": null, "finish_reason": reason }),
        };
        let mut chunk = self.chunk(json!([choice]), Value::Null);
        chunk.insert("timings".to_owned(), timings(std::iter::once(finish)));
        Value::Object(chunk).to_string()
    }

    /// The chunk after the last choice of a stream that asked for usage. `per_prompt` choices
    /// belong to each prompt.
    pub fn usage_chunk<'a>(&self, finishes: impl Iterator<Item = &'a Finish>, per_prompt: usize) -> String {
        Value::Object(self.chunk(json!([]), usage(finishes, per_prompt))).to_string()
    }

    /// The whole answer. `per_prompt` choices belong to each prompt.
    pub fn whole(&self, choices: &[Choice], per_prompt: usize) -> Value {
        let mut m = self.head(match self.shape {
            Shape::Chat => "chat.completion",
            Shape::Text => "text_completion",
        });
        let choice = |c: &Choice| {
            let reason = reason(c.finish.reason);
            match self.shape {
                Shape::Chat => json!({
                    "index": c.index,
                    "message": { "role": "assistant", "content": c.text, "refusal": null },
                    "logprobs": c.logprobs,
                    "finish_reason": reason,
                }),
                Shape::Text => {
                    json!({ "text": c.text, "index": c.index, "logprobs": c.logprobs, "finish_reason": reason })
                }
            }
        };
        m.insert("choices".to_owned(), choices.iter().map(choice).collect());
        m.insert("usage".to_owned(), usage(choices.iter().map(|c| &c.finish), per_prompt));
        m.insert("timings".to_owned(), timings(choices.iter().map(|c| &c.finish)));
        Value::Object(m)
    }
}

fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        // A cancelled request is answered with an error, never with a choice.
        FinishReason::Stop | FinishReason::Cancelled => "stop",
    }
}

/// A prompt counts once, however many choices it has; what its first choice found in the cache
/// counts as cached.
fn usage<'a>(finishes: impl Iterator<Item = &'a Finish>, per_prompt: usize) -> Value {
    let (mut prompt, mut cached, mut completion) = (0u64, 0u64, 0u64);
    for (i, f) in finishes.enumerate() {
        completion += u64::from(f.completion_tokens);
        if i.is_multiple_of(per_prompt.max(1)) {
            prompt += u64::from(f.prompt_tokens);
            cached += u64::from(f.cached_tokens);
        }
    }
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// llama-server's `timings`. Choices run side by side: tokens add up, times are the longest.
fn timings<'a>(finishes: impl Iterator<Item = &'a Finish>) -> Value {
    let (mut cached, mut prompt, mut predicted, mut steps) = (0u64, 0u64, 0u64, 0u64);
    let (mut prompt_ms, mut predicted_ms, mut queued_ms) = (0f64, 0f64, 0f64);
    for f in finishes {
        cached += u64::from(f.cached_tokens);
        prompt += u64::from(f.prompt_tokens.saturating_sub(f.cached_tokens));
        predicted += u64::from(f.completion_tokens);
        // The first token comes from prefill: n tokens are n - 1 steps of the time measured.
        steps += u64::from(f.completion_tokens.saturating_sub(1));
        prompt_ms = prompt_ms.max(f.prefill.as_secs_f64() * 1e3);
        predicted_ms = predicted_ms.max(f.decode.as_secs_f64() * 1e3);
        queued_ms = queued_ms.max(f.queued.as_secs_f64() * 1e3);
    }
    let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    json!({
        "cache_n": cached,
        "queued_ms": queued_ms,
        "prompt_n": prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": over(prompt_ms, prompt as f64),
        "prompt_per_second": over(prompt as f64 * 1e3, prompt_ms),
        "predicted_n": predicted,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": over(predicted_ms, steps as f64),
        "predicted_per_second": over(steps as f64 * 1e3, predicted_ms),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn finish(reason: FinishReason, completion_tokens: u32) -> Finish {
        Finish {
            reason,
            text: Default::default(),
            prompt_tokens: 10,
            cached_tokens: 4,
            completion_tokens,
            queued: Duration::from_millis(1),
            prefill: Duration::from_millis(30),
            decode: Duration::from_millis(40),
        }
    }

    fn answer(shape: Shape, include_usage: bool) -> Answer {
        Answer { shape, id: "chatcmpl-1".into(), created: 5, model: "m".into(), include_usage }
    }

    #[test]
    fn chunks_are_exactly_openais() {
        let a = answer(Shape::Chat, false);
        let head = format!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"{FINGERPRINT}","#
        );
        assert_eq!(
            a.first(0).expect("chat has a role"),
            head.clone()
                + r#""choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
        );
        assert_eq!(
            a.delta(1, "a\"\n", &Value::Null),
            head + r#""choices":[{"index":1,"delta":{"content":"a\"\n"},"logprobs":null,"finish_reason":null}]}"#
        );
        assert_eq!(answer(Shape::Text, false).first(0), None);
    }

    #[test]
    fn usage_is_null_in_all_chunks_but_its_own() {
        let a = answer(Shape::Text, true);
        let parse = |s: &str| serde_json::from_str::<Value>(s).expect("JSON");
        let f = finish(FinishReason::Length, 5);
        let (delta, last) = (parse(&a.delta(0, "x", &Value::Null)), parse(&a.last(0, &f)));
        for chunk in [&delta, &last] {
            assert!(chunk.as_object().is_some_and(|o| o.contains_key("usage")) && chunk["usage"].is_null());
        }
        assert_eq!(
            (&delta["choices"][0]["text"], &last["choices"][0]["finish_reason"]),
            (&json!("x"), &json!("length"))
        );
        let usage = parse(&a.usage_chunk([&f, &f].into_iter(), 2));
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(
            usage["usage"],
            json!({"prompt_tokens":10,"completion_tokens":10,"total_tokens":20,
                   "prompt_tokens_details":{"cached_tokens":4}})
        );
        let none = parse(&answer(Shape::Text, false).last(0, &f));
        assert!(none.as_object().is_some_and(|o| !o.contains_key("usage")));
    }

    #[test]
    fn a_whole_answer_counts_prompts_once_and_times_right() {
        let a = answer(Shape::Chat, false);
        let choice =
            |index| Choice { index, text: "t".into(), logprobs: Value::Null, finish: finish(FinishReason::Stop, 5) };
        let whole = a.whole(&[choice(0), choice(1)], 1);
        assert_eq!(whole["usage"]["prompt_tokens"], 20, "two prompts");
        assert_eq!(whole["choices"][1]["message"], json!({"role":"assistant","content":"t","refusal":null}));
        let t = &a.whole(&[choice(0)], 1)["timings"];
        assert_eq!((&t["prompt_n"], &t["cache_n"], &t["predicted_n"]), (&json!(6), &json!(4), &json!(5)));
        assert_eq!((&t["prompt_per_second"], &t["predicted_per_second"]), (&json!(200.0), &json!(100.0)));
        assert_eq!(t["predicted_per_token_ms"], 10.0);
    }
}
