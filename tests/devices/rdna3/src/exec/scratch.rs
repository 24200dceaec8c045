//! Private memory. No shipped kernel uses it (the resource gate refuses that), but test kernels may.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::inst::{Exec, Inst, Kind, Lanes, Opd, Step};
use crate::wave::Wave;

/// Offsets of all lanes, checked against the lane's private segment.
#[inline(always)]
fn offsets(w: &Wave, i: &Inst, c: &mut Cx, v: &Opd, s: &Opd, n: usize, verb: &str) -> Result<Lanes, Step> {
    let base = w.s32(s).wrapping_add(i.imm as u32);
    let at = match v.kind {
        Kind::None => [base; 32],
        _ => w.raw(v, 0).map(|a| a.wrapping_add(base)),
    };
    for l in (0..32).filter(|l| w.exec() >> l & 1 != 0) {
        if at[l] as usize + n > w.private {
            let what = format!("{verb} {n} bytes at private byte {}, outside of the lane's {}", at[l], w.private);
            return Err(c.fail(w, i, Cause::Address, Some(l as u32), what));
        }
    }
    Ok(at)
}

#[inline(always)]
fn load(w: &mut Wave, i: &Inst, c: &mut Cx, n: usize, half: Option<bool>, extend: impl Fn(u32) -> u32) -> Step {
    let at = match offsets(w, i, c, &i.o[1], &i.o[2], n, "reads") {
        Ok(at) => at,
        Err(step) => return step,
    };
    let exec = w.exec();
    for k in 0..n.div_ceil(4) {
        let mut row = [0u32; 32];
        for l in (0..32).filter(|l| exec >> l & 1 != 0) {
            let (p, mut b) = (l * w.private + at[l] as usize + 4 * k, [0; 4]);
            let width = (n - 4 * k).min(4);
            b[..width].copy_from_slice(&w.scratch[p..p + width]);
            row[l] = extend(u32::from_le_bytes(b));
        }
        match half {
            None => w.put(usize::from(i.o[0].reg) + k, &row),
            Some(high) => w.put16(usize::from(i.o[0].reg), &row, high),
        }
    }
    super::global::in_flight(w, c, i.o[0].reg, n.div_ceil(4) as u16, false);
    Step::Next
}

#[inline(always)]
fn store(w: &mut Wave, i: &Inst, c: &mut Cx, n: usize, shift: u32) -> Step {
    let at = match offsets(w, i, c, &i.o[0], &i.o[2], n, "writes") {
        Ok(at) => at,
        Err(step) => return step,
    };
    let exec = w.exec();
    for k in 0..n.div_ceil(4) {
        for l in (0..32).filter(|l| exec >> l & 1 != 0) {
            let p = l * w.private + at[l] as usize + 4 * k;
            let width = (n - 4 * k).min(4);
            let word = w.v[usize::from(i.o[1].reg) + k][l] >> shift;
            w.scratch[p..p + width].copy_from_slice(&word.to_le_bytes()[..width]);
        }
    }
    Step::Next
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name.strip_prefix("scratch_")? {
        "load_b32" => exec!(|w, i, c| load(w, i, c, 4, None, |x| x)),
        "load_b64" => exec!(|w, i, c| load(w, i, c, 8, None, |x| x)),
        "load_b96" => exec!(|w, i, c| load(w, i, c, 12, None, |x| x)),
        "load_b128" => exec!(|w, i, c| load(w, i, c, 16, None, |x| x)),
        "load_u8" => exec!(|w, i, c| load(w, i, c, 1, None, |x| x)),
        "load_i8" => exec!(|w, i, c| load(w, i, c, 1, None, |x| x as i8 as i32 as u32)),
        "load_u16" => exec!(|w, i, c| load(w, i, c, 2, None, |x| x)),
        "load_i16" => exec!(|w, i, c| load(w, i, c, 2, None, |x| x as i16 as i32 as u32)),
        "load_d16_b16" => exec!(|w, i, c| load(w, i, c, 2, Some(false), |x| x)),
        "load_d16_hi_b16" => exec!(|w, i, c| load(w, i, c, 2, Some(true), |x| x)),
        "store_b8" => exec!(|w, i, c| store(w, i, c, 1, 0)),
        "store_b16" => exec!(|w, i, c| store(w, i, c, 2, 0)),
        "store_d16_hi_b16" => exec!(|w, i, c| store(w, i, c, 2, 16)),
        "store_b32" => exec!(|w, i, c| store(w, i, c, 4, 0)),
        "store_b64" => exec!(|w, i, c| store(w, i, c, 8, 0)),
        "store_b96" => exec!(|w, i, c| store(w, i, c, 12, 0)),
        "store_b128" => exec!(|w, i, c| store(w, i, c, 16, 0)),
        _ => return None,
    })
}
