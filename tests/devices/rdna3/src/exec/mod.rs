//! Execution: one file per instruction class, each with a `lookup` from mnemonic to function.

use crate::fault::{Cause, Fault};
use crate::inst::{Exec, Inst, Step};
use crate::lds::{Lds, Race};
use crate::memory::Map;
use crate::module::Program;
use crate::stats::Stats;
use crate::wave::Wave;
use std::sync::atomic::AtomicBool;

pub mod modifiers;

mod atomics;
mod ds;
mod ds_atomics;
mod ds_cross;
mod global;
mod packed;
mod scratch;
mod smem;
mod sop;
mod sop_cmp;
mod sop_flow;
mod vop1;
mod vop2;
mod vop3;
mod vop64;
mod vop_carry;
mod vop_half;
mod vop_lane;
mod vopc;
mod wmma;

/// What a block's waves share while they execute.
pub struct Cx<'a> {
    /// The code.
    pub program: &'a Program,
    /// Name of the kernel.
    pub kernel: &'a str,
    /// What may be accessed.
    pub map: &'a Map,
    /// Local memory.
    pub lds: &'a mut Lds,
    /// Position in the grid.
    pub block: [u32; 3],
    /// For each memory instruction, the range that it hit last.
    pub hits: &'a mut Vec<(u64, u64)>,
    /// Counters.
    pub stats: &'a mut Stats,
    /// Collect cache lines and conflicts too.
    pub detailed: bool,
    /// Track loads in flight.
    pub waits: bool,
    /// Another block has failed.
    pub stop: &'a AtomicBool,
    /// What went wrong.
    pub fault: Option<Box<Fault>>,
}

impl Cx<'_> {
    /// Records a fault.
    #[cold]
    pub fn fail(&mut self, w: &Wave, i: &Inst, cause: Cause, lane: Option<u32>, what: String) -> Step {
        self.fault = Some(Box::new(Fault {
            cause,
            kernel: self.kernel.to_string(),
            op: self.program.names[i.name as usize].clone(),
            pc: i.pc,
            block: self.block,
            wave: w.id,
            lane,
            what,
        }));
        Step::Fault
    }

    /// Records a race in local memory.
    #[cold]
    pub fn race(&mut self, w: &Wave, i: &Inst, lane: u32, at: u32, race: Race, write: bool) -> Step {
        let verb = if write { "writes" } else { "reads" };
        let had = if race.wrote { "wrote" } else { "read" };
        let who = race.other.map_or("several waves".to_string(), |w| format!("wave {w}"));
        let what = format!("{verb} LDS byte {at}, which {who} {had} since the last barrier");
        self.fail(w, i, Cause::LdsRace, Some(lane), what)
    }

    /// Checks the `n` bytes at each active lane's address. The common case, all in the range that this instruction
    /// hit last, is decided without a search.
    #[inline(always)]
    pub fn check(&mut self, w: &Wave, i: &Inst, at: &[u64; 32], exec: u32, n: u64, write: bool) -> bool {
        let (start, end) = self.hits[i.slot as usize];
        let mut bad = 0u32;
        for l in 0..32 {
            bad |= u32::from(at[l] < start || at[l].wrapping_add(n) > end) << l;
        }
        bad &= exec;
        bad == 0 || self.check_slowly(w, i, at, bad, n, write)
    }

    #[inline(never)]
    fn check_slowly(&mut self, w: &Wave, i: &Inst, at: &[u64; 32], bad: u32, n: u64, write: bool) -> bool {
        let mut hit = (0, 0);
        for l in (0..32).filter(|l| bad >> l & 1 != 0) {
            let a = at[l];
            if a >= hit.0 && a.wrapping_add(n) <= hit.1 {
                continue;
            }
            match self.map.find(a, n, write) {
                Some(r) => hit = (r.start, r.end),
                None => {
                    let what = self.map.explain(a, n, write);
                    self.fail(w, i, Cause::Address, Some(l as u32), what);
                    return false;
                }
            }
        }
        self.hits[i.slot as usize] = hit;
        true
    }
}

/// Defines a function of an instruction, compiled for the instruction set that the interpreter requires.
macro_rules! exec {
    (|$w:ident, $i:ident, $c:ident| $body:expr) => {{
        #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,popcnt,lzcnt"))]
        unsafe fn run($w: &mut $crate::wave::Wave, $i: &$crate::inst::Inst, $c: &mut $crate::exec::Cx) -> $crate::inst::Step {
            $body
        }
        run as $crate::inst::Exec
    }};
}

/// Vector function of one 32-bit source.
macro_rules! v1 {
    ($f:expr) => {
        $crate::exec::exec!(|w, i, _c| {
            let (mut ra, f, mut out) = ($crate::wave::room(), $f, [0u32; 32]);
            let a = w.src(&i.o[1], 0, &mut ra);
            for l in 0..32 {
                out[l] = f(a[l]);
            }
            w.put(usize::from(i.o[0].reg), &out);
            $crate::inst::Step::Next
        })
    };
}

/// Vector function of two 32-bit sources.
macro_rules! v2 {
    ($f:expr) => {
        $crate::exec::exec!(|w, i, _c| {
            let (mut ra, mut rb, f, mut out) = ($crate::wave::room(), $crate::wave::room(), $f, [0u32; 32]);
            let (a, b) = (w.src(&i.o[1], 0, &mut ra), w.src(&i.o[2], 0, &mut rb));
            for l in 0..32 {
                out[l] = f(a[l], b[l]);
            }
            w.put(usize::from(i.o[0].reg), &out);
            $crate::inst::Step::Next
        })
    };
}

/// Vector function of three 32-bit sources.
macro_rules! v3 {
    ($f:expr) => {
        $crate::exec::exec!(|w, i, _c| {
            let (mut ra, mut rb, mut rc) = ($crate::wave::room(), $crate::wave::room(), $crate::wave::room());
            let (f, mut out) = ($f, [0u32; 32]);
            let (a, b, c) = (w.src(&i.o[1], 0, &mut ra), w.src(&i.o[2], 0, &mut rb), w.src(&i.o[3], 0, &mut rc));
            for l in 0..32 {
                out[l] = f(a[l], b[l], c[l]);
            }
            w.put(usize::from(i.o[0].reg), &out);
            $crate::inst::Step::Next
        })
    };
}

pub(crate) use {exec, v1, v2, v3};

/// f32 of its bits.
#[inline(always)]
pub(crate) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// A mnemonic's function, or `None` when no file knows it. Encoding suffixes are already gone.
pub fn lookup(name: &str) -> Option<Exec> {
    let by_class = [
        sop::lookup,
        sop_cmp::lookup,
        sop_flow::lookup,
        smem::lookup,
        vop1::lookup,
        vop2::lookup,
        vop3::lookup,
        vop_half::lookup,
        vop64::lookup,
        vop_carry::lookup,
        vop_lane::lookup,
        vopc::lookup,
        packed::lookup,
        wmma::lookup,
        ds::lookup,
        ds_atomics::lookup,
        ds_cross::lookup,
        global::lookup,
        atomics::lookup,
        scratch::lookup,
    ];
    by_class.iter().find_map(|class| class(name))
}

/// Does nothing: the place of a wrapped function where there is no wrapper.
pub fn exec_nothing() -> Exec {
    exec!(|_w, _i, _c| Step::Next)
}
