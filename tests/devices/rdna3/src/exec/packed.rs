//! Packed 16-bit instructions, mixed-precision multiply-add and dot products: VOP3P without the matrix unit.

use super::{exec, f};
use crate::float::{b2f, f2h, h2f};
use crate::inst::{Exec, Inst, Lanes, Step};
use crate::wave::Wave;

/// Source `k` (counted from 0) with its halves selected and negated for the low and high results.
#[inline(always)]
fn pair(w: &Wave, i: &Inst, k: usize, float: bool) -> Lanes {
    let row = w.raw(&i.o[k + 1], 0);
    let lo = if i.op_sel >> k & 1 != 0 { 16 } else { 0 };
    let hi = if i.op_sel_hi >> k & 1 != 0 { 16 } else { 0 };
    let neg = match float {
        true => u32::from(i.neg_lo >> k & 1) << 15 | u32::from(i.neg_hi >> k & 1) << 31,
        false => 0,
    };
    row.map(|x| ((x >> lo & 0xffff) | (x >> hi & 0xffff) << 16) ^ neg)
}

/// Source `k` of a mixed instruction, as f32 bits: f16 where `op_sel_hi` says so.
#[inline(always)]
fn mixed(w: &Wave, i: &Inst, k: usize) -> Lanes {
    let mut row = w.raw(&i.o[k + 1], 0);
    if i.op_sel_hi >> k & 1 != 0 {
        let shift = if i.op_sel >> k & 1 != 0 { 16 } else { 0 };
        for x in &mut row {
            *x = h2f((*x >> shift) as u16).to_bits();
        }
    }
    // Here neg_hi means absolute value.
    let and = if i.neg_hi >> k & 1 != 0 { 0x7fff_ffff } else { !0 };
    let xor = if i.neg_lo >> k & 1 != 0 { 0x8000_0000 } else { 0 };
    for x in &mut row {
        *x = *x & and ^ xor;
    }
    row
}

/// f16 function of both halves.
macro_rules! pk2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f, mut out) = (pair(w, i, 0, true), pair(w, i, 1, true), $f, [0u32; 32]);
            for l in 0..32 {
                let lo: f32 = f(h2f(a[l] as u16), h2f(b[l] as u16));
                let hi: f32 = f(h2f((a[l] >> 16) as u16), h2f((b[l] >> 16) as u16));
                out[l] = u32::from(f2h(lo)) | u32::from(f2h(hi)) << 16;
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}
/// Integer function of both halves, given zero-extended.
macro_rules! pki2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f) = (pair(w, i, 0, false), pair(w, i, 1, false), $f);
            let out = std::array::from_fn(|l| {
                let lo: u32 = f(a[l] & 0xffff, b[l] & 0xffff);
                let hi: u32 = f(a[l] >> 16, b[l] >> 16);
                lo & 0xffff | hi << 16
            });
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}

fn s(a: u32) -> i32 {
    a as u16 as i16 as i32
}

/// f16 multiply-add with one rounding, by way of f64 and a rounding to odd in f32.
#[inline(always)]
fn fma16(a: u16, b: u16, c: u16) -> u16 {
    let exact = f64::from(h2f(a)) * f64::from(h2f(b)) + f64::from(h2f(c));
    let near = exact as f32;
    let back = f64::from(near);
    let inexact = back != exact && near.is_finite() && near.to_bits() & 1 == 0;
    let toward = if back.abs() < exact.abs() { near.to_bits() + 1 } else { near.to_bits().wrapping_sub(1) };
    f2h(if inexact { f(toward) } else { near })
}

/// Four 8-bit products; `signs` bit 0 and 1 make the first and second source signed.
#[inline(always)]
fn dot4(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
    let x = |v: u32, k: u32, signed: bool| {
        if signed { (v << (24 - 8 * k)) as i32 >> 24 } else { (v >> (8 * k) & 255) as i32 }
    };
    let mut sum = c as i32;
    for k in 0..4 {
        sum = sum.wrapping_add(x(a, k, signed_a) * x(b, k, signed_b));
    }
    sum as u32
}

/// Eight 4-bit products.
#[inline(always)]
fn dot8(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
    let x = |v: u32, k: u32, signed: bool| {
        if signed { (v << (28 - 4 * k)) as i32 >> 28 } else { (v >> (4 * k) & 15) as i32 }
    };
    (0..8).fold(c as i32, |sum, k| sum.wrapping_add(x(a, k, signed_a) * x(b, k, signed_b))) as u32
}

/// [`dot4`] that saturates once, after the exact sum.
#[inline(always)]
fn dot4_sat(a: u32, b: u32, c: u32, signed_a: bool, signed_b: bool) -> u32 {
    let exact = i64::from(dot4(a, b, 0, signed_a, signed_b) as i32) + i64::from(c as i32);
    exact.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
}

/// A dot product with a loop for each signedness, so that each vectorizes.
macro_rules! dot {
    ($f:ident) => {
        exec!(|w, i, _c| {
            let (mut ra, mut rb, mut rc) = (crate::wave::room(), crate::wave::room(), crate::wave::room());
            let a = w.src(&i.o[1], 0, &mut ra);
            let b = w.src(&i.o[2], 0, &mut rb);
            let c = w.src(&i.o[3], 0, &mut rc);
            let mut out = [0u32; 32];
            match i.neg_lo & 3 {
                0 => (0..32).for_each(|l| out[l] = $f(a[l], b[l], c[l], false, false)),
                1 => (0..32).for_each(|l| out[l] = $f(a[l], b[l], c[l], true, false)),
                2 => (0..32).for_each(|l| out[l] = $f(a[l], b[l], c[l], false, true)),
                _ => (0..32).for_each(|l| out[l] = $f(a[l], b[l], c[l], true, true)),
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}

/// [`fma16`] of both halves of each lane.
fn fma_pairs(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    std::array::from_fn(|l| {
        let lo = fma16(a[l] as u16, b[l] as u16, c[l] as u16);
        let hi = fma16((a[l] >> 16) as u16, (b[l] >> 16) as u16, (c[l] >> 16) as u16);
        u32::from(lo) | u32::from(hi) << 16
    })
}

/// Two 16-bit products and an f32.
macro_rules! dot2 {
    ($f:expr, $c:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f, c) = (pair(w, i, 0, true), pair(w, i, 1, true), $f, $c);
            let (c, mut out): (Lanes, _) = (c(w, i), [0u32; 32]);
            for l in 0..32 {
                let hi = f((a[l] >> 16) as u16) * f((b[l] >> 16) as u16);
                let lo = f(a[l] as u16) * f(b[l] as u16);
                out[l] = (lo + hi + f32::from_bits(c[l])).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}

fn third(w: &Wave, i: &Inst) -> Lanes {
    let mut row = w.raw(&i.o[3], 0);
    for x in &mut row {
        *x = *x & if i.neg_hi & 4 != 0 { 0x7fff_ffff } else { !0 } ^ if i.neg_lo & 4 != 0 { 1 << 31 } else { 0 };
    }
    row
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_pk_add_f16" => pk2!(|a: f32, b: f32| a + b),
        "v_pk_mul_f16" => pk2!(|a: f32, b: f32| a * b),
        "v_pk_min_f16" => pk2!(f32::min),
        "v_pk_max_f16" => pk2!(f32::max),
        "v_pk_fma_f16" => exec!(|w, i, _c| {
            let (a, b, c) = (pair(w, i, 0, true), pair(w, i, 1, true), pair(w, i, 2, true));
            w.put(usize::from(i.o[0].reg), &fma_pairs(&a, &b, &c));
            Step::Next
        }),
        "v_pk_fmac_f16" => exec!(|w, i, _c| {
            let (a, b, c) = (w.raw(&i.o[1], 0), w.raw(&i.o[2], 0), w.raw(&i.o[0], 0));
            w.put(usize::from(i.o[0].reg), &fma_pairs(&a, &b, &c));
            Step::Next
        }),
        "v_pk_add_u16" | "v_pk_add_i16" => pki2!(|a: u32, b: u32| a.wrapping_add(b)),
        "v_pk_sub_u16" | "v_pk_sub_i16" => pki2!(|a: u32, b: u32| a.wrapping_sub(b)),
        "v_pk_add_u16_sat" => pki2!(|a: u32, b: u32| (a + b).min(0xffff)),
        "v_pk_sub_u16_sat" => pki2!(|a: u32, b: u32| a.saturating_sub(b)),
        "v_pk_add_i16_sat" => pki2!(|a: u32, b: u32| (s(a) + s(b)).clamp(-0x8000, 0x7fff) as u32),
        "v_pk_sub_i16_sat" => pki2!(|a: u32, b: u32| (s(a) - s(b)).clamp(-0x8000, 0x7fff) as u32),
        "v_pk_mul_lo_u16" => pki2!(|a: u32, b: u32| a.wrapping_mul(b)),
        "v_pk_min_u16" => pki2!(|a: u32, b: u32| a.min(b)),
        "v_pk_max_u16" => pki2!(|a: u32, b: u32| a.max(b)),
        "v_pk_min_i16" => pki2!(|a: u32, b: u32| s(a).min(s(b)) as u32),
        "v_pk_max_i16" => pki2!(|a: u32, b: u32| s(a).max(s(b)) as u32),
        "v_pk_lshlrev_b16" => pki2!(|n: u32, b: u32| b << (n & 15)),
        "v_pk_lshrrev_b16" => pki2!(|n: u32, b: u32| b >> (n & 15)),
        "v_pk_ashrrev_i16" => pki2!(|n: u32, b: u32| (s(b) >> (n & 15)) as u32),
        "v_pk_mad_u16" | "v_pk_mad_i16" => exec!(|w, i, _c| {
            let (a, b, c) = (pair(w, i, 0, false), pair(w, i, 1, false), pair(w, i, 2, false));
            let out = std::array::from_fn(|l| {
                let lo = a[l].wrapping_mul(b[l]).wrapping_add(c[l]);
                let hi = (a[l] >> 16).wrapping_mul(b[l] >> 16).wrapping_add(c[l] >> 16);
                lo & 0xffff | hi << 16
            });
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_fma_mix_f32" => exec!(|w, i, _c| {
            let (a, b, c, mut out) = (mixed(w, i, 0), mixed(w, i, 1), mixed(w, i, 2), [0u32; 32]);
            for l in 0..32 {
                out[l] = f(a[l]).mul_add(f(b[l]), f(c[l])).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_fma_mixlo_f16" | "v_fma_mixhi_f16" => {
            let lo = exec!(|w, i, _c| {
                let (a, b, c, mut out) = (mixed(w, i, 0), mixed(w, i, 1), mixed(w, i, 2), [0u32; 32]);
                for l in 0..32 {
                    out[l] = u32::from(f2h(f(a[l]).mul_add(f(b[l]), f(c[l]))));
                }
                w.put16(usize::from(i.o[0].reg), &out, false);
                Step::Next
            });
            let hi = exec!(|w, i, _c| {
                let (a, b, c, mut out) = (mixed(w, i, 0), mixed(w, i, 1), mixed(w, i, 2), [0u32; 32]);
                for l in 0..32 {
                    out[l] = u32::from(f2h(f(a[l]).mul_add(f(b[l]), f(c[l]))));
                }
                w.put16(usize::from(i.o[0].reg), &out, true);
                Step::Next
            });
            if name == "v_fma_mixlo_f16" { lo } else { hi }
        }
        "v_dot4_i32_iu8" | "v_dot4_u32_u8" => dot!(dot4),
        "v_dot4_i32_iu8_sat" => dot!(dot4_sat),
        "v_dot8_i32_iu4" | "v_dot8_u32_u4" => dot!(dot8),
        "v_dot2_f32_f16" => dot2!(h2f, third),
        "v_dot2_f32_bf16" => dot2!(b2f, third),
        // Accumulates in the destination; no operand selects halves.
        "v_dot2acc_f32_f16" | "v_dot2c_f32_f16" => exec!(|w, i, _c| {
            let (a, b, c, mut out) = (w.raw(&i.o[1], 0), w.raw(&i.o[2], 0), w.raw(&i.o[0], 0), [0u32; 32]);
            for l in 0..32 {
                let hi = h2f((a[l] >> 16) as u16) * h2f((b[l] >> 16) as u16);
                let lo = h2f(a[l] as u16) * h2f(b[l] as u16);
                out[l] = (lo + hi + f(c[l])).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        _ => return None,
    })
}
