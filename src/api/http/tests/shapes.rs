//! Answers that are no streams.

use serde_json::{Value, json};

use super::fixture::{Answer, Server, server};

async fn text(s: &Server, fields: &str) -> Answer {
    let a = s.post("/v1/completions", &format!("{{\"model\":\"m\",{fields}}}")).await.answer().await;
    assert_eq!(a.status, 200, "{}", a.body);
    a
}

async fn chat(s: &Server, fields: &str) -> Answer {
    let body = format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":\"w\"}}]{fields}}}");
    let a = s.post("/v1/chat/completions", &body).await.answer().await;
    assert_eq!(a.status, 200, "{}", a.body);
    a
}

fn texts(v: &Value) -> Vec<(u64, String, String)> {
    let choices = v["choices"].as_array().expect("choices");
    let s = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    choices.iter().map(|c| (c["index"].as_u64().expect("index"), s(&c["text"]), s(&c["finish_reason"]))).collect()
}

#[tokio::test]
async fn a_chat() {
    let s = server().await;
    let a = chat(&s, "").await;
    assert_eq!(a.header("x-rocmforge-device"), Some("cpu avx2"));
    assert!(a.header("x-rocmforge-ignored").is_none());
    let v = a.json();
    assert_eq!((&v["object"], &v["model"]), (&json!("chat.completion"), &json!("m")));
    assert_eq!(
        v["choices"],
        json!([{"index":0,"message":{"role":"assistant","content":"xyz","refusal":null},"logprobs":null,"finish_reason":"stop"}])
    );
    assert_eq!(
        v["usage"],
        json!({"prompt_tokens":1,"completion_tokens":4,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}})
    );
    assert_eq!(v["timings"]["predicted_n"], 4);
}

#[tokio::test]
async fn what_has_no_effect_is_told() {
    let s = server().await;
    let a =
        chat(&s, r#","user":"u","metadata":{},"store":true,"service_tier":"auto","zzz":[1],"a\nb":1,"x":null"#).await;
    assert_eq!(a.header("x-rocmforge-ignored"), Some("user,metadata,store,service_tier,zzz"));
}

#[tokio::test]
async fn ends_for_every_reason() {
    let s = server().await;
    let row = async |fields: &str| {
        let v = text(&s, fields).await.json();
        let (_, text, reason) = texts(&v).remove(0);
        (text, reason, v["usage"]["completion_tokens"].as_u64().expect("a number"))
    };
    let end = |a: &str, b: &str, n| (a.to_owned(), b.to_owned(), n);
    assert_eq!(row(r#""prompt":"w""#).await, end("xyz", "stop", 4));
    assert_eq!(row(r#""prompt":"w","max_tokens":2"#).await, end("xy", "length", 2));
    assert_eq!(row(r#""prompt":"a","stop":["ef","q"]"#).await, end("bcd", "stop", 5));
    assert_eq!(row(r#""prompt":"a","stop":"e""#).await, end("bcd", "stop", 4));
    // To the context's end: 200 tokens with the prompt.
    let (all, reason, n) = row(r#""prompt":"0""#).await;
    assert_eq!((all.len(), reason.as_str(), n), (199, "length", 199));
}

#[tokio::test]
async fn prompts_of_every_form() {
    let s = server().await;
    let of = async |fields: &str| texts(&text(&s, fields).await.json());
    let end = |i, t: &str| (i, t.to_owned(), "stop".to_owned());
    assert_eq!(of(r#""prompt":["x","y"]"#).await, [end(0, "yz"), end(1, "z")]);
    assert_eq!(of(r#""prompt":[119,120]"#).await, [end(0, "yz")]);
    assert_eq!(of(r#""prompt":[[120],[121]],"n":2"#).await, [end(0, "yz"), end(1, "yz"), end(2, "z"), end(3, "z")]);
    assert_eq!(of(r#""prompt":"x","echo":true"#).await, [end(0, "xyz")]);
    let v = text(&s, r#""prompt":["x","y"],"n":2"#).await.json();
    assert_eq!((&v["usage"]["prompt_tokens"], &v["usage"]["completion_tokens"]), (&json!(2), &json!(10)));
}

#[tokio::test]
async fn choices_share_the_prompt_in_the_cache() {
    let s = server().await;
    let prompt = "k".repeat(99) + "w";
    let v = text(&s, &format!(r#""prompt":"{prompt}","n":3"#)).await.json();
    assert_eq!(texts(&v).len(), 3);
    assert_eq!(v["usage"]["prompt_tokens"], 100);
    // 3 full blocks of 32 tokens, twice.
    assert_eq!(v["timings"]["cache_n"], 192, "{v}");
    let again = text(&s, &format!(r#""prompt":"{prompt}""#)).await.json();
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 96);
    let never = text(&s, &format!(r#""prompt":"{prompt}","cache_prompt":false"#)).await.json();
    assert_eq!(never["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn logprobs_of_chats_are_objects() {
    let s = server().await;
    let v = chat(&s, r#","logprobs":true,"top_logprobs":2,"max_tokens":1"#).await.json();
    let content = v["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert_eq!(content.len(), 1);
    let (e, best) = (&content[0], -(1.0 + (-4f64).exp()).ln());
    assert_eq!((&e["token"], &e["bytes"]), (&json!("x"), &json!([120])));
    assert!((e["logprob"].as_f64().expect("a number") - best).abs() < 1e-5, "{e}");
    let top = e["top_logprobs"].as_array().expect("a list");
    assert_eq!((&top[0]["token"], &top[1]["token"], top.len()), (&json!("x"), &json!("!"), 2));
    assert!((top[1]["logprob"].as_f64().expect("a number") - (best - 4.0)).abs() < 1e-5, "{e}");
    let v = chat(&s, r#","logprobs":true"#).await.json();
    let content = v["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    assert_eq!(content.len(), 3, "the end-of-generation token has no entry");
    assert_eq!(content[0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn logprobs_of_completions_are_lists() {
    let s = server().await;
    let v = text(&s, r##""prompt":"#","logprobs":1,"stop":"z""##).await.json();
    let l = &v["choices"][0]["logprobs"];
    assert_eq!(v["choices"][0]["text"], "éy");
    assert_eq!(l["tokens"], json!(["bytes:\\xc3", "bytes:\\xa9", "y"]), "the stop string has no entry");
    assert_eq!(l["text_offset"], json!([0, 1, 1]));
    assert_eq!(l["token_logprobs"].as_array().map(Vec::len), Some(3));
    assert!(l["top_logprobs"][2].as_object().is_some_and(|o| o.len() == 1 && o.contains_key("y")));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_and_choices_differ() {
    let s = server().await;
    // Without filters `!` comes up now and then, and ends the text.
    let of = async |seed: i64| {
        let f = format!(
            r#""prompt":"0","seed":{seed},"temperature":2,"max_tokens":30,"n":4,"top_p":1,"top_k":0,"min_p":0"#
        );
        let a = text(&s, &f).await;
        assert_eq!(a.header("x-rocmforge-seed"), Some(seed.to_string().as_str()));
        texts(&a.json()).into_iter().map(|(_, t, _)| t).collect::<Vec<_>>()
    };
    let (a, b) = (of(7).await, of(7).await);
    assert_eq!(a, b);
    assert!(a.iter().any(|t| *t != a[0]), "{a:?}");
}

#[tokio::test]
async fn models_have_state_and_meta() {
    let s = server().await;
    let v = s.get("/v1/models").await.json();
    assert_eq!((&v["object"], v["data"].as_array().map(Vec::len)), (&json!("list"), Some(4)));
    let m = s.get("/v1/models/M").await.json();
    assert_eq!(m, v["data"][2]);
    assert_eq!((&m["id"], &m["object"], &m["state"]), (&json!("m"), &json!("model"), &json!("ready")));
    assert_eq!(m["meta"], json!({"n_ctx_train":100,"n_params":50,"size":1000,"n_vocab":257}));
    assert!(m["created"].as_u64().is_some_and(|t| t > 1_000_000_000), "{m}");
    assert_eq!(s.get("/v1/models/slow").await.json()["state"], "loading");
}

#[tokio::test]
async fn tokens_and_back() {
    let s = server().await;
    let post = async |path: &str, body: &str| s.post(path, body).await.answer().await.json();
    assert_eq!(post("/tokenize", r#"{"content":"ab"}"#).await, json!({"tokens":[97,98]}));
    assert_eq!(
        post("/tokenize", r#"{"content":"é","with_pieces":true,"model":"m"}"#).await,
        json!({"tokens":[{"id":195,"piece":[195]},{"id":169,"piece":[169]}]})
    );
    assert_eq!(post("/detokenize", r#"{"tokens":[104,105]}"#).await, json!({"content":"hi"}));
    assert_eq!(post("/detokenize", r#"{"tokens":[999]}"#).await["error"]["param"], "tokens");
    assert_eq!(post("/tokenize", r#"{"content":5}"#).await["error"]["param"], "content");
}

#[tokio::test]
async fn request_ids_come_back() {
    let s = server().await;
    let of = async |id: &str| {
        let request = format!("GET /live HTTP/1.1\r\nhost: x\r\nx-request-id: {id}\r\n\r\n");
        let a = s.raw(request.as_bytes()).await.answer().await;
        a.header("x-request-id").expect("always there").to_owned()
    };
    assert_eq!(of("abc-1").await, "abc-1");
    assert!(of("a b").await.starts_with("req-"));
}

#[tokio::test]
async fn health_is_told_apart() {
    let s = server().await;
    assert_eq!((s.get("/health").await.status, s.get("/live").await.status), (200, 200));
    let ready = s.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["missing"], json!(["slow is loading", "gone is not in the catalog"]));
}

#[tokio::test]
async fn metrics_count() {
    let s = server().await;
    chat(&s, "").await;
    s.post("/v1/chat/completions", "{}").await.answer().await;
    s.get("/no/such/path").await;
    let m = s.get("/metrics").await;
    assert!(m.header("content-type").is_some_and(|t| t.starts_with("text/plain; version=0.0.4")));
    for line in [
        r#"rocmforge_requests_total{endpoint="/v1/chat/completions",model="m",status="200"} 1"#,
        r#"rocmforge_requests_total{endpoint="/v1/chat/completions",model="",status="400"} 1"#,
        r#"rocmforge_requests_total{endpoint="other",model="",status="404"} 1"#,
        r#"rocmforge_requests_in_flight{endpoint="/v1/chat/completions"} 0"#,
        r#"rocmforge_tokens_total{kind="completion",model="m"} 4"#,
        r#"rocmforge_tokens_total{kind="prompt",model="m"} 1"#,
        r#"rocmforge_ttft_seconds_count{model="m"} 1"#,
        r#"rocmforge_inter_token_seconds_count{model="m"} 2"#,
        r#"rocmforge_queue_seconds_count{model="m"} 1"#,
        r#"rocmforge_memory_budget_bytes{device="cpu"} 10000"#,
        r#"rocmforge_memory_reserved_bytes{device="cpu",kind="weights",model="slow"} 1000"#,
        r#"rocmforge_model_state{model="m",state="ready"} 1"#,
        r#"rocmforge_engine_requests{model="m",state="running"} 0"#,
    ] {
        assert!(m.body.lines().any(|l| l == line), "{line} is not in\n{}", m.body);
    }
}
