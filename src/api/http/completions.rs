//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::Shape;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::generate::{Logprobs, Prompt};
use super::inference::Inference;
use super::logprobs::Form;
use super::params::Params;
use super::{Api, request_id};
use crate::base::limits::{PROMPTS_MAX, TOP_LOGPROBS_MAX};
use crate::registry::Loaded;

/// The handler.
pub async fn completions(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    super::inference(api, request, read).await
}

/// One prompt as it was sent.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Text(String),
    Tokens(Vec<u32>),
}

fn read(body: &[u8], arrived: Instant) -> Result<Inference, ApiError> {
    let mut fields = Fields::parse(body)?;
    let mut ignored = Vec::new();
    let sources = prompts(&mut fields)?;
    let top = fields.integer("logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
    let logprobs = top.map(|t| Logprobs { form: Form::Legacy, top: u8::try_from(t).unwrap_or(TOP_LOGPROBS_MAX) });
    let echo = fields.boolean("echo")?.unwrap_or(false);
    if fields.string("suffix")?.is_some_and(|s| !s.is_empty()) {
        let message = "'suffix' is not supported: no fill-in-the-middle yet.";
        return Err(ApiError::unsupported_parameter("suffix", message));
    }
    if echo && logprobs.is_some() {
        let message = "'echo' together with 'logprobs' is not supported: prompts have no log-probabilities yet.";
        return Err(ApiError::unsupported_parameter("echo", message));
    }
    let best_of = fields.integer("best_of", 1..=i64::MAX)?;
    let params = Params::read(&mut fields, request_id::random(), &mut ignored)?;
    if best_of.is_some_and(|b| b != i64::from(params.n)) {
        let message = "'best_of' is not supported: use 'n'.";
        return Err(ApiError::unsupported_parameter("best_of", message));
    }
    if sources.len() * params.n as usize > PROMPTS_MAX {
        let message = format!(
            "{} prompts with n = {} are {} choices; at most {PROMPTS_MAX} are taken at once.",
            sources.len(),
            params.n,
            sources.len() * params.n as usize
        );
        return Err(ApiError::invalid(Some("prompt"), message));
    }
    ignored.extend(fields.rest());
    let prepare =
        Box::new(move |model: &Loaded| sources.into_iter().map(|s| prompt(model, s, echo)).collect::<Result<_, _>>());
    Ok(Inference { arrived, shape: Shape::Text, params, logprobs, prepare, ignored, patience: None })
}

/// Reads `prompt`: a string, an array of strings, of token ids, or of arrays of token ids.
fn prompts(fields: &mut Fields<'_>) -> Result<Vec<Source>, ApiError> {
    const EXPECTED: &str = "a string, an array of strings, an array of token ids, or an array of such arrays";
    let Some(raw) = fields.raw("prompt") else {
        return Err(ApiError::invalid(Some("prompt"), "You must provide a 'prompt'."));
    };
    let bad = |_| wrong("prompt", EXPECTED, raw);
    // The first element decides; each form is then parsed as itself, without a detour over
    // values of any type (an array of ids may have a million).
    let first = raw.strip_prefix('[').map(|r| r.trim_start().as_bytes().first().copied());
    let sources: Vec<_> = match first {
        None => vec![Source::Text(serde_json::from_str(raw).map_err(bad)?)],
        Some(Some(b'"')) => {
            serde_json::from_str::<Vec<String>>(raw).map_err(bad)?.into_iter().map(Source::Text).collect()
        }
        Some(Some(b'[')) => {
            serde_json::from_str::<Vec<Vec<u32>>>(raw).map_err(bad)?.into_iter().map(Source::Tokens).collect()
        }
        _ => vec![Source::Tokens(serde_json::from_str(raw).map_err(bad)?)],
    };
    if sources.len() > PROMPTS_MAX {
        let message = format!("{} prompts; at most {PROMPTS_MAX} are taken at once.", sources.len());
        return Err(ApiError::invalid(Some("prompt"), message));
    }
    Ok(sources)
}

fn prompt(model: &Loaded, source: Source, echo: bool) -> Result<Prompt, ApiError> {
    let prompt = match source {
        // Special tokens in the text count as such, and BOS is as the file says: llama-server's
        // way, docs/INTERFACE.md.
        Source::Text(text) => {
            let tokens = model.tokenizer.encode(&text, true, true);
            Prompt { tokens, echo: if echo { text } else { String::new() } }
        }
        Source::Tokens(tokens) => {
            if let Some(id) = tokens.iter().find(|id| **id as usize >= model.n_vocab) {
                let message =
                    format!("Invalid 'prompt': token {id} does not exist, the vocabulary has {}.", model.n_vocab);
                return Err(ApiError::invalid(Some("prompt"), message));
            }
            let echo = if echo {
                String::from_utf8_lossy(&model.tokenizer.decode(&tokens, true)).into_owned()
            } else {
                String::new()
            };
            Prompt { tokens, echo }
        }
    };
    if prompt.tokens.is_empty() {
        let message = "Invalid 'prompt': it is empty, and this model adds no BOS token; give it at least one token.";
        return Err(ApiError::invalid(Some("prompt"), message));
    }
    Ok(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(prompt: &str) -> Result<Vec<Source>, ApiError> {
        let body = format!("{{\"prompt\":{prompt}}}");
        prompts(&mut Fields::parse(body.as_bytes())?)
    }

    #[test]
    fn all_four_forms() {
        let text = |s: &str| Source::Text(s.to_owned());
        assert_eq!(sources(r#""a""#), Ok(vec![text("a")]));
        assert_eq!(sources(r#"[ "a", "b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(sources("[1, 2]"), Ok(vec![Source::Tokens(vec![1, 2])]));
        assert_eq!(sources("[[1],\n[2,3]]"), Ok(vec![Source::Tokens(vec![1]), Source::Tokens(vec![2, 3])]));
        for bad in ["1", "{}", "[1,\"a\"]", "[-1]", "[1.5]", "[\"a\",1]", "[[1],2]", "true"] {
            assert_eq!(sources(bad).expect_err(bad).body()["error"]["param"], "prompt");
        }
        let many = format!("[{}]", vec!["\"a\""; PROMPTS_MAX + 1].join(","));
        assert!(sources(&many).is_err());
    }

    fn code(body: &str) -> (String, String) {
        let e = read(body.as_bytes(), Instant::now()).err().expect("is refused").body();
        let s = |v: &serde_json::Value| v.as_str().unwrap_or("null").to_owned();
        (s(&e["error"]["param"]), s(&e["error"]["code"]))
    }

    #[test]
    fn what_is_not_built_is_refused() {
        let row = |fields: &str| code(&format!("{{\"model\":\"m\",\"prompt\":\"x\",{fields}}}"));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(row(r#""suffix":"}""#), pair("suffix", "unsupported_parameter"));
        assert_eq!(row(r#""echo":true,"logprobs":1"#), pair("echo", "unsupported_parameter"));
        assert_eq!(row(r#""best_of":3"#), pair("best_of", "unsupported_parameter"));
        assert_eq!(row(r#""logprobs":21"#), pair("logprobs", "null"));
        assert_eq!(row(r#""logprobs":true"#), pair("logprobs", "null"));
        assert_eq!(code(r#"{"model":"m"}"#), pair("prompt", "null"));
        let many = format!("{{\"model\":\"m\",\"n\":16,\"prompt\":[{}]}}", ["\"a\""; 5].join(","));
        assert_eq!(code(&many), pair("prompt", "null"));
    }
}
