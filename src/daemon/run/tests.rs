//! The daemon's life with a house that answers from memory.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Instant;

use axum::Router;
use axum::routing::get;

use super::*;
use crate::daemon::config::Surroundings;
use crate::daemon::house::Answer;
use crate::daemon::log;

/// Remembers what it was asked.
#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<String>>,
    control: Mutex<Option<Control>>,
}

impl Seen {
    fn note(&self, what: String) {
        self.calls.lock().expect("alone").push(what);
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("alone").clone()
    }
}

struct Guest(Arc<Seen>);

impl Tenant for Guest {
    fn reload<'a>(&'a self, c: &'a Config, listen: Vec<String>, uid: Option<u32>) -> Answer<'a, Result<(), String>> {
        self.0.note(format!("reload autoload={} listens={} uid={uid:?}", c.models.autoload, listen.len()));
        Box::pin(async { Ok(()) })
    }
    fn drain(&self, deadline: Duration) -> Answer<'_, ()> {
        self.0.note(format!("drain {}", deadline.as_secs()));
        Box::pin(async {})
    }
    fn pulse(&self) -> Answer<'_, Option<String>> {
        Box::pin(async { Some("1 model".to_owned()) })
    }
}

struct Daemon {
    dir: tempfile::TempDir,
    seen: Arc<Seen>,
    address: String,
    thread: std::thread::JoinHandle<anyhow::Result<()>>,
}

impl Daemon {
    fn start(route: Router) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("c.toml");
        let socket = dir.path().join("admin.sock");
        let text = format!("[http]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nsocket = \"{}\"\n", socket.display());
        fs::write(&file, text).expect("written");
        let sources = Sources { flags: Vec::new(), file: Some(file), around: Surroundings::default() };
        let effective = sources.load().expect("good");
        let level = log::start(&effective.config.log, false);
        let seen = Arc::new(Seen::default());
        let (send, receive) = std::sync::mpsc::channel();
        let guest = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            run(sources, effective, Systemd::default(), level, move |site| {
                *guest.control.lock().expect("alone") = Some(site.control);
                send.send(site.listen[0].clone()).expect("heard");
                let admin = Router::new().route("/who", get(async || "admin"));
                Ok(House { public: route, admin, tenant: Box::new(Guest(guest)) })
            })
        });
        let address = receive.recv().expect("bound");
        let daemon = Self { dir, seen, address, thread };
        // Accepting comes after binding; a request proves that signals are listened to, too.
        assert!(daemon.get("/hello").ends_with("hello"));
        daemon
    }

    fn get(&self, path: &str) -> String {
        let mut c = TcpStream::connect(&self.address).expect("connected");
        write!(c, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut out = String::new();
        c.read_to_string(&mut out).expect("read");
        out
    }

    fn control(&self) -> Control {
        self.seen.control.lock().expect("alone").clone().expect("built")
    }
}

fn route() -> Router {
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(600)).await;
        "slow"
    };
    Router::new().route("/hello", get(async || "hello")).route("/slow", get(slow))
}

fn wait_for(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < end, "nothing happened");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn signals_reload_and_stop_and_a_running_request_is_finished() {
    use nix::sys::signal::{Signal, raise};
    let d = Daemon::start(route());
    let file = d.dir.path().join("c.toml");
    let good = fs::read_to_string(&file).expect("read");
    // A bad file changes nothing.
    fs::write(&file, format!("{good}typo = 1\n")).expect("written");
    raise(Signal::SIGHUP).expect("raised");
    let control = d.control();
    let reload = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("made");
        runtime.block_on(control.reload(Some(7)))
    };
    let e = reload().expect_err("bad");
    assert!(e.contains("admin.typo") && e.contains("c.toml:5"), "{e}");
    assert!(d.seen.calls().is_empty());
    // A good one is taken over, and names what needs a restart.
    let changed =
        format!("{good}[models]\nautoload = false\n[memory]\ngpu_reserve = \"2GiB\"\n[engine]\nmax_batch = 4\n");
    // Put in place whole, as the first signal may be answered only now; it then reads the good file.
    let whole = d.dir.path().join("whole.toml");
    fs::write(&whole, changed).expect("written");
    fs::rename(&whole, &file).expect("in place");
    raise(Signal::SIGHUP).expect("raised");
    wait_for(|| !d.seen.calls().is_empty());
    assert!(d.seen.calls().iter().all(|c| c == "reload autoload=false listens=1 uid=None"), "{:?}", d.seen.calls());
    let later = reload().expect("good");
    assert_eq!(later, ["engine.max_batch"]);
    assert!(d.get("/hello").ends_with("hello"));

    let address = d.address.clone();
    let slow = std::thread::spawn(move || {
        let mut c = TcpStream::connect(address).expect("connected");
        write!(c, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut out = String::new();
        c.read_to_string(&mut out).expect("read");
        out
    });
    std::thread::sleep(Duration::from_millis(150));
    raise(Signal::SIGTERM).expect("raised");
    assert!(slow.join().expect("answered").ends_with("slow"));
    d.thread.join().expect("ended").expect("exit 0");
    assert_eq!(d.seen.calls().last().map(String::as_str), Some("drain 30"));
    assert!(!d.dir.path().join("admin.sock").exists());
}

#[test]
fn an_admin_ends_it_and_the_port_is_free() {
    let d = Daemon::start(route());
    let control = d.control();
    tokio::runtime::Builder::new_current_thread().build().expect("made").block_on(control.drain(Some(1)));
    d.thread.join().expect("ended").expect("exit 0");
    assert!(TcpStream::connect(&d.address).is_err());
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_the_reason() {
    let mut config = Config::defaults(&Surroundings::default());
    let machine = Machine::probe(Path::new("/nowhere"));
    device(&config, &machine).expect("auto falls back");
    config.device.kind = "gpu".to_owned();
    let e = device(&config, &machine).expect_err("no GPU").to_string();
    assert!(e.contains("no /dev/kfd") || e.contains("no GPU kernels"), "{e}");
}
