//! One launch: the argument block, and the grid's blocks spread over threads.

use crate::block::{Shape, Worker, block};
use crate::exec::Cx;
use crate::fault::Fault;
use crate::inst::Step;
use crate::memory::{Map, Range, Use};
use crate::module::{Kernel, Module};
use crate::options::{Options, Order};
use crate::stats::Stats;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The compiler rounds scalar loads of arguments up (28 bytes by a load of 32), so the block is padded as on the card.
const LINE: usize = 64;

/// Workers kept for the next launch.
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

fn idle() -> std::sync::MutexGuard<'static, Vec<Worker>> {
    IDLE.lock().unwrap_or_else(|e| e.into_inner())
}

/// What is launched.
pub struct Launch<'a> {
    /// Code.
    pub module: &'a Module,
    /// Kernel.
    pub kernel: &'a Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Explicit arguments, at their offsets.
    pub arguments: &'a [u8],
    /// Dynamic local memory.
    pub lds: u32,
}

/// Values of the arguments that the compiler adds on its own.
fn hidden(kind: &str, l: &Launch) -> Option<u64> {
    let axis = |k: &str| "xyz".find(k.chars().last().unwrap_or('x')).unwrap_or(0);
    let of = |name: &str| kind.strip_prefix(name).map(axis);
    if let Some(d) = of("hidden_block_count_") {
        Some(u64::from(l.grid[d]))
    } else if let Some(d) = of("hidden_group_size_") {
        Some(u64::from(l.block[d]))
    } else if kind == "hidden_grid_dims" {
        Some(if l.grid[2] > 1 || l.block[2] > 1 {
            3
        } else if l.grid[1] > 1 || l.block[1] > 1 {
            2
        } else {
            1
        })
    } else if kind == "hidden_dynamic_lds_size" {
        Some(u64::from(l.lds))
    } else {
        None
    }
}

/// The packet that `s[dispatch_ptr]` points to: only the sizes are filled in.
fn packet(l: &Launch, arguments: u64) -> [u32; 16] {
    let mut p = [0; 16];
    p[1] = l.block[0] | l.block[1] << 16;
    p[2] = l.block[2];
    for d in 0..3 {
        p[3 + d] = l.grid[d].wrapping_mul(l.block[d]);
    }
    (p[10], p[11]) = (arguments as u32, (arguments >> 32) as u32);
    p
}

/// User registers in the order of the descriptor's property bits.
fn user_registers(properties: u16, arguments: u64, packet: u64, private: usize) -> Vec<u32> {
    let mut out = Vec::new();
    let both = |v: u64| [v as u32, (v >> 32) as u32];
    for (bit, value) in [
        (0, vec![0; 4]),
        (1, both(packet).to_vec()),
        (2, vec![0; 2]),
        (3, both(arguments).to_vec()),
        (4, vec![0; 2]),
        (5, vec![0; 2]),
        (6, vec![private as u32]),
    ] {
        if properties >> bit & 1 != 0 {
            out.extend(value);
        }
    }
    out
}

impl Launch<'_> {
    /// Executes the launch against the memory in `map`.
    pub fn run(&self, map: &Map, options: &Options) -> Result<Stats, Fault> {
        let k = self.kernel;
        let mut arguments = vec![!0u64; k.argument_bytes.next_multiple_of(LINE) / 8 + 8];
        // SAFETY: the vector's whole memory, as bytes.
        let space = unsafe { std::slice::from_raw_parts_mut(arguments.as_mut_ptr().cast::<u8>(), arguments.len() * 8) };
        let n = self.arguments.len().min(k.argument_bytes);
        space[..n].copy_from_slice(&self.arguments[..n]);
        for a in k.arguments.iter().filter(|a| a.kind.starts_with("hidden_")) {
            let value = hidden(&a.kind, self).unwrap_or(0);
            space[a.offset..a.offset + a.size.min(8)].copy_from_slice(&value.to_le_bytes()[..a.size.min(8)]);
        }
        let at = arguments.as_ptr() as u64;
        let packet = packet(self, at);
        let end = at + k.argument_bytes.next_multiple_of(LINE) as u64;
        let packet_at = packet.as_ptr() as u64;
        let map = map.with(&[
            Range { start: at, end, of: Use::Arguments },
            Range { start: packet_at, end: packet_at + 64, of: Use::Arguments },
        ]);
        let user = user_registers(k.properties, at, packet_at, k.private);
        let shape = Shape { kernel: k, block: self.block, user };
        let total: u64 = self.grid.iter().map(|n| u64::from(*n)).product();
        let threads = (options.threads as u64).clamp(1, total.max(1));
        let (turn, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let results: Mutex<(Stats, Option<Fault>)> = Mutex::default();
        let work = || {
            let mut worker = idle().pop().unwrap_or_default();
            let (stats, fault) = self.blocks(&shape, &map, options, &mut worker, (&turn, total), &stop);
            idle().push(worker);
            let mut r = results.lock().unwrap_or_else(|e| e.into_inner());
            r.0.add(&stats);
            r.1 = r.1.take().or(fault);
        };
        std::thread::scope(|s| {
            for _ in 1..threads {
                s.spawn(work);
            }
            work();
        });
        let (stats, fault) = results.into_inner().unwrap_or_else(|e| e.into_inner());
        match fault {
            Some(f) => Err(f),
            None => Ok(stats),
        }
    }

    fn blocks(
        &self,
        shape: &Shape,
        map: &Map,
        options: &Options,
        worker: &mut Worker,
        (turn, total): (&AtomicU64, u64),
        stop: &AtomicBool,
    ) -> (Stats, Option<Fault>) {
        let program = &self.module.program;
        let mut stats = Stats::default();
        let Worker { waves, lds, hits } = worker;
        hits.clear();
        hits.resize(program.slots, (0, 0));
        while !stop.load(Relaxed) {
            let n = turn.fetch_add(1, Relaxed);
            if n >= total {
                break;
            }
            let n = if options.order == Order::Reverse { total - 1 - n } else { n };
            let [gx, gy, _] = self.grid.map(u64::from);
            let at = [(n % gx) as u32, (n / gx % gy) as u32, (n / gx / gy) as u32];
            lds.reset(self.kernel.lds + self.lds as usize, program.grain, options.races);
            let mut c = Cx {
                program,
                kernel: &self.kernel.name,
                map,
                lds,
                block: at,
                hits,
                stats: &mut stats,
                detailed: options.stats,
                waits: options.waits,
                stop,
                fault: None,
            };
            if block(shape, waves, &mut c, options) == Step::Fault {
                stop.store(true, Relaxed);
                let fault = c.fault.map(|f| *f);
                return (stats, fault);
            }
        }
        (stats, None)
    }
}
