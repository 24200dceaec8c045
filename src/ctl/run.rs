//! `run`: a question to a model, or a conversation, over the OpenAI routes of the admin socket.

use std::io::{BufRead, IsTerminal, Read};
use std::time::Instant;

use hyper::Method;
use serde_json::{Value, json};

use super::args::Run;
use super::client::{Client, segment, typed};
use super::failure::Failure;
use super::load;
use super::output::Output;
use crate::proto::admin::{LoadRequest, ModelDetail, ModelState};

/// How the model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Chat,
    Plain,
}

impl Route {
    fn path(self) -> &'static str {
        match self {
            Route::Chat => "/v1/chat/completions",
            Route::Plain => "/v1/completions",
        }
    }
}

/// What came of one question.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    text: String,
    finish: Option<String>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    /// Seconds to the first text, and from there to the last.
    first_s: Option<f64>,
    rest_s: f64,
}

/// Runs the verb.
///
/// # Errors
/// If the daemon refuses, or the answer breaks off.
pub async fn run(client: &Client, args: &Run, out: &mut Output) -> Result<(), Failure> {
    let terminal = std::io::stdin().is_terminal();
    let prompt = match args.prompt.as_deref() {
        Some("-") => Some(stdin()?),
        None if !terminal => Some(stdin()?),
        given => given.map(str::to_owned),
    };
    let route = prepare(client, args, out).await?;
    match prompt {
        Some(p) if p.is_empty() => Err(Failure::Usage("the prompt is empty".to_owned())),
        Some(p) => {
            let messages = conversation(args, &[], &p);
            once(client, args, route, &messages, &p, out).await.map(|_| ())
        }
        None => talk(client, args, route, out).await,
    }
}

fn stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let limit = crate::base::limits::HTTP_BODY_MAX;
    let read = std::io::stdin().take(limit).read_to_string(&mut text);
    read.map_err(|e| Failure::Usage(format!("the prompt cannot be read from stdin: {e}")))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Loads the model with progress if it is not there, and asks how it wants to be asked.
async fn prepare(client: &Client, args: &Run, out: &mut Output) -> Result<Route, Failure> {
    let path = format!("/admin/v1/models/{}", segment(&args.model));
    let mut detail: ModelDetail = typed(client.json(Method::GET, &path, None).await?)?;
    if detail.model.state != ModelState::Ready {
        let request = LoadRequest { model: detail.model.id.clone(), ..LoadRequest::default() };
        // The events are no result of `run`.
        let json = std::mem::replace(&mut out.json, false);
        let loaded = load::load(client, &request, true, out).await;
        out.json = json;
        loaded?;
        detail = typed(client.json(Method::GET, &path, None).await?)?;
    }
    // `show` names the metadata key if the model brought its template.
    let own = detail.chat_template.starts_with("tokenizer.chat_template");
    Ok(match (args.raw, args.chat) {
        (true, _) => Route::Plain,
        (_, true) => Route::Chat,
        _ if own => Route::Chat,
        _ => {
            out.note("the model has no chat template: the prompt is continued as plain text (--chat uses a fallback)");
            Route::Plain
        }
    })
}

fn conversation(args: &Run, before: &[Value], prompt: &str) -> Vec<Value> {
    let system = args.system.iter().map(|s| json!({"role": "system", "content": s}));
    let user = json!({"role": "user", "content": prompt});
    system.chain(before.iter().cloned()).chain([user]).collect()
}

fn request(args: &Run, route: Route, messages: &[Value], prompt: &str) -> Value {
    let mut body = json!({
        "model": args.model,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    match route {
        Route::Chat => body["messages"] = messages.into(),
        Route::Plain => body["prompt"] = prompt.into(),
    }
    let options = [
        ("max_tokens", args.max_tokens.map(Value::from)),
        ("temperature", args.temperature.map(Value::from)),
        ("top_p", args.top_p.map(Value::from)),
        ("seed", args.seed.map(Value::from)),
    ];
    for (name, value) in options {
        if let Some(v) = value {
            body[name] = v;
        }
    }
    body
}

/// Asks once; the text goes to stdout as it comes.
async fn once(
    client: &Client,
    args: &Run,
    route: Route,
    messages: &[Value],
    prompt: &str,
    out: &mut Output,
) -> Result<Outcome, Failure> {
    let body = request(args, route, messages, prompt);
    let start = Instant::now();
    let mut lines = client.lines(Method::POST, route.path(), Some(&body)).await?;
    let mut outcome = Outcome::default();
    let mut done = false;
    while let Some(line) = lines.next().await? {
        // Comments (`: loading 43%`) and blank lines carry no text.
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            done = true;
            break;
        }
        if out.json {
            out.line(data);
        }
        let chunk: Value = serde_json::from_str(data).map_err(|e| Failure::Answer(e.to_string()))?;
        let piece = take(&chunk, &mut outcome)?;
        if !piece.is_empty() {
            let now = start.elapsed().as_secs_f64();
            let first = *outcome.first_s.get_or_insert(now);
            outcome.rest_s = now - first;
            if !out.json {
                out.text(&piece);
            }
        }
    }
    if !out.json && !outcome.text.ends_with('\n') {
        out.text("\n");
    }
    if !done {
        return Err(Failure::Answer("the stream ended without [DONE]".to_owned()));
    }
    if !args.quiet {
        out.note(&statistics(&outcome));
    }
    Ok(outcome)
}

/// Takes a chunk in; its text comes back.
fn take(chunk: &Value, outcome: &mut Outcome) -> Result<String, Failure> {
    if let Some(error) = chunk.get("error") {
        let message = error["message"].as_str().unwrap_or("the model failed").to_owned();
        return Err(Failure::streamed(error["code"].as_str().unwrap_or_default(), message));
    }
    let choice = &chunk["choices"][0];
    if let Some(reason) = choice["finish_reason"].as_str() {
        outcome.finish = Some(reason.to_owned());
    }
    for (name, slot) in
        [("prompt_tokens", &mut outcome.prompt_tokens), ("completion_tokens", &mut outcome.completion_tokens)]
    {
        if let Some(n) = chunk["usage"][name].as_u64() {
            *slot = Some(n);
        }
    }
    let piece = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or_default();
    outcome.text.push_str(piece);
    Ok(piece.to_owned())
}

fn statistics(o: &Outcome) -> String {
    let mut parts = Vec::new();
    if let Some(n) = o.prompt_tokens {
        parts.push(format!("{n} prompt tokens"));
    }
    if let Some(s) = o.first_s {
        parts.push(format!("first text after {s:.2} s"));
    }
    if let Some(n) = o.completion_tokens {
        parts.push(format!("{n} tokens"));
        if n > 1 && o.rest_s > 0.0 {
            parts.push(format!("{:.1} tokens/s", (n - 1) as f64 / o.rest_s));
        }
    }
    if o.finish.as_deref() == Some("length") {
        parts.push("cut at the token limit".to_owned());
    }
    format!("[{}]", parts.join(", "))
}

/// A conversation on the terminal, until end of input or `/bye`.
async fn talk(client: &Client, args: &Run, route: Route, out: &mut Output) -> Result<(), Failure> {
    out.note("Type a message; /bye or Ctrl-D ends.");
    let mut history: Vec<Value> = Vec::new();
    loop {
        out.prompt("> ");
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(Failure::Usage(format!("stdin cannot be read: {e}"))),
        }
        let line = line.trim();
        match line {
            "" => continue,
            "/bye" => return Ok(()),
            _ => {}
        }
        let messages = conversation(args, &history, line);
        match once(client, args, route, &messages, line, out).await {
            Ok(o) => {
                history.push(json!({"role": "user", "content": line}));
                history.push(json!({"role": "assistant", "content": o.text}));
            }
            // One refused message does not end the conversation; a daemon that is gone does.
            Err(e @ (Failure::Refused(_) | Failure::NotFound(_))) => out.note(&format!("forgectl: {e}")),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_was_asked_for_and_nothing_else() {
        let args = Run { model: "m".into(), system: Some("s".into()), temperature: Some(0.0), ..Run::default() };
        let body = request(&args, Route::Chat, &conversation(&args, &[], "hi"), "hi");
        assert_eq!(body["messages"], json!([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]));
        assert_eq!(body["temperature"], json!(0.0));
        assert!(body.get("seed").is_none() && body.get("prompt").is_none());
        let body = request(&args, Route::Plain, &[], "hi");
        assert!(body["prompt"] == "hi" && body.get("messages").is_none());
    }

    #[test]
    fn chunks_of_both_routes_are_understood() {
        let mut o = Outcome::default();
        let piece = |c: Value, o: &mut Outcome| take(&c, o).expect("good");
        assert_eq!(piece(json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}), &mut o), "");
        assert_eq!(piece(json!({"choices": [{"delta": {"content": "Ro"}}]}), &mut o), "Ro");
        assert_eq!(piece(json!({"choices": [{"text": "me", "finish_reason": "length"}]}), &mut o), "me");
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 21}});
        assert_eq!(piece(usage, &mut o), "");
        assert_eq!((o.text.as_str(), o.finish.as_deref()), ("Rome", Some("length")));
        (o.first_s, o.rest_s) = (Some(0.5), 2.0);
        let line = "[5 prompt tokens, first text after 0.50 s, 21 tokens, 10.0 tokens/s, cut at the token limit]";
        assert_eq!(statistics(&o), line);
        let e = take(&json!({"error": {"message": "no", "code": null}}), &mut o).expect_err("an error");
        assert_eq!(e, Failure::Refused("no".into()));
    }
}
