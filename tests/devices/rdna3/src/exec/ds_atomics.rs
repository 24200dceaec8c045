//! Local memory: atomics, with and without the old value.

use super::ds::{addresses, check, in_flight};
use super::{Cx, exec, f};
use crate::inst::{Exec, Inst, Step};
use crate::wave::Wave;

/// One read-modify-write of 4 bytes a lane, lanes in order. `returns` says whether operand 0 takes the old value.
#[inline(always)]
fn rmw(w: &mut Wave, i: &Inst, c: &mut Cx, returns: bool, g: impl Fn(u32, u32, u32) -> u32) -> Step {
    let base = usize::from(returns);
    let at = addresses(w, &i.o[base], i.imm);
    if let Some(step) = check(w, i, c, &at, 4, "changes") {
        return step;
    }
    let (exec, mut old) = (w.exec(), [0; 32]);
    let first = w.raw(&i.o[base + 1], 0);
    let second = if usize::from(i.n) > base + 2 { w.raw(&i.o[base + 2], 0) } else { [0; 32] };
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            let was = c.lds.atomic::<4>(at[l], |m| g(u32::from_le_bytes(m), first[l], second[l]).to_le_bytes());
            old[l] = u32::from_le_bytes(was);
        }
    }
    match returns {
        true => {
            w.put(usize::from(i.o[0].reg), &old);
            in_flight(w, c, i.o[0].reg, 1, true);
        }
        false => in_flight(w, c, 0, 0, true),
    }
    Step::Next
}

/// The same on 8 bytes.
#[inline(always)]
fn rmw64(w: &mut Wave, i: &Inst, c: &mut Cx, returns: bool, g: impl Fn(u64, u64) -> u64) -> Step {
    let base = usize::from(returns);
    let at = addresses(w, &i.o[base], i.imm);
    if let Some(step) = check(w, i, c, &at, 8, "changes") {
        return step;
    }
    let (exec, mut old, data) = (w.exec(), [0; 32], w.src64(&i.o[base + 1]));
    for l in 0..32 {
        if exec >> l & 1 != 0 {
            let was = c.lds.atomic::<8>(at[l], |m| g(u64::from_le_bytes(m), data[l]).to_le_bytes());
            old[l] = u64::from_le_bytes(was);
        }
    }
    match returns {
        true => {
            w.put64(usize::from(i.o[0].reg), &old);
            in_flight(w, c, i.o[0].reg, 2, true);
        }
        false => in_flight(w, c, 0, 0, true),
    }
    Step::Next
}

macro_rules! both {
    ($returns:expr, $f:expr) => {
        match $returns {
            true => exec!(|w, i, c| rmw(w, i, c, true, $f)),
            false => exec!(|w, i, c| rmw(w, i, c, false, $f)),
        }
    };
}
macro_rules! both64 {
    ($returns:expr, $f:expr) => {
        match $returns {
            true => exec!(|w, i, c| rmw64(w, i, c, true, $f)),
            false => exec!(|w, i, c| rmw64(w, i, c, false, $f)),
        }
    };
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    let rest = name.strip_prefix("ds_")?;
    let returns = rest.contains("_rtn_");
    Some(match rest.replace("_rtn_", "_").as_str() {
        "add_u32" => both!(returns, |m: u32, a: u32, _| m.wrapping_add(a)),
        "sub_u32" => both!(returns, |m: u32, a: u32, _| m.wrapping_sub(a)),
        "rsub_u32" => both!(returns, |m: u32, a: u32, _| a.wrapping_sub(m)),
        "inc_u32" => both!(returns, |m, a, _| if m >= a { 0 } else { m + 1 }),
        "dec_u32" => both!(returns, |m, a, _| if m == 0 || m > a { a } else { m - 1 }),
        "min_i32" => both!(returns, |m, a, _| (m as i32).min(a as i32) as u32),
        "max_i32" => both!(returns, |m, a, _| (m as i32).max(a as i32) as u32),
        "min_u32" => both!(returns, |m: u32, a: u32, _| m.min(a)),
        "max_u32" => both!(returns, |m: u32, a: u32, _| m.max(a)),
        "and_b32" => both!(returns, |m, a, _| m & a),
        "or_b32" => both!(returns, |m, a, _| m | a),
        "xor_b32" => both!(returns, |m, a, _| m ^ a),
        "storexchg_b32" => both!(returns, |_, a, _| a),
        // New value first, then what it is compared with: the other way round than on earlier chips.
        "cmpstore_b32" => both!(returns, |m, new, compare| if m == compare { new } else { m }),
        "add_f32" => both!(returns, |m, a, _| (f(m) + f(a)).to_bits()),
        "min_f32" => both!(returns, |m, a, _| f(m).min(f(a)).to_bits()),
        "max_f32" => both!(returns, |m, a, _| f(m).max(f(a)).to_bits()),
        "add_u64" => both64!(returns, |m: u64, a: u64| m.wrapping_add(a)),
        "max_u64" => both64!(returns, |m: u64, a: u64| m.max(a)),
        "min_u64" => both64!(returns, |m: u64, a: u64| m.min(a)),
        "or_b64" => both64!(returns, |m: u64, a: u64| m | a),
        "storexchg_b64" => both64!(returns, |_: u64, a: u64| a),
        _ => return None,
    })
}
