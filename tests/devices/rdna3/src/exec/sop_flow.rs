//! Control flow, waits, barriers, and instructions without an effect here.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::inst::{Exec, Inst, Step, VCC};
use crate::wave::Wave;

macro_rules! branch {
    (|$w:ident| $taken:expr) => {
        exec!(|w, i, _c| {
            let $w = &*w;
            if $taken {
                w.pc = i.target;
            }
            Step::Next
        })
    };
}

/// Moves to an address in the image.
#[cold]
fn jump(w: &mut Wave, i: &Inst, c: &mut Cx, to: u64) -> Step {
    match c.program.index.get(&to.wrapping_sub(c.program.base)) {
        Some(&at) => {
            w.pc = at;
            Step::Next
        }
        None => c.fail(w, i, Cause::Jump, None, format!("to {to:#x}, where no instruction begins")),
    }
}

/// A barrier is a promise about every lane and every LDS write of the wave.
#[cold]
fn barrier(w: &mut Wave, i: &Inst, c: &mut Cx) -> Step {
    if w.exec() != w.full {
        let lane = (w.exec() ^ w.full).trailing_zeros();
        return c.fail(w, i, Cause::Barrier, Some(lane), "while some lanes are inactive (divergent barrier)".into());
    }
    if c.waits
        && let Some(f) = w.waits.lds_store()
    {
        let store = &c.program.code[f.at as usize];
        let what = format!(
            "with {} of pc {:#x} still in flight: s_waitcnt lgkmcnt(0) is missing",
            c.program.names[store.name as usize], store.pc
        );
        return c.fail(w, i, Cause::Wait, None, what);
    }
    Step::Barrier
}

/// Address of the instruction after `i`, as the kernel sees it.
fn after(w: &Wave, c: &Cx) -> u64 {
    c.program.base + c.program.code.get(w.pc as usize).map_or(0, |n| n.pc)
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "s_nop"
        | "s_delay_alu"
        | "s_clause"
        | "s_set_inst_prefetch_distance"
        | "s_waitcnt_depctr"
        | "s_sendmsg"
        | "s_waitcnt_vscnt"
        | "s_waitcnt_expcnt"
        | "s_inst_prefetch"
        | "s_sleep"
        | "s_setprio"
        | "s_icache_inv"
        | "s_dcache_inv"
        | "s_gl1_inv"
        | "s_ttracedata"
        | "s_ttracedata_imm"
        | "s_version"
        | "s_round_mode"
        | "s_denorm_mode"
        | "s_wait_event"
        | "s_wait_idle"
        | "v_nop"
        | "ds_nop"
        | "buffer_gl0_inv"
        | "buffer_gl1_inv" => {
            exec!(|_w, _i, _c| Step::Next)
        }
        "s_waitcnt" => exec!(|w, i, c| {
            if c.waits {
                w.waits.wait((i.imm >> 10 & 63) as usize, (i.imm >> 4 & 63) as usize);
            }
            Step::Next
        }),
        "s_waitcnt_vmcnt" => exec!(|w, i, _c| {
            w.waits.wait((i.imm & 63) as usize, 63);
            Step::Next
        }),
        "s_waitcnt_lgkmcnt" => exec!(|w, i, _c| {
            w.waits.wait(63, (i.imm & 63) as usize);
            Step::Next
        }),
        "s_barrier" => exec!(|w, i, c| barrier(w, i, c)),
        "s_endpgm" | "s_endpgm_saved" => exec!(|_w, _i, _c| Step::End),
        "s_code_end" => {
            exec!(|w, i, c| c.fail(w, i, Cause::Jump, None, "executed: the kernel ran past its end".into()))
        }
        "s_trap" | "s_sethalt" => {
            exec!(|w, i, c| c.fail(w, i, Cause::Jump, None, "executed: the kernel gave up".into()))
        }
        "s_branch" => branch!(|_w| true),
        "s_cbranch_scc0" => branch!(|w| !w.scc),
        "s_cbranch_scc1" => branch!(|w| w.scc),
        "s_cbranch_vccz" => branch!(|w| w.s[usize::from(VCC)] == 0),
        "s_cbranch_vccnz" => branch!(|w| w.s[usize::from(VCC)] != 0),
        "s_cbranch_execz" => branch!(|w| w.exec() == 0),
        "s_cbranch_execnz" => branch!(|w| w.exec() != 0),
        "s_getpc_b64" => exec!(|w, i, c| {
            let pc = after(w, c);
            w.set_s64(&i.o[0], pc);
            Step::Next
        }),
        "s_setpc_b64" => exec!(|w, i, c| {
            let to = w.s64(&i.o[0]);
            jump(w, i, c, to)
        }),
        "s_swappc_b64" => exec!(|w, i, c| {
            let (to, pc) = (w.s64(&i.o[1]), after(w, c));
            w.set_s64(&i.o[0], pc);
            jump(w, i, c, to)
        }),
        "s_call_b64" => exec!(|w, i, c| {
            let pc = after(w, c);
            w.set_s64(&i.o[0], pc);
            w.pc = i.target;
            Step::Next
        }),
        // Hardware registers: the mode that a kernel sets is the one it was compiled for. Reads give zero.
        "s_setreg_b32" | "s_setreg_imm32_b32" => exec!(|_w, _i, _c| Step::Next),
        "s_getreg_b32" => exec!(|w, i, _c| {
            w.set_s(&i.o[0], 0);
            Step::Next
        }),
        _ => return None,
    })
}
