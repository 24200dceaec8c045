//! The protocol between the API and an engine: plain data, no handles to anything.

use std::time::Duration;

use smallvec::SmallVec;
use thiserror::Error;

/// How the next token is chosen. Field names and defaults are llama-server's where OpenAI has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 = greedy.
    pub temperature: f32,
    /// Keep the `top_k` likeliest; 0 = all.
    pub top_k: u32,
    /// Keep the smallest set with this much probability (Holtzman et al. 2020); 1 = all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the likeliest one's probability; 0 = all.
    pub min_p: f32,
    /// Divides (multiplies, if negative) logits of tokens seen in the last `repeat_last_n`; 1 = off.
    pub repeat_penalty: f32,
    /// Window of the three penalties in tokens; -1 = the whole context.
    pub repeat_last_n: i32,
    /// Subtracted once from a token seen in the window.
    pub presence_penalty: f32,
    /// Subtracted for each occurrence in the window.
    pub frequency_penalty: f32,
    /// Added to logits, by token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, prompt and settings give the same text. Always set: the API draws one if the
    /// client gave none, and reports it.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A request to generate text.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The request's id, for logs and cancellation.
    pub id: String,
    /// Prompt as tokens; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` = to the context's end.
    pub max_tokens: Option<u32>,
    /// Strings that end the text (and are not part of it).
    pub stop: Vec<String>,
    /// Report the chosen token's log-probability and this many alternatives.
    pub logprobs: Option<u8>,
    /// Do not stop at end-of-generation tokens (benchmarks).
    pub ignore_eos: bool,
    /// Reuse cached prefixes of other requests and leave this one's for others.
    pub cache_prompt: bool,
}

/// Bytes of text, mostly short enough to need no allocation. Whole UTF-8 characters only.
pub type Text = SmallVec<[u8; 32]>;

/// A token among the likeliest of a position.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability (of the model, before sampling's filters).
    pub logprob: f32,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// Text that became certain with this token: empty while a character is incomplete or a stop
    /// string may have begun.
    pub text: Text,
    /// With `Generate::logprobs`: the chosen token, then the alternatives, likeliest first.
    pub logprobs: Option<Box<(Candidate, Vec<Candidate>)>>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-generation token or a stop string.
    Stop,
    /// `max_tokens` or the context's end.
    Length,
    /// Cancelled: by the client's leaving, an admin, or an eviction with `--now`.
    Cancelled,
}

/// The end of a request, with its accounts.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Text that was held back and turned out to be no stop string.
    pub text: Text,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, taken from the prefix cache.
    pub cached_tokens: u32,
    /// Tokens generated (the end-of-generation token counts).
    pub completion_tokens: u32,
    /// From submission to the first step that worked on the request.
    pub queued: Duration,
    /// From there to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why a request failed in the engine.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EngineError {
    /// Prompt and at least one token do not fit in the context.
    #[error("the prompt has {prompt} tokens, but the context of this model is {context} tokens")]
    ContextLength {
        /// Tokens of the prompt.
        prompt: u32,
        /// Tokens of the context.
        context: u32,
    },
    /// The queue is full.
    #[error("{waiting} requests are waiting already; try again in {retry_after_s} s")]
    QueueFull {
        /// Requests waiting.
        waiting: usize,
        /// Estimate from the queue and the measured speed.
        retry_after_s: u64,
    },
    /// The request makes no sense for this model: no prompt, or a token it does not have.
    #[error("{0}")]
    Invalid(String),
    /// The cache cannot grow as far as this request alone needs.
    #[error("this request needs {needed} bytes of KV cache, {available} can be had")]
    CacheMemory {
        /// Bytes the request needs.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
    /// The model failed (its message says how); it is being unloaded or reloaded.
    #[error("the model failed: {0}")]
    Failed(String),
    /// The device was lost under the model, whose fault it need not be; it is being loaded again.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    /// The engine is stopping.
    #[error("the model is being unloaded")]
    Stopping,
}

/// What an engine says about a request, in this order: `Started`, any number of `Token`, then
/// one of `Finished` or `Failed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// The first step with this request begins.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Of these, taken from the prefix cache.
        cached_tokens: u32,
    },
    /// A token was chosen.
    Token(Token),
    /// The end.
    Finished(Finish),
    /// The end, with an error.
    Failed(EngineError),
}
