//! `POST /tokenize` and `/detokenize`, llama-server's, with a `model` where several are there.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::fields::Fields;
use super::inference::offload;
use super::observe::ModelName;
use super::refusal::refusal;
use crate::base::limits::{INLINE_TEXT_BYTES, TOKENIZE_BYTES_MAX};
use crate::registry::Loaded;

/// `{"content","add_special","parse_special","with_pieces"}` to `{"tokens"}`.
pub async fn tokenize(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    on_model(&api, request, |fields| {
        let Some(content) = fields.string("content")? else {
            return Err(ApiError::invalid(Some("content"), "You must provide 'content'."));
        };
        if content.len() > TOKENIZE_BYTES_MAX {
            let message = format!("'content' has {} bytes; at most {TOKENIZE_BYTES_MAX} are taken.", content.len());
            return Err(ApiError::invalid(Some("content"), message));
        }
        let add_special = fields.boolean("add_special")?.unwrap_or(false);
        let parse_special = fields.boolean("parse_special")?.unwrap_or(true);
        let with_pieces = fields.boolean("with_pieces")?.unwrap_or(false);
        Ok(Box::new(move |model: &Loaded| {
            let tokens = model.tokenizer.encode(&content, add_special, parse_special);
            if !with_pieces {
                return Ok(json!({ "tokens": tokens }));
            }
            let entry = |id: &u32| json!({ "id": id, "piece": piece(model.tokenizer.piece(*id)) });
            Ok(json!({ "tokens": tokens.iter().map(entry).collect::<Vec<_>>() }))
        }))
    })
    .await
}

/// `{"tokens"}` to `{"content"}`.
pub async fn detokenize(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    on_model(&api, request, |fields| {
        let Some(tokens) = fields.read::<Vec<u32>>("tokens", "an array of token ids")? else {
            return Err(ApiError::invalid(Some("tokens"), "You must provide 'tokens'."));
        };
        Ok(Box::new(move |model: &Loaded| {
            if let Some(id) = tokens.iter().find(|id| **id as usize >= model.n_vocab) {
                let message =
                    format!("Invalid 'tokens': token {id} does not exist, the vocabulary has {}.", model.n_vocab);
                return Err(ApiError::invalid(Some("tokens"), message));
            }
            let bytes = model.tokenizer.decode(&tokens, true);
            Ok(json!({ "content": String::from_utf8_lossy(&bytes) }))
        }))
    })
    .await
}

/// A piece as llama-server has it: text, or bytes where it is none.
fn piece(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |s| json!(s))
}

type Work = Box<dyn FnOnce(&Loaded) -> Result<Value, ApiError> + Send>;

/// Reads the fields, then does the work with the model that they name, or with the only one that
/// is loaded.
async fn on_model(
    api: &Api,
    request: Request,
    read: fn(&mut Fields<'_>) -> Result<Work, ApiError>,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let body = api.bodies.json(&head.headers, body).await?;
    let bytes = body.bytes.clone();
    let parse = move || -> Result<_, ApiError> {
        let mut fields = Fields::parse(&bytes)?;
        Ok((fields.string("model")?, read(&mut fields)?))
    };
    let small = body.bytes.len() <= INLINE_TEXT_BYTES;
    let (name, work) = if small { parse()? } else { offload(parse).await?? };
    let name = match name {
        Some(name) => name,
        None => api.only_loaded().await?,
    };
    let lease = api.registry.lease(&name).await.map_err(|e| refusal(&e))?;
    let model = Arc::clone(&lease.model);
    let id = ModelName(model.id.clone());
    let text = move || work(&model).map(|v| v.to_string());
    let text = if small { text()? } else { offload(text).await?? };
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = (json, text).into_response();
    response.extensions_mut().insert(id);
    Ok(response)
}
