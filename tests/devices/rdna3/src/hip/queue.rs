//! Streams as queues of operations, and their execution.

use super::error::{ILLEGAL_ADDRESS, INVALID_HANDLE, LAUNCH_FAILURE, TIMEOUT};
use super::state::{Function, Outcome, State};
use crate::fault::Cause;
use crate::launch::Launch;
use crate::options::{abort_on_fault, options, stats_file};
use crate::stats::Stats;
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// A launch that waits for its turn.
pub struct Pending {
    /// What is launched.
    pub function: Function,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Arguments, copied when the launch was made.
    pub arguments: Vec<u8>,
    /// Dynamic local memory.
    pub lds: u32,
}

/// A host function.
pub type Callback = unsafe extern "C" fn(*mut c_void);

/// An operation of a stream.
#[derive(Clone)]
pub enum Op {
    /// Copies bytes between addresses when its turn comes.
    Copy {
        /// Destination.
        to: u64,
        /// Source.
        from: u64,
        /// Bytes.
        n: u64,
    },
    /// Writes bytes that were taken from pageable host memory when the copy was asked for.
    Write {
        /// Destination.
        to: u64,
        /// What is written.
        data: Arc<Vec<u8>>,
    },
    /// Repeats a pattern.
    Fill {
        /// Destination.
        to: u64,
        /// One, two or four bytes.
        pattern: Vec<u8>,
        /// Repetitions.
        count: u64,
    },
    /// Runs a kernel.
    Launch(Arc<Pending>),
    /// Completes a recording of an event.
    Record(u64, u64),
    /// Waits for a recording of an event.
    Wait(u64, u64),
    /// Calls a host function.
    Call(Callback, u64),
}

/// A stream.
#[derive(Default)]
pub struct Stream {
    /// What waits.
    pub ops: VecDeque<Op>,
    /// Does not synchronize with the default stream.
    pub non_blocking: bool,
    /// The capture that it takes part in.
    pub capture: Option<u64>,
    /// It was asked whether it is idle and said no: the next answer is yes.
    pub asked: bool,
}

/// An event.
#[derive(Default)]
pub struct Event {
    /// Recordings asked for.
    pub recorded: u64,
    /// Recordings completed.
    pub done: u64,
    /// The stream of the last recording.
    pub stream: u64,
    /// When the last one completed.
    pub at: Option<Instant>,
    /// The capture in which it was recorded last.
    pub capture: Option<u64>,
    /// See [`Stream::asked`].
    pub asked: bool,
}

impl State {
    /// Queues an operation, or records it in the stream's capture.
    pub fn enqueue(&mut self, stream: u64, op: Op) -> Outcome {
        let s = self.streams.get(&stream).ok_or(INVALID_HANDLE)?;
        if let Some(capture) = s.capture {
            if let Some(c) = self.captures.get_mut(&capture) {
                c.ops.push(op);
            }
            return Ok(());
        }
        // The default stream and the blocking ones wait for each other.
        if stream == 0 {
            let all: Vec<u64> =
                self.streams.iter().filter(|(h, s)| **h != 0 && !s.non_blocking).map(|(h, _)| *h).collect();
            for other in all {
                self.drain(other)?;
            }
        } else if !s.non_blocking {
            self.drain(0)?;
        }
        if let Some(s) = self.streams.get_mut(&stream) {
            s.ops.push_back(op);
            s.asked = false;
        }
        if self.lazy { Ok(()) } else { self.drain(stream) }
    }

    /// Works off a stream.
    pub fn drain(&mut self, stream: u64) -> Outcome {
        while let Some(op) = self.streams.get_mut(&stream).and_then(|s| s.ops.pop_front()) {
            self.execute(op)?;
        }
        Ok(())
    }

    /// Works off all streams.
    pub fn drain_all(&mut self) -> Outcome {
        let mut all: Vec<u64> = self.streams.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().try_for_each(|s| self.drain(s))
    }

    /// Works off whatever an event's recording waits for.
    pub fn reach(&mut self, event: u64, recording: u64) -> Outcome {
        loop {
            let Some(e) = self.events.get(&event) else { return Ok(()) };
            if e.done >= recording {
                return Ok(());
            }
            let stream = e.stream;
            match self.streams.get_mut(&stream).and_then(|s| s.ops.pop_front()) {
                Some(op) => self.execute(op)?,
                None => return Ok(()),
            }
        }
    }

    fn execute(&mut self, op: Op) -> Outcome {
        match op {
            // SAFETY: device ranges are checked here again, host ranges are the caller's promise.
            Op::Copy { to, from, n } => unsafe {
                std::ptr::copy(from as *const u8, to as *mut u8, n as usize);
            },
            // SAFETY: as above.
            Op::Write { to, data } => unsafe {
                std::ptr::copy_nonoverlapping(data.as_ptr(), to as *mut u8, data.len());
            },
            Op::Fill { to, pattern, count } => {
                for k in 0..count {
                    let at = to + k * pattern.len() as u64;
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(pattern.as_ptr(), at as *mut u8, pattern.len()) };
                }
            }
            Op::Launch(l) => return self.launch(&l),
            Op::Record(event, recording) => {
                if let Some(e) = self.events.get_mut(&event) {
                    e.done = e.done.max(recording);
                    e.at = Some(Instant::now());
                }
            }
            Op::Wait(event, recording) => return self.reach(event, recording),
            // SAFETY: the caller of hipLaunchHostFunc gave a function and its argument.
            Op::Call(f, argument) => unsafe { f(argument as *mut c_void) },
        }
        Ok(())
    }

    fn launch(&mut self, l: &Pending) -> Outcome {
        let map = self.memory.map();
        let start = Instant::now();
        let launch = Launch {
            module: &l.function.module,
            kernel: &l.function.kernel,
            grid: l.grid,
            block: l.block,
            arguments: &l.arguments,
            lds: l.lds,
        };
        match launch.run(&map, options()) {
            Ok(stats) => {
                write_stats(&stats.row(&l.function.kernel.name, l.grid, l.block, start.elapsed().as_secs_f64()));
                Ok(())
            }
            Err(fault) => {
                eprintln!("rdna3: {fault}");
                if abort_on_fault() {
                    std::process::abort();
                }
                let code = match fault.cause {
                    Cause::Address => ILLEGAL_ADDRESS,
                    Cause::Timeout => TIMEOUT,
                    _ => LAUNCH_FAILURE,
                };
                Err(self.lose(code))
            }
        }
    }

    /// The device is gone, and with it what was queued.
    fn lose(&mut self, code: c_int) -> c_int {
        self.lost = Some(code);
        for s in self.streams.values_mut() {
            s.ops.clear();
        }
        code
    }
}

fn write_stats(row: &str) {
    static FILE: OnceLock<Option<Mutex<File>>> = OnceLock::new();
    let Some(path) = stats_file() else { return };
    let open = || {
        let file = File::options().create(true).append(true).open(path);
        match file {
            Ok(mut f) => {
                if f.metadata().is_ok_and(|m| m.len() == 0) && writeln!(f, "{}", Stats::HEADER).is_err() {
                    return None;
                }
                Some(Mutex::new(f))
            }
            Err(e) => {
                eprintln!("rdna3: RDNA3_STATS={path}: {e}");
                None
            }
        }
    };
    if let Some(f) = FILE.get_or_init(open) {
        let mut f = f.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(e) = writeln!(f, "{row}") {
            eprintln!("rdna3: RDNA3_STATS={path}: {e}");
        }
    }
}
