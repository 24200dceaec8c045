//! Every row of the error table, as it goes over the wire.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::fixture::{Answer, CONTEXT, MAX_BODY, Server, server};

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str, more: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{more}}}"#)
}

#[track_caller]
fn check(a: &Answer, status: u16, kind: &str, param: Value, code: Value) -> String {
    assert_eq!(a.status, status, "{}", a.body);
    assert_eq!(a.header("content-type"), Some("application/json"), "{}", a.body);
    assert!(a.header("x-request-id").is_some_and(|i| i.len() > 8));
    let body = a.json();
    let e = body["error"].as_object().expect("an envelope");
    assert_eq!((&e["type"], &e["param"], &e["code"]), (&json!(kind), &param, &code), "{}", a.body);
    let retry_helps = matches!(status, 429 | 503);
    assert_eq!(a.header("retry-after").is_some(), retry_helps, "{}", a.body);
    if !matches!(status, 500) {
        assert_eq!(a.header("x-should-retry"), (!retry_helps).then_some("false"), "{}", a.body);
    }
    e["message"].as_str().expect("a message").to_owned()
}

async fn post(s: &Server, body: &str) -> Answer {
    s.post(CHAT, body).await.answer().await
}

const INVALID: &str = "invalid_request_error";

#[tokio::test]
async fn what_is_no_json_is_told_where() {
    let s = server().await;
    let m = check(&post(&s, "{\"model\": \"m\",\n oops}").await, 400, INVALID, Value::Null, Value::Null);
    assert!(m.contains("line 2 column 2"), "{m}");
    let m = check(&post(&s, "").await, 400, INVALID, Value::Null, Value::Null);
    assert!(m.contains("EOF"), "{m}");
}

#[tokio::test]
async fn a_wrong_value_is_named() {
    let s = server().await;
    for (more, param) in [
        (r#","temperature":"hot""#, "temperature"),
        (r#","temperature":1e999"#, "temperature"),
        (r#","top_p":-1"#, "top_p"),
        (r#","n":99"#, "n"),
        (r#","max_tokens":0"#, "max_tokens"),
        (r#","logit_bias":{"257":1}"#, "logit_bias"),
    ] {
        check(&post(&s, &chat("m", more)).await, 400, INVALID, json!(param), Value::Null);
    }
    let a = post(&s, &chat("m", r#","response_format":{"type":"json_object"}"#)).await;
    check(&a, 400, INVALID, json!("response_format"), json!("unsupported_value"));
    let a = s.post("/v1/completions", r#"{"model":"m","prompt":"x","suffix":"y"}"#).await.answer().await;
    check(&a, 400, INVALID, json!("suffix"), json!("unsupported_parameter"));
    let a = s.post("/v1/completions", r#"{"model":"m","prompt":""}"#).await.answer().await;
    check(&a, 400, INVALID, json!("prompt"), Value::Null);
    let a = s.post("/v1/completions", r#"{"model":"m","prompt":[1,257]}"#).await.answer().await;
    let m = check(&a, 400, INVALID, json!("prompt"), Value::Null);
    assert!(m.contains("257"), "{m}");
}

#[tokio::test]
async fn what_does_not_exist() {
    let s = server().await;
    let m = check(&post(&s, &chat("nope", "")).await, 404, INVALID, json!("model"), json!("model_not_found"));
    assert!(m.contains("'nope'"), "{m}");
    let m = check(&post(&s, &chat("slo", "")).await, 404, INVALID, json!("model"), json!("model_not_found"));
    assert!(m.contains("Nearest: 'slow'"), "{m}");
    let a = s.get("/v1/models/nope").await;
    check(&a, 404, INVALID, json!("model"), json!("model_not_found"));
    let m = check(&s.get("/v1/nothing").await, 404, INVALID, Value::Null, json!("unknown_url"));
    assert!(m.contains("GET /v1/nothing"), "{m}");
}

#[tokio::test]
async fn what_the_path_does_not_take() {
    let s = server().await;
    let a = s.get(CHAT).await;
    check(&a, 405, INVALID, Value::Null, Value::Null);
    assert_eq!(a.header("allow"), Some("POST"));
    let a = s.post("/v1/models", "{}").await.answer().await;
    check(&a, 405, INVALID, Value::Null, Value::Null);
    assert_eq!(a.header("allow"), Some("GET,HEAD"));
    for kind in ["content-type: text/plain\r\n", ""] {
        let request = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{kind}content-length: 2\r\n\r\n{{}}");
        check(&s.raw(request.as_bytes()).await.answer().await, 415, INVALID, Value::Null, Value::Null);
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit() {
    let s = server().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
    // Announced: refused before the body is sent.
    let announced = format!("{head}content-length: {}\r\n\r\n", MAX_BODY + 1);
    let a = s.raw(announced.as_bytes()).await.answer().await;
    let m = check(&a, 413, INVALID, Value::Null, Value::Null);
    assert!(m.contains("100000 bytes"), "{m}");
    // Not announced: refused when it gets too long.
    let long = "x".repeat(MAX_BODY as usize + 1);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    check(&s.raw(chunked.as_bytes()).await.answer().await, 413, INVALID, Value::Null, Value::Null);
}

#[tokio::test]
async fn what_the_registry_refuses() {
    let s = server().await;
    let m = check(&post(&s, &chat("big", "")).await, 507, "server_error", Value::Null, json!("insufficient_memory"));
    assert!(m.contains("19.5 KiB") || m.contains("20"), "{m}");
    let m = check(&post(&s, &chat("broken", "")).await, 500, "server_error", Value::Null, Value::Null);
    assert!(m.contains("tensor x"), "{m}");
    // 507 comes before any header of a stream.
    let a = post(&s, &chat("big", r#","stream":true"#)).await;
    check(&a, 507, "server_error", Value::Null, json!("insufficient_memory"));
    assert_eq!(
        (&a.json()["error"]["needed_bytes"], &a.json()["error"]["budget_bytes"]),
        (&json!(20013), &json!(10000))
    );
}

#[tokio::test]
async fn a_daemon_that_shuts_down_says_so() {
    let s = server().await;
    let registry = s.registry.clone();
    tokio::spawn(async move { registry.drain(std::time::Duration::from_secs(1), None).await });
    while s.registry.status().await.expect("answers").state != "draining" {
        tokio::task::yield_now().await;
    }
    check(&post(&s, &chat("m", "")).await, 503, "server_error", Value::Null, json!("draining"));
}

#[tokio::test]
async fn an_overlong_prompt_is_told_both_numbers() {
    let s = server().await;
    let body = format!(r#"{{"model":"m","prompt":"{}"}}"#, "a".repeat(CONTEXT as usize));
    let a = s.post("/v1/completions", &body).await.answer().await;
    let m = check(&a, 400, INVALID, json!("prompt"), json!("context_length_exceeded"));
    assert!(m.matches("200").count() == 2, "{m}");
    assert_eq!((&a.json()["error"]["n_prompt_tokens"], &a.json()["error"]["n_ctx"]), (&json!(200), &json!(200)));
    // A stream gets the same status: nothing was sent yet.
    let a = post(&s, &chat("m", r#","stream":true"#).replace("hi", &"a".repeat(300))).await;
    check(&a, 400, INVALID, json!("messages"), json!("context_length_exceeded"));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let s = server().await;
    s.control.allow(0);
    let mut connections = Vec::new();
    for n in 1..=5 {
        connections.push(s.post(CHAT, &chat("m", r#","stream":true"#)).await);
        s.requests(n).await;
    }
    let a = post(&s, &chat("m", "")).await;
    check(&a, 429, "rate_limit_error", Value::Null, json!("queue_full"));
    assert!(a.header("retry-after").and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s >= 1));
    // The sixth of n choices does not fit: those before it are cancelled.
    drop(connections);
    s.control.free();
    s.requests(0).await;
    s.control.allow(0);
    let a = post(&s, &chat("m", r#","n":6"#)).await;
    check(&a, 429, "rate_limit_error", Value::Null, json!("queue_full"));
    s.control.free();
    s.requests(0).await;
}

#[tokio::test]
async fn a_model_that_fails_is_an_error() {
    let s = server().await;
    s.control.fail();
    let m = check(&post(&s, &chat("m", "")).await, 500, "server_error", Value::Null, Value::Null);
    assert!(m.contains("truncated in place"), "{m}");
}

#[tokio::test]
async fn a_model_that_is_being_unloaded_says_so() {
    let s = server().await;
    s.engine.stop(true).await;
    check(&post(&s, &chat("m", "")).await, 503, "server_error", Value::Null, json!("draining"));
}

#[tokio::test]
async fn a_cancelled_request_is_an_error_and_not_a_short_answer() {
    let s = server().await;
    s.control.allow(3);
    let c = s.post("/v1/completions", r#"{"model":"m","prompt":"0"}"#).await;
    s.requests(1).await;
    assert!(s.engine.cancel(&s.engine.requests()[0].id));
    s.control.free();
    let m = check(&c.answer().await, 500, "server_error", Value::Null, Value::Null);
    assert!(m.contains("cancelled"), "{m}");
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_server_lives() {
    let s = server().await;
    let boom = || async { panic!("a bug in a handler") as () };
    let routes = super::super::layered(Router::new().route("/boom", get(boom)), Arc::clone(&s.api));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("has an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    for _ in 0..2 {
        let a = Server::get_at(addr, "/boom").await;
        let m = check(&a, 500, "server_error", Value::Null, Value::Null);
        assert!(!m.contains("bug in a handler"), "the inside is for the log: {m}");
    }
}

#[tokio::test]
async fn a_client_may_say_how_long_it_waits_for_a_load() {
    let s = server().await;
    s.control.load(25, true);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let a = s.post_with(CHAT, "prefer: wait=0\r\n", &chat("slow", "")).await.answer().await;
    let m = check(&a, 503, "server_error", Value::Null, json!("loading"));
    assert!(m.contains("25%"), "{m}");
    assert!(a.header("retry-after").and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s >= 1));
}
