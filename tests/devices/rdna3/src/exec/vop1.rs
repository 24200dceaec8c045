//! Vector instructions of one 32-bit source: moves, conversions, transcendental functions.

use super::{exec, f, v1};
use crate::float::{flush, h2f};
use crate::inst::{Exec, Step};
use std::f64::consts::TAU;

fn frexp_exp(x: f32) -> u32 {
    match x {
        _ if x == 0.0 || !x.is_finite() => 0,
        _ if x.is_subnormal() => ((x * 16_777_216.0).to_bits() >> 23 & 255).wrapping_sub(126 + 24),
        _ => (x.to_bits() >> 23 & 255).wrapping_sub(126),
    }
}

fn frexp_mant(x: f32) -> f32 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let x = if x.is_subnormal() { x * 16_777_216.0 } else { x };
    f32::from_bits(x.to_bits() & 0x807f_ffff | 0x3f00_0000)
}

/// The argument is in turns; beyond 256 of them the unit gives the value at zero.
fn turns(x: f32, f: fn(f64) -> f64) -> f32 {
    if x.abs() > 256.0 && x.is_finite() {
        return f(0.0) as f32;
    }
    f(f64::from(x).fract() * TAU) as f32
}

fn log2(x: f32) -> f32 {
    let x = flush(x);
    if x == 0.0 { f32::NEG_INFINITY } else { x.log2() }
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        // Bits move as they are; LLVM's modifiers on moves do not occur.
        "v_mov_b32" => v1!(|a: u32| a),
        "v_not_b32" => v1!(|a: u32| !a),
        "v_bfrev_b32" => v1!(u32::reverse_bits),
        "v_clz_i32_u32" => v1!(|a: u32| if a == 0 { !0 } else { a.leading_zeros() }),
        "v_ctz_i32_b32" => v1!(|a: u32| if a == 0 { !0 } else { a.trailing_zeros() }),
        "v_cls_i32" => v1!(super::sop::cls),
        "v_cvt_f32_i32" => v1!(|a: u32| (a as i32 as f32).to_bits()),
        "v_cvt_f32_u32" => v1!(|a: u32| (a as f32).to_bits()),
        "v_cvt_i32_f32" => v1!(|a: u32| f(a) as i32 as u32),
        "v_cvt_u32_f32" => v1!(|a: u32| f(a) as u32),
        "v_cvt_nearest_i32_f32" | "v_cvt_rpi_i32_f32" => v1!(|a: u32| (f(a) + 0.5).floor() as i32 as u32),
        "v_cvt_floor_i32_f32" | "v_cvt_flr_i32_f32" => v1!(|a: u32| f(a).floor() as i32 as u32),
        "v_cvt_f32_ubyte0" => v1!(|a: u32| ((a & 255) as f32).to_bits()),
        "v_cvt_f32_ubyte1" => v1!(|a: u32| ((a >> 8 & 255) as f32).to_bits()),
        "v_cvt_f32_ubyte2" => v1!(|a: u32| ((a >> 16 & 255) as f32).to_bits()),
        "v_cvt_f32_ubyte3" => v1!(|a: u32| ((a >> 24) as f32).to_bits()),
        "v_cvt_off_f32_i4" => v1!(|a: u32| ((((a << 28) as i32) >> 28) as f32 / 16.0).to_bits()),
        "v_cvt_f32_f16" => exec!(|w, i, _c| {
            let (a, mut out) = (w.src16(&i.o[1]), [0; 32]);
            for l in 0..32 {
                out[l] = h2f(a[l] as u16).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_cvt_i32_i16" => exec!(|w, i, _c| {
            let out = w.src16(&i.o[1]).map(|a| a as i16 as i32 as u32);
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_cvt_u32_u16" => exec!(|w, i, _c| {
            let out = w.src16(&i.o[1]);
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_fract_f32" => v1!(|a: u32| (f(a) - f(a).floor()).min(f32::from_bits(0x3f7f_ffff)).to_bits()),
        "v_trunc_f32" => v1!(|a: u32| f(a).trunc().to_bits()),
        "v_ceil_f32" => v1!(|a: u32| f(a).ceil().to_bits()),
        "v_floor_f32" => v1!(|a: u32| f(a).floor().to_bits()),
        "v_rndne_f32" => v1!(|a: u32| f(a).round_ties_even().to_bits()),
        "v_exp_f32" => v1!(|a: u32| flush(flush(f(a)).exp2()).to_bits()),
        "v_log_f32" => v1!(|a: u32| log2(f(a)).to_bits()),
        "v_rcp_f32" | "v_rcp_iflag_f32" => v1!(|a: u32| flush(1.0 / flush(f(a))).to_bits()),
        "v_rsq_f32" => v1!(|a: u32| ((1.0 / f64::from(flush(f(a))).sqrt()) as f32).to_bits()),
        "v_sqrt_f32" => v1!(|a: u32| flush(f(a)).sqrt().to_bits()),
        "v_sin_f32" => v1!(|a: u32| turns(f(a), f64::sin).to_bits()),
        "v_cos_f32" => v1!(|a: u32| turns(f(a), f64::cos).to_bits()),
        "v_frexp_exp_i32_f32" => v1!(|a: u32| frexp_exp(f(a))),
        "v_frexp_mant_f32" => v1!(|a: u32| frexp_mant(f(a)).to_bits()),
        _ => return None,
    })
}
