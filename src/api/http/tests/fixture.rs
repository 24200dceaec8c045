//! A server on a TCP socket, engines whose backend speaks the alphabet, and a client that sees
//! every byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::super::{Api, router};
use super::loader::{TestLoader, files};
use crate::backend::{Backend, BackendError, Output};
use crate::engine::{self, Vocabulary};
use crate::plan::batch::Batch;
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::op::CacheId;
use crate::policy::placement::SiteKind;
use crate::pool::budget::Budget;
use crate::registry::{self, Registry, Site};
use crate::telemetry::events::DecisionLog;
use crate::telemetry::metrics::Metrics;

/// Longest time that anything in a test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// `http.max_body` of the server.
pub const MAX_BODY: u64 = 100_000;
/// Context of the model.
pub const CONTEXT: u32 = 200;
/// Token that ends a text; the others are bytes.
pub const EOG: u32 = 256;
/// Tokens of the vocabulary.
pub const N_VOCAB: usize = 257;

/// What a test does to the backend.
#[derive(Default)]
pub struct Control {
    /// Steps that may run; `None` = any number.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
    steps: AtomicUsize,
    fail: AtomicBool,
    /// Share of model `slow` that is read, and whether reading goes well: 100 ends the load.
    load: Mutex<(u64, bool)>,
}

impl Control {
    /// Lets the load of `slow` come so far (in percent), or fail.
    pub fn load(&self, percent: u64, well: bool) {
        *self.load.lock().expect("lock") = (percent, well);
        self.changed.notify_all();
    }

    /// How far the load of `slow` may be.
    pub fn loaded(&self) -> (u64, bool) {
        *self.load.lock().expect("lock")
    }

    /// Lets `n` more steps run, and no other.
    pub fn allow(&self, n: usize) {
        *self.allowed.lock().expect("lock") = Some(n);
        self.changed.notify_all();
    }

    /// Lets all steps run.
    pub fn free(&self) {
        *self.allowed.lock().expect("lock") = None;
        self.changed.notify_all();
    }

    /// Steps that ran.
    pub fn steps(&self) -> usize {
        self.steps.load(Ordering::SeqCst)
    }

    /// Makes the next step fail.
    pub fn fail(&self) {
        self.fail.store(true, Ordering::SeqCst);
    }
}

/// After a letter comes the next one, after `z` the end; digits go round for ever; `é` is two
/// tokens. `!` is always second best, 4 nats behind: too far
/// for the default `min_p`.
fn next(last: u32) -> u32 {
    match u8::try_from(last) {
        Ok(b @ b'a'..=b'y') => u32::from(b + 1),
        Ok(b @ b'0'..=b'8') => u32::from(b + 1),
        Ok(b'9') => u32::from(b'0'),
        Ok(b'#') => 0xC3,
        Ok(0xC3) => 0xA9,
        Ok(0xA9) => u32::from(b'y'),
        _ => EOG,
    }
}

struct Alphabet {
    control: Arc<Control>,
    logits: Vec<f32>,
    slabs: u32,
}

impl Backend for Alphabet {
    fn device(&self) -> String {
        "cpu avx2".to_owned()
    }

    fn add_slab(&mut self, _: CacheId) -> Result<u32, BackendError> {
        self.slabs += 1;
        Ok((self.slabs - 1) * group().slab_blocks() as u32)
    }

    fn remove_slab(&mut self, _: CacheId, _: u32) {}

    fn submit(&mut self, batch: &Batch, _input: &[f32]) -> Result<(), BackendError> {
        self.logits.clear();
        for &row in &batch.outputs {
            let mut logits = [-1e4; N_VOCAB];
            logits[usize::from(b'!')] = -4.0;
            logits[next(batch.tokens[row as usize]) as usize] = 0.0;
            self.logits.extend(logits);
        }
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        let until = Instant::now() + wait;
        let mut allowed = self.control.allowed.lock().expect("lock");
        while *allowed == Some(0) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            allowed = self.control.changed.wait_timeout(allowed, left).expect("lock").0;
        }
        *allowed = allowed.map(|n| n - 1);
        drop(allowed);
        if self.control.fail.swap(false, Ordering::SeqCst) {
            return Err(BackendError::Poisoned);
        }
        self.control.steps.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Output { rows: &self.logits, width: N_VOCAB }))
    }
}

/// 1 KiB a token: a slab of 16 MiB has 512 blocks.
fn group() -> CacheGroup {
    CacheGroup {
        name: "full".into(),
        n_layer: 1,
        n_head_kv: 1,
        head_dim: 256,
        head_dim_v: 256,
        window: None,
        kv_type: KvType::F16,
        part: 0,
    }
}

struct Bytes(Vec<[u8; 1]>);

impl Vocabulary for Bytes {
    fn piece(&self, id: u32) -> &[u8] {
        self.0.get(id as usize).map_or(&[], |b| b)
    }

    fn is_eog(&self, id: u32) -> bool {
        id == EOG
    }
}

/// An engine with four requests at a time and one place in its queue.
pub fn engine(control: &Arc<Control>) -> engine::handle::Handle {
    let mut options = engine::Options::new("m", CONTEXT, Budget::new(1 << 30));
    (options.max_batch, options.queue) = (4, 1);
    let backend = Alphabet { control: Arc::clone(control), logits: Vec::new(), slabs: 0 };
    let vocabulary = Bytes((0..=255).map(|b| [b]).collect());
    engine::start(options, Box::new(backend), &[group()], N_VOCAB, Arc::new(vocabulary)).expect("starts")
}

/// The server, and what is behind it.
pub struct Server {
    pub addr: SocketAddr,
    pub control: Arc<Control>,
    pub registry: registry::Handle,
    /// The engine of model `m`.
    pub engine: engine::handle::Handle,
    pub api: Arc<Api>,
    _files: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The runtime waits for threads that load, and engines for their steps.
        self.control.free();
        self.control.load(100, false);
    }
}

/// Starts a server: model `m` is loaded, `slow` is loading as [`Control::load`] says, `big` does
/// not fit, `broken` cannot be loaded.
pub async fn server() -> Server {
    let control = Arc::new(Control::default());
    control.load(0, true);
    let dir = files();
    let mut options = registry::Options::new(vec![Site {
        id: "cpu".into(),
        name: "cpu avx2".to_owned(),
        kind: SiteKind::Cpu,
        description: "simulated".into(),
        pci: None,
        budget: Budget::new(10_000),
        most: None,
        bandwidth: None,
        reason: "there is nothing else".into(),
        unusable: None,
        condition: None,
    }]);
    options.dirs = vec![dir.path().to_owned()];
    options.preload = ["m", "slow", "gone"].map(String::from).to_vec();
    let loader = Arc::new(TestLoader { control: Arc::clone(&control) });
    let registry = Registry::start(options, loader, Arc::new(DecisionLog::new()));
    let lease = registry.lease("m").await.expect("loads");
    let engine = lease.model.engine.clone();
    let metrics = Arc::new(Metrics::new("test", "scalar").expect("metrics"));
    let api = Api::new(registry.clone(), metrics, MAX_BODY);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("has an address");
    let routes = router(Arc::clone(&api));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Server { addr, control, registry, engine, api, _files: dir }
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A connection that has sent a request.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

async fn send(addr: SocketAddr, request: &[u8]) -> Connection {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    stream.write_all(request).await.expect("sends");
    Connection { stream, buffer: Vec::new() }
}

impl Server {
    /// Sends bytes as they are.
    pub async fn raw(&self, request: &[u8]) -> Connection {
        send(self.addr, request).await
    }

    /// POSTs JSON.
    pub async fn post(&self, path: &str, body: &str) -> Connection {
        self.post_with(path, "", body).await
    }

    /// POSTs JSON with more header lines, each ended by CR LF.
    pub async fn post_with(&self, path: &str, headers: &str, body: &str) -> Connection {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.raw((head + body).as_bytes()).await
    }

    /// GETs a path.
    pub async fn get(&self, path: &str) -> Answer {
        Self::get_at(self.addr, path).await
    }

    /// GETs a path of any server.
    pub async fn get_at(addr: SocketAddr, path: &str) -> Answer {
        send(addr, format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.answer().await
    }

    /// Waits until the engine has so many requests.
    pub async fn requests(&self, n: usize) {
        let all = async {
            while self.engine.requests().len() != n {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("requests come and go in time");
    }
}

impl Connection {
    /// Reads until `done` says how much of the buffer is an item.
    async fn read_until(&mut self, done: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        loop {
            if let Some(end) = done(&self.buffer) {
                return self.buffer.drain(..end).collect();
            }
            let n =
                timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("bytes in time").expect("reads");
            assert!(n > 0, "the server closed the connection after {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// Status and headers.
    pub async fn head(&mut self) -> Answer {
        let find = |b: &[u8]| b.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4);
        let head = String::from_utf8(self.read_until(find).await).expect("ASCII");
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
        Answer { status, headers, body: String::new() }
    }

    /// The next chunk of a chunked body; empty at its end.
    pub async fn chunk(&mut self) -> String {
        let line = self.read_until(|b| b.windows(2).position(|w| w == b"\r\n").map(|i| i + 2)).await;
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).expect("a chunk's size");
        let mut chunk = self.read_until(|b| (b.len() >= size + 2).then_some(size + 2)).await;
        chunk.truncate(size);
        String::from_utf8(chunk).expect("UTF-8")
    }

    /// The rest of a chunked body.
    pub async fn rest(&mut self) -> String {
        let mut all = String::new();
        loop {
            match self.chunk().await {
                c if c.is_empty() => return all,
                c => all += &c,
            }
        }
    }

    /// The whole answer.
    pub async fn answer(mut self) -> Answer {
        let mut answer = self.head().await;
        answer.body = match answer.header("content-length").map(|l| l.parse::<usize>().expect("a number")) {
            Some(length) => {
                let body = self.read_until(|b| (b.len() >= length).then_some(length)).await;
                String::from_utf8(body).expect("UTF-8")
            }
            None => self.rest().await,
        };
        answer
    }
}
