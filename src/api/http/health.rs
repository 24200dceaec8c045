//! `/health`, `/live`, `/ready`, `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::Api;
use super::error::ApiError;
use super::models;
use crate::base::limits::HEALTH_ANSWER_MAX;
use crate::proto::admin::ModelState;
use crate::telemetry::metrics::Snapshot;

/// 200 while the process answers.
pub async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// 200 while progress is proven: the registry answers in time, and no engine is past the
/// deadline of its step. 503 with reasons otherwise.
pub async fn health(State(api): State<Arc<Api>>) -> Response {
    let reasons = match timeout(HEALTH_ANSWER_MAX, api.registry.late()).await {
        Ok(Ok(late)) => late,
        Ok(Err(e)) => vec![format!("the registry does not answer: {e}")],
        Err(_) => vec![format!("the registry has not answered for {} s", HEALTH_ANSWER_MAX.as_secs())],
    };
    if reasons.is_empty() {
        Json(json!({ "status": "ok" })).into_response()
    } else {
        let body = Json(json!({ "status": "degraded", "reasons": reasons }));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

/// 200 once every model of the preload set is loaded; 503 with what is missing otherwise.
pub async fn ready(State(api): State<Arc<Api>>) -> Response {
    let models = match timeout(HEALTH_ANSWER_MAX, api.registry.list()).await {
        Ok(Ok(models)) => models,
        _ => return unready(vec!["the registry does not answer".to_owned()]),
    };
    let missing: Vec<_> = api
        .preload
        .iter()
        .filter_map(|name| match models::find(&models, name) {
            Some(m) if m.state == ModelState::Ready => None,
            Some(m) => {
                let state = serde_json::to_value(m.state).unwrap_or_default();
                let reason = m.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
                Some(format!("{name} is {}{reason}", state.as_str().unwrap_or("unknown")))
            }
            None => Some(format!("{name} is not in the catalog")),
        })
        .collect();
    if missing.is_empty() { Json(json!({ "status": "ok" })).into_response() } else { unready(missing) }
}

fn unready(missing: Vec<String>) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "unready", "missing": missing }))).into_response()
}

/// Prometheus' text format.
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    // Without the registry's answer the counters are still worth having.
    let now = match timeout(HEALTH_ANSWER_MAX, snapshot(&api)).await {
        Ok(now) => now,
        Err(_) => Snapshot::default(),
    };
    let text = api.metrics.render(&now).map_err(|e| ApiError::internal(format!("metrics: {e}")))?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

async fn snapshot(api: &Api) -> Snapshot {
    Snapshot::default()
}
