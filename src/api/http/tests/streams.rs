//! Streams, byte by byte.

use serde_json::{Value, json};

use super::fixture::{Server, server};

const TEXT: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// The chunks of a stream, which must be nothing but `data: {…}` frames and the end.
fn frames(body: &str) -> Vec<Value> {
    let body = body.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end: {body}"));
    assert!(body.ends_with("\n\n"));
    let frame = |f: &str| serde_json::from_str(f.strip_prefix("data: ").unwrap_or_else(|| panic!("{f}"))).expect(f);
    body.trim_end().split("\n\n").map(frame).collect()
}

async fn stream(s: &Server, path: &str, body: &str) -> Vec<Value> {
    let a = s.post(path, body).await.answer().await;
    assert_eq!((a.status, a.header("content-type")), (200, Some("text/event-stream")), "{}", a.body);
    frames(&a.body)
}

#[tokio::test]
async fn a_chat_is_byte_exact() {
    let s = server().await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"w"}],"stream":true,"temperature":0}"#;
    let mut c = s.post(CHAT, body).await;
    let head = c.head().await;
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache"),
        ("x-rocmforge-device", "cpu avx2"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
    assert!(head.header("access-control-allow-origin").is_none(), "CORS is closed");
    let body = c.rest().await;
    let first: Value = serde_json::from_str(body["data: ".len()..].lines().next().expect("a line")).expect("JSON");
    let (id, created) = (first["id"].as_str().expect("an id"), &first["created"]);
    assert!(id.starts_with("chatcmpl-") && created.as_u64().is_some_and(|t| t > 1_700_000_000), "{first}");
    let fingerprint = concat!("rocmforge-", env!("CARGO_PKG_VERSION"));
    let chunk = |delta: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"{id}\",\"object\":\"chat.completion.chunk\",\"created\":{created},\"model\":\"m\",\
             \"system_fingerprint\":\"{fingerprint}\",\"choices\":[{{\"index\":0,\"delta\":{delta},\
             \"logprobs\":null,\"finish_reason\":{reason}}}]"
        )
    };
    let mut expected = chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null") + "}\n\n";
    for text in ["x", "y", "z"] {
        expected += &(chunk(&format!("{{\"content\":\"{text}\"}}"), "null") + "}\n\n");
    }
    expected += &(chunk("{}", "\"stop\"") + ",\"timings\":{");
    assert!(body.starts_with(&expected), "\n{body}\nis not\n{expected}");
    let rest = &body[expected.len()..];
    assert!(rest.ends_with("}}\n\ndata: [DONE]\n\n") && rest.matches("\n\n").count() == 2, "{rest}");
}

#[tokio::test]
async fn usage_comes_last_and_only_if_asked() {
    let s = server().await;
    let f =
        stream(&s, TEXT, r#"{"model":"m","prompt":"w","stream":true,"stream_options":{"include_usage":true}}"#).await;
    let (last, others) = f.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    // x, y, z and the end-of-generation token.
    assert_eq!((&last["usage"]["prompt_tokens"], &last["usage"]["completion_tokens"]), (&json!(1), &json!(4)));
    assert!(others.iter().all(|c| c.as_object().is_some_and(|o| o.get("usage") == Some(&Value::Null))));
    let f = stream(&s, TEXT, r#"{"model":"m","prompt":"w","stream":true}"#).await;
    assert!(f.iter().all(|c| c.get("usage").is_none()));
    let t = &f.last().expect("chunks")["timings"];
    assert_eq!((&t["prompt_n"], &t["predicted_n"]), (&json!(1), &json!(4)));
}

#[tokio::test]
async fn characters_come_whole() {
    let s = server().await;
    let f = stream(&s, TEXT, r##"{"model":"m","prompt":"#","stream":true}"##).await;
    let texts: Vec<_> = f.iter().map(|c| c["choices"][0]["text"].as_str().expect("text")).collect();
    assert_eq!(texts, ["é", "y", "z", ""]);
}

#[tokio::test]
async fn choices_are_told_apart() {
    let s = server().await;
    let f = stream(&s, CHAT, r#"{"model":"m","messages":[{"role":"user","content":"v"}],"stream":true,"n":3}"#).await;
    for index in 0..3 {
        let own: Vec<_> = f.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
        let text: String = own.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
        assert_eq!(text, "wxyz");
        assert_eq!(own[0]["delta"]["role"], "assistant");
        assert_eq!(own.iter().filter(|c| c["finish_reason"] == "stop").count(), 1);
    }
}

#[tokio::test]
async fn an_error_after_the_beginning_is_the_last_chunk() {
    let s = server().await;
    s.control.allow(2);
    let mut c = s.post(TEXT, r#"{"model":"m","prompt":"0","stream":true}"#).await;
    assert_eq!(c.head().await.status, 200);
    assert!(c.chunk().await.contains("\"text\":\"1\""));
    assert!(c.chunk().await.contains("\"text\":\"2\""));
    s.control.fail();
    s.control.free();
    let rest = c.rest().await;
    let error: Value = serde_json::from_str(rest.trim_end().strip_prefix("data: ").expect("one frame")).expect("JSON");
    assert_eq!(error["error"]["type"], "server_error");
    assert!(!rest.contains("[DONE]") && rest.ends_with("\n\n"), "{rest}");
}

#[tokio::test]
async fn a_load_is_told_in_comments() {
    let s = server().await;
    s.control.load(43, true);
    let mut c = s.post(CHAT, r#"{"model":"slow","messages":[{"role":"user","content":"y"}],"stream":true}"#).await;
    assert_eq!(c.head().await.status, 200);
    let comment = c.chunk().await;
    assert!(comment.starts_with(": loading 43% eta ") && comment.ends_with("s\n\n"), "{comment}");
    s.control.load(90, true);
    assert!(c.chunk().await.starts_with(": loading 90% eta "));
    s.control.load(100, true);
    let f = frames(&c.rest().await);
    let delta = |i: usize| &f[i]["choices"][0]["delta"];
    assert_eq!((&delta(0)["role"], &delta(1)["content"]), (&json!("assistant"), &json!("z")));
}

#[tokio::test]
async fn a_load_that_fails_in_a_stream_is_an_error_chunk() {
    let s = server().await;
    let body = r#"{"model":"slow","messages":[{"role":"user","content":"y"}],"stream":true}"#;
    let mut c = s.post(CHAT, body).await;
    assert_eq!(c.head().await.status, 200);
    assert!(c.chunk().await.starts_with(": loading 0% eta "));
    s.control.load(0, false);
    let rest = c.rest().await;
    assert!(rest.starts_with("data: {\"error\":{") && rest.contains("the disk is gone"), "{rest}");
    assert!(!rest.contains("DONE"), "{rest}");
    // The next one is told at once, with a status.
    let a = s.post(CHAT, body).await.answer().await;
    assert_eq!((a.status, a.header("retry-after").is_some()), (500, true), "{}", a.body);
}

#[tokio::test]
async fn a_whole_answer_waits_for_its_model() {
    let s = server().await;
    let c = s.post(TEXT, r#"{"model":"slow","prompt":"y"}"#).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    s.control.load(100, true);
    let a = c.answer().await;
    assert_eq!((a.status, &a.json()["choices"][0]["text"]), (200, &json!("z")));
}

#[tokio::test]
async fn a_load_outlives_the_client_that_wanted_it() {
    let s = server().await;
    let mut c = s.post(TEXT, r#"{"model":"slow","prompt":"y","stream":true}"#).await;
    assert_eq!(c.head().await.status, 200);
    drop(c);
    s.control.load(100, true);
    s.registry.lease("slow").await.expect("is loaded");
}

#[tokio::test]
async fn silence_is_broken_by_comments() {
    let s = server().await;
    s.control.allow(1);
    let mut c = s.post(TEXT, r#"{"model":"m","prompt":"y","stream":true}"#).await;
    assert_eq!(c.head().await.status, 200);
    assert!(c.chunk().await.contains("\"text\":\"z\""));
    assert_eq!(c.chunk().await, ": waiting\n\n");
    s.control.free();
    frames(&c.rest().await);
}
