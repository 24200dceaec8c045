//! Vector instructions of three 32-bit sources, and packing conversions.

use super::{exec, f, v2, v3};
use crate::inst::{Exec, Step};

fn u24(a: u32) -> u32 {
    a & 0xff_ffff
}

fn i24(a: u32) -> i32 {
    (a << 8) as i32 >> 8
}

/// One byte of `v_perm_b32`: 0 to 7 pick a byte, 8 to 11 a sign, 12 zero, above all ones.
fn pick(hi: u32, lo: u32, s: u32) -> u32 {
    let both = u64::from(hi) << 32 | u64::from(lo);
    match s & 255 {
        n @ 0..=7 => (both >> (8 * n)) as u32 & 255,
        n @ 8..=11 => ((both >> (16 * (n - 8) + 8)) as u8 as i8 >> 7) as u8 as u32,
        12 => 0,
        _ => 255,
    }
}

fn med3(a: f32, b: f32, c: f32) -> f32 {
    if a.is_nan() || b.is_nan() || c.is_nan() {
        return a.min(b).min(c);
    }
    a.max(b).min(a.min(b).max(c))
}

fn exponent(x: f32) -> i32 {
    (x.to_bits() >> 23 & 255) as i32
}

/// `v_div_fixup_f32`: quotient `q` of `n` by `d`, special cases put right.
fn fixup(q: f32, d: f32, n: f32) -> f32 {
    let sign = (d.to_bits() ^ n.to_bits()) & 0x8000_0000;
    let signed = |x: f32| f32::from_bits(x.to_bits() & 0x7fff_ffff | sign);
    if n.is_nan() {
        n
    } else if d.is_nan() {
        d
    } else if d == 0.0 && n == 0.0 || d.is_infinite() && n.is_infinite() {
        f32::from_bits(0xffc0_0000)
    } else if d == 0.0 || n.is_infinite() {
        signed(f32::INFINITY)
    } else if d.is_infinite() || n == 0.0 || exponent(n) - exponent(d) < -150 {
        signed(0.0)
    } else if q.is_nan() {
        // Of finite numbers: the quotient's refinement has overflowed.
        signed(f32::INFINITY)
    } else {
        signed(q)
    }
}

/// `v_div_scale_f32`: `x` scaled so that the quotient of `n` by `d` can be refined, and whether it is to be scaled
/// back.
fn scale(x: f32, d: f32, n: f32) -> (f32, bool) {
    let up = x * 2f32.powi(64);
    let tiny = |y: f64| y != 0.0 && y.abs() < f64::from(f32::MIN_POSITIVE);
    let (rcp, quotient) = (1.0 / f64::from(d), f64::from(n) / f64::from(d));
    if n == 0.0 || d == 0.0 {
        (f32::NAN, false)
    } else if exponent(n) - exponent(d) >= 96 {
        (if x.to_bits() == d.to_bits() { up } else { x }, true)
    } else if d.is_subnormal() {
        (up, false)
    } else if tiny(rcp) && tiny(quotient) {
        (if x.to_bits() == d.to_bits() { up } else { x }, true)
    } else if tiny(rcp) {
        (x * 2f32.powi(-64), false)
    } else if tiny(quotient) {
        (if x.to_bits() == n.to_bits() { up } else { x }, true)
    } else if exponent(n) <= 23 {
        (up, false)
    } else {
        (x, false)
    }
}

fn clamp_pair(a: i64, b: i64, lo: i64, hi: i64) -> u32 {
    (a.clamp(lo, hi) as u32 & 0xffff) | (b.clamp(lo, hi) as u32) << 16
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_add3_u32" => v3!(|a: u32, b: u32, c: u32| a.wrapping_add(b).wrapping_add(c)),
        "v_lshl_add_u32" => v3!(|a: u32, b: u32, c: u32| (a << (b & 31)).wrapping_add(c)),
        "v_add_lshl_u32" => v3!(|a: u32, b: u32, c: u32| a.wrapping_add(b) << (c & 31)),
        "v_xad_u32" => v3!(|a: u32, b: u32, c: u32| (a ^ b).wrapping_add(c)),
        "v_lshl_or_b32" => v3!(|a: u32, b: u32, c: u32| a << (b & 31) | c),
        "v_and_or_b32" => v3!(|a: u32, b: u32, c: u32| a & b | c),
        "v_or3_b32" => v3!(|a: u32, b: u32, c: u32| a | b | c),
        "v_xor3_b32" => v3!(|a: u32, b: u32, c: u32| a ^ b ^ c),
        "v_bfe_u32" => v3!(|a: u32, o: u32, n: u32| a >> (o & 31) & ((1u32 << (n & 31)) - 1)),
        "v_bfe_i32" => v3!(|a: u32, o: u32, n: u32| {
            let (o, n) = (o & 31, n & 31);
            let v = (a as i32 >> o) as u32;
            if n == 0 { 0 } else { ((v << (32 - n)) as i32 >> (32 - n)) as u32 }
        }),
        "v_bfi_b32" => v3!(|m: u32, a: u32, b: u32| m & a | !m & b),
        "v_alignbit_b32" => {
            v3!(|a: u32, b: u32, s: u32| ((u64::from(a) << 32 | u64::from(b)) >> (s & 31)) as u32)
        }
        "v_alignbyte_b32" => {
            v3!(|a: u32, b: u32, s: u32| ((u64::from(a) << 32 | u64::from(b)) >> (8 * (s & 3))) as u32)
        }
        "v_perm_b32" => v3!(|a: u32, b: u32, s: u32| {
            pick(a, b, s) | pick(a, b, s >> 8) << 8 | pick(a, b, s >> 16) << 16 | pick(a, b, s >> 24) << 24
        }),
        "v_mad_u32_u24" => v3!(|a: u32, b: u32, c: u32| u24(a).wrapping_mul(u24(b)).wrapping_add(c)),
        "v_mad_i32_i24" => v3!(|a: u32, b: u32, c: u32| (i24(a).wrapping_mul(i24(b)) as u32).wrapping_add(c)),
        "v_min3_f32" => v3!(|a: u32, b: u32, c: u32| f(a).min(f(b)).min(f(c)).to_bits()),
        "v_max3_f32" => v3!(|a: u32, b: u32, c: u32| f(a).max(f(b)).max(f(c)).to_bits()),
        "v_med3_f32" => v3!(|a: u32, b: u32, c: u32| med3(f(a), f(b), f(c)).to_bits()),
        "v_maxmin_f32" => v3!(|a: u32, b: u32, c: u32| f(a).max(f(b)).min(f(c)).to_bits()),
        "v_minmax_f32" => v3!(|a: u32, b: u32, c: u32| f(a).min(f(b)).max(f(c)).to_bits()),
        "v_min3_i32" => v3!(|a: u32, b: u32, c: u32| (a as i32).min(b as i32).min(c as i32) as u32),
        "v_max3_i32" => v3!(|a: u32, b: u32, c: u32| (a as i32).max(b as i32).max(c as i32) as u32),
        "v_med3_i32" => v3!(|a: u32, b: u32, c: u32| {
            let (a, b, c) = (a as i32, b as i32, c as i32);
            a.max(b).min(a.min(b).max(c)) as u32
        }),
        "v_maxmin_i32" => v3!(|a: u32, b: u32, c: u32| (a as i32).max(b as i32).min(c as i32) as u32),
        "v_minmax_i32" => v3!(|a: u32, b: u32, c: u32| (a as i32).min(b as i32).max(c as i32) as u32),
        "v_min3_u32" => v3!(|a: u32, b: u32, c: u32| a.min(b).min(c)),
        "v_max3_u32" => v3!(|a: u32, b: u32, c: u32| a.max(b).max(c)),
        "v_med3_u32" => v3!(|a: u32, b: u32, c: u32| a.max(b).min(a.min(b).max(c))),
        "v_maxmin_u32" => v3!(|a: u32, b: u32, c: u32| a.max(b).min(c)),
        "v_minmax_u32" => v3!(|a: u32, b: u32, c: u32| a.min(b).max(c)),
        "v_sad_u8" => v3!(|a: u32, b: u32, c: u32| {
            let d = |k: u32| (a >> k & 255).abs_diff(b >> k & 255);
            c.wrapping_add(d(0) + d(8) + d(16) + d(24))
        }),
        "v_sad_u32" => v3!(|a: u32, b: u32, c: u32| a.abs_diff(b).wrapping_add(c)),
        "v_cvt_pk_u16_u32" => v2!(|a: u32, b: u32| a.min(0xffff) | b.min(0xffff) << 16),
        "v_cvt_pk_i16_i32" => {
            v2!(|a: u32, b: u32| clamp_pair(i64::from(a as i32), i64::from(b as i32), -0x8000, 0x7fff))
        }
        "v_cvt_pk_i16_f32" => v2!(|a: u32, b: u32| clamp_pair(f(a) as i64, f(b) as i64, -0x8000, 0x7fff)),
        "v_cvt_pk_u16_f32" => v2!(|a: u32, b: u32| clamp_pair(f(a) as i64, f(b) as i64, 0, 0xffff)),
        "v_cvt_pk_norm_i16_f32" => v2!(|a: u32, b: u32| {
            let n = |x: u32| (f(x).clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i64;
            clamp_pair(n(a), n(b), -0x7fff, 0x7fff)
        }),
        "v_cvt_pk_norm_u16_f32" => v2!(|a: u32, b: u32| {
            let n = |x: u32| (f(x).clamp(0.0, 1.0) * 65535.0).round_ties_even() as i64;
            clamp_pair(n(a), n(b), 0, 0xffff)
        }),
        "v_cvt_pk_u8_f32" => v3!(|a: u32, byte: u32, old: u32| {
            let (v, at) = (f(a).round_ties_even() as u8, 8 * (byte & 3));
            old & !(255 << at) | u32::from(v) << at
        }),
        "v_div_fixup_f32" => v3!(|q: u32, d: u32, n: u32| fixup(f(q), f(d), f(n)).to_bits()),
        "v_div_fmas_f32" => exec!(|w, i, _c| {
            let (a, b, c) = (w.floats(&i.o[1]), w.floats(&i.o[2]), w.floats(&i.o[3]));
            let (vcc, mut out) = (w.s[usize::from(crate::inst::VCC)], [0; 32]);
            for l in 0..32 {
                let r = a[l].mul_add(b[l], c[l]);
                let back = if exponent(c[l]) > 127 { 64 } else { -64 };
                out[l] = (if vcc >> l & 1 != 0 { r * 2f32.powi(back) } else { r }).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_div_scale_f32" => exec!(|w, i, _c| {
            let (a, d, n) = (w.floats(&i.o[2]), w.floats(&i.o[3]), w.floats(&i.o[4]));
            let (mut out, mut flags) = ([0; 32], 0);
            for l in 0..32 {
                let (x, flag) = scale(a[l], d[l], n[l]);
                out[l] = x.to_bits();
                flags |= u32::from(flag) << l;
            }
            w.put(usize::from(i.o[0].reg), &out);
            let exec = w.exec();
            w.set_s(&i.o[1], flags & exec);
            Step::Next
        }),
        _ => return None,
    })
}
