//! One block: its waves, run in turn from barrier to barrier.

use crate::exec::Cx;
use crate::fault::Cause;
use crate::inst::Step;
use crate::lds::Lds;
use crate::module::Kernel;
use crate::options::{Options, Order};
use crate::wave::Wave;
use std::sync::atomic::Ordering::Relaxed;

/// Instructions after which the scheduler looks whether another block has failed.
const SLICE: u64 = 1 << 20;

/// What a thread keeps from block to block.
#[derive(Default)]
pub struct Worker {
    /// Waves, as many as the largest block had.
    pub waves: Vec<Wave>,
    /// Local memory.
    pub lds: Lds,
    /// See [`Cx::hits`].
    pub hits: Vec<(u64, u64)>,
}

/// State of a wave within its block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Waiting(u32),
    Ended,
}

/// What all blocks of a launch have in common.
pub struct Shape<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Threads of a block.
    pub block: [u32; 3],
    /// User registers that come before the block's coordinates.
    pub user: Vec<u32>,
}

impl Shape<'_> {
    fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Registers as the hardware sets them up at the start.
    fn start(&self, w: &mut Wave, id: u32, block: [u32; 3]) {
        let k = self.kernel;
        w.reset(id, k.entry, self.threads() - 32 * id, k.vgprs.next_multiple_of(8), k.private);
        w.s[..self.user.len()].copy_from_slice(&self.user);
        let mut at = ((k.rsrc2 >> 1) & 31) as usize;
        for d in 0..3 {
            if k.rsrc2 >> (7 + d) & 1 != 0 {
                w.s[at] = block[d];
                at += 1;
            }
        }
        let [x, y, _] = self.block;
        for l in 0..32 {
            let t = 32 * id + l;
            w.v[0][l as usize] = (t % x) | ((t / x % y) << 10) | (t / (x * y)) << 20;
        }
    }
}

/// Runs a wave until it waits, ends, fails or its slice is over.
#[inline(never)]
fn run(w: &mut Wave, c: &mut Cx) -> Step {
    let program = c.program;
    let code = program.code.as_slice();
    while w.count < w.until {
        let Some(i) = code.get(w.pc as usize) else {
            let Some(last) = code.last() else { return Step::End };
            return c.fail(w, last, Cause::Jump, None, "is the last instruction, and it did not end the wave".into());
        };
        w.pc += 1;
        w.count += u64::from(!i.hidden);
        if w.waits.blocks(&i.uses_v, i.uses_s) {
            return early(w, c);
        }
        // SAFETY: module::supported was asked before decoding; operands were checked by the decoder.
        let step = unsafe { (i.run)(w, i, c) };
        if step != Step::Next {
            return step;
        }
    }
    Step::Next
}

/// A register is used before its load is waited for.
#[cold]
fn early(w: &mut Wave, c: &mut Cx) -> Step {
    let program = c.program;
    let i = &program.code[w.pc as usize - 1];
    let Some(f) = w.waits.culprit(&i.uses_v, i.uses_s) else { return Step::Next };
    let load = &program.code[f.at as usize];
    let v = (0..256).find(|r| f.v[r / 64] & i.uses_v[r / 64] & (1 << (r % 64)) != 0);
    let register = match v {
        Some(r) => format!("v{r}"),
        None => format!("s{}", (f.s & i.uses_s).trailing_zeros()),
    };
    let name = &program.names[load.name as usize];
    let what = format!("uses {register} while {name} of pc {:#x} may be in flight: a wait is missing", load.pc);
    c.fail(w, i, Cause::Wait, None, what)
}

/// A small generator for the random order.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Runs one block. The fault, if there is one, is in the context.
pub fn block(shape: &Shape, waves: &mut Vec<Wave>, c: &mut Cx, options: &Options) -> Step {
    let n = shape.threads().div_ceil(32) as usize;
    while waves.len() < n {
        waves.push(Wave::default());
    }
    for (id, w) in waves[..n].iter_mut().enumerate() {
        shape.start(w, id as u32, c.block);
    }
    let waves = &mut waves[..n];
    let mut states = vec![State::Running; n];
    let [x, y, z] = c.block.map(u64::from);
    let mut seed = match options.order {
        Order::Random(seed) => seed ^ (x | y << 20 | z << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        _ => 0,
    };
    let mut result = Step::End;
    while let Some(id) = pick(&states, options.order, &mut seed) {
        let w = &mut waves[id];
        w.until = w.count + if matches!(options.order, Order::Random(_)) { 1 + next(&mut seed) % 64 } else { SLICE };
        let step = run(w, c);
        match step {
            Step::Next => {
                if w.count > options.limit {
                    let i = &c.program.code[w.pc as usize - 1];
                    let what = format!("reached after {} instructions of one wave: no end in sight", w.count);
                    result = c.fail(w, i, Cause::Timeout, None, what);
                    break;
                }
                if c.stop.load(Relaxed) {
                    break;
                }
            }
            Step::Barrier => states[id] = State::Waiting(w.pc - 1),
            Step::End => states[id] = State::Ended,
            Step::Fault => {
                result = step;
                break;
            }
        }
        if !states.contains(&State::Running)
            && let Some(step) = release(waves, &mut states, c)
        {
            result = step;
            break;
        }
    }
    c.stats.waves += n as u64;
    c.stats.instructions += waves.iter().map(|w| w.count).sum::<u64>();
    result
}

/// The next wave to run.
fn pick(states: &[State], order: Order, seed: &mut u64) -> Option<usize> {
    let mut running = (0..states.len()).filter(|&k| states[k] == State::Running);
    match order {
        Order::Forward => running.next(),
        Order::Reverse => running.next_back(),
        Order::Random(_) => {
            let all: Vec<usize> = running.collect();
            (!all.is_empty()).then(|| all[next(seed) as usize % all.len()])
        }
    }
}

/// All waves wait or have ended: lets them pass the barrier, or says why it is none.
fn release(waves: &mut [Wave], states: &mut [State], c: &mut Cx) -> Option<Step> {
    let waiting = |k: &usize| matches!(states[*k], State::Waiting(_));
    let first = (0..states.len()).find(waiting)?;
    let State::Waiting(at) = states[first] else { return None };
    let program = c.program;
    let i = &program.code[at as usize];
    for k in 0..states.len() {
        let what = match states[k] {
            State::Waiting(other) if other == at => continue,
            State::Waiting(other) => {
                format!("holds wave {first}, but wave {k} waits at pc {:#x}", program.code[other as usize].pc)
            }
            _ => format!("holds wave {first}, but wave {k} has ended without reaching it"),
        };
        return Some(c.fail(&waves[first], i, Cause::Barrier, None, what));
    }
    states.fill(State::Running);
    c.lds.barrier();
    None
}
