//! Scalar comparisons: SOPC and the comparing SOPK.

use super::exec;
use crate::inst::{Exec, Step};

macro_rules! cmp {
    ($t:ty, $op:tt) => {
        exec!(|w, i, _c| {
            w.scc = (w.s32(&i.o[0]) as $t) $op (w.s32(&i.o[1]) as $t);
            Step::Next
        })
    };
}
macro_rules! cmp64 {
    ($op:tt) => {
        exec!(|w, i, _c| {
            w.scc = w.s64(&i.o[0]) $op w.s64(&i.o[1]);
            Step::Next
        })
    };
}
/// Against the immediate, extended as the type says.
macro_rules! cmpk {
    ($t:ty, $half:ty, $op:tt) => {
        exec!(|w, i, _c| {
            w.scc = (w.s32(&i.o[0]) as $t) $op (i.imm as $half as $t);
            Step::Next
        })
    };
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "s_cmp_eq_i32" | "s_cmp_eq_u32" => cmp!(u32, ==),
        "s_cmp_lg_i32" | "s_cmp_lg_u32" => cmp!(u32, !=),
        "s_cmp_gt_i32" => cmp!(i32, >),
        "s_cmp_ge_i32" => cmp!(i32, >=),
        "s_cmp_lt_i32" => cmp!(i32, <),
        "s_cmp_le_i32" => cmp!(i32, <=),
        "s_cmp_gt_u32" => cmp!(u32, >),
        "s_cmp_ge_u32" => cmp!(u32, >=),
        "s_cmp_lt_u32" => cmp!(u32, <),
        "s_cmp_le_u32" => cmp!(u32, <=),
        "s_cmp_eq_u64" => cmp64!(==),
        "s_cmp_lg_u64" => cmp64!(!=),
        "s_cmpk_eq_i32" => cmpk!(i32, i16, ==),
        "s_cmpk_lg_i32" => cmpk!(i32, i16, !=),
        "s_cmpk_gt_i32" => cmpk!(i32, i16, >),
        "s_cmpk_ge_i32" => cmpk!(i32, i16, >=),
        "s_cmpk_lt_i32" => cmpk!(i32, i16, <),
        "s_cmpk_le_i32" => cmpk!(i32, i16, <=),
        "s_cmpk_eq_u32" => cmpk!(u32, u16, ==),
        "s_cmpk_lg_u32" => cmpk!(u32, u16, !=),
        "s_cmpk_gt_u32" => cmpk!(u32, u16, >),
        "s_cmpk_ge_u32" => cmpk!(u32, u16, >=),
        "s_cmpk_lt_u32" => cmpk!(u32, u16, <),
        "s_cmpk_le_u32" => cmpk!(u32, u16, <=),
        "s_bitcmp0_b32" => exec!(|w, i, _c| {
            w.scc = w.s32(&i.o[0]) >> (w.s32(&i.o[1]) & 31) & 1 == 0;
            Step::Next
        }),
        "s_bitcmp1_b32" => exec!(|w, i, _c| {
            w.scc = w.s32(&i.o[0]) >> (w.s32(&i.o[1]) & 31) & 1 != 0;
            Step::Next
        }),
        "s_bitcmp0_b64" => exec!(|w, i, _c| {
            w.scc = w.s64(&i.o[0]) >> (w.s32(&i.o[1]) & 63) & 1 == 0;
            Step::Next
        }),
        "s_bitcmp1_b64" => exec!(|w, i, _c| {
            w.scc = w.s64(&i.o[0]) >> (w.s32(&i.o[1]) & 63) & 1 != 0;
            Step::Next
        }),
        _ => return None,
    })
}
