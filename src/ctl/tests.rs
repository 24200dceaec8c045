//! Every verb against an admin server that answers from memory, on a real Unix socket.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, body::Body};

use super::*;
use crate::proto::admin::{
    AdminError, BenchResult, BenchRun, Device, Evicted, LedgerEntry, LoadEvent, ModelBytes, ModelDetail, ModelState,
    Outcome, Phase, PlanRequest, Planned, PlannedShare, RequestInfo, Status,
};
use crate::proto::selftest::{KernelFailure, SelfTest};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("alone").extend_from_slice(b);
        Ok(b.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("alone").clone()).expect("text")
    }
}

/// What a run of `forgectl` left.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

async fn forgectl(socket: &std::path::Path, line: &[&str]) -> Ran {
    let cli = Cli::try_parse_from(["forgectl"].iter().chain(line)).expect("parsed");
    let (o, e) = (Sink::default(), Sink::default());
    let mut out = Output::to(cli.json, o.clone(), e.clone());
    let build = Build { targets: &["gfx1100", "gfx1036"], absent: None };
    let result = within(&cli, &Client::new(socket.to_owned()), build, &mut out).await;
    let err = result.as_ref().err().map_or(String::new(), |e| format!("forgectl: {e}"));
    Ran { code: result.err().map_or(0, |e| e.exit_code()), out: o.text(), err: e.text() + &err }
}

fn model(id: &str, state: ModelState) -> Model {
    Model {
        id: id.to_owned(),
        aliases: Vec::new(),
        path: format!("/m/{id}.gguf"),
        state,
        reason: None,
        file_bytes: 1_117_320_768,
        architecture: Some("qwen2".into()),
        n_params: Some(1_543_714_304),
        quantization: Some("Q4_K".into()),
        n_ctx_train: Some(32_768),
        n_vocab: Some(151_936),
        device: Some("cpu avx512".into()),
        device_reason: None,
        context: Some(32_768),
        bytes: Some(ModelBytes { weights: 1 << 30, cache: 1 << 28, activations: 1 << 20, tables: 1 << 20 }),
        shares: Vec::new(),
        pinned: false,
        leases: 2,
        last_use: None,
    }
}

fn detail(id: &str) -> Response {
    let (state, template) = match id {
        "qwen" => (ModelState::Ready, "tokenizer.chat_template"),
        "base" => (ModelState::Ready, "chatml (the model has none)"),
        "cold" => (ModelState::Absent, "tokenizer.chat_template"),
        _ => return refuse(StatusCode::NOT_FOUND, "model_not_found", "no model `qwem`; did you mean `qwen`?"),
    };
    Json(ModelDetail {
        model: model(id, state),
        hparams: vec![("layers".into(), "28".into())],
        tensor_types: vec![("Q4_K".into(), 196, 1 << 29)],
        ignored_tensors: vec!["rope_freqs.weight".into()],
        tokenizer: "gpt2, pre qwen2".into(),
        chat_template: template.into(),
        notes: Vec::new(),
        plan: (state != ModelState::Ready).then(|| planned(id)),
    })
    .into_response()
}

fn planned(id: &str) -> Planned {
    Planned {
        id: id.to_owned(),
        outcome: Outcome::Evicts,
        reason: "it fits".into(),
        device: Some("gpu gfx1100".into()),
        shares: vec![PlannedShare {
            device: "gpu0".into(),
            bytes: ModelBytes { weights: 1 << 30, cache: 1 << 30, ..ModelBytes::default() },
            free: 1 << 20,
        }],
        evicts: vec!["old".into()],
        load_s: 1.5,
    }
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let error = AdminError { code: code.into(), message: message.into(), detail: Value::Null };
    (status, Json(json!({ "error": error }))).into_response()
}

fn load(request: &Value) -> Response {
    let phase = |phase| LoadEvent::Phase { phase };
    let progress = LoadEvent::Progress { phase: Phase::Read, done: 5, total: 10, rate: 5.0, eta_s: 1.0 };
    let last = match request["model"].as_str() {
        Some("big") => LoadEvent::Error {
            error: AdminError {
                code: "insufficient_memory".into(),
                message: "64 GiB are needed, 8 GiB are free".into(),
                detail: json!({"needed": 1}),
            },
        },
        Some("hang") => return Body::from_stream(tokio_stream::pending::<io::Result<bytes::Bytes>>()).into_response(),
        id => LoadEvent::Ready { model: Box::new(model(id.unwrap_or_default(), ModelState::Ready)) },
    };
    let lines = [phase(Phase::Map), phase(Phase::Read), progress, last];
    lines.iter().map(|e| serde_json::to_string(e).expect("written") + "\n").collect::<String>().into_response()
}

fn sse(chunks: &[Value]) -> Response {
    let text: String = chunks.iter().map(|c| format!("data: {c}\n\n")).collect();
    format!(": loading 43% eta 6s\n\n{text}data: [DONE]\n\n").into_response()
}

fn chat(request: &Value) -> Response {
    let words = request["messages"].as_array().expect("messages").len();
    sse(&[
        json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
        json!({"choices": [{"delta": {"content": "Rome"}}]}),
        json!({"choices": [{"delta": {"content": " it is"}, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": 3}}),
    ])
}

fn router() -> Router {
    let decisions = "{\"time\":0,\"kind\":\"load\",\"model\":\"qwen\",\"message\":\"qwen is ready\",\"uid\":5}\n\n\
                     {\"time\":1.5,\"kind\":\"evict\",\"message\":\"idle\"}\n";
    let mut failed = model("broken", ModelState::Failed);
    failed.reason = Some("tensor `x` is missing".into());
    let status = Status {
        version: "0.1.0".into(),
        pid: 7,
        uptime_s: 61.0,
        state: "running".into(),
        listen: vec!["127.0.0.1:11535".into()],
        device: "cpu avx512: no /dev/kfd".into(),
        devices: vec![device()],
        models: vec![model("qwen", ModelState::Ready), failed.clone()],
        private_bytes: 300 << 20,
    };
    let evicted = |id: String, now: bool| Evicted {
        id,
        private_before: 400 << 20,
        private_after: 100 << 20,
        device_freed: 0,
        ledger_freed: if now { 2 << 30 } else { 1 << 30 },
    };
    let stats = ModelStats { id: "qwen".into(), running: 2, decode_rate: 23.45, ..ModelStats::default() };
    let bench = BenchResult {
        model: "qwen".into(),
        device: "cpu avx512".into(),
        threads: 2,
        version: "0.1.0".into(),
        runs: vec![BenchRun { test: "pp512".into(), rates: vec![99.0, 101.0] }],
    };
    let request = RequestInfo {
        id: "r1".into(),
        model: "qwen".into(),
        state: "decode".into(),
        prompt_tokens: 10,
        completion_tokens: 20,
        age_s: 3.0,
    };
    let pin = |pinned| async move |Path(id): Path<String>| Json(Model { pinned, ..model(&id, ModelState::Ready) });
    let all = vec![model("qwen", ModelState::Ready), model("odd name/x", ModelState::Absent), failed];
    Router::new()
        .route("/admin/v1/status", get(async || Json(status)))
        .route("/admin/v1/models", get(async || Json(all)))
        .route(
            "/admin/v1/plan",
            post(async |Json(r): Json<PlanRequest>| Json(r.models.iter().map(|id| planned(id)).collect::<Vec<_>>())),
        )
        .route("/admin/v1/models/load", post(async |Json(r): Json<Value>| load(&r)))
        .route("/admin/v1/models/{id}", get(async |Path(id): Path<String>| detail(&id)))
        .route(
            "/admin/v1/models/{id}/evict",
            post(async move |Path(id): Path<String>, Json(r): Json<EvictRequest>| Json(evicted(id, r.now))),
        )
        .route("/admin/v1/models/{id}/pin", post(pin(true)))
        .route("/admin/v1/models/{id}/unpin", post(pin(false)))
        .route("/admin/v1/stats", get(async || Json(vec![stats])))
        .route("/admin/v1/devices", get(async || Json(devices())))
        .route("/admin/v1/config", get(async || Json(json!({"device.use": {"value": "auto", "origin": "default"}}))))
        .route("/admin/v1/requests", get(async || Json(vec![request])))
        .route("/admin/v1/requests/{id}", delete(async || StatusCode::NO_CONTENT))
        .route("/admin/v1/events", get(async move || decisions))
        .route(
            "/admin/v1/why",
            get(async move |r: Request| {
                Json(json!([{"time": 0, "kind": "why", "message": r.uri().query().unwrap_or("all")}]))
            }),
        )
        .route("/admin/v1/reload", post(async || Json(Reloaded { needs_restart: vec!["http.listen".into()] })))
        .route("/admin/v1/drain", post(async || refuse(StatusCode::FORBIDDEN, "forbidden", "only for members")))
        .route("/admin/v1/bench", post(async || Json(bench)))
        .route("/admin/v1/selftest", post(async || Json(selftests())))
        .route("/v1/chat/completions", post(async |Json(r): Json<Value>| chat(&r)))
        .route(
            "/v1/completions",
            post(async |Json(r): Json<Value>| {
                sse(&[
                    json!({"choices": [{"text": format!("{} continued\n", r["prompt"].as_str().expect("a prompt"))}]}),
                ])
            }),
        )
}

fn selftests() -> Vec<SelfTest> {
    let tested = |device: &str, failures: Vec<KernelFailure>| SelfTest {
        device: device.into(),
        description: "gpu gfx1100".into(),
        kernels: 222,
        passed: 222 - failures.len() as u32,
        seconds: 0.5,
        failures,
        error: None,
    };
    let wrong = KernelFailure {
        kernel: "gemm_q4_k".into(),
        case: "131 rows".into(),
        expected: "1.5".into(),
        got: "NaN".into(),
        tolerance: "1e-3".into(),
    };
    let died = KernelFailure { kernel: "rope".into(), got: "the GPU worker died".into(), ..KernelFailure::default() };
    vec![tested("gpu0", vec![wrong, died]), tested("gpu1", Vec::new())]
}

fn device() -> Device {
    Device {
        id: "cpu".into(),
        description: "AMD EPYC, 2 cores, avx512".into(),
        pci: None,
        usable: true,
        budget: 8 << 30,
        used: 1 << 30,
        ledger: vec![LedgerEntry { owner: "qwen".into(), kind: "weights".into(), bytes: 1 << 30 }],
        reason: "no /dev/kfd: no AMD GPU driver loaded".into(),
    }
}

/// The processor, a GPU and one that is left alone.
fn devices() -> Vec<Device> {
    let gpu = |id: &str, pci: &str| Device {
        id: id.into(),
        pci: Some(pci.into()),
        description: "Radeon".into(),
        ledger: Vec::new(),
        ..device()
    };
    let aside = Device { usable: false, reason: "integrated".into(), ..gpu("gpu1", "0000:13:00.0") };
    vec![gpu("gpu0", "0000:03:00.0"), aside, device()]
}

/// Serves the router on a socket in a fresh folder.
fn serve() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("admin.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    tokio::spawn(async move { axum::serve(listener, router()).await });
    (dir, path)
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for w in words {
        assert!(text.contains(w), "`{w}` is not in:\n{text}");
    }
}

#[tokio::test]
async fn verbs_print_tables() {
    let (_dir, s) = serve();
    let cases: &[(&[&str], &[&str])] = &[
        (&["status"], &["0.1.0 (running)", "127.0.0.1:11535", "no /dev/kfd", "300 MiB", "1.0 GiB of 8.0 GiB", "qwen"]),
        (&["ls"], &["NAME", "odd name/x", "1.54 B", "Q4_K", "32768", "broken: tensor `x` is missing"]),
        (&["ps"], &["qwen", "ready", "cpu avx512", "1.3 GiB", "never", "failed"]),
        (
            &["show", "qwen"],
            &["architecture", "qwen2", "layers", "28", "196 tensors", "rope_freqs.weight", "gpt2, pre qwen2"],
        ),
        (&["plan", "qwen", "b"], &["FREE BEFORE", "gpu0", "2.0 GiB", "evicts old", "qwen: gpu gfx1100: it fits"]),
        (&["stats"], &["qwen", "23.4"]),
        (&["devices"], &["AMD EPYC", "no AMD GPU driver", "1.0 GiB  qwen weights"]),
        (&["requests"], &["r1", "decode", "20"]),
        (&["cancel", "r1"], &["r1 was cancelled"]),
        (&["pin", "qwen"], &["qwen stays loaded"]),
        (&["unpin", "qwen"], &["qwen may be unloaded"]),
        (&["evict", "qwen"], &["1.0 GiB given back", "400 MiB before, 100 MiB now"]),
        (&["unload", "qwen", "--now"], &["2.0 GiB given back"]),
        (&["events"], &["1970-01-01 00:00:00Z", "qwen is ready (uid 5)", "evict", "idle"]),
        (&["why", "a b"], &["model=a%20b"]),
        (&["reload"], &["need a restart: http.listen"]),
        (&["bench", "qwen"], &["qwen on cpu avx512, 2 threads", "pp512", "100.00", "± 1.41"]),
        (&["load", "qwen", "--ctx", "100"], &["qwen is ready on cpu avx512", "context 32768"]),
        (&["load", "qwen", "--no-wait"], &["is being loaded"]),
    ];
    for (line, words) in cases {
        let ran = forgectl(&s, line).await;
        assert_eq!(ran.code, 0, "{line:?}: {}", ran.err);
        says(&ran.out, words);
    }
    let ps = forgectl(&s, &["ps"]).await.out;
    assert!(!ps.contains("odd name"), "{ps}");
}

#[tokio::test]
async fn json_is_what_the_daemon_said() {
    let (_dir, s) = serve();
    let ran = forgectl(&s, &["ls", "--json"]).await;
    let list: Vec<Model> = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(list.len(), 3);
    let ran = forgectl(&s, &["--json", "load", "qwen"]).await;
    let events: Vec<LoadEvent> = ran.out.lines().map(|l| serde_json::from_str(l).expect("an event")).collect();
    assert!(matches!(events.last(), Some(LoadEvent::Ready { .. })) && events.len() == 4);
    let ran = forgectl(&s, &["events", "--json"]).await;
    assert_eq!(ran.out.lines().count(), 2);
}

#[tokio::test]
async fn a_kernel_that_failed_is_status_1_and_all_devices_are_printed() {
    let (_dir, s) = serve();
    let ran = forgectl(&s, &["selftest"]).await;
    assert_eq!(ran.code, 1);
    let lines: Vec<&str> = ran.out.lines().collect();
    let want = [
        "gpu0 (gpu gfx1100): 222 kernels tested, 220 passed, 0.5 s",
        "  gemm_q4_k: 131 rows: expected 1.5, got NaN, tolerance 1e-3",
        "  rope: the GPU worker died",
        "gpu1 (gpu gfx1100): 222 kernels tested, 222 passed, 0.5 s",
    ];
    assert_eq!(lines, want);
    says(&ran.err, &["2 kernels failed"]);
    let ran = forgectl(&s, &["--json", "selftest"]).await;
    assert_eq!(serde_json::from_str::<Vec<SelfTest>>(&ran.out).expect("JSON"), selftests());
    assert_eq!(ran.code, 1);
}

#[tokio::test]
async fn failures_have_their_exit_codes_and_say_what_to_do() {
    let (dir, s) = serve();
    let ran = forgectl(&s, &["show", "qwem"]).await;
    assert_eq!(ran.code, 5);
    says(&ran.err, &["did you mean `qwen`?"]);
    assert_eq!(forgectl(&s, &["stats", "nobody"]).await.code, 5);
    let ran = forgectl(&s, &["load", "big"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    says(&ran.err, &["64 GiB are needed", "checking the file", "reading"]);
    assert_eq!(forgectl(&s, &["drain"]).await.code, 4);
    let ran = forgectl(&s, &["load", "hang", "--timeout", "1s"]).await;
    assert_eq!(ran.code, 124);
    says(&ran.err, &["1 s"]);
    let ran = forgectl(&dir.path().join("none.sock"), &["status"]).await;
    assert_eq!(ran.code, 3);
    says(&ran.err, &["not running", "systemctl start rocmforged"]);
}

#[tokio::test]
async fn a_daemon_that_restarts_is_waited_for_and_a_dead_one_is_not_for_long() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    let start = std::time::Instant::now();
    let ran = forgectl(&path, &["ls"]).await;
    assert_eq!(ran.code, 3);
    says(&ran.err, &["does not answer"]);
    assert!(start.elapsed().as_secs_f64() > 1.5);
    let again = path.clone();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        std::fs::remove_file(&again).expect("stale");
        let listener = tokio::net::UnixListener::bind(&again).expect("bound");
        axum::serve(listener, router()).await
    });
    let ran = forgectl(&path, &["ls"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[tokio::test]
async fn run_streams_text_to_stdout_and_numbers_to_stderr() {
    let (_dir, s) = serve();
    let ran = forgectl(&s, &["run", "qwen", "What is the capital of Italy?", "--system", "short"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "Rome it is\n"));
    says(&ran.err, &["2 prompt tokens", "3 tokens"]);
    let ran = forgectl(&s, &["run", "base", "Once", "-q"]).await;
    assert_eq!(ran.out, "Once continued\n");
    says(&ran.err, &["no chat template"]);
    assert_eq!(forgectl(&s, &["run", "base", "Once", "--chat", "-q"]).await.out, "Rome it is\n");
    assert_eq!(forgectl(&s, &["run", "qwen", "Once", "--raw", "-q"]).await.out, "Once continued\n");
    let ran = forgectl(&s, &["run", "cold", "x", "-q"]).await;
    says(&ran.err, &["reading"]);
    assert_eq!(ran.out, "Rome it is\n");
    assert_eq!(forgectl(&s, &["run", "qwem", "x"]).await.code, 5);
}

/// A machine with a card, and perhaps a second one and a small integrated GPU.
fn machine(second: bool) -> tempfile::TempDir {
    use crate::probe::fixture::{NAVI31, RAPHAEL, Spec, Tree};
    let library = ("opt/rocm-6.4.1/lib/libamdhip64.so.6", "x");
    let mut tree = Tree::new(&[("dev/kfd", ""), ("sys/module/amdgpu/version", "6.12"), library]).gpu(NAVI31);
    if second {
        tree = tree.gpu(Spec { node: 2, bus: 0x63, minor: 130, ..NAVI31 });
    }
    tree.gpu(Spec { node: 3, ..RAPHAEL }).write()
}

#[tokio::test]
async fn doctor_works_without_the_daemon_and_compares_with_it() {
    let (dir, s) = serve();
    let none = dir.path().join("none.sock");
    let good = machine(false);
    let root = good.path().to_str().expect("text");
    let ran = forgectl(&none, &["doctor", "--root", root]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    says(
        &ran.out,
        &["ok       gpu", "gfx1100 (navi31) at 0000:03:00.0", "not running", "-> sudo systemctl start rocmforged"],
    );
    says(&ran.err, &["no problem found"]);

    let ran = forgectl(&s, &["doctor", "--root", root]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    says(&ran.out, &["is gpu0 of the daemon", "does not use gfx1036 (raphael) at 0000:13:00.0: integrated"]);

    let two = machine(true);
    let root = two.path().to_str().expect("text");
    let ran = forgectl(&s, &["doctor", "--root", root, "--json"]).await;
    assert_eq!(ran.code, 1);
    says(&ran.err, &["1 problem found"]);
    let report: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!((&report["ok"], &report["targets"]), (&json!(false), &json!(["gfx1100", "gfx1036"])));
    assert_eq!(report["gpus"][1]["card"]["address"], "0000:63:00.0");
    assert_eq!(report["devices"].as_array().map(Vec::len), Some(3));
    let findings = report["findings"].as_array().expect("a list");
    let problem = findings.iter().find(|f| f["severity"] == "problem").expect("the second card");
    assert_eq!(problem["check"], "daemon");
    says(
        problem["what"].as_str().expect("text"),
        &["does not use gfx1100 (navi31) at 0000:63:00.0", "no AMD GPU driver"],
    );
    says(problem["fix"].as_str().expect("text"), &["systemctl restart rocmforged"]);
}
