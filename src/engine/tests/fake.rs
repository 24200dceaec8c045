//! A backend that computes nothing but notices everything: it stores each token in its cache cell,
//! and its logits are a hash of the history that it reads back through the block tables, for each
//! group as far as its window goes. A wrong block, a block given up too early, or one overwritten
//! by another sequence changes the text.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::backend::{Backend, BackendError, Output};
use crate::base::limits::KV_BLOCK_TOKENS;
use crate::engine::events::Events;
use crate::engine::handle::Handle;
use crate::engine::message::{EngineError, Event, Finish, Generate, Sampling, Token};
use crate::engine::{Options, Vocabulary, start};
use crate::plan::batch::{Batch, NO_BLOCK};
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::op::CacheId;
use crate::pool::budget::Budget;

pub const N_VOCAB: usize = 64;
pub const EOG: u32 = 0;
/// Bytes of a block of the groups that [`group`] makes, which is a slab.
pub const BLOCK_BYTES: u64 = 32 << 20;

/// A group with one block a slab.
pub fn group(window: Option<u32>) -> CacheGroup {
    CacheGroup {
        name: "test".to_owned(),
        n_layer: 1,
        n_head_kv: 1,
        head_dim: 1 << 17,
        head_dim_v: 1 << 17,
        window,
        kv_type: KvType::F32,
        part: 0,
    }
}

/// What a test sees and steers of a backend.
#[derive(Default)]
pub struct Control {
    /// For each step the tokens of each span.
    pub steps: Mutex<Vec<Vec<usize>>>,
    /// Slabs that exist.
    pub n_slabs: AtomicUsize,
    /// The step that fails, counted from 1.
    pub fail_at: AtomicUsize,
    /// The step that panics.
    pub panic_at: AtomicUsize,
    /// The step whose logits are NaN.
    pub nan_at: AtomicUsize,
    pub dropped: AtomicBool,
    /// Steps that may still run; `None` = all.
    allowed: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Control {
    /// No step runs until it is [allowed](Control::allow).
    pub fn hold(&self) {
        *self.allowed.lock().expect("not poisoned") = Some(0);
    }

    pub fn allow(&self, n: usize) {
        *self.allowed.lock().expect("not poisoned").get_or_insert(0) += n;
        self.changed.notify_all();
    }

    pub fn allow_all(&self) {
        *self.allowed.lock().expect("not poisoned") = None;
        self.changed.notify_all();
    }

    pub fn n_steps(&self) -> usize {
        self.steps.lock().expect("not poisoned").len()
    }
}

type Cells = [Option<(u32, u32)>; KV_BLOCK_TOKENS];

pub struct Fake {
    groups: Vec<CacheGroup>,
    /// By (group, block): token and position.
    cells: HashMap<(usize, u32), Cells>,
    slabs: Vec<Vec<bool>>,
    /// Text that is likeliest, by position.
    script: HashMap<u32, u32>,
    logits: Vec<f32>,
    control: Arc<Control>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.control.dropped.store(true, Ordering::SeqCst);
    }
}

fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Logits after a text, if `at(group, position)` is the token that the group holds there.
fn logits(groups: &[CacheGroup], n: u32, script: &HashMap<u32, u32>, at: impl Fn(usize, u32) -> u32) -> Vec<f32> {
    let mut h = 0;
    for (g, group) in groups.iter().enumerate() {
        let first = group.window.map_or(0, |w| n.saturating_sub(w));
        for pos in first..n {
            h = mix(h ^ u64::from(at(g, pos)) ^ u64::from(pos) << 32);
        }
    }
    let row = (0..N_VOCAB as u64).map(|v| (mix(h ^ v << 7) >> 40) as f32 / (1 << 20) as f32);
    row.enumerate().map(|(v, x)| if script.get(&n) == Some(&(v as u32)) { x + 100.0 } else { x }).collect()
}

/// Logits after `text`, computed without any cache.
pub fn reference(groups: &[CacheGroup], text: &[u32]) -> Vec<f32> {
    logits(groups, text.len() as u32, &HashMap::new(), |_, pos| text[pos as usize])
}

/// The greedy continuation of `prompt`, with its end token if it comes to one.
pub fn greedy(groups: &[CacheGroup], prompt: &[u32], n: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..n {
        let row = reference(groups, &text);
        let best = (0..SUPPRESSED as usize).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a vocabulary");
        text.push(best as u32);
        if best as u32 == EOG {
            break;
        }
    }
    text.split_off(prompt.len())
}

impl Backend for Fake {
    fn device(&self) -> String {
        "fake".to_owned()
    }

    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
        let slabs = &mut self.slabs[group.0 as usize];
        let i = slabs.iter().position(|used| !used).unwrap_or(slabs.len());
        slabs.resize(slabs.len().max(i + 1), false);
        slabs[i] = true;
        self.control.n_slabs.fetch_add(1, Ordering::SeqCst);
        Ok((i * self.groups[group.0 as usize].slab_blocks()) as u32)
    }

    fn remove_slab(&mut self, group: CacheId, first: u32) {
        let g = group.0 as usize;
        let n = self.groups[g].slab_blocks() as u32;
        assert!(std::mem::replace(&mut self.slabs[g][(first / n) as usize], false), "no such slab");
        for block in first..first + n {
            self.cells.remove(&(g, block));
        }
        self.control.n_slabs.fetch_sub(1, Ordering::SeqCst);
    }

    fn submit(&mut self, batch: &Batch, _input: &[f32]) -> Result<(), BackendError> {
        let n_step = {
            let mut steps = self.control.steps.lock().expect("not poisoned");
            steps.push(batch.spans.iter().map(|s| s.len).collect());
            steps.len()
        };
        assert_ne!(n_step, self.control.panic_at.load(Ordering::SeqCst), "the test asked for it");
        if n_step == self.control.fail_at.load(Ordering::SeqCst) {
            return Err(BackendError::Lost("the test asked for it".to_owned()));
        }
        let nan = n_step == self.control.nan_at.load(Ordering::SeqCst);
        self.logits.clear();
        for (s, span) in batch.spans.iter().enumerate() {
            for g in 0..self.groups.len() {
                let table = batch.table(g, s);
                assert_eq!(table.len(), (span.pos as usize + span.len).div_ceil(KV_BLOCK_TOKENS));
                for i in 0..span.len {
                    let pos = span.pos + i as u32;
                    assert_eq!(batch.positions[span.start + i], pos);
                    let block = table[pos as usize / KV_BLOCK_TOKENS];
                    assert_ne!(block, NO_BLOCK, "no block to store position {pos}");
                    let n = self.groups[g].slab_blocks() as u32;
                    assert!(self.slabs[g][(block / n) as usize], "block {block} is in no slab");
                    let cells = self.cells.entry((g, block)).or_default();
                    cells[pos as usize % KV_BLOCK_TOKENS] = Some((batch.tokens[span.start + i], pos));
                }
            }
        }
        for &output in &batch.outputs {
            let at = |s: &crate::plan::batch::Span| (s.start..s.start + s.len).contains(&(output as usize));
            let s = batch.spans.iter().position(at).expect("an output is in a span");
            let n = batch.positions[output as usize] + 1;
            let row = logits(&self.groups, n, &self.script, |g, pos| {
                let block = batch.table(g, s)[pos as usize / KV_BLOCK_TOKENS];
                assert_ne!(block, NO_BLOCK, "position {pos} is needed and given up");
                let (token, stored) = self.cells[&(g, block)][pos as usize % KV_BLOCK_TOKENS].expect("written");
                assert_eq!(stored, pos, "a block of another place");
                token
            });
            self.logits.extend(row.iter().map(|&x| if nan { f32::NAN } else { x }));
        }
        Ok(())
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        let allowed = self.control.allowed.lock().expect("not poisoned");
        let (mut allowed, timeout) = self
            .control
            .changed
            .wait_timeout_while(allowed, wait, |allowed| *allowed == Some(0))
            .expect("not poisoned");
        if timeout.timed_out() && *allowed == Some(0) {
            return Ok(None);
        }
        if let Some(n) = allowed.as_mut() {
            *n -= 1;
        }
        Ok(Some(Output { rows: &self.logits, width: N_VOCAB }))
    }
}

/// A token that is never generated, though the fake may like it best.
pub const SUPPRESSED: u32 = 63;

/// 0 ends a text; 1 to 26 are letters, then parts of a crab, an A that is not UTF-8's, others.
pub struct Pieces(Vec<Vec<u8>>);

pub const CRAB_FIRST: u32 = 27;
pub const CRAB_SECOND: u32 = 28;

impl Default for Pieces {
    fn default() -> Self {
        let crab = "🦀".as_bytes();
        let mut pieces: Vec<Vec<u8>> = vec![Vec::new()];
        pieces.extend((b'a'..=b'z').map(|c| vec![c]));
        pieces.extend([crab[..2].to_vec(), crab[2..].to_vec(), vec![0xff]]);
        pieces.extend((pieces.len()..N_VOCAB).map(|i| format!("<{i}>").into_bytes()));
        Self(pieces)
    }
}

impl Vocabulary for Pieces {
    fn piece(&self, id: u32) -> &[u8] {
        &self.0[id as usize]
    }

    fn is_eog(&self, id: u32) -> bool {
        id == EOG
    }

    fn suppressed(&self) -> &[u32] {
        &[SUPPRESSED]
    }
}

/// Text of tokens.
pub fn text(tokens: &[u32]) -> String {
    let pieces = Pieces::default();
    let bytes: Vec<u8> = tokens.iter().flat_map(|&t| pieces.piece(t).to_vec()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An engine to be.
pub struct Setup {
    pub groups: Vec<CacheGroup>,
    pub script: HashMap<u32, u32>,
    pub options: Options,
    pub budget: Arc<Budget>,
}

impl Setup {
    /// Room for `blocks` blocks, of which `min` are reserved.
    pub fn new(groups: Vec<CacheGroup>, blocks: u64, min: u32) -> Self {
        let budget = Budget::new(blocks * BLOCK_BYTES);
        let mut options = Options::new("fake", 4096, Arc::clone(&budget));
        options.cache_min = min * KV_BLOCK_TOKENS as u32;
        Self { groups, script: HashMap::new(), options, budget }
    }

    /// One group, plenty of room.
    pub fn plain() -> Self {
        Self::new(vec![group(None)], 1000, 4)
    }

    /// Makes `text` the likeliest after a prompt of `n_prompt` tokens.
    pub fn script(mut self, n_prompt: usize, text: &[u32]) -> Self {
        self.script.extend(text.iter().enumerate().map(|(i, &t)| ((n_prompt + i) as u32, t)));
        self
    }

    pub fn start(self) -> (Handle, Arc<Control>) {
        let control = Arc::new(Control::default());
        let backend = fake(&self.groups, self.script, &control);
        let handle = start(self.options, Box::new(backend), &self.groups, N_VOCAB, Arc::new(Pieces::default()));
        (handle.expect("starts"), control)
    }
}

pub fn fake(groups: &[CacheGroup], script: HashMap<u32, u32>, control: &Arc<Control>) -> Fake {
    Fake {
        groups: groups.to_vec(),
        cells: HashMap::new(),
        slabs: vec![Vec::new(); groups.len()],
        script,
        logits: Vec::new(),
        control: Arc::clone(control),
    }
}

/// A greedy request.
pub fn request(prompt: &[u32], max_tokens: u32) -> Generate {
    Generate {
        id: "test".to_owned(),
        prompt: prompt.to_vec(),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        logprobs: None,
        ignore_eos: false,
        cache_prompt: true,
    }
}

/// A prompt that nothing else begins with.
pub fn prompt(seed: u64, n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| 1 + (mix(seed << 32 | i) % (N_VOCAB as u64 - 1)) as u32).collect()
}

/// All that came of a request.
#[derive(Debug)]
pub struct Outcome {
    pub cached: Option<u32>,
    pub tokens: Vec<Token>,
    pub end: Result<Finish, EngineError>,
}

impl Outcome {
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t.id).collect()
    }

    /// What the client sees.
    pub fn text(&self) -> String {
        let mut bytes: Vec<u8> = self.tokens.iter().flat_map(|t| t.text.to_vec()).collect();
        bytes.extend_from_slice(&self.finish().text);
        String::from_utf8(bytes).expect("whole characters")
    }

    pub fn finish(&self) -> &Finish {
        self.end.as_ref().expect("finished")
    }
}

/// Reads all events, in the order they must have.
pub async fn outcome(mut events: Events) -> Outcome {
    let mut outcome = Outcome { cached: None, tokens: Vec::new(), end: Err(EngineError::Stopping) };
    let wait = Duration::from_secs(60);
    loop {
        match tokio::time::timeout(wait, events.recv()).await.expect("an event within a minute").expect("an end") {
            Event::Started { cached_tokens, .. } => {
                assert!(outcome.cached.is_none() && outcome.tokens.is_empty());
                outcome.cached = Some(cached_tokens);
            }
            Event::Token(token) => {
                assert!(outcome.cached.is_some());
                outcome.tokens.push(token);
            }
            Event::Finished(finish) => {
                outcome.end = Ok(finish);
                break;
            }
            Event::Failed(error) => {
                outcome.end = Err(error);
                break;
            }
        }
    }
    assert!(events.recv().await.is_none());
    outcome
}

pub async fn run(handle: &Handle, generate: Generate) -> Outcome {
    outcome(handle.submit(generate).expect("accepted")).await
}
