//! The admin routes, called as the socket calls them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use rocmforge::api::admin::{Admin, PeerUid, router};
use rocmforge::proto::admin::Reloaded;
use rocmforge::proto::selftest::SelfTest;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{MIB, start, tiny};

struct Client {
    router: axum::Router,
    _dir: tempfile::TempDir,
}

impl Client {
    fn new(names: &[&str], budget: u64) -> Self {
        let dir = tiny(names);
        let (_, registry) = start(dir.path(), budget);
        let stopping = registry.clone();
        let admin = Admin {
            registry,
            threads: 2,
            config: Box::new(|| json!({ "models.autoload": true })),
            reload: Box::new(|uid| {
                assert_eq!(uid, Some(1234));
                Box::pin(async { Ok(Reloaded { needs_restart: vec!["http.listen".to_owned()] }) })
            }),
            selftest: Box::new(|uid| {
                assert_eq!(uid, Some(1234));
                Box::pin(async { Ok(vec![SelfTest { device: "gpu0".to_owned(), kernels: 3, ..SelfTest::default() }]) })
            }),
            drain: Box::new(move |uid| {
                let registry = stopping.clone();
                Box::pin(async move { registry.drain(Duration::from_secs(5), uid).await.expect("drained") })
            }),
        };
        Self { router: router(Arc::new(admin)), _dir: dir }
    }

    async fn text(&self, method: &str, path: &str, body: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/admin/v1{path}"))
            .extension(PeerUid(Some(1234)))
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("answers");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.text(method, path, &body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}")))
    }

    async fn lines(&self, method: &str, path: &str, body: Value) -> Vec<Value> {
        let (status, text) = self.text(method, path, &body.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_from_load_to_evict() {
    let c = Client::new(&["llama-gqa", "qwen3"], 4096 * MIB);
    let (_, models) = c.call("GET", "/models", Value::Null).await;
    let ids: Vec<_> = models.as_array().expect("a list").iter().map(|m| (&m["id"], &m["state"])).collect();
    assert_eq!(ids, [(&json!("llama-gqa"), &json!("absent")), (&json!("qwen3"), &json!("absent"))]);

    let events = c.lines("POST", "/models/load", json!({ "model": "LLAMA-gqa", "name": "my", "pin": true })).await;
    let phases: Vec<_> = events.iter().filter(|e| e["event"] == "phase").map(|e| e["phase"].clone()).collect();
    assert_eq!(phases, ["queued", "map", "plan", "read", "warmup"]);
    let last = events.last().expect("one");
    assert_eq!(
        (&last["event"], &last["model"]["state"], &last["model"]["pinned"]),
        (&json!("ready"), &json!("ready"), &json!(true))
    );
    assert_eq!(last["model"]["aliases"], json!(["my"]));
    assert!(last["model"]["bytes"]["cache"].as_u64() > Some(0));

    let (_, show) = c.call("GET", "/models/my", Value::Null).await;
    assert_eq!((&show["architecture"], &show["id"]), (&json!("llama"), &json!("llama-gqa")));
    assert!(show["hparams"].as_array().is_some_and(|h| !h.is_empty()), "{show}");
    assert!(!show["tokenizer"].as_str().unwrap_or_default().is_empty());
    let (_, show) = c.call("GET", "/models/qwen3", Value::Null).await;
    assert_eq!(
        (&show["architecture"], &show["state"]),
        (&json!("qwen3"), &json!("absent")),
        "looked at without loading"
    );

    let (_, status) = c.call("GET", "/status", Value::Null).await;
    assert_eq!((&status["state"], status["models"].as_array().map(Vec::len)), (&json!("running"), Some(1)));
    assert!(status["private_bytes"].as_u64() > Some(MIB));
    let (_, devices) = c.call("GET", "/devices", Value::Null).await;
    assert_eq!(devices[0]["ledger"].as_array().map(Vec::len), Some(4), "{devices}");
    let (_, bench) = c.call("POST", "/bench", json!({ "model": "my", "n_prompt": 16, "n_gen": 4 })).await;
    assert_eq!((&bench["runs"][0]["test"], &bench["runs"][1]["test"]), (&json!("pp16"), &json!("tg4")), "{bench}");
    assert!(bench["runs"][0]["rates"][0].as_f64() > Some(0.0));
    let (_, stats) = c.call("GET", "/stats", Value::Null).await;
    assert!(stats[0]["prefill_tokens"].as_u64() >= Some(16), "{stats}");
    assert_eq!(c.call("GET", "/requests", Value::Null).await.1, json!([]));

    let (status, evicted) = c.call("POST", "/models/my/evict", Value::Null).await;
    assert_eq!((status, &evicted["id"]), (StatusCode::OK, &json!("llama-gqa")));
    assert!(evicted["ledger_freed"].as_u64() > Some(0));
    let (_, why) = c.call("GET", "/why?model=my", Value::Null).await;
    let asked = why
        .as_array()
        .expect("a list")
        .iter()
        .filter(|d| d["uid"] == 1234)
        .map(|d| d["kind"].as_str().unwrap_or_default());
    assert_eq!(asked.collect::<Vec<_>>(), ["load", "pin", "load", "evict"], "every change has its uid: {why}");
    assert!(c.lines("GET", "/events", Value::Null).await.len() > 5);
    assert_eq!(c.call("GET", "/config", Value::Null).await.1["models.autoload"], true);
    let (status, tested) = c.call("POST", "/selftest", Value::Null).await;
    assert_eq!((status, &tested[0]["device"], &tested[0]["kernels"]), (StatusCode::OK, &json!("gpu0"), &json!(3)));
    let (status, reloaded) = c.call("POST", "/reload", Value::Null).await;
    assert_eq!((status, &reloaded["needs_restart"]), (StatusCode::OK, &json!(["http.listen"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_has_its_status_and_code() {
    let c = Client::new(&["llama-gqa", "qwen3"], 1000);
    for (method, path, body, status, code) in [
        ("GET", "/models/qwen", Value::Null, 404, "model_not_found"),
        ("POST", "/models/load", json!({ "model": "/nowhere/x.gguf" }), 404, "file_not_found"),
        ("POST", "/models/load", json!({ "model": "qwen3", "contxt": 5 }), 400, "invalid_request"),
        ("POST", "/models/load", json!({ "model": "qwen3", "device": "tpu" }), 400, "invalid_request"),
        ("POST", "/models/qwen3/evict", Value::Null, 409, "not_loaded"),
        ("POST", "/models/nothing/pin", Value::Null, 404, "model_not_found"),
        ("DELETE", "/requests/x", Value::Null, 404, "request_not_found"),
        ("POST", "/bench", json!({ "model": "qwen3", "n_prompt": 0, "n_gen": 0 }), 400, "invalid_request"),
        ("POST", "/bench", json!({ "model": "qwen3", "n_prompt": 8, "n_gen": 8 }), 507, "insufficient_memory"),
        ("GET", "/nothing", Value::Null, 404, "unknown_url"),
        ("GET", "/drain", Value::Null, 405, "method_not_allowed"),
    ] {
        let (got, answer) = c.call(method, path, body).await;
        assert_eq!((got.as_u16(), answer["error"]["code"].as_str()), (status, Some(code)), "{method} {path}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.len() > 10), "{answer}");
    }
    let events = c.lines("POST", "/models/load", json!({ "model": "qwen3" })).await;
    let error = &events.last().expect("one")["error"];
    assert_eq!(error["code"], "insufficient_memory");
    assert_eq!(error["detail"]["budget"], 1000);
    assert!(error["detail"]["needed"].as_u64() > Some(1000), "{error}");
    assert!(error["message"].as_str().is_some_and(|m| m.contains("Raise the memory budget")), "{error}");
    let (_, nearest) = c.call("GET", "/models/qwen", Value::Null).await;
    assert_eq!(nearest["error"]["detail"]["nearest"], json!(["qwen3"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_refuses_what_is_new() {
    let c = Client::new(&["llama-gqa"], 4096 * MIB);
    c.lines("POST", "/models/load", json!({ "model": "llama-gqa" })).await;
    assert_eq!(c.call("POST", "/drain", Value::Null).await.0, StatusCode::OK);
    let (status, answer) = c.call("POST", "/models/load", json!({ "model": "llama-gqa" })).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &json!("draining")));
    assert_eq!(c.call("GET", "/status", Value::Null).await.1["state"], "draining");
}
