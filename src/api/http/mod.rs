//! The public side: OpenAI's API, health, metrics. The admin socket serves these routes too.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::registry;
use crate::telemetry::metrics::Metrics;

mod answer;
mod body;
mod chat;
mod completions;
mod error;
mod fields;
mod generate;
mod health;
mod inference;
mod logprobs;
mod models;
mod observe;
mod params;
mod refusal;
mod request_id;
mod sse;
mod tokenize;

pub use error::ApiError;
pub use request_id::fresh as fresh_id;

/// What the routes need.
#[derive(Debug)]
pub struct Api {
    registry: registry::Handle,
    metrics: Arc<Metrics>,
    bodies: body::Bodies,
}

impl Api {
    /// `max_body` is `http.max_body` in bytes.
    pub fn new(registry: registry::Handle, metrics: Arc<Metrics>, max_body: u64) -> Arc<Self> {
        Arc::new(Self { registry, metrics, bodies: body::Bodies::new(max_body) })
    }
}

/// The routes, with all layers.
pub fn router(api: Arc<Api>) -> Router {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/health", get(health::health))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/metrics", get(health::metrics));
    layered(routes, api)
}

/// Routes whose every answer is in the envelope, counted and logged: also for the admin socket's.
pub fn layered(routes: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    routes
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(Arc::clone(&api), observe::observe))
        .with_state(api)
}

async fn unknown(method: Method, uri: Uri) -> ApiError {
    ApiError::unknown_url(method.as_str(), uri.path())
}

async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(method.as_str(), uri.path())
}

/// An endpoint that takes JSON: what `read` makes of the body, run.
async fn inference(
    api: Arc<Api>,
    request: Request,
    read: fn(&[u8], Instant) -> Result<inference::Inference, ApiError>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let (head, body) = request.into_parts();
    let body = api.bodies.json(&head.headers, body).await?;
    let mut parsed = if body.bytes.len() <= crate::base::limits::INLINE_TEXT_BYTES {
        read(&body.bytes, arrived)?
    } else {
        let bytes = body.bytes.clone();
        inference::offload(move || read(&bytes, arrived)).await??
    };
    drop(body);
    parsed.patience = inference::patience(&head.headers);
    parsed.run(api).await
}

#[cfg(test)]
mod tests;
