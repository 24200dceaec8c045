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
use crate::base::limits::HEALTH_ANSWER_MAX;
use crate::proto::admin::{Device, Model, ModelState, ModelStats};
use crate::registry::{RegistryError, state_name};
use crate::telemetry::metrics::{DeviceNow, EngineNow, Held, ModelNow, Snapshot};

/// 200 while the process answers.
pub async fn live() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// 200 while progress is proven: the registry answers in time, and no engine is past the
/// deadline of its step. 503 with reasons otherwise. Says which devices can be used, and why not
/// those that cannot: that alone is no ill health.
pub async fn health(State(api): State<Arc<Api>>) -> Response {
    let ask = async { Ok::<_, RegistryError>((api.registry.late().await?, api.registry.devices().await?)) };
    let (reasons, devices) = match timeout(HEALTH_ANSWER_MAX, ask).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => (vec![format!("the registry does not answer: {e}")], Vec::new()),
        Err(_) => {
            let why = format!("the registry has not answered for {} s", HEALTH_ANSWER_MAX.as_secs());
            (vec![why], Vec::new())
        }
    };
    let device = |d: &Device| json!({ "id": d.id, "usable": d.usable, "reason": d.reason });
    let devices: Vec<_> = devices.iter().map(device).collect();
    if reasons.is_empty() {
        Json(json!({ "status": "ok", "devices": devices })).into_response()
    } else {
        let body = Json(json!({ "status": "degraded", "reasons": reasons, "devices": devices }));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

/// 200 once every model of the preload set was loaded; 503 with what is missing otherwise.
pub async fn ready(State(api): State<Arc<Api>>) -> Response {
    match timeout(HEALTH_ANSWER_MAX, api.registry.unready()).await {
        Ok(Ok(missing)) if missing.is_empty() => Json(json!({ "status": "ok" })).into_response(),
        Ok(Ok(missing)) => unready(missing),
        Ok(Err(e)) => unready(vec![e.to_string()]),
        Err(_) => unready(vec!["the registry does not answer".to_owned()]),
    }
}

fn unready(missing: Vec<String>) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "unready", "missing": missing }))).into_response()
}

/// Prometheus' text format.
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    // Without the registry's answer the counters are still worth having.
    let now = timeout(HEALTH_ANSWER_MAX, snapshot(&api)).await.ok().and_then(Result::ok).unwrap_or_default();
    let text = api.metrics.render(&now).map_err(|e| ApiError::internal(format!("metrics: {e}")))?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

async fn snapshot(api: &Api) -> Result<Snapshot, RegistryError> {
    let (devices, models, stats) =
        (api.registry.devices().await?, api.registry.list().await?, api.registry.stats().await?);
    let device = |d: Device| DeviceNow {
        device: d.id,
        usable: d.usable,
        reason: d.reason,
        budget: d.budget,
        held: d.ledger.into_iter().map(|e| Held { model: e.owner, kind: e.kind, bytes: e.bytes }).collect(),
    };
    let engine = |s: &ModelStats| EngineNow {
        running: s.running.into(),
        waiting: s.waiting.into(),
        kv_used: s.kv_blocks_used,
        kv_total: s.kv_blocks_total,
    };
    let model = |m: Model| ModelNow {
        engine: stats.iter().find(|s| s.id == m.id).map(engine),
        state: state_name(m.state).to_owned(),
        device: m.device,
        model: m.id,
    };
    Ok(Snapshot {
        devices: devices.into_iter().map(device).collect(),
        models: models.into_iter().filter(|m| m.state != ModelState::Absent).map(model).collect(),
        outcomes: api.registry.log().outcomes(),
    })
}
