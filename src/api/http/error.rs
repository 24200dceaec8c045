//! Every mistake as OpenAI's envelope: `{"error":{"message","type","param","code"}}`.
//!
//! Statuses, types and codes are docs/INTERFACE.md's table. The official clients retry 408, 409,
//! 429 and everything from 500 up; a refusal that a retry cannot mend says so in
//! `x-should-retry: false`.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::base::limits::GPU_RESET_RETRY_AFTER_S;
use crate::engine::message::EngineError;

/// A refusal, ready to be sent as an answer or inside a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError(
    // Boxed: most calls that may fail do not, and their results should stay small.
    Box<Parts>,
);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
    /// Further members of the error object: the numbers a program wants.
    detail: Map<String, Value>,
    retry_after_s: Option<u64>,
    retry_helps: bool,
}

/// What an answer says in its extensions about the error it carries, for the log.
#[derive(Clone, Debug)]
pub struct ErrorMessage(pub String);

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            detail: Map::new(),
            retry_after_s: None,
            retry_helps: false,
        }))
    }

    fn code(mut self, code: &'static str) -> Self {
        self.0.code = Some(code);
        self
    }

    fn param(mut self, param: Option<&str>) -> Self {
        self.0.param = param.map(str::to_owned);
        self
    }

    fn retry_may_help(mut self) -> Self {
        self.0.retry_helps = true;
        self
    }

    /// 400: the request is wrong; `param` names the field.
    pub fn invalid(param: Option<&str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message).param(param)
    }

    /// 400 `unsupported_value`: the field is known, this value of it is not built.
    pub fn unsupported_value(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(Some(param), message).code("unsupported_value")
    }

    /// 400 `unsupported_parameter`: the field is known and not built.
    pub fn unsupported_parameter(param: &str, message: impl Into<String>) -> Self {
        Self::invalid(Some(param), message).code("unsupported_parameter")
    }

    /// 400 `context_length_exceeded`, with both numbers. `param` is `messages` or `prompt`.
    pub fn context_length(param: &str, prompt: u32, context: u32) -> Self {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, your {param} resulted in {prompt} \
             tokens, and at least one more is needed for the answer. Please reduce the length of the {param}."
        );
        Self::invalid(Some(param), message)
            .code("context_length_exceeded")
            .with("n_prompt_tokens", prompt)
            .with("n_ctx", context)
    }

    /// 404 `model_not_found`, with the nearest names that exist.
    pub fn model_not_found<S: AsRef<str>>(name: &str, nearest: &[S]) -> Self {
        let name = clip(name);
        let hint = match nearest {
            [] => "None has a similar name; GET /v1/models lists what there is.".to_owned(),
            some => {
                let quoted: Vec<_> = some.iter().map(|s| format!("'{}'", s.as_ref())).collect();
                format!("Nearest: {}.", quoted.join(", "))
            }
        };
        let e = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("The model '{name}' does not exist. {hint}"),
        );
        e.code("model_not_found").param(Some("model"))
    }

    /// 404 `unknown_url`.
    pub fn unknown_url(method: &str, path: &str) -> Self {
        let e = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            format!("Unknown request URL: {method} {}. See docs/API.md for the paths served.", clip(path)),
        );
        e.code("unknown_url")
    }

    /// 405; the `Allow` header is the router's.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{} does not take {method}; the Allow header lists what it does.", clip(path));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// 408: the body did not arrive in time.
    pub fn body_timeout(seconds: u64) -> Self {
        let message = format!("The request's body was not complete after {seconds} s.");
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message).retry_may_help()
    }

    /// 413 with the limit.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("The request's body is larger than {limit} bytes (http.max_body).");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 415.
    pub fn media_type(got: Option<&str>) -> Self {
        let got = got.map_or_else(|| "none".to_owned(), |g| format!("'{}'", clip(g)));
        let message = format!("Send 'Content-Type: application/json'; this request had {got}.");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// 429 `queue_full`.
    pub fn queue_full(message: impl Into<String>, retry_after_s: u64) -> Self {
        let e = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        e.code("queue_full").retry_in(retry_after_s)
    }

    /// 500: our fault, and a retry may work.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).retry_may_help()
    }

    /// 500 of a model that failed and is tried again in so many seconds.
    pub fn failed_for(message: impl Into<String>, retry_after_s: u64) -> Self {
        Self::internal(message).retry_in(retry_after_s)
    }

    /// 503: the model is not loaded and requests may not load it. No retry mends that.
    pub fn not_loaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    /// 500 that comes again at every try: a broken file, an unsupported model.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 503 with a code (`loading`, `draining`, `gpu_reset`) and when to come back.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after_s: u64) -> Self {
        let e = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        e.code(code).retry_in(retry_after_s)
    }

    /// 503 `gpu_reset`.
    pub fn gpu_reset(message: impl Into<String>) -> Self {
        Self::unavailable("gpu_reset", message, GPU_RESET_RETRY_AFTER_S)
    }

    /// 507 `insufficient_memory`; the message has the numbers.
    pub fn insufficient_memory(message: impl Into<String>) -> Self {
        let e = Self::new(StatusCode::INSUFFICIENT_STORAGE, "server_error", message);
        e.code("insufficient_memory")
    }

    /// What the engine of `model` said about a request whose prompt is in field `param`.
    pub fn engine(error: &EngineError, model: &str, param: &str) -> Self {
        match error {
            EngineError::ContextLength { prompt, context } => Self::context_length(param, *prompt, *context),
            EngineError::Invalid(m) => Self::invalid(Some(param), m.clone()),
            EngineError::QueueFull { retry_after_s, .. } => Self::queue_full(error.to_string(), *retry_after_s),
            EngineError::CacheMemory { needed, available } => Self::insufficient_memory(error.to_string())
                .with("needed_bytes", *needed)
                .with("available_bytes", *available),
            EngineError::DeviceLost(reason) => {
                Self::gpu_reset(format!("The device of model '{model}' was lost: {reason}. It is being loaded again."))
            }
            EngineError::Failed(reason) => Self::internal(format!("The model '{model}' failed: {reason}.")),
            EngineError::Stopping => {
                Self::unavailable("draining", format!("The model '{model}' is being unloaded."), 1)
            }
        }
    }

    /// The same with a member more in the error object.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.detail.insert(name.to_owned(), value.into());
        self
    }

    fn retry_in(mut self, seconds: u64) -> Self {
        self.0.retry_after_s = Some(seconds.max(1));
        self.retry_may_help()
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The envelope.
    pub fn body(&self) -> Value {
        let mut error = json!({
            "message": self.0.message,
            "type": self.0.kind,
            "param": self.0.param,
            "code": self.0.code,
        });
        if let Some(members) = error.as_object_mut() {
            members.extend(self.0.detail.clone());
        }
        json!({ "error": error })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, self.body().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(s) = self.0.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(s));
        }
        if !self.0.retry_helps {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(ErrorMessage(self.0.message));
        response
    }
}

/// At most 200 characters of what a client sent, for a message.
pub fn clip(text: &str) -> String {
    match text.char_indices().nth(200) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(e: ApiError) -> (u16, Value, Option<String>, bool) {
        let body = e.body();
        let r = e.into_response();
        let retry = r.headers().get(RETRY_AFTER).map(|v| v.to_str().expect("ascii").to_owned());
        (r.status().as_u16(), body["error"].clone(), retry, r.headers().contains_key("x-should-retry"))
    }

    #[test]
    fn the_table_of_the_interface() {
        let engine = |e: EngineError| ApiError::engine(&e, "m", "messages");
        let rows = [
            (ApiError::invalid(Some("n"), "m"), 400, "invalid_request_error", None),
            (ApiError::unsupported_value("n", "m"), 400, "invalid_request_error", Some("unsupported_value")),
            (ApiError::unsupported_parameter("n", "m"), 400, "invalid_request_error", Some("unsupported_parameter")),
            (
                engine(EngineError::ContextLength { prompt: 9, context: 8 }),
                400,
                "invalid_request_error",
                Some("context_length_exceeded"),
            ),
            (ApiError::model_not_found("x", &["y"]), 404, "invalid_request_error", Some("model_not_found")),
            (ApiError::unknown_url("GET", "/x"), 404, "invalid_request_error", Some("unknown_url")),
            (ApiError::method_not_allowed("GET", "/x"), 405, "invalid_request_error", None),
            (ApiError::too_large(5), 413, "invalid_request_error", None),
            (ApiError::media_type(None), 415, "invalid_request_error", None),
            (
                engine(EngineError::QueueFull { waiting: 3, retry_after_s: 7 }),
                429,
                "rate_limit_error",
                Some("queue_full"),
            ),
            (engine(EngineError::Failed("x".into())), 500, "server_error", None),
            (engine(EngineError::DeviceLost("x".into())), 503, "server_error", Some("gpu_reset")),
            (ApiError::unavailable("loading", "m", 4), 503, "server_error", Some("loading")),
            (engine(EngineError::Stopping), 503, "server_error", Some("draining")),
            (ApiError::gpu_reset("m"), 503, "server_error", Some("gpu_reset")),
            (
                engine(EngineError::CacheMemory { needed: 2, available: 1 }),
                507,
                "server_error",
                Some("insufficient_memory"),
            ),
        ];
        for (e, status, kind, code) in rows {
            let (s, body, retry, never) = parts(e);
            assert_eq!((s, &body["type"], &body["code"]), (status, &json!(kind), &json!(code)), "{body}");
            assert_eq!(body.as_object().map(|o| o.keys().take(4).cloned().collect::<Vec<_>>()), {
                Some(["message", "type", "param", "code"].map(str::to_owned).to_vec())
            });
            assert_eq!(retry.is_some(), matches!(status, 429 | 503), "Retry-After of {status}");
            assert_eq!(never, !matches!(status, 429 | 500 | 503), "x-should-retry of {status}");
        }
    }

    #[test]
    fn numbers_are_for_people_and_for_programs() {
        let (_, body, ..) = parts(ApiError::context_length("prompt", 5000, 4096));
        assert!(body["message"].as_str().is_some_and(|m| m.contains("5000") && m.contains("4096")), "{body}");
        assert_eq!((&body["n_prompt_tokens"], &body["n_ctx"]), (&json!(5000), &json!(4096)));
        let (.., retry, _) = parts(ApiError::queue_full("m", 0));
        assert_eq!(retry.as_deref(), Some("1"), "a Retry-After of 0 would be a busy loop");
    }
}
