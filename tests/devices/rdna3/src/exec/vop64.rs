//! 64-bit vector instructions.

use super::{exec, f};
use crate::inst::{Exec, Step};

macro_rules! d1 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let out = w.src64(&i.o[1]).map(|a| -> u64 { f(f64::from_bits(a)).to_bits() });
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}
macro_rules! d2 {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (a, b, f) = (w.src64(&i.o[1]), w.src64(&i.o[2]), $f);
            let out = std::array::from_fn(|l| f(f64::from_bits(a[l]), f64::from_bits(b[l])).to_bits());
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}
/// A shift: 32-bit count first.
macro_rules! shift {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (n, a, f) = (w.raw(&i.o[1], 0), w.src64(&i.o[2]), $f);
            let out = std::array::from_fn(|l| f(a[l], n[l] & 63));
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}
/// From 64 bits to 32.
macro_rules! narrow {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let f = $f;
            let out = w.src64(&i.o[1]).map(|a| -> u32 { f(f64::from_bits(a)) });
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}
/// From 32 bits to a double.
macro_rules! widen {
    ($f:expr) => {
        exec!(|w, i, _c| {
            let (mut room, f) = (crate::wave::room(), $f);
            let out = w.src(&i.o[1], 0, &mut room).map(|a| -> u64 {
                let d: f64 = f(a);
                d.to_bits()
            });
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        })
    };
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_lshlrev_b64" => shift!(|a: u64, n: u32| a << n),
        "v_lshrrev_b64" => shift!(|a: u64, n: u32| a >> n),
        "v_ashrrev_i64" => shift!(|a: u64, n: u32| (a as i64 >> n) as u64),
        "v_add_f64" => d2!(|a: f64, b: f64| a + b),
        "v_mul_f64" => d2!(|a: f64, b: f64| a * b),
        "v_min_f64" => d2!(f64::min),
        "v_max_f64" => d2!(f64::max),
        "v_fma_f64" => exec!(|w, i, _c| {
            let (a, b, c) = (w.src64(&i.o[1]), w.src64(&i.o[2]), w.src64(&i.o[3]));
            let d = f64::from_bits;
            let out = std::array::from_fn(|l| d(a[l]).mul_add(d(b[l]), d(c[l])).to_bits());
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_ldexp_f64" => exec!(|w, i, _c| {
            let (a, e) = (w.src64(&i.o[1]), w.raw(&i.o[2], 0));
            let out = std::array::from_fn(|l| {
                let e = (e[l] as i32).clamp(-2200, 2200);
                // In two steps, so that neither power of two leaves the range.
                (f64::from_bits(a[l]) * 2f64.powi(e / 2) * 2f64.powi(e - e / 2)).to_bits()
            });
            w.put64(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_floor_f64" => d1!(f64::floor),
        "v_ceil_f64" => d1!(f64::ceil),
        "v_trunc_f64" => d1!(f64::trunc),
        "v_rndne_f64" => d1!(f64::round_ties_even),
        "v_fract_f64" => d1!(|a: f64| (a - a.floor()).min(f64::from_bits(0x3fef_ffff_ffff_ffff))),
        "v_rcp_f64" => d1!(|a: f64| 1.0 / a),
        "v_rsq_f64" => d1!(|a: f64| 1.0 / a.sqrt()),
        "v_sqrt_f64" => d1!(f64::sqrt),
        "v_cvt_f32_f64" => narrow!(|a: f64| (a as f32).to_bits()),
        "v_cvt_i32_f64" => narrow!(|a: f64| a as i32 as u32),
        "v_cvt_u32_f64" => narrow!(|a: f64| a as u32),
        "v_cvt_f64_f32" => widen!(|a: u32| f64::from(f(a))),
        "v_cvt_f64_i32" => widen!(|a: u32| f64::from(a as i32)),
        "v_cvt_f64_u32" => widen!(|a: u32| f64::from(a)),
        _ => return None,
    })
}
