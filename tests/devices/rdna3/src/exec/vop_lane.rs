//! Vector instructions that select or move between lanes.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::inst::{ABS, Exec, Inst, Kind, M0, NEG, Step, VCC};
use crate::wave::Wave;

/// `v_permlane16_b32` within rows of 16, `v_permlanex16_b32` from the other row. `op_sel` bit 0 lets inactive lanes
/// be read, bit 1 makes them read zero. With neither the card keeps the old value, which no kernel means: it is what
/// becomes of an exchange that the compiler moved into divergent code, as clang 19 does.
#[inline(always)]
fn permlane(w: &mut Wave, i: &Inst, c: &mut Cx, cross: usize) -> Step {
    let source = w.raw(&i.o[1], 0);
    let select = u64::from(w.s32(&i.o[2])) | u64::from(w.s32(&i.o[3])) << 32;
    let (exec, mut out) = (w.exec(), w.v[usize::from(i.o[0].reg)]);
    for l in 0..32usize {
        let from = ((l & 16) ^ cross) | (select >> (4 * (l & 15)) & 15) as usize;
        if i.op_sel & 1 != 0 || exec >> from & 1 != 0 {
            out[l] = source[from];
        } else if i.op_sel & 2 != 0 {
            out[l] = 0;
        } else if exec >> l & 1 != 0 {
            return c.fail(w, i, Cause::Lane, Some(l as u32), format!("reads lane {from}, which is inactive"));
        }
    }
    w.put(usize::from(i.o[0].reg), &out);
    Step::Next
}

/// Register that M0 selects relative to the encoded one.
fn relative(w: &Wave, reg: u16) -> usize {
    (usize::from(reg) + w.s[usize::from(M0)] as usize).min(255)
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_cndmask_b32" => exec!(|w, i, _c| {
            let (mut ra, mut rb, mut out) = (crate::wave::room(), crate::wave::room(), [0u32; 32]);
            let mask = if i.n > 3 { w.s32(&i.o[3]) } else { w.s[usize::from(VCC)] };
            let (a, b) = (w.src(&i.o[1], 0, &mut ra), w.src(&i.o[2], 0, &mut rb));
            for l in 0..32 {
                out[l] = if mask >> l & 1 != 0 { b[l] } else { a[l] };
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_cndmask_b16" => exec!(|w, i, _c| {
            let (a, b, mask) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.s32(&i.o[3]));
            let out = std::array::from_fn(|l| if mask >> l & 1 != 0 { b[l] } else { a[l] });
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        }),
        "v_mbcnt_lo_u32_b32" => exec!(|w, i, _c| {
            let (a, b) = (w.raw(&i.o[1], 0), w.raw(&i.o[2], 0));
            let out = std::array::from_fn(|l| (a[l] & ((1 << l) - 1)).count_ones().wrapping_add(b[l]));
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        // All lanes of a wave of 32 lie in the low half.
        "v_mbcnt_hi_u32_b32" => exec!(|w, i, _c| {
            let out = w.raw(&i.o[2], 0);
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_readfirstlane_b32" => exec!(|w, i, _c| {
            debug_assert!(i.o[1].mods & (NEG | ABS) == 0);
            let v = w.s32(&i.o[1]);
            w.set_s(&i.o[0], v);
            Step::Next
        }),
        "v_readlane_b32" => exec!(|w, i, _c| {
            let lane = w.s32(&i.o[2]) & 31;
            let v = w.raw(&i.o[1], 0)[lane as usize];
            w.set_s(&i.o[0], v);
            Step::Next
        }),
        "v_writelane_b32" => exec!(|w, i, _c| {
            let (v, lane) = (w.s32(&i.o[1]), w.s32(&i.o[2]) & 31);
            w.v[usize::from(i.o[0].reg)][lane as usize] = v;
            Step::Next
        }),
        "v_permlane16_b32" => exec!(|w, i, c| permlane(w, i, c, 0)),
        "v_permlanex16_b32" => exec!(|w, i, c| permlane(w, i, c, 16)),
        "v_permlane64_b32" => exec!(|w, i, _c| {
            let out = w.raw(&i.o[1], 0);
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_swap_b32" => exec!(|w, i, _c| {
            let (a, b) = (w.raw(&i.o[0], 0), w.raw(&i.o[1], 0));
            w.put(usize::from(i.o[0].reg), &b);
            w.put(usize::from(i.o[1].reg), &a);
            Step::Next
        }),
        "v_movrels_b32" => exec!(|w, i, _c| {
            debug_assert!(i.o[1].kind == Kind::V);
            let out = w.v[relative(w, i.o[1].reg)];
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_movreld_b32" => exec!(|w, i, _c| {
            let (out, to) = (w.raw(&i.o[1], 0), relative(w, i.o[0].reg));
            w.put(to, &out);
            Step::Next
        }),
        "v_movrelsd_b32" => exec!(|w, i, _c| {
            let (out, to) = (w.v[relative(w, i.o[1].reg)], relative(w, i.o[0].reg));
            w.put(to, &out);
            Step::Next
        }),
        _ => return None,
    })
}
