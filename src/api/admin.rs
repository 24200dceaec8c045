//! The admin socket: HTTP/1.1 with JSON, long answers as NDJSON. INTERFACE.md names the routes.
//!
//! Who may connect is the socket's file mode; who did is in the log of each change: the accept
//! loop puts the peer's uid into a [`PeerUid`] extension of each request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::proto::admin::{
    AdminError, BenchRequest, Decision, EvictRequest, LoadRequest, PlanRequest, Planned, Reloaded,
};
use crate::proto::selftest::SelfTest;
use crate::registry::{Handle, Loading, RegistryError, admin_error};
use crate::telemetry::events;

/// Uid of the process at the other end of the admin socket, if the accept loop could tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerUid(pub Option<u32>);

/// Work of the daemon, asked for over the socket.
pub type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A wish to the daemon, with the uid of whoever asks.
pub type Wish<T> = Box<dyn Fn(Option<u32>) -> Task<T> + Send + Sync>;

/// What the routes need.
pub struct Admin {
    /// The registry.
    pub registry: Handle,
    /// Threads of the CPU pool, for benchmarks.
    pub threads: u32,
    /// Every effective value of the configuration with where it came from.
    pub config: Box<dyn Fn() -> Value + Send + Sync>,
    /// Reads the configuration anew.
    pub reload: Wish<Result<Reloaded, AdminError>>,
    /// Tests the kernels of all GPUs.
    pub selftest: Wish<Result<Vec<SelfTest>, AdminError>>,
    /// Begins to stop the daemon, as SIGTERM does; comes back before it has stopped.
    pub drain: Wish<()>,
}

/// The routes, below `/admin/v1`.
pub fn router(admin: Arc<Admin>) -> Router {
    let routes = Router::new()
        .route("/status", get(status))
        .route("/models", get(models))
        .route("/models/load", post(load))
        .route("/models/{id}", get(model))
        .route("/models/{id}/evict", post(evict))
        .route("/models/{id}/pin", post(pin))
        .route("/models/{id}/unpin", post(unpin))
        .route("/stats", get(stats))
        .route("/devices", get(devices))
        .route("/events", get(events))
        .route("/why", get(why))
        .route("/requests", get(requests))
        .route("/requests/{id}", delete(cancel))
        .route("/plan", post(plan))
        .route("/bench", post(bench))
        .route("/selftest", post(selftest))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/config", get(config))
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(admin);
    Router::new().nest("/admin/v1", routes)
}

/// An error as the socket answers it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: Box<AdminError>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let error = AdminError { code: code.to_owned(), message: message.into(), detail: Value::Null };
        Self { status, error: Box::new(error), retry_after_s: None }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }
}

impl From<RegistryError> for Refusal {
    fn from(e: RegistryError) -> Self {
        let status = match &e {
            RegistryError::NotFound { .. } | RegistryError::File { .. } | RegistryError::NoRequest { .. } => {
                StatusCode::NOT_FOUND
            }
            RegistryError::Memory(_) => StatusCode::INSUFFICIENT_STORAGE,
            RegistryError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            RegistryError::NotLoaded { .. } | RegistryError::Conflict(_) | RegistryError::Cancelled { .. } => {
                StatusCode::CONFLICT
            }
            RegistryError::Invalid(_) => StatusCode::BAD_REQUEST,
            RegistryError::Device(_) | RegistryError::Failed { .. } | RegistryError::AutoloadOff { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            RegistryError::Draining => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, error: Box::new(admin_error(&e)), retry_after_s: e.retry_after_s() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.error }))).into_response();
        if let Some(s) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(s));
        }
        response
    }
}

type Answer<T> = Result<Json<T>, Refusal>;

/// A body of JSON; an empty one stands for `{}`. The message names what is wrong and where.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Refusal> {
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|e| Refusal::invalid(format!("the body is not as it should be: {e}")))
}

fn uid(peer: Option<Extension<PeerUid>>) -> Option<u32> {
    peer.and_then(|p| p.0.0)
}

async fn unknown() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_url", "there is no such path below /admin/v1")
}

async fn not_allowed() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take that method")
}

async fn status(State(admin): State<Arc<Admin>>) -> Answer<crate::proto::admin::Status> {
    Ok(Json(admin.registry.status().await?))
}

async fn models(State(admin): State<Arc<Admin>>) -> Answer<Vec<crate::proto::admin::Model>> {
    Ok(Json(admin.registry.list().await?))
}

async fn model(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Answer<crate::proto::admin::ModelDetail> {
    Ok(Json(admin.registry.show(&id).await?))
}

async fn load(
    State(admin): State<Arc<Admin>>,
    peer: Option<Extension<PeerUid>>,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let request: LoadRequest = body(&bytes)?;
    let loading = admin.registry.load(request, uid(peer)).await?;
    // The stream may be dropped at any time: the load goes on.
    let lines = futures_util::stream::unfold(loading, |mut loading: Loading| async move {
        let event = loading.next().await?;
        Some((line(&event), loading))
    });
    Ok(ndjson(Body::from_stream(lines)))
}

async fn evict(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    peer: Option<Extension<PeerUid>>,
    bytes: Bytes,
) -> Answer<crate::proto::admin::Evicted> {
    let EvictRequest { now } = body(&bytes)?;
    Ok(Json(admin.registry.evict(&id, now, uid(peer)).await?))
}

async fn pin(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    peer: Option<Extension<PeerUid>>,
) -> Answer<crate::proto::admin::Model> {
    Ok(Json(admin.registry.pin(&id, true, uid(peer)).await?))
}

async fn unpin(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    peer: Option<Extension<PeerUid>>,
) -> Answer<crate::proto::admin::Model> {
    Ok(Json(admin.registry.pin(&id, false, uid(peer)).await?))
}

async fn stats(State(admin): State<Arc<Admin>>) -> Answer<Vec<crate::proto::admin::ModelStats>> {
    Ok(Json(admin.registry.stats().await?))
}

async fn devices(State(admin): State<Arc<Admin>>) -> Answer<Vec<crate::proto::admin::Device>> {
    Ok(Json(admin.registry.devices().await?))
}

fn decision(d: events::Decision) -> Decision {
    Decision { time: d.time, kind: d.kind, model: d.model, message: d.message, uid: d.uid }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EventsQuery {
    /// `1` goes on with new ones.
    follow: u8,
}

/// Decisions, one a line, oldest first.
async fn events(State(admin): State<Arc<Admin>>, Query(query): Query<EventsQuery>) -> Response {
    let log = admin.registry.log();
    if query.follow == 0 {
        let lines: Vec<u8> = log.recent(None).into_iter().flat_map(|d| json_line(&decision(d))).collect();
        return ndjson(Body::from(lines));
    }
    let (past, feed) = log.follow();
    let past = futures_util::stream::iter(past.into_iter().map(|d| line(&decision(d))).collect::<Vec<_>>());
    let feed = futures_util::stream::unfold(feed, |mut feed| async move {
        loop {
            match feed.recv().await {
                Ok(d) => return Some((line(&decision(d)), feed)),
                // It was too slow and lost some; the ring still has them for `events`.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ndjson(Body::from_stream(futures_util::StreamExt::chain(past, feed)))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WhyQuery {
    model: Option<String>,
}

/// Decisions about one model, oldest first; all without a name.
async fn why(State(admin): State<Arc<Admin>>, Query(query): Query<WhyQuery>) -> Answer<Vec<Decision>> {
    let id = match &query.model {
        // A name that is not known any more may still have a history.
        Some(name) => Some(admin.registry.name_of(name).await?.unwrap_or_else(|| name.clone())),
        None => None,
    };
    Ok(Json(admin.registry.log().recent(id.as_deref()).into_iter().map(decision).collect()))
}

async fn requests(State(admin): State<Arc<Admin>>) -> Answer<Vec<crate::proto::admin::RequestInfo>> {
    Ok(Json(admin.registry.requests().await?))
}

async fn cancel(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    peer: Option<Extension<PeerUid>>,
) -> Answer<Value> {
    admin.registry.cancel(&id, uid(peer)).await?;
    Ok(Json(json!({ "cancelled": id })))
}

async fn bench(State(admin): State<Arc<Admin>>, bytes: Bytes) -> Answer<crate::proto::admin::BenchResult> {
    let request: BenchRequest = body(&bytes)?;
    Ok(Json(admin.registry.bench(&request, admin.threads).await?))
}

async fn plan(State(admin): State<Arc<Admin>>, bytes: Bytes) -> Answer<Vec<Planned>> {
    let request: PlanRequest = body(&bytes)?;
    Ok(Json(admin.registry.plan(request.models).await?))
}

async fn selftest(State(admin): State<Arc<Admin>>, peer: Option<Extension<PeerUid>>) -> Answer<Vec<SelfTest>> {
    let failed =
        |error| Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, error: Box::new(error), retry_after_s: None };
    Ok(Json((admin.selftest)(uid(peer)).await.map_err(failed)?))
}

async fn reload(State(admin): State<Arc<Admin>>, peer: Option<Extension<PeerUid>>) -> Answer<Reloaded> {
    let failed = |error| Refusal { status: StatusCode::BAD_REQUEST, error: Box::new(error), retry_after_s: None };
    Ok(Json((admin.reload)(uid(peer)).await.map_err(failed)?))
}

async fn drain(State(admin): State<Arc<Admin>>, peer: Option<Extension<PeerUid>>) -> Answer<Value> {
    (admin.drain)(uid(peer)).await;
    Ok(Json(json!({ "draining": true })))
}

async fn config(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json((admin.config)())
}

fn json_line(value: &impl Serialize) -> Vec<u8> {
    // Our own types, without maps of odd keys: they cannot fail to serialize.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

fn line(value: &impl Serialize) -> Result<Vec<u8>, Infallible> {
    Ok(json_line(value))
}

fn ndjson(body: Body) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))], body).into_response()
}
