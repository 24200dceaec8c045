//! Scalar loads.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::inst::{Exec, Inst, Kind, Step};
use crate::wait::Flight;
use crate::wave::Wave;

/// Loads `n` words. The two low bits of the address are ignored, as on the card.
#[inline(always)]
fn load(w: &mut Wave, i: &Inst, c: &mut Cx, n: usize) -> Step {
    let offset = match i.o[2].kind {
        Kind::Lit => i.o[2].lit,
        _ => u64::from(w.s32(&i.o[2])),
    };
    let at = w.s64(&i.o[1]).wrapping_add(offset).wrapping_add(i.imm as i64 as u64) & !3;
    let bytes = 4 * n as u64;
    let hit = c.hits[i.slot as usize];
    if at < hit.0 || at.wrapping_add(bytes) > hit.1 {
        match c.map.find(at, bytes, false) {
            Some(r) => c.hits[i.slot as usize] = (r.start, r.end),
            None => {
                let what = c.map.explain(at, bytes, false);
                return c.fail(w, i, Cause::Address, None, what);
            }
        }
    }
    let to = usize::from(i.o[0].reg);
    for k in 0..n {
        // SAFETY: the range was checked above.
        w.s[(to + k) & 127] = unsafe { ((at + 4 * k as u64) as *const u32).read_unaligned() };
    }
    c.stats.loaded += bytes;
    if c.detailed {
        c.stats.touch(at, bytes);
    }
    if c.waits {
        let s = ((1u128 << n) - 1) << to;
        w.waits.scalar(Flight { v: [0; 4], s, at: w.pc - 1, store: false });
    }
    Step::Next
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "s_load_b32" => exec!(|w, i, c| load(w, i, c, 1)),
        "s_load_b64" => exec!(|w, i, c| load(w, i, c, 2)),
        "s_load_b128" => exec!(|w, i, c| load(w, i, c, 4)),
        "s_load_b256" => exec!(|w, i, c| load(w, i, c, 8)),
        "s_load_b512" => exec!(|w, i, c| load(w, i, c, 16)),
        _ => return None,
    })
}
