//! Everything the device knows, behind one lock.

use super::error::{CAPTURE_UNSUPPORTED, INVALID_HANDLE, SUCCESS, note};
use super::queue::{Event, Op, Stream};
use crate::memory::Memory;
use crate::module::{Kernel, Module};
use crate::options::number;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// What an entry point gives back.
pub type Outcome<T = ()> = Result<T, c_int>;

/// A function handle's target.
#[derive(Clone)]
pub struct Function {
    /// Its module.
    pub module: Arc<Module>,
    /// The kernel.
    pub kernel: Arc<Kernel>,
}

/// A capture in progress.
#[derive(Default)]
pub struct Capture {
    /// What was recorded.
    pub ops: Vec<Op>,
    /// The stream it began on.
    pub origin: u64,
    /// Something that a capture does not allow was tried.
    pub broken: bool,
}

/// The device.
pub struct State {
    /// Memory.
    pub memory: Memory,
    /// Streams by handle; 0 is the default one.
    pub streams: HashMap<u64, Stream>,
    /// Events by handle.
    pub events: HashMap<u64, Event>,
    /// Modules by handle.
    pub modules: HashMap<u64, Arc<Module>>,
    /// Functions by handle.
    pub functions: HashMap<u64, Function>,
    /// Graphs by handle.
    pub graphs: HashMap<u64, Vec<Op>>,
    /// Instantiated graphs by handle.
    pub executables: HashMap<u64, Vec<Op>>,
    /// Captures by number.
    pub captures: HashMap<u64, Capture>,
    /// The error that lost the device.
    pub lost: Option<c_int>,
    /// Work waits until somebody waits for it.
    pub lazy: bool,
    next: u64,
}

/// Bytes of a device that the environment does not size: a 7900 XTX has as many.
const MEMORY_MB: u64 = 24 << 10;

impl State {
    fn new() -> State {
        let mut s = State {
            memory: Memory::new(number("RDNA3_MEMORY_MB").unwrap_or(MEMORY_MB) << 20),
            streams: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            captures: HashMap::new(),
            lost: None,
            lazy: number("RDNA3_LAZY") != Some(0),
            next: 0x1000,
        };
        s.streams.insert(0, Stream::default());
        s
    }

    /// A fresh handle. No handle is given out twice, so that a stale one is an error.
    pub fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    /// The stream of a handle; 1 and 2 are HIP's names for the default stream.
    pub fn stream(&mut self, handle: *mut c_void) -> Outcome<u64> {
        let h = match handle as u64 {
            1 | 2 => 0,
            h => h,
        };
        if self.streams.contains_key(&h) { Ok(h) } else { Err(INVALID_HANDLE) }
    }

    /// Refuses while any capture is in progress, and breaks it, as HIP does.
    pub fn no_capture(&mut self) -> Outcome {
        if self.captures.is_empty() {
            return Ok(());
        }
        for c in self.captures.values_mut() {
            c.broken = true;
        }
        Err(CAPTURE_UNSUPPORTED)
    }
}

fn state() -> MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    STATE.get_or_init(|| Mutex::new(State::new())).lock().unwrap_or_else(|e| e.into_inner())
}

fn code(outcome: Outcome) -> c_int {
    note(outcome.err().unwrap_or(SUCCESS))
}

/// Runs an entry point that a lost device refuses.
pub fn api(f: impl FnOnce(&mut State) -> Outcome) -> c_int {
    let mut s = state();
    let outcome = match s.lost {
        Some(lost) => Err(lost),
        None => f(&mut s),
    };
    code(outcome)
}

/// Runs an entry point that works on a lost device too: what only gives things back.
pub fn always(f: impl FnOnce(&mut State) -> Outcome) -> c_int {
    code(f(&mut state()))
}
