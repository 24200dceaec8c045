//! Workers that are shell scripts: what they say is one message a `printf`, what they are told they
//! do not read.

use super::super::wire::DeviceInfo;
use super::*;

const SHAPE: Shape =
    Shape { max_tokens: 8, max_outputs: 2, max_spans: 2, table_entries: 4, groups: 1, input_width: 0, n_vocab: 5 };
const SOON: Duration = Duration::from_secs(10);

fn ready() -> String {
    let info = DeviceInfo::of_script(None);
    serde_json::to_string(&FromWorker::Ready(info)).expect("JSON")
}

/// A worker that is ready and then does `rest`.
fn worker(rest: &str) -> Arc<Process> {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("printf '{}' >&0; {rest}", ready())]);
    Process::start(command, Box::new(|| ()), &mut Watch::default()).expect("a worker")
}

fn load(process: &Arc<Process>, stall: Duration) -> Result<RemoteBackend, LoadFailure> {
    let wish = Wish { model: "m", files: Vec::new(), kv_type: "f16", first_layer: None, shape: SHAPE };
    process.load_within(stall, &wish, &mut |_, _| true)
}

fn runs(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_load_in_a_worker_that_hangs_ends() {
    let process = worker("exec sleep 1000");
    let began = Instant::now();
    let why = load(&process, Duration::from_millis(300)).err();
    assert!(matches!(&why, Some(LoadFailure::Device(w)) if w.contains("said nothing")), "{why:?}");
    assert!(began.elapsed() < SOON && process.dead().is_some());
    assert!(process.gone_within(SOON) && !runs(process.pid()));
}

#[test]
fn a_load_in_a_worker_that_dies_is_lost_and_not_the_files_fault() {
    let process = worker("sleep 0.3; exit 7");
    let why = load(&process, SOON).err();
    assert!(matches!(&why, Some(LoadFailure::Lost(w)) if w.contains("exit status: 7")), "{why:?}");
    let why = load(&process, SOON).err();
    assert!(matches!(&why, Some(LoadFailure::Lost(w)) if w.contains("exit status: 7")), "{why:?}");
}

#[test]
fn a_worker_that_is_ended_is_dead_at_once() {
    let process = worker("exec sleep 1000");
    process.kill("first");
    process.kill("second");
    assert!(process.dead().is_some_and(|d| d.ends_with("was ended: first")));
    assert!(matches!(load(&process, SOON), Err(LoadFailure::Lost(_))));
    assert!(process.gone_within(SOON) && !runs(process.pid()));
}

#[test]
fn a_worker_that_talks_nonsense_or_loses_its_device_is_ended() {
    let process = worker("printf nonsense >&0; exec sleep 1000");
    assert!(process.gone_within(SOON) && process.dead().is_some_and(|d| d.contains("makes no sense")));
    let lost = FromWorker::Failed { id: 0, why: LoadFailure::Lost("off the bus".into()) };
    let lost = serde_json::to_string(&lost).expect("JSON");
    let process = worker(&format!("sleep 0.3; printf '{lost}' >&0; exec sleep 1000"));
    assert!(matches!(load(&process, SOON), Err(LoadFailure::Lost(_))));
    assert!(process.gone_within(SOON) && process.dead().is_some_and(|d| d.ends_with("off the bus")));
}

#[test]
fn a_lost_device_and_an_impossible_outcome_take_the_worker_along() {
    let loaded = FromWorker::Loaded { id: 0, device: "gpu gfx0".into() };
    let loaded = serde_json::to_string(&loaded).expect("JSON");
    for outcome in [Err(super::super::BackendError::Lost("off the bus".into())), Ok(1000)] {
        let process = worker(&format!("sleep 0.3; printf '{loaded}' >&0; exec sleep 1000"));
        let mut backend = load(&process, SOON).expect("loaded");
        // Both ends of the doorbell are here: the script does not take its own.
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        backend.doorbell = ours;
        use crate::backend::Backend;
        use std::io::Write;
        backend.submit(&crate::plan::batch::Batch::default(), &[]).expect("submitted");
        backend.mailbox.set_outcome(outcome.as_ref().map(|n| *n));
        theirs.write_all(&[1]).expect("rung");
        assert!(matches!(backend.poll(SOON), Err(super::super::BackendError::Lost(_))));
        assert!(process.gone_within(SOON) && process.dead().is_some());
    }
}
