//! Around every request: its id, its counts and times, one line in the log, no panic that
//! escapes.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};

use super::error::{ApiError, ErrorMessage};
use super::{Api, request_id};

/// Status of a request whose client left before there was one (nginx' number for it).
const CLIENT_LEFT: u16 = 499;

/// Id of the model that answered: a handler's note to [`observe`].
#[derive(Clone, Debug)]
pub struct ModelName(pub String);

/// What is known of a request when it ends, however it ends.
struct Record {
    api: Arc<Api>,
    endpoint: String,
    method: String,
    id: String,
    model: String,
    status: u16,
    error: Option<String>,
    began: Instant,
}

impl Drop for Record {
    fn drop(&mut self) {
        let m = &self.api.metrics;
        m.in_flight.with_label_values(&[&self.endpoint]).dec();
        let seconds = self.began.elapsed().as_secs_f64();
        m.request_seconds.with_label_values(&[&self.endpoint]).observe(seconds);
        let status = self.status.to_string();
        m.requests.with_label_values(&[&self.model, &self.endpoint, &status]).inc();
        let (method, endpoint, id) = (&self.method, &self.endpoint, &self.id);
        let (status, error) = (self.status, self.error.as_deref());
        let model = (!self.model.is_empty()).then_some(self.model.as_str());
        // Probes and scrapes come every few seconds.
        if endpoint.starts_with("/v1/") && *endpoint != "/v1/models" || status >= 400 {
            tracing::info!(request_id = id, method, endpoint, status, model, seconds, error, "request");
        } else {
            tracing::debug!(request_id = id, method, endpoint, status, model, seconds, error, "request");
        }
    }
}

/// The outermost layer.
pub async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let id = request_id::of(request.headers());
    let endpoint = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    api.metrics.in_flight.with_label_values(&[&endpoint]).inc();
    let mut record = Record {
        endpoint,
        method: request.method().as_str().to_owned(),
        id: id.to_str().unwrap_or_default().to_owned(),
        model: String::new(),
        status: CLIENT_LEFT,
        error: None,
        began: Instant::now(),
        api,
    };
    let mut response = next.run(request).await;
    record.status = response.status().as_u16();
    if let Some(ModelName(m)) = response.extensions_mut().remove() {
        record.model = m;
    }
    if let Some(ErrorMessage(m)) = response.extensions_mut().remove() {
        record.error = Some(m);
    }
    response.headers_mut().insert(request_id::HEADER, id);
    response.map(|inner| Body::new(Observed { inner, _record: record }))
}

/// A body that ends its request's record when it is sent or dropped.
struct Observed {
    inner: Body,
    _record: Record,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A handler's panic as the envelope: this request fails, the daemon goes on.
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!("a request's handler panicked: {text}");
    ApiError::internal("Internal error; the log has details.").into_response()
}
