//! The registry with real files and real engines: loads, swaps, failures, and what memory comes
//! back; and the admin socket's routes on top of it.

mod admin;
mod real;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rocmforge::backend::cpu::CpuPool;
use rocmforge::engine::message::{Event, Finish, Generate, Sampling};
use rocmforge::policy::placement::SiteKind;
use rocmforge::pool::budget::Budget;
use rocmforge::proto::admin::{LoadRequest, ModelState};
use rocmforge::registry::load::{LoadOptions, ModelLoader, Target};
use rocmforge::registry::{Handle, Lease, Options, Registry, Site};
use rocmforge::simd::Tier;
use rocmforge::telemetry::events::DecisionLog;

const MIB: u64 = 1 << 20;

/// Where fetch.py and make_tiny.py put models.
fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("ROCMFORGE_TEST_MODELS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.expect("HOME is set").join("rocmforge/test-models")
    })
}

/// A folder with copies of tiny models.
fn tiny(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in names {
        let from = folder().join("tiny").join(format!("{name}.gguf"));
        assert!(from.exists(), "{} is not there: run tests/models/make_tiny.py", from.display());
        std::fs::copy(from, dir.path().join(format!("{name}.gguf"))).expect("copied");
    }
    dir
}

/// A registry over `dir` with a budget.
fn start(dir: &Path, budget: u64) -> (Arc<Budget>, Handle) {
    let budget = Budget::new(budget);
    let mut options = Options::new(vec![Site {
        id: "cpu".to_owned(),
        name: "cpu avx2".to_owned(),
        kind: SiteKind::Cpu,
        description: "this machine".to_owned(),
        pci: None,
        budget: Arc::clone(&budget),
        most: None,
        bandwidth: None,
        reason: "no GPU is used in tests".to_owned(),
        unusable: None,
        condition: None,
    }]);
    options.dirs = vec![dir.to_owned()];
    options.retry_after = Duration::from_millis(1500);
    let loader = Arc::new(ModelLoader::new(vec![Target::Cpu(CpuPool::new(2, Tier::detect()))], LoadOptions::default()));
    (Arc::clone(&budget), Registry::start(options, loader, Arc::new(DecisionLog::new())))
}

fn request(prompt: Vec<u32>, n: u32) -> Generate {
    Generate {
        id: "test".to_owned(),
        prompt,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(n),
        stop: Vec::new(),
        logprobs: None,
        ignore_eos: true,
        cache_prompt: true,
    }
}

/// Generates; the ids and the end, or why it failed.
async fn generate(lease: &Lease, prompt: Vec<u32>, n: u32) -> Result<(Vec<u32>, Finish), String> {
    let mut events = lease.model.engine.submit(request(prompt, n)).map_err(|e| e.to_string())?;
    let mut ids = Vec::new();
    loop {
        match events.recv().await {
            Some(Event::Token(t)) => ids.push(t.id),
            Some(Event::Finished(f)) => return Ok((ids, f)),
            Some(Event::Failed(e)) => return Err(e.to_string()),
            Some(Event::Started { .. }) => {}
            None => return Err("the engine is silent".to_owned()),
        }
    }
}

async fn state(registry: &Handle, id: &str) -> ModelState {
    registry.show(id).await.expect("is known").model.state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_room_for_one_alternating_requests_swap_and_none_fails() {
    let dir = tiny(&["llama-gqa", "qwen3"]);
    let (budget, registry) = start(dir.path(), 0);
    // Room for the larger one and a little.
    let mut most = 0;
    for id in ["llama-gqa", "qwen3"] {
        budget.resize(1 << 40);
        let lease = registry.lease(id).await.expect("loads");
        most = most.max(budget.used());
        drop(lease);
        registry.evict(id, false, None).await.expect("is loaded");
        assert_eq!(budget.used(), 0);
    }
    budget.resize(most + most / 4);
    let expected = |id: &str| vec![u32::from(id == "qwen3") + 5, 17, 30];
    let alone = generate(&registry.lease("qwen3").await.expect("loads"), expected("qwen3"), 8).await.expect("runs").0;
    let clients: Vec<_> = (0..4)
        .map(|i| {
            let registry = registry.clone();
            let alone = alone.clone();
            tokio::spawn(async move {
                for j in 0..4 {
                    let id = if (i + j) % 2 == 0 { "llama-gqa" } else { "qwen3" };
                    let lease = registry.lease(id).await.expect("a lease");
                    let (ids, _) = generate(&lease, expected(id), 8).await.expect("no failed request");
                    assert!(id != "qwen3" || ids == alone, "the same answer after every swap");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    let swaps = registry.log().recent(None).iter().filter(|d| d.message.contains("is ready on")).count() - 2;
    assert!((2..=8).contains(&swaps), "{swaps} loads for 16 alternating requests");
    assert!(budget.used() <= budget.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_truncated_in_place_fails_its_model_alone_and_a_good_one_comes_back() {
    let dir = tiny(&["llama-gqa", "qwen3"]);
    let (budget, registry) = start(dir.path(), 4096 * MIB);
    let path = dir.path().join("llama-gqa.gguf");
    let whole = std::fs::read(&path).expect("read");
    let (broken, fine) =
        (registry.lease("llama-gqa").await.expect("loads"), registry.lease("qwen3").await.expect("loads"));
    let file = std::fs::File::options().write(true).open(&path).expect("opened");
    file.set_len(8192).expect("truncated");
    let error = generate(&broken, vec![5, 6, 7], 4).await.expect_err("its weights are gone");
    assert!(error.contains("changed on disk"), "{error}");
    generate(&fine, vec![5, 6, 7], 4).await.expect("the other goes on");
    drop(broken);
    let refused = registry.lease("llama-gqa").await.expect_err("has failed");
    assert!(refused.to_string().contains("changed on disk"), "{refused}");
    assert_eq!(state(&registry, "qwen3").await, ModelState::Ready);
    // Not tried again at once; and what it held comes back.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if budget.held_by("llama-gqa") == 0 {
            break;
        }
    }
    assert_eq!(budget.held_by("llama-gqa"), 0);
    let new = dir.path().join("new");
    std::fs::write(&new, whole).expect("written");
    std::fs::rename(&new, &path).expect("renamed");
    tokio::time::sleep(Duration::from_millis(1600)).await;
    let lease = registry.lease("llama-gqa").await.expect("a whole file loads again");
    generate(&lease, vec![5, 6, 7], 4).await.expect("and runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_anywhere_is_refused_with_a_reason_and_leaves_nothing_behind() {
    let dir = tiny(&["llama-gqa", "qwen3"]);
    let path = dir.path().join("llama-gqa.gguf");
    let whole = std::fs::read(&path).expect("read");
    let (budget, registry) = start(dir.path(), 4096 * MIB);
    let fine = registry.lease("qwen3").await.expect("loads");
    let used = budget.used();
    for cut in [0, 3, 4, 23, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).expect("written");
        let request = LoadRequest { model: path.to_string_lossy().into_owned(), ..LoadRequest::default() };
        let loading = registry.load(request, None).await.expect("begins");
        let error = loading.ready().await.expect_err("is cut off");
        assert!(error.to_string().len() > 30, "cut at {cut}: {error}");
        assert_eq!(state(&registry, "llama-gqa").await, ModelState::Failed);
        assert_eq!(budget.used(), used);
    }
    generate(&fine, vec![5, 6, 7], 4).await.expect("the other goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evict_waits_for_a_running_request_and_now_cancels_it() {
    let dir = tiny(&["llama-gqa"]);
    let (budget, registry) = start(dir.path(), 4096 * MIB);
    for now in [false, true] {
        let lease = registry.lease("llama-gqa").await.expect("loads");
        let context = lease.model.context;
        let n = if now { context - 10 } else { 40 };
        let running = tokio::spawn(async move { generate(&lease, vec![5, 6, 7], n).await });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let evicted = registry.evict("llama-gqa", now, Some(1)).await.expect("is loaded");
        let outcome = running.await.expect("no panic");
        assert!(evicted.ledger_freed > 0 && budget.used() == 0);
        if !now {
            assert_eq!(outcome.expect("was not aborted").0.len(), 40);
        }
    }
}
