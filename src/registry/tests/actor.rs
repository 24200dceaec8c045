//! The actor with real threads and real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Fake, FakeFile, anywhere, need, options};
use crate::pool::budget::Budget;
use crate::proto::admin::{LoadEvent, LoadRequest, ModelState, Phase};
use crate::registry::loader::{Job, LoadError, Loader, Prepared, Reporter, Source};
use crate::registry::{Acquired, Handle, Registry, RegistryError};
use crate::telemetry::events::DecisionLog;

/// Loads whatever file it is given; its size decides how much it needs.
struct FakeLoader;

impl Loader<Fake> for FakeLoader {
    fn attach(&self, _: Arc<tokio::sync::Notify>) {}

    fn inspect(&self, job: &Job, _: &Reporter) -> Result<Box<dyn Prepared<Fake>>, LoadError> {
        let Source::Path(path) = &job.source else { panic!("no descriptors here") };
        let bytes = std::fs::metadata(path).map_err(|e| LoadError::Invalid(e.to_string()))?.len();
        assert!(!job.id.contains("panics"), "simulated");
        let delay = Duration::from_millis(if job.id.contains("slow") { 300 } else { 0 });
        Ok(Box::new(FakeFile { id: job.id.clone(), needs: anywhere(1, need(bytes)), delay, error: None }))
    }
}

fn start(budget: u64, files: &[(&str, usize)]) -> (tempfile::TempDir, Arc<Budget>, Handle<Fake>) {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        let mut content = b"GGUF".to_vec();
        content.resize(*bytes, 0);
        std::fs::write(dir.path().join(format!("{name}.gguf")), content).expect("a file");
    }
    let budget = Budget::new(budget);
    let mut options = options(&budget);
    options.dirs = vec![dir.path().to_owned()];
    let handle = Registry::start(options, Arc::new(FakeLoader), Arc::new(DecisionLog::new()));
    (dir, budget, handle)
}

fn request(model: &str) -> LoadRequest {
    LoadRequest { model: model.to_owned(), ..LoadRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_tells_its_phases_and_outlives_its_client() {
    let (_dir, budget, registry) = start(10_000, &[("slow", 1000)]);
    let mut loading = registry.load(request("slow"), Some(7)).await.expect("begins");
    let mut second = registry.load(request("SLOW"), None).await.expect("joins");
    assert!(matches!(loading.next().await, Some(LoadEvent::Phase { phase: Phase::Queued })));
    drop(loading);
    let mut events = Vec::new();
    while let Some(event) = second.next().await {
        events.push(event);
    }
    let phases: Vec<Phase> =
        events.iter().filter_map(|e| if let LoadEvent::Phase { phase } = e { Some(*phase) } else { None }).collect();
    assert_eq!(phases, [Phase::Queued, Phase::Map, Phase::Plan]);
    assert!(events.iter().any(|e| matches!(e, LoadEvent::Progress { done, total: 1000, .. } if *done < 1000)));
    let Some(LoadEvent::Ready { model }) = events.pop() else { panic!("{events:?}") };
    assert_eq!((model.state, model.bytes.expect("loaded").weights), (ModelState::Ready, 1000));
    assert_eq!(registry.log().recent(Some("slow"))[0].uid, Some(7));
    let evicted = registry.evict("slow", false, None).await.expect("is loaded");
    assert_eq!((evicted.ledger_freed, budget.used()), (1103, 0));
    assert!(evicted.private_before > 0);
    assert_eq!(registry.evict("slow", false, None).await, Err(RegistryError::NotLoaded { model: "slow".to_owned() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_while_loading_fails_that_model_alone() {
    let (_dir, budget, registry) = start(10_000, &[("panics", 1000), ("fine", 1000)]);
    let e = registry.lease("panics").await.expect_err("fails");
    assert!(e.to_string().contains("loading panicked: simulated"), "{e}");
    let lease = registry.lease("fine").await.expect("loads");
    assert_eq!(lease.model.id, "fine");
    assert_eq!(budget.used(), 1103);
    let states: Vec<_> = registry.list().await.expect("answers").into_iter().map(|m| (m.id, m.state)).collect();
    assert_eq!(states, [("fine".to_owned(), ModelState::Ready), ("panics".to_owned(), ModelState::Failed)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_names_and_replaced_files() {
    let (dir, _budget, registry) = start(10_000, &[("a", 1000)]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = elsewhere.path().join("a.gguf");
    std::fs::write(&other, b"GGUFxx").expect("a file");
    registry.lease("a").await.expect("loads");
    let absent = registry.load(request("/nowhere/x.gguf"), None).await.expect_err("no such file");
    assert!(matches!(absent, RegistryError::File { .. }), "{absent}");
    let by_path = registry.load(request(other.to_str().expect("text")), None).await.expect("begins").ready().await;
    let folder = elsewhere.path().file_name().expect("has one").to_string_lossy().into_owned();
    assert_eq!(by_path.expect("loads").id, format!("a@{folder}"));
    // Replaced by rename: the loaded one goes on, an explicit load takes the new one.
    let new = dir.path().join("new");
    std::fs::write(&new, b"GGUF-a new file").expect("a file");
    std::fs::rename(&new, dir.path().join("a.gguf")).expect("renamed");
    tokio::time::sleep(crate::base::limits::SCAN_INTERVAL + Duration::from_millis(50)).await;
    let reloaded = registry.load(request("a"), None).await.expect("begins").ready().await.expect("loads");
    assert_eq!(reloaded.bytes.expect("loaded").weights, 15);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_load_is_quick_and_draining_ends() {
    let (_dir, budget, registry) = start(10_000, &[("a", 1000), ("slow", 1000)]);
    let began = Instant::now();
    let lease = registry.lease("a").await.expect("loads");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    let Ok(Acquired::Loading(pending)) = registry.acquire("slow").await else { panic!("is loading") };
    let drained = tokio::spawn({
        let registry = registry.clone();
        async move { registry.drain(Duration::from_secs(20), Some(0)).await }
    });
    assert_eq!(pending.ready().await.err(), Some(RegistryError::Draining));
    assert_eq!(registry.acquire("a").await.err(), Some(RegistryError::Draining));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!drained.is_finished());
    drop(lease);
    drained.await.expect("no panic").expect("drained");
    assert_eq!(budget.used(), 0);
}
