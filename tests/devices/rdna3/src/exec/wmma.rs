//! The matrix unit: `v_wmma_*_16x16x16_*` on a wave of 32.
//!
//! Lane `l` holds row (of A) or column (of B) `l % 16`, all 16 k; lanes 16 to 31 must repeat lanes 0 to 15. Register
//! `i` of C and D holds row `2i + l / 16`, column `l % 16`.

use super::{Cx, exec};
use crate::fault::Cause;
use crate::float::{b2f, f2h, h2f};
use crate::inst::{Exec, Inst, Kind, Lanes, Opd, Step};
use crate::wave::Wave;

/// 16 by 16 elements. Fragments are kept by k first: rows of A and columns of B lie side by side.
type Tile<T> = [[T; 16]; 16];

/// Refuses what the hardware does not define: inactive lanes, and fragments whose halves differ.
#[inline(always)]
fn defined(w: &Wave, i: &Inst, c: &mut Cx) -> Option<Step> {
    if w.exec() != !0 {
        let lane = (!w.exec()).trailing_zeros();
        return Some(c.fail(w, i, Cause::Matrix, Some(lane), "with inactive lanes".into()));
    }
    for (o, name) in [(&i.o[1], 'A'), (&i.o[2], 'B')] {
        if o.kind != Kind::V {
            continue;
        }
        for k in 0..usize::from(o.n) {
            let row = &w.v[usize::from(o.reg) + k];
            if row[..16] != row[16..] {
                let lane = (16..32).find(|&l| row[l] != row[l - 16]).unwrap_or(16) as u32;
                let what = format!("with {name} in register {k} unlike that of lane {}: halves must repeat", lane - 16);
                return Some(c.fail(w, i, Cause::Matrix, Some(lane), what));
            }
        }
    }
    None
}

/// The fragment's 16-bit elements as f32.
#[inline(always)]
fn floats(w: &Wave, o: &Opd, f: impl Fn(u16) -> f32) -> Tile<f32> {
    let mut m = [[0.0; 16]; 16];
    for k in 0..8 {
        let row = w.raw(o, k);
        for r in 0..16 {
            m[2 * k][r] = f(row[r] as u16);
            m[2 * k + 1][r] = f((row[r] >> 16) as u16);
        }
    }
    m
}

/// The fragment's integers, `bits` each, 32 / `bits` in a register.
#[inline(always)]
fn ints(w: &Wave, o: &Opd, bits: usize, signed: bool) -> Tile<i32> {
    let (mut m, each) = ([[0; 16]; 16], 32 / bits);
    for k in 0..16 / each {
        let row = w.raw(o, k);
        for e in 0..each {
            for r in 0..16 {
                let top = row[r] << (32 - bits * (e + 1));
                m[each * k + e][r] = if signed { top as i32 >> (32 - bits) } else { (top >> (32 - bits)) as i32 };
            }
        }
    }
    m
}

/// Rows of C, 32 bits an element.
#[inline(always)]
fn accumulator(w: &Wave, o: &Opd) -> Tile<u32> {
    let mut m = [[0; 16]; 16];
    for i in 0..8 {
        let row: Lanes = match o.kind {
            Kind::V => w.v[usize::from(o.reg) + i],
            _ => w.raw(o, 0),
        };
        m[2 * i].copy_from_slice(&row[..16]);
        m[2 * i + 1].copy_from_slice(&row[16..]);
    }
    m
}

#[inline(always)]
fn store(w: &mut Wave, reg: u16, m: &Tile<u32>) {
    for i in 0..8 {
        let row = &mut w.v[usize::from(reg) + i];
        row[..16].copy_from_slice(&m[2 * i]);
        row[16..].copy_from_slice(&m[2 * i + 1]);
    }
}

/// D += A B, k in order, each step a fused multiply-add.
#[inline(always)]
fn multiply(a: &Tile<f32>, b: &Tile<f32>, d: &mut Tile<f32>) {
    for r in 0..16 {
        let mut sum = d[r];
        for k in 0..16 {
            for n in 0..16 {
                sum[n] = a[k][r].mul_add(b[k][n], sum[n]);
            }
        }
        d[r] = sum;
    }
}

/// Elements one by one, written as loops: closures passed to `map` would be compiled without the wide registers.
#[inline(always)]
fn each<T: Copy, U: Copy + Default>(m: &Tile<T>, f: impl Fn(T) -> U) -> Tile<U> {
    let mut out = [[U::default(); 16]; 16];
    for r in 0..16 {
        for n in 0..16 {
            out[r][n] = f(m[r][n]);
        }
    }
    out
}

/// f32 accumulator.
macro_rules! to_f32 {
    ($f:expr) => {
        exec!(|w, i, c| {
            if let Some(step) = defined(w, i, c) {
                return step;
            }
            let (a, b) = (floats(w, &i.o[1], $f), floats(w, &i.o[2], $f));
            let mut d = each(&accumulator(w, &i.o[3]), f32::from_bits);
            multiply(&a, &b, &mut d);
            store(w, i.o[0].reg, &each(&d, f32::to_bits));
            Step::Next
        })
    };
}
/// 16-bit accumulator, in the half that `op_sel` bit 2 names; the other half stays.
macro_rules! to_half {
    ($from:expr, $to:expr) => {
        exec!(|w, i, c| {
            if let Some(step) = defined(w, i, c) {
                return step;
            }
            let (a, b) = (floats(w, &i.o[1], $from), floats(w, &i.o[2], $from));
            let (old, shift) = (accumulator(w, &i.o[3]), if i.op_sel & 4 != 0 { 16 } else { 0 });
            let mut d = each(&old, |x| $from((x >> shift) as u16));
            multiply(&a, &b, &mut d);
            let keep = accumulator(w, &i.o[0]);
            let mut out = [[0; 16]; 16];
            for r in 0..16 {
                for n in 0..16 {
                    let h: u16 = $to(d[r][n]);
                    out[r][n] = keep[r][n] & !(0xffff << shift) | u32::from(h) << shift;
                }
            }
            store(w, i.o[0].reg, &out);
            Step::Next
        })
    };
}
macro_rules! to_i32 {
    ($bits:literal) => {
        exec!(|w, i, c| {
            if let Some(step) = defined(w, i, c) {
                return step;
            }
            let (a, b) = (ints(w, &i.o[1], $bits, i.neg_lo & 1 != 0), ints(w, &i.o[2], $bits, i.neg_lo & 2 != 0));
            let mut d = accumulator(w, &i.o[3]);
            for r in 0..16 {
                let mut sum = d[r];
                for k in 0..16 {
                    for n in 0..16 {
                        sum[n] = sum[n].wrapping_add(a[k][r].wrapping_mul(b[k][n]) as u32);
                    }
                }
                d[r] = sum;
            }
            store(w, i.o[0].reg, &d);
            Step::Next
        })
    };
}

/// f32 to bf16, round to nearest even.
fn f2b(f: f32) -> u16 {
    let b = f.to_bits();
    if f.is_nan() { (b >> 16) as u16 | 0x40 } else { ((b + 0x7fff + (b >> 16 & 1)) >> 16) as u16 }
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_wmma_f32_16x16x16_f16" => to_f32!(h2f),
        "v_wmma_f32_16x16x16_bf16" => to_f32!(b2f),
        "v_wmma_f16_16x16x16_f16" => to_half!(h2f, f2h),
        "v_wmma_bf16_16x16x16_bf16" => to_half!(b2f, f2b),
        "v_wmma_i32_16x16x16_iu8" => to_i32!(8),
        "v_wmma_i32_16x16x16_iu4" => to_i32!(4),
        _ => return None,
    })
}
