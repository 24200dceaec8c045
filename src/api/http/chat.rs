//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;

use super::answer::Shape;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::generate::{Logprobs, Prompt};
use super::inference::Inference;
use super::logprobs::Form;
use super::params::Params;
use super::{Api, request_id};
use crate::base::limits::{JSON_VALUE_BYTES_MAX, TOP_LOGPROBS_MAX};
use crate::chat::{ChatError, Conversation};
use crate::registry::Loaded;

/// The handler.
pub async fn completions(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    super::inference(api, request, read).await
}

fn read(body: &[u8], arrived: Instant) -> Result<Inference, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut ignored = Vec::new();
    let conversation = conversation(&mut fields, &mut ignored)?;
    let logprobs = logprobs(&mut fields)?;
    let params = Params::read(&mut fields, request_id::random(), &mut ignored)?;
    ignored.extend(fields.rest());
    let prepare = Box::new(move |model: &Loaded| prompt(model, &conversation).map(|p| vec![p]));
    Ok(Inference { arrived, shape: Shape::Chat, params, logprobs, prepare, ignored, patience: None })
}

fn conversation(fields: &mut Fields<'_>, ignored: &mut Vec<String>) -> Result<Conversation, ApiError> {
    let Some(messages) = fields.value("messages", usize::MAX)? else {
        return Err(ApiError::invalid(Some("messages"), "You must provide 'messages'."));
    };
    let tools = tools(fields)?.unwrap_or(Value::Null);
    let extra = fields.value("chat_template_kwargs", JSON_VALUE_BYTES_MAX)?.unwrap_or(Value::Null);
    let mut conversation = Conversation::from_json(&messages, &tools, &extra).map_err(|e| match &e {
        ChatError::Modality { param, .. } => ApiError::unsupported_value(param, e.to_string()),
        // The error begins with the path of what is wrong.
        e => ApiError::invalid(Some(e.param()), format!("Invalid {e}.")),
    })?;
    ignored.append(&mut conversation.ignored);
    Ok(conversation)
}

/// `tools`, unless `tool_choice` says that none may be called.
fn tools(fields: &mut Fields<'_>) -> Result<Option<Value>, ApiError> {
    let tools = fields.value("tools", JSON_VALUE_BYTES_MAX)?;
    match fields.raw("tool_choice") {
        None | Some("\"auto\"") => Ok(tools),
        Some("\"none\"") => Ok(None),
        Some(raw) if raw == "\"required\"" || raw.starts_with('{') => {
            let message = "'tool_choice' can be 'none' or 'auto'; forced calls need constrained generation, which is \
                           not available yet.";
            Err(ApiError::unsupported_value("tool_choice", message))
        }
        Some(raw) => Err(wrong("tool_choice", "'none', 'auto', 'required' or an object", raw)),
    }
}

fn logprobs(fields: &mut Fields<'_>) -> Result<Option<Logprobs>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))? {
        Some(n) if n > 0 && !wanted => {
            let message = "'top_logprobs' needs 'logprobs': true.";
            Err(ApiError::invalid(Some("top_logprobs"), message))
        }
        top => {
            Ok(wanted.then(|| Logprobs { form: Form::Chat, top: top.and_then(|t| u8::try_from(t).ok()).unwrap_or(0) }))
        }
    }
}

fn prompt(model: &Loaded, conversation: &Conversation) -> Result<Prompt, ApiError> {
    let text = model.template.render(conversation).map_err(|e| {
        // The template's own refusal ("roles must alternate") or a message it cannot render.
        ApiError::invalid(Some("messages"), format!("The model's chat template refused the messages: {e}"))
    })?;
    let mut tokens = model.tokenizer.encode(&text, true, true);
    // Many templates write BOS themselves, and the file asks for one as well: once is right.
    if let Some(bos) = model.tokenizer.bos()
        && tokens.starts_with(&[bos, bos])
    {
        tokens.remove(0);
    }
    Ok(Prompt { tokens, echo: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fields: &str) -> (String, String, String) {
        let body = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}],{fields}}}");
        of(&body)
    }

    fn of(body: &str) -> (String, String, String) {
        let e = read(body.as_bytes(), Instant::now()).err().expect("is refused").body();
        let s = |v: &Value| v.as_str().unwrap_or("null").to_owned();
        (s(&e["error"]["param"]), s(&e["error"]["code"]), s(&e["error"]["message"]))
    }

    #[test]
    fn fields_of_chat_are_checked() {
        let rows = [
            (r#""tool_choice":"required""#, "tool_choice", "unsupported_value"),
            (r#""tool_choice":{"type":"function","function":{"name":"f"}}"#, "tool_choice", "unsupported_value"),
            (r#""tool_choice":1"#, "tool_choice", "null"),
            (r#""tools":{}"#, "tools", "null"),
            (r#""tools":[{"type":"x"}]"#, "tools[0].type", "null"),
            (r#""top_logprobs":3"#, "top_logprobs", "null"),
            (r#""logprobs":true,"top_logprobs":21"#, "top_logprobs", "null"),
            (r#""logprobs":1"#, "logprobs", "null"),
            (r#""chat_template_kwargs":[]"#, "chat_template_kwargs", "null"),
        ];
        for (fields, param, code) in rows {
            let (p, c, m) = refused(fields);
            assert_eq!((p.as_str(), c.as_str()), (param, code), "{m}");
        }
    }

    #[test]
    fn messages_are_named_by_their_path() {
        let row = |messages: &str| of(&format!("{{\"model\":\"m\",\"messages\":{messages}}}"));
        assert_eq!(of("{\"model\":\"m\"}").0, "messages");
        assert_eq!(row("[]").0, "messages");
        assert_eq!(row("\"hi\"").0, "messages");
        let (param, _, message) = row(r#"[{"role":"user","content":"x"},{"role":5}]"#);
        assert!(param == "messages[1].role" && message.contains(&param), "{param}: {message}");
        let (param, code, _) = row(r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]"#);
        assert_eq!((param.as_str(), code.as_str()), ("messages[0].content[0].type", "unsupported_value"));
    }

    #[test]
    fn tools_reach_the_template_unless_none_is_chosen() {
        let tool = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
        let of = |choice: &str| {
            let body = format!("{{{tool}{choice}}}");
            tools(&mut Fields::parse(body.as_bytes()).expect("JSON")).expect("is valid")
        };
        assert!(of("").is_some() && of(r#","tool_choice":"auto""#).is_some());
        assert!(of(r#","tool_choice":"none""#).is_none());
    }
}
