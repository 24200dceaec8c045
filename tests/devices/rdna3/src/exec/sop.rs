//! Scalar arithmetic: SOP1, SOP2, SOPK.

use super::exec;
use crate::inst::{EXEC, Exec, Step, VCC};

/// Scalar function of two sources; gives the result and, where the instruction sets it, SCC.
macro_rules! s2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let (r, scc): (u32, Option<bool>) = f(w.s32(&i.o[1]), w.s32(&i.o[2]));
            w.set_s(&i.o[0], r);
            w.scc = scc.unwrap_or(w.scc);
            Step::Next
        })
    };
}
/// Two sources, SCC says whether the result is not zero.
macro_rules! s2nz {
    ($f:expr) => {
        s2!(|a: u32, b: u32| {
            let r: u32 = ($f)(a, b);
            (r, Some(r != 0))
        })
    };
}
macro_rules! s2keep {
    ($f:expr) => {
        s2!(|a: u32, b: u32| (($f)(a, b), None))
    };
}
/// 64-bit function of a 64-bit and another source.
macro_rules! d2nz {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let r: u64 = f(w.s64(&i.o[1]), w.s64(&i.o[2]));
            w.set_s64(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        })
    };
}
/// One 32-bit source.
macro_rules! s1 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let r: u32 = f(w.s32(&i.o[1]));
            w.set_s(&i.o[0], r);
            Step::Next
        })
    };
}
macro_rules! s1nz {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let r: u32 = f(w.s32(&i.o[1]));
            w.set_s(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        })
    };
}
macro_rules! d1nz {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let r: u64 = f(w.s64(&i.o[1]));
            w.set_s64(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        })
    };
}
/// SOPK: the register and the immediate.
macro_rules! sk {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let (r, scc): (u32, Option<bool>) = f(w.s32(&i.o[0]), i.imm as i16 as i32 as u32);
            w.set_s(&i.o[0], r);
            w.scc = scc.unwrap_or(w.scc);
            Step::Next
        })
    };
}
/// `s_lshlN_add_u32`: SCC is the carry.
macro_rules! shift_add {
    ($n:literal) => {
        s2!(|a: u32, b: u32| {
            let r = (u64::from(a) << $n) + u64::from(b);
            (r as u32, Some(r >> 32 != 0))
        })
    };
}
/// `s_OP_saveexec_b32`: the old EXEC is saved, the new one combines it (`e`) with the source (`s`).
macro_rules! save {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let (s, e) = (w.s32(&i.o[1]), w.exec());
            w.set_s(&i.o[0], e);
            let r: u32 = f(s, e);
            w.s[usize::from(EXEC)] = r;
            w.scc = r != 0;
            Step::Next
        })
    };
}

/// Scalar function of a source and the old destination.
macro_rules! s1old {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let r: u32 = f(w.s32(&i.o[1]), w.s32(&i.o[0]));
            w.set_s(&i.o[0], r);
            Step::Next
        })
    };
}

fn add(a: u32, b: u32) -> (u32, Option<bool>) {
    let (r, overflow) = (a as i32).overflowing_add(b as i32);
    (r as u32, Some(overflow))
}

fn sub(a: u32, b: u32) -> (u32, Option<bool>) {
    let (r, overflow) = (a as i32).overflowing_sub(b as i32);
    (r as u32, Some(overflow))
}

fn field(a: u64, b: u32, bits: u32) -> (u64, u32) {
    let (offset, width) = (b & (bits - 1), b >> 16 & 0x7f);
    let mask = if width >= 64 { !0 } else { (1u64 << width) - 1 };
    (a >> offset & mask, width.min(bits))
}

fn extend(v: u64, width: u32) -> u64 {
    if width == 0 || width >= 64 { v } else { ((v << (64 - width)) as i64 >> (64 - width)) as u64 }
}

fn clz(a: u32) -> u32 {
    if a == 0 { !0 } else { a.leading_zeros() }
}

fn ctz(a: u32) -> u32 {
    if a == 0 { !0 } else { a.trailing_zeros() }
}

/// Leading bits equal to the sign bit, less one; all ones when there is no other bit.
pub(super) fn cls(a: u32) -> u32 {
    clz(if a as i32 >= 0 { a } else { !a })
}

fn wqm(a: u32) -> u32 {
    (0..8).map(|q| if a >> (4 * q) & 15 != 0 { 15 << (4 * q) } else { 0 }).sum()
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "s_mov_b32" => s1!(|a: u32| a),
        "s_movk_i32" => sk!(|_: u32, k: u32| (k, None)),
        "s_mov_b64" => exec!(|w, i, _c| {
            let v = w.s64(&i.o[1]);
            w.set_s64(&i.o[0], v);
            Step::Next
        }),
        "s_cmov_b32" => exec!(|w, i, _c| {
            let v = w.s32(&i.o[if w.scc { 1 } else { 0 }]);
            w.set_s(&i.o[0], v);
            Step::Next
        }),
        "s_cmov_b64" => exec!(|w, i, _c| {
            let v = w.s64(&i.o[if w.scc { 1 } else { 0 }]);
            w.set_s64(&i.o[0], v);
            Step::Next
        }),
        "s_cselect_b32" => exec!(|w, i, _c| {
            let v = w.s32(&i.o[if w.scc { 1 } else { 2 }]);
            w.set_s(&i.o[0], v);
            Step::Next
        }),
        "s_cselect_b64" => exec!(|w, i, _c| {
            let v = w.s64(&i.o[if w.scc { 1 } else { 2 }]);
            w.set_s64(&i.o[0], v);
            Step::Next
        }),
        "s_add_i32" => s2!(add),
        "s_sub_i32" => s2!(sub),
        "s_addk_i32" => sk!(add),
        "s_mulk_i32" => sk!(|a: u32, b: u32| (a.wrapping_mul(b), None)),
        "s_add_u32" => s2!(|a: u32, b: u32| (a.wrapping_add(b), Some(a.checked_add(b).is_none()))),
        "s_sub_u32" => s2!(|a: u32, b: u32| (a.wrapping_sub(b), Some(a < b))),
        "s_addc_u32" => exec!(|w, i, _c| {
            let r = u64::from(w.s32(&i.o[1])) + u64::from(w.s32(&i.o[2])) + u64::from(w.scc);
            w.set_s(&i.o[0], r as u32);
            w.scc = r >> 32 != 0;
            Step::Next
        }),
        "s_subb_u32" => exec!(|w, i, _c| {
            let r = i64::from(w.s32(&i.o[1])) - i64::from(w.s32(&i.o[2])) - i64::from(w.scc);
            w.set_s(&i.o[0], r as u32);
            w.scc = r < 0;
            Step::Next
        }),
        "s_mul_i32" => s2keep!(u32::wrapping_mul),
        "s_mul_hi_u32" => s2keep!(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "s_mul_hi_i32" => {
            s2keep!(|a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32)
        }
        "s_min_i32" => s2!(|a: u32, b: u32| ((a as i32).min(b as i32) as u32, Some((a as i32) < b as i32))),
        "s_max_i32" => s2!(|a: u32, b: u32| ((a as i32).max(b as i32) as u32, Some(a as i32 >= b as i32))),
        "s_min_u32" => s2!(|a: u32, b: u32| (a.min(b), Some(a < b))),
        "s_max_u32" => s2!(|a: u32, b: u32| (a.max(b), Some(a >= b))),
        "s_absdiff_i32" => s2nz!(|a: u32, b: u32| (a as i32).wrapping_sub(b as i32).unsigned_abs()),
        "s_abs_i32" => s1nz!(|a: u32| (a as i32).unsigned_abs()),
        "s_and_b32" => s2nz!(|a: u32, b: u32| a & b),
        "s_or_b32" => s2nz!(|a: u32, b: u32| a | b),
        "s_xor_b32" => s2nz!(|a: u32, b: u32| a ^ b),
        "s_nand_b32" => s2nz!(|a: u32, b: u32| !(a & b)),
        "s_nor_b32" => s2nz!(|a: u32, b: u32| !(a | b)),
        "s_xnor_b32" => s2nz!(|a: u32, b: u32| !(a ^ b)),
        "s_and_not1_b32" => s2nz!(|a: u32, b: u32| a & !b),
        "s_or_not1_b32" => s2nz!(|a: u32, b: u32| a | !b),
        "s_and_b64" => d2nz!(|a: u64, b: u64| a & b),
        "s_or_b64" => d2nz!(|a: u64, b: u64| a | b),
        "s_xor_b64" => d2nz!(|a: u64, b: u64| a ^ b),
        "s_and_not1_b64" => d2nz!(|a: u64, b: u64| a & !b),
        "s_or_not1_b64" => d2nz!(|a: u64, b: u64| a | !b),
        "s_not_b32" => s1nz!(|a: u32| !a),
        "s_not_b64" => d1nz!(|a: u64| !a),
        "s_wqm_b32" => s1nz!(wqm),
        "s_brev_b32" => s1!(u32::reverse_bits),
        "s_lshl_b32" => s2nz!(|a: u32, b: u32| a << (b & 31)),
        "s_lshr_b32" => s2nz!(|a: u32, b: u32| a >> (b & 31)),
        "s_ashr_i32" => s2nz!(|a: u32, b: u32| (a as i32 >> (b & 31)) as u32),
        "s_lshl_b64" => d2nz!(|a: u64, b: u64| a << (b & 63)),
        "s_lshr_b64" => d2nz!(|a: u64, b: u64| a >> (b & 63)),
        "s_ashr_i64" => d2nz!(|a: u64, b: u64| (a as i64 >> (b & 63)) as u64),
        "s_lshl1_add_u32" => shift_add!(1),
        "s_lshl2_add_u32" => shift_add!(2),
        "s_lshl3_add_u32" => shift_add!(3),
        "s_lshl4_add_u32" => shift_add!(4),
        "s_bfm_b32" => s2keep!(|a: u32, b: u32| ((1u32 << (a & 31)) - 1) << (b & 31)),
        "s_bfe_u32" => s2nz!(|a: u32, b: u32| field(u64::from(a), b, 32).0 as u32),
        "s_bfe_i32" => s2nz!(|a: u32, b: u32| {
            let (v, width) = field(i64::from(a as i32) as u64, b, 32);
            extend(v, width) as u32
        }),
        "s_bfe_u64" => d2nz!(|a: u64, b: u64| field(a, b as u32, 64).0),
        "s_bfe_i64" => d2nz!(|a: u64, b: u64| {
            let (v, width) = field(a, b as u32, 64);
            extend(v, width)
        }),
        "s_pack_ll_b32_b16" => s2keep!(|a: u32, b: u32| a & 0xffff | b << 16),
        "s_pack_lh_b32_b16" => s2keep!(|a: u32, b: u32| a & 0xffff | b & 0xffff_0000),
        "s_pack_hh_b32_b16" => s2keep!(|a: u32, b: u32| a >> 16 | b & 0xffff_0000),
        "s_pack_hl_b32_b16" => s2keep!(|a: u32, b: u32| a >> 16 | b << 16),
        "s_sext_i32_i8" => s1!(|a: u32| a as i8 as i32 as u32),
        "s_sext_i32_i16" => s1!(|a: u32| a as i16 as i32 as u32),
        "s_bcnt1_i32_b32" => s1nz!(u32::count_ones),
        "s_bcnt0_i32_b32" => s1nz!(u32::count_zeros),
        "s_bcnt1_i32_b64" => exec!(|w, i, _c| {
            let r = w.s64(&i.o[1]).count_ones();
            w.set_s(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        }),
        "s_ctz_i32_b32" => s1!(ctz),
        "s_clz_i32_u32" => s1!(clz),
        "s_cls_i32" => s1!(cls),
        "s_bitset0_b32" => s1old!(|a: u32, d: u32| d & !(1 << (a & 31))),
        "s_bitset1_b32" => s1old!(|a: u32, d: u32| d | 1 << (a & 31)),
        "s_and_saveexec_b32" => save!(|s: u32, e: u32| s & e),
        "s_or_saveexec_b32" => save!(|s: u32, e: u32| s | e),
        "s_xor_saveexec_b32" => save!(|s: u32, e: u32| s ^ e),
        "s_and_not0_saveexec_b32" => save!(|s: u32, e: u32| !s & e),
        "s_and_not1_saveexec_b32" => save!(|s: u32, e: u32| s & !e),
        "s_or_not0_saveexec_b32" => save!(|s: u32, e: u32| !s | e),
        "s_or_not1_saveexec_b32" => save!(|s: u32, e: u32| s | !e),
        "s_and_not0_wrexec_b32" => exec!(|w, i, _c| {
            let r = !w.s32(&i.o[1]) & w.exec();
            w.s[usize::from(EXEC)] = r;
            w.set_s(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        }),
        "s_and_not1_wrexec_b32" => exec!(|w, i, _c| {
            let r = w.s32(&i.o[1]) & !w.exec();
            w.s[usize::from(EXEC)] = r;
            w.set_s(&i.o[0], r);
            w.scc = r != 0;
            Step::Next
        }),
        "s_movrels_b32" => exec!(|w, i, _c| {
            let at = usize::from(i.o[1].reg) + w.s[usize::from(crate::inst::M0)] as usize;
            let v = w.s[at.min(usize::from(VCC))];
            w.set_s(&i.o[0], v);
            Step::Next
        }),
        _ => return None,
    })
}
