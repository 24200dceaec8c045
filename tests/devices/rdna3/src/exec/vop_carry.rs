//! Carries, and the 32 by 32 multiply-add to 64 bits.

use super::exec;
use crate::inst::{Exec, Step};

/// `$f(a, b, carry in)` gives the sum or difference, and whether there is a carry out.
macro_rules! carry {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (mut ra, mut rb, f) = (crate::wave::room(), crate::wave::room(), $f);
            let cin = if i.n > 4 { w.s32(&i.o[4]) } else { 0 };
            let (a, b) = (w.src(&i.o[2], 0, &mut ra), w.src(&i.o[3], 0, &mut rb));
            let (mut out, mut flags) = ([0u32; 32], 0u32);
            for l in 0..32 {
                let (r, over): (u32, bool) = f(a[l], b[l], cin >> l & 1);
                out[l] = r;
                flags |= u32::from(over) << l;
            }
            w.put(usize::from(i.o[0].reg), &out);
            let exec = w.exec();
            w.set_s(&i.o[1], flags & exec);
            Step::Next
        })
    };
}

#[inline(always)]
fn add(a: u32, b: u32, c: u32) -> (u32, bool) {
    let s = a.wrapping_add(b);
    let r = s.wrapping_add(c);
    (r, (s < a) | (r < s))
}

#[inline(always)]
fn sub(a: u32, b: u32, c: u32) -> (u32, bool) {
    let s = a.wrapping_sub(b);
    (s.wrapping_sub(c), (a < b) | (s < c))
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_add_co_u32" | "v_add_co_ci_u32" => carry!(add),
        "v_sub_co_u32" | "v_sub_co_ci_u32" => carry!(sub),
        "v_subrev_co_u32" | "v_subrev_co_ci_u32" => carry!(|a: u32, b: u32, c: u32| sub(b, a, c)),
        "v_mad_u64_u32" => exec!(|w, i, _c| {
            let (a, b, c) = (w.raw(&i.o[2], 0), w.raw(&i.o[3], 0), w.src64(&i.o[4]));
            let (mut out, mut flags) = ([0u64; 32], 0u32);
            for l in 0..32 {
                let (r, over) = (u64::from(a[l]) * u64::from(b[l])).overflowing_add(c[l]);
                out[l] = r;
                flags |= u32::from(over) << l;
            }
            w.put64(usize::from(i.o[0].reg), &out);
            let exec = w.exec();
            w.set_s(&i.o[1], flags & exec);
            Step::Next
        }),
        "v_mad_i64_i32" => exec!(|w, i, _c| {
            let (a, b, c) = (w.raw(&i.o[2], 0), w.raw(&i.o[3], 0), w.src64(&i.o[4]));
            let (mut out, mut flags) = ([0u64; 32], 0u32);
            for l in 0..32 {
                let p = i64::from(a[l] as i32) * i64::from(b[l] as i32);
                let (r, over) = p.overflowing_add(c[l] as i64);
                out[l] = r as u64;
                flags |= u32::from(over) << l;
            }
            w.put64(usize::from(i.o[0].reg), &out);
            let exec = w.exec();
            w.set_s(&i.o[1], flags & exec);
            Step::Next
        }),
        _ => return None,
    })
}
