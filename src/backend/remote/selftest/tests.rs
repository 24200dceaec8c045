//! Workers that are shell scripts, which say what a test of kernels says; and the file of results.

use super::super::wire::DeviceInfo;
use super::*;

fn tested(device: &str, key: &str) -> Tested {
    Tested { device: device.into(), key: key.into(), kernels: 3, millis: 5, failures: Vec::new() }
}

fn says(messages: &[FromWorker]) -> String {
    let print = |m: &FromWorker| format!("printf '{}' >&0; ", serde_json::to_string(m).expect("JSON"));
    messages.iter().map(print).collect()
}

fn ready() -> FromWorker {
    FromWorker::Ready(DeviceInfo::of_script(Some("1")))
}

fn testing(kernel: &str) -> FromWorker {
    FromWorker::Testing { kernel: kernel.into() }
}

/// A script that gets the worker's arguments as `$*`.
fn script(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text, "sh"]);
    command
}

fn begin(command: &dyn Fn() -> Command, records: Option<&Records>) -> Result<Arc<Process>, NotUsable> {
    start(command, &|| Box::new(|| ()), records)
}

#[test]
fn results_are_kept_by_device_and_found_by_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::new(dir.path().join("state/tests.json"));
    let find = |key| Records::find(records.path(), key);
    assert_eq!(find("a 1"), None);
    let failure = Failure { kernel: "k".into(), got: "NaN".into(), ..Failure::default() };
    let wrong = Tested { failures: vec![failure], ..tested("a", "a 1") };
    records.put(&wrong).expect("written");
    records.put(&tested("b", "b 1")).expect("written");
    assert_eq!((find("a 1"), find("b 1")), (Some(wrong), Some(tested("b", "b 1"))));
    // Another driver.
    records.put(&tested("a", "a 2")).expect("written");
    assert_eq!((find("a 1"), find("a 2")), (None, Some(tested("a", "a 2"))));
    assert!(find("b 1").is_some());
    // Damage costs a test, no more.
    for damage in ["", "{}", "[{]", "[{\"key\": \"a 2\"}]"] {
        fs::write(records.path(), damage).expect("written");
        assert_eq!(find("a 2"), None);
    }
    records.put(&tested("a", "a 2")).expect("written");
    assert!(find("a 2").is_some());
}

#[test]
fn a_new_result_is_kept_and_an_old_one_is_not_written_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = Records::new(dir.path().join("tests.json"));
    for fresh in [false, true] {
        let result = tested("a", "a 1");
        let text = says(&[testing("k"), FromWorker::Tested { result, fresh }, ready()]) + "exec sleep 1000";
        let process = begin(&|| script(&text), Some(&records)).expect("a worker");
        assert_eq!(process.tested(), Some(&tested("a", "a 1")));
        assert_eq!(Records::find(records.path(), "a 1").is_some(), fresh);
    }
}

/// Dies, or fails, in the test of `k2`, unless it is told to leave that alone.
fn dies_in_k2(how: &str) -> String {
    let result = tested("a", "a 1");
    let well = says(&[testing("k3"), FromWorker::Tested { result, fresh: true }, ready()]);
    let ill = says(&[testing("k2")]);
    format!("case \"$*\" in *'--without k2'*) {well} exec sleep 1000;; *) {ill} {how};; esac")
}

#[test]
fn a_kernel_that_takes_its_worker_along_is_left_out() {
    let lost = says(&[FromWorker::Unusable("the device is lost".to_owned().into())]);
    for (how, why) in
        [("kill -6 $$", "died in the self-test of kernel k2 (signal: 6"), (&lost, "kernel k2: the device is lost")]
    {
        let dir = tempfile::tempdir().expect("a folder");
        let records = Records::new(dir.path().join("tests.json"));
        let text = dies_in_k2(how);
        let process = begin(&|| script(&text), Some(&records)).expect("a second worker does without");
        let tested = process.tested().expect("told");
        assert_eq!((tested.kernels, tested.left_out().as_str()), (4, "k2"));
        assert!(tested.failures[0].got.contains(why), "{}", tested.failures[0].got);
        // The next start leaves it out without trying.
        assert_eq!(Records::find(records.path(), "a 1").as_ref(), Some(tested));
    }
}

#[test]
fn a_device_whose_kernels_all_kill_is_given_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let count = dir.path().join("count");
    let text = format!("echo >> {}; {} exit 5", count.display(), says(&[testing("k2")]));
    let why = begin(&|| script(&text), None).err().expect("given up").reason;
    assert!(why.contains("kernel k2") && why.contains("exit status: 5"), "{why}");
    let starts = fs::read_to_string(&count).expect("started").lines().count();
    assert_eq!(starts, SELFTEST_TRIES);
}

#[test]
fn a_worker_that_dies_outside_of_a_test_blames_no_kernel() {
    let result = tested("a", "a 1");
    let text = says(&[testing("k"), FromWorker::Tested { result, fresh: true }]) + "exit 5";
    let why = begin(&|| script(&text), None).err().expect("it died").reason;
    assert!(why.starts_with("the GPU worker died at its start"), "{why}");
}
