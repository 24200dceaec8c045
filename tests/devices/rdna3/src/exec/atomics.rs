//! Device memory: atomics. They are real ones, for blocks run on several threads.

use super::global::{addresses, count, in_flight};
use super::{Cx, exec, f};
use crate::fault::Cause;
use crate::inst::{Exec, Inst, Step};
use crate::wave::Wave;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// Addresses of an atomic, checked; or the step that says why not.
#[inline(always)]
fn targets(w: &Wave, i: &Inst, c: &mut Cx, n: u64) -> Result<[u64; 32], Step> {
    let o = usize::from(i.glc);
    let at = addresses(w, i, &i.o[o], &i.o[o + 2]);
    if !c.check(w, i, &at, w.exec(), n, true) {
        return Err(Step::Fault);
    }
    if let Some(l) = (0..32).find(|&l| w.exec() >> l & 1 != 0 && !at[l].is_multiple_of(n)) {
        let what = format!("at {:#x}, which is no multiple of {n}", at[l]);
        return Err(c.fail(w, i, Cause::Address, Some(l as u32), what));
    }
    count(w, c, &at, n, true);
    Ok(at)
}

#[inline(always)]
fn rmw32(w: &mut Wave, i: &Inst, c: &mut Cx, g: impl Fn(u32, u32, u32) -> u32) -> Step {
    let at = match targets(w, i, c, 4) {
        Ok(at) => at,
        Err(step) => return step,
    };
    let (o, exec, mut old) = (usize::from(i.glc), w.exec(), [0; 32]);
    let data = w.raw(&i.o[o + 1], 0);
    let second = if i.o[o + 1].n > 1 { w.raw(&i.o[o + 1], 1) } else { [0; 32] };
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            // SAFETY: checked and aligned.
            let cell = unsafe { AtomicU32::from_ptr(at[l] as *mut u32) };
            old[l] = cell.fetch_update(SeqCst, SeqCst, |m| Some(g(m, data[l], second[l]))).unwrap_or_default();
        }
    }
    if i.glc {
        w.put(usize::from(i.o[0].reg), &old);
        in_flight(w, c, i.o[0].reg, 1, false);
    }
    Step::Next
}

#[inline(always)]
fn rmw64(w: &mut Wave, i: &Inst, c: &mut Cx, g: impl Fn(u64, u64, u64) -> u64) -> Step {
    let at = match targets(w, i, c, 8) {
        Ok(at) => at,
        Err(step) => return step,
    };
    let (o, exec, mut old) = (usize::from(i.glc), w.exec(), [0; 32]);
    let data = w.src64(&i.o[o + 1]);
    let mut second = [0; 32];
    if i.o[o + 1].n > 2 {
        let (lo, hi) = (w.raw(&i.o[o + 1], 2), w.raw(&i.o[o + 1], 3));
        second = std::array::from_fn(|l| u64::from(lo[l]) | u64::from(hi[l]) << 32);
    }
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            // SAFETY: checked and aligned.
            let cell = unsafe { AtomicU64::from_ptr(at[l] as *mut u64) };
            old[l] = cell.fetch_update(SeqCst, SeqCst, |m| Some(g(m, data[l], second[l]))).unwrap_or_default();
        }
    }
    if i.glc {
        w.put64(usize::from(i.o[0].reg), &old);
        in_flight(w, c, i.o[0].reg, 2, false);
    }
    Step::Next
}

macro_rules! a32 {
    ($f:expr) => {
        exec!(|w, i, c| rmw32(w, i, c, $f))
    };
}
macro_rules! a64 {
    ($f:expr) => {
        exec!(|w, i, c| rmw64(w, i, c, $f))
    };
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name.strip_prefix("global_atomic_").or_else(|| name.strip_prefix("flat_atomic_"))? {
        "add_u32" => a32!(|m: u32, a: u32, _| m.wrapping_add(a)),
        "sub_u32" => a32!(|m: u32, a: u32, _| m.wrapping_sub(a)),
        "inc_u32" => a32!(|m, a, _| if m >= a { 0 } else { m + 1 }),
        "dec_u32" => a32!(|m, a, _| if m == 0 || m > a { a } else { m - 1 }),
        "min_i32" => a32!(|m, a, _| (m as i32).min(a as i32) as u32),
        "max_i32" => a32!(|m, a, _| (m as i32).max(a as i32) as u32),
        "min_u32" => a32!(|m: u32, a: u32, _| m.min(a)),
        "max_u32" => a32!(|m: u32, a: u32, _| m.max(a)),
        "and_b32" => a32!(|m, a, _| m & a),
        "or_b32" => a32!(|m, a, _| m | a),
        "xor_b32" => a32!(|m, a, _| m ^ a),
        "swap_b32" => a32!(|_, a, _| a),
        // The data registers hold the new value, then what is compared.
        "cmpswap_b32" => a32!(|m, new, compare| if m == compare { new } else { m }),
        "add_f32" => a32!(|m, a, _| (f(m) + f(a)).to_bits()),
        "min_f32" => a32!(|m, a, _| f(m).min(f(a)).to_bits()),
        "max_f32" => a32!(|m, a, _| f(m).max(f(a)).to_bits()),
        "add_u64" => a64!(|m: u64, a: u64, _| m.wrapping_add(a)),
        "sub_u64" => a64!(|m: u64, a: u64, _| m.wrapping_sub(a)),
        "min_u64" => a64!(|m: u64, a: u64, _| m.min(a)),
        "max_u64" => a64!(|m: u64, a: u64, _| m.max(a)),
        "min_i64" => a64!(|m, a, _| (m as i64).min(a as i64) as u64),
        "max_i64" => a64!(|m, a, _| (m as i64).max(a as i64) as u64),
        "and_b64" => a64!(|m, a, _| m & a),
        "or_b64" => a64!(|m, a, _| m | a),
        "xor_b64" => a64!(|m, a, _| m ^ a),
        "swap_b64" => a64!(|_, a, _| a),
        "cmpswap_b64" => a64!(|m, new, compare| if m == compare { new } else { m }),
        _ => return None,
    })
}
