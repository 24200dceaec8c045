//! One inference request: from its parsed fields to the answer.
//!
//! Refusals keep their status as long as nothing was sent. A model that is loading is waited for;
//! a stream then begins with comments, and what fails afterwards is an `error` chunk.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answer::{Answer, Shape};
use super::error::ApiError;
use super::generate::{Choices, Job, Logprobs, Prompt};
use super::observe::ModelName;
use super::params::Params;
use super::refusal::refusal;
use super::sse::{self, Frames};
use super::{Api, request_id};
use crate::base::limits::{IGNORED_NAMES_MAX, SSE_LOADING_INTERVAL};
use crate::registry::{Acquired, Lease, Loaded, Progress, RegistryError};

/// Makes the prompts, once the model is there. Runs on the blocking pool.
pub type Prepare = Box<dyn FnOnce(&Loaded) -> Result<Vec<Prompt>, ApiError> + Send>;

/// A request whose fields are read.
pub struct Inference {
    /// When it came.
    pub arrived: Instant,
    /// Which endpoint.
    pub shape: Shape,
    /// How to generate.
    pub params: Params,
    /// Log-probabilities wanted.
    pub logprobs: Option<Logprobs>,
    /// Makes the prompts.
    pub prepare: Prepare,
    /// Names of fields without effect.
    pub ignored: Vec<String>,
    /// `Prefer: wait=N`: longest time to wait for a model that loads.
    pub patience: Option<Duration>,
}

/// Seconds of a `Prefer: wait=N` header (RFC 7240).
pub fn patience(headers: &HeaderMap) -> Option<Duration> {
    let wait = |part: &str| part.trim().strip_prefix("wait=")?.trim().parse().ok();
    headers
        .get_all("prefer")
        .iter()
        .find_map(|v| v.to_str().ok()?.split([',', ';']).find_map(wait))
        .map(Duration::from_secs)
}

type Ready = Pin<Box<dyn Future<Output = Result<Lease, RegistryError>> + Send>>;

impl Inference {
    /// Runs it.
    ///
    /// # Errors
    /// What is known to be wrong before the answer begins.
    pub async fn run(self, api: Arc<Api>) -> Result<Response, ApiError> {
        let mut headers = self.headers();
        let lease = match api.registry.acquire(&self.params.model).await.map_err(|e| refusal(&e))? {
            Acquired::Ready(lease) => lease,
            Acquired::Loading(pending) => {
                let (progress, device) = (pending.progress(), pending.device.clone());
                let mut ready: Ready = Box::pin(pending.ready());
                // A stream's client hears nothing for so long anyway, and a load that is quick or
                // fails at once keeps its status.
                let limit = if self.params.stream { Some(SSE_LOADING_INTERVAL) } else { self.patience };
                let outcome = match limit {
                    None => Some(ready.as_mut().await),
                    Some(limit) => timeout(limit, ready.as_mut()).await.ok(),
                };
                match outcome {
                    Some(lease) => lease.map_err(|e| refusal(&e))?,
                    None if self.params.stream => {
                        name_device(&mut headers, &device);
                        return Ok(self.stream_after(api, ready, progress, headers));
                    }
                    None => return Err(still_loading(&progress.borrow())),
                }
            }
        };
        let model = ModelName(lease.model.id.clone());
        name_device(&mut headers, &lease.model.device);
        let answer = self.answer(&api, lease, headers).await;
        let mut answer = answer.unwrap_or_else(ApiError::into_response);
        answer.extensions_mut().insert(model);
        Ok(answer)
    }

    /// The answer of a model that is there.
    async fn answer(self, api: &Api, lease: Lease, headers: HeaderMap) -> Result<Response, ApiError> {
        let stream = self.params.stream;
        let choices = self.begin(api, lease).await?;
        if stream {
            let work = |frames: Frames| async move { end(choices.stream(&frames).await, &frames).await };
            return Ok(event_stream(sse::body(work), headers));
        }
        let body = choices.whole().await?.to_string();
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Ok((headers, json, body).into_response())
    }

    /// A stream that begins while its model loads. Dropping it does not stop the load.
    fn stream_after(
        self,
        api: Arc<Api>,
        mut ready: Ready,
        progress: watch::Receiver<Progress>,
        headers: HeaderMap,
    ) -> Response {
        let work = |frames: Frames| async move {
            let lease = loop {
                let now = progress.borrow().clone();
                frames.comment(&describe(&now)).await;
                match timeout(SSE_LOADING_INTERVAL, ready.as_mut()).await {
                    Ok(lease) => break lease,
                    Err(_) => continue,
                }
            };
            let result = match lease {
                Ok(lease) => match self.begin(&api, lease).await {
                    Ok(choices) => choices.stream(&frames).await,
                    Err(e) => Err(e),
                },
                Err(e) => Err(refusal(&e)),
            };
            end(result, &frames).await;
        };
        event_stream(sse::body(work), headers)
    }

    /// Makes the prompts and submits them.
    async fn begin(self, api: &Api, lease: Lease) -> Result<Choices, ApiError> {
        self.params.check(lease.model.n_vocab)?;
        let (model, prepare) = (Arc::clone(&lease.model), self.prepare);
        let prompts = offload(move || prepare(&model)).await??;
        let (prefix, param) = match self.shape {
            Shape::Chat => ("chatcmpl-", "messages"),
            Shape::Text => ("cmpl-", "prompt"),
        };
        let answer = Answer {
            shape: self.shape,
            id: request_id::fresh(prefix),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            model: lease.model.id.clone(),
            include_usage: self.params.include_usage,
        };
        let job = Job { answer, prompts, logprobs: self.logprobs, param, arrived: self.arrived };
        Choices::submit(job, lease, &self.params, &api.metrics)
    }

    /// Headers that are known before the model is.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-rocmforge-seed", HeaderValue::from(self.params.sampling.seed));
        // Names come from the client: only what is surely harmless in a header is repeated.
        let sane = |n: &&String| n.len() <= 64 && n.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.[]".contains(&b));
        let names: Vec<_> = self.ignored.iter().filter(sane).take(IGNORED_NAMES_MAX).map(String::as_str).collect();
        if !names.is_empty()
            && let Ok(list) = HeaderValue::from_str(&names.join(","))
        {
            headers.insert("x-rocmforge-ignored", list);
        }
        headers
    }
}

/// Runs work that takes over a millisecond on the blocking pool.
///
/// # Errors
/// 500 if it panicked.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        tracing::error!("preparing a request failed: {e}");
        ApiError::internal("Internal error; the log has details.")
    })
}

/// The end of a stream that failed: an error chunk, and nothing after it.
async fn end(result: Result<(), ApiError>, frames: &Frames) {
    if let Err(e) = result {
        let body = e.body().to_string();
        tracing::warn!("a stream ended with an error: {body}");
        frames.data(&body).await;
    }
}

fn event_stream(body: Body, mut headers: HeaderMap) -> Response {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would collect the stream otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    (headers, body).into_response()
}

fn still_loading(now: &Progress) -> ApiError {
    let eta = if now.eta_s.is_finite() { now.eta_s.clamp(1.0, 3600.0).ceil() as u64 } else { 5 };
    ApiError::unavailable("loading", format!("The model is still {}.", describe(now)), eta)
}

/// `loading 43% eta 6s`, or the phase where there is no number.
fn describe(now: &Progress) -> String {
    if now.total == 0 {
        return format!("loading ({})", now.phase);
    }
    let percent = now.done.saturating_mul(100) / now.total;
    format!("loading {}% eta {}s", percent.min(100), now.eta_s.max(0.0).ceil())
}

/// Says where the answer is computed.
fn name_device(headers: &mut HeaderMap, device: &str) {
    if let Ok(device) = HeaderValue::from_str(device) {
        headers.insert("x-rocmforge-device", device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefer_wait_is_read() {
        let of = |v: &'static str| {
            let mut h = HeaderMap::new();
            h.insert("prefer", HeaderValue::from_static(v));
            patience(&h)
        };
        assert_eq!(of("wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(of("respond-async, wait=10"), Some(Duration::from_secs(10)));
        assert_eq!(of("wait=-1"), None);
        assert_eq!(patience(&HeaderMap::new()), None);
    }

    #[test]
    fn progress_reads_as_the_interface_says() {
        let p = Progress { phase: "read", done: 43, total: 100, eta_s: 5.2, ..Default::default() };
        assert_eq!(describe(&p), "loading 43% eta 6s");
        assert_eq!(describe(&Progress { phase: "map", ..Default::default() }), "loading (map)");
    }
}
