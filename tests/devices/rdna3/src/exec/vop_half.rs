//! 16-bit vector instructions. The half of the destination that is not written keeps its value.

use super::{exec, f, v2};
use crate::float::{f2h, h2f};
use crate::inst::{Exec, Step};

/// f16 functions, computed in f32: for add, subtract, multiply, divide and root the second rounding changes nothing.
macro_rules! h1 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, f, mut out) = (w.src16(&i.o[1]), $f, [0; 32]);
            for l in 0..32 {
                let r: f32 = f(h2f(a[l] as u16));
                out[l] = u32::from(f2h(r));
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}
macro_rules! h2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f, mut out) = (w.src16(&i.o[1]), w.src16(&i.o[2]), $f, [0; 32]);
            for l in 0..32 {
                let r: f32 = f(h2f(a[l] as u16), h2f(b[l] as u16));
                out[l] = u32::from(f2h(r));
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}
macro_rules! h3 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, c) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.src16(&i.o[3]));
            let (f, mut out) = ($f, [0; 32]);
            for l in 0..32 {
                let r: f32 = f(h2f(a[l] as u16), h2f(b[l] as u16), h2f(c[l] as u16));
                out[l] = u32::from(f2h(r));
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}
/// Integer functions on the low 16 bits.
macro_rules! i1 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, f, mut out) = (w.src16(&i.o[1]), $f, [0; 32]);
            for l in 0..32 {
                out[l] = f(a[l]);
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}
macro_rules! i2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f, mut out) = (w.src16(&i.o[1]), w.src16(&i.o[2]), $f, [0; 32]);
            for l in 0..32 {
                out[l] = f(a[l], b[l]);
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}
macro_rules! i3 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, c) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.src16(&i.o[3]));
            let (f, mut out) = ($f, [0; 32]);
            for l in 0..32 {
                out[l] = f(a[l], b[l], c[l]);
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        })
    };
}

fn s(a: u32) -> i32 {
    a as u16 as i16 as i32
}

/// Fused: exact in f64, one rounding to f32 that keeps the sticky bit out of the way of f16's.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    let exact = f64::from(a) * f64::from(b) + f64::from(c);
    let near = exact as f32;
    // Round to odd, so that the rounding to f16 that follows is the only one.
    match f64::from(near) == exact || !near.is_finite() || near.to_bits() & 1 != 0 {
        true => near,
        false => {
            let away = (f64::from(near).abs() < exact.abs()) as u32;
            f32::from_bits(near.to_bits().wrapping_add(away).wrapping_sub(1 - away))
        }
    }
}

fn med3(a: f32, b: f32, c: f32) -> f32 {
    if a.is_nan() || b.is_nan() || c.is_nan() {
        return a.min(b).min(c);
    }
    a.max(b).min(a.min(b).max(c))
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_cvt_f16_f32" => exec!(|w, i, _c| {
            let (mut ra, mut out) = (crate::wave::room(), [0; 32]);
            let a = w.src(&i.o[1], 0, &mut ra);
            for l in 0..32 {
                out[l] = u32::from(f2h(f(a[l])));
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        }),
        "v_cvt_f16_u16" => i1!(|a: u32| u32::from(f2h(a as f32))),
        "v_cvt_f16_i16" => i1!(|a: u32| u32::from(f2h(s(a) as f32))),
        "v_cvt_u16_f16" => i1!(|a: u32| u32::from(h2f(a as u16) as u16)),
        "v_cvt_i16_f16" => i1!(|a: u32| h2f(a as u16) as i16 as u16 as u32),
        "v_add_f16" => h2!(|a: f32, b: f32| a + b),
        "v_sub_f16" => h2!(|a: f32, b: f32| a - b),
        "v_subrev_f16" => h2!(|a: f32, b: f32| b - a),
        "v_mul_f16" => h2!(|a: f32, b: f32| a * b),
        "v_min_f16" => h2!(f32::min),
        "v_max_f16" => h2!(f32::max),
        "v_fma_f16" | "v_fmamk_f16" | "v_fmaak_f16" => h3!(fma),
        "v_fmac_f16" => exec!(|w, i, _c| {
            let (a, b, c, mut out) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.src16(&i.o[0]), [0; 32]);
            for l in 0..32 {
                let r = fma(h2f(a[l] as u16), h2f(b[l] as u16), h2f(c[l] as u16));
                out[l] = u32::from(f2h(r));
            }
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        }),
        "v_min3_f16" => h3!(|a: f32, b: f32, c: f32| a.min(b).min(c)),
        "v_max3_f16" => h3!(|a: f32, b: f32, c: f32| a.max(b).max(c)),
        "v_med3_f16" => h3!(med3),
        "v_minmax_f16" => h3!(|a: f32, b: f32, c: f32| a.min(b).max(c)),
        "v_maxmin_f16" => h3!(|a: f32, b: f32, c: f32| a.max(b).min(c)),
        "v_exp_f16" => h1!(f32::exp2),
        "v_log_f16" => h1!(f32::log2),
        "v_rcp_f16" => h1!(|a: f32| 1.0 / a),
        "v_rsq_f16" => h1!(|a: f32| 1.0 / a.sqrt()),
        "v_sqrt_f16" => h1!(f32::sqrt),
        "v_floor_f16" => h1!(f32::floor),
        "v_ceil_f16" => h1!(f32::ceil),
        "v_trunc_f16" => h1!(f32::trunc),
        "v_rndne_f16" => h1!(f32::round_ties_even),
        "v_fract_f16" => h1!(|a: f32| (a - a.floor()).min(h2f(0x3bff))),
        "v_ldexp_f16" => i2!(|a: u32, e: u32| { u32::from(f2h(h2f(a as u16) * 2f32.powi(s(e).clamp(-60, 60)))) }),
        "v_pack_b32_f16" => exec!(|w, i, _c| {
            let (a, b) = (w.src16(&i.o[1]), w.src16(&i.o[2]));
            let out = std::array::from_fn(|l| a[l] | b[l] << 16);
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_add_nc_u16" | "v_add_nc_i16" => i2!(|a: u32, b: u32| a.wrapping_add(b)),
        "v_sub_nc_u16" | "v_sub_nc_i16" => i2!(|a: u32, b: u32| a.wrapping_sub(b)),
        "v_add_nc_u16_sat" => i2!(|a: u32, b: u32| (a + b).min(0xffff)),
        "v_sub_nc_u16_sat" => i2!(|a: u32, b: u32| a.saturating_sub(b)),
        "v_add_nc_i16_sat" => i2!(|a: u32, b: u32| (s(a) + s(b)).clamp(-0x8000, 0x7fff) as u32),
        "v_sub_nc_i16_sat" => i2!(|a: u32, b: u32| (s(a) - s(b)).clamp(-0x8000, 0x7fff) as u32),
        "v_mul_lo_u16" => i2!(|a: u32, b: u32| a.wrapping_mul(b)),
        "v_mad_u16" | "v_mad_i16" => i3!(|a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        "v_min_u16" => i2!(|a: u32, b: u32| a.min(b)),
        "v_max_u16" => i2!(|a: u32, b: u32| a.max(b)),
        "v_min_i16" => i2!(|a: u32, b: u32| s(a).min(s(b)) as u32),
        "v_max_i16" => i2!(|a: u32, b: u32| s(a).max(s(b)) as u32),
        "v_and_b16" => i2!(|a: u32, b: u32| a & b),
        "v_or_b16" => i2!(|a: u32, b: u32| a | b),
        "v_xor_b16" => i2!(|a: u32, b: u32| a ^ b),
        "v_not_b16" => i1!(|a: u32| !a),
        "v_mov_b16" => i1!(|a: u32| a),
        "v_sat_pk_u8_i16" => exec!(|w, i, _c| {
            let a = w.raw(&i.o[1], 0);
            let b = |x: u32| s(x).clamp(0, 255) as u32;
            let out = a.map(|x| b(x) | b(x >> 16) << 8);
            w.put16(usize::from(i.o[0].reg), &out, i.dst_high);
            Step::Next
        }),
        "v_lshlrev_b16" => i2!(|a: u32, b: u32| b << (a & 15)),
        "v_lshrrev_b16" => i2!(|a: u32, b: u32| b >> (a & 15)),
        "v_ashrrev_i16" => i2!(|a: u32, b: u32| (s(b) >> (a & 15)) as u32),
        "v_med3_i16" => i3!(|a: u32, b: u32, c: u32| {
            let (a, b, c) = (s(a), s(b), s(c));
            a.max(b).min(a.min(b).max(c)) as u32
        }),
        "v_mad_u32_u16" => exec!(|w, i, _c| {
            let (a, b, c) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.raw(&i.o[3], 0));
            let out = std::array::from_fn(|l| a[l].wrapping_mul(b[l]).wrapping_add(c[l]));
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_mad_i32_i16" => exec!(|w, i, _c| {
            let (a, b, c) = (w.src16(&i.o[1]), w.src16(&i.o[2]), w.raw(&i.o[3], 0));
            let out = std::array::from_fn(|l| ((s(a[l]) * s(b[l])) as u32).wrapping_add(c[l]));
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_cvt_pk_norm_i16_f16" => v2!(|a: u32, b: u32| {
            let n = |x: u32| (h2f(x as u16).clamp(-1.0, 1.0) * 32767.0).round_ties_even() as i32 as u32 & 0xffff;
            n(a) | n(b) << 16
        }),
        _ => return None,
    })
}
