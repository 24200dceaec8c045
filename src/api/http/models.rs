//! `GET /v1/models` and `/v1/models/{id}`: what the catalog has, loaded or not.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::refusal::refusal;
use crate::base::name::nearest;
use crate::proto::admin::{Model, ModelState};

/// All models.
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Value>, ApiError> {
    let models = api.registry.list().await.map_err(|e| refusal(&e))?;
    let data: Vec<_> = models.iter().map(entry).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// One model, by id or alias, exactly or by its only match in another case.
pub async fn one(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    let models = api.registry.list().await.map_err(|e| refusal(&e))?;
    find(&models, &name).map(|m| Json(entry(m))).ok_or_else(|| {
        let ids: Vec<_> = models.iter().map(|m| m.id.as_str()).collect();
        ApiError::model_not_found(&name, &nearest(&name, ids.iter().copied()))
    })
}

impl Api {
    /// The id of the only model that is loaded, for routes on which llama-server's clients send
    /// none.
    ///
    /// # Errors
    /// 400 if there is none or more than one.
    pub(super) async fn only_loaded(&self) -> Result<String, ApiError> {
        let models = self.registry.list().await.map_err(|e| refusal(&e))?;
        let mut loaded = models.into_iter().filter(|m| m.state == ModelState::Ready);
        match (loaded.next(), loaded.next()) {
            (Some(only), None) => Ok(only.id),
            (None, _) => Err(ApiError::invalid(Some("model"), "You must provide a 'model': none is loaded.")),
            _ => Err(ApiError::invalid(Some("model"), "You must provide a 'model': several are loaded.")),
        }
    }
}

/// The model that `name` means: exactly, or its only match in another case.
fn find<'a>(models: &'a [Model], name: &str) -> Option<&'a Model> {
    let matches = |same: fn(&str, &str) -> bool| {
        let mut hits = models.iter().filter(move |m| same(&m.id, name) || m.aliases.iter().any(|a| same(a, name)));
        hits.next().filter(|_| hits.next().is_none())
    };
    matches(|a, b| a == b).or_else(|| matches(|a, b| a.eq_ignore_ascii_case(b)))
}

fn entry(m: &Model) -> Value {
    json!({
        "id": m.id,
        "object": "model",
        "created": created(&m.path),
        "owned_by": "rocmforge",
        "aliases": m.aliases,
        "state": m.state,
        "meta": {
            "n_ctx_train": m.n_ctx_train,
            "n_params": m.n_params,
            "size": m.file_bytes,
            "n_vocab": m.n_vocab,
        },
    })
}

/// Modification time of the file; 0 if it is gone.
fn created(path: &str) -> u64 {
    let time = std::fs::metadata(path).and_then(|m| m.modified());
    time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}
