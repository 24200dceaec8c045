//! Vector instructions of two 32-bit sources.

use super::{exec, f, v2, v3};
use crate::float::f2h_rtz;
use crate::inst::{Exec, Step};

fn i24(a: u32) -> i64 {
    i64::from((a << 8) as i32 >> 8)
}

fn u24(a: u32) -> u64 {
    u64::from(a & 0xff_ffff)
}

/// See [`super::lookup`].
pub fn lookup(name: &str) -> Option<Exec> {
    Some(match name {
        "v_add_f32" => v2!(|a: u32, b: u32| (f(a) + f(b)).to_bits()),
        "v_sub_f32" => v2!(|a: u32, b: u32| (f(a) - f(b)).to_bits()),
        "v_subrev_f32" => v2!(|a: u32, b: u32| (f(b) - f(a)).to_bits()),
        "v_mul_f32" => v2!(|a: u32, b: u32| (f(a) * f(b)).to_bits()),
        "v_mul_dx9_zero_f32" | "v_mul_legacy_f32" => {
            v2!(|a: u32, b: u32| (if f(a) == 0.0 || f(b) == 0.0 { 0.0 } else { f(a) * f(b) }).to_bits())
        }
        "v_min_f32" => v2!(|a: u32, b: u32| f(a).min(f(b)).to_bits()),
        "v_max_f32" => v2!(|a: u32, b: u32| f(a).max(f(b)).to_bits()),
        "v_min_i32" => v2!(|a: u32, b: u32| (a as i32).min(b as i32) as u32),
        "v_max_i32" => v2!(|a: u32, b: u32| (a as i32).max(b as i32) as u32),
        "v_min_u32" => v2!(|a: u32, b: u32| a.min(b)),
        "v_max_u32" => v2!(|a: u32, b: u32| a.max(b)),
        "v_and_b32" => v2!(|a: u32, b: u32| a & b),
        "v_or_b32" => v2!(|a: u32, b: u32| a | b),
        "v_xor_b32" => v2!(|a: u32, b: u32| a ^ b),
        "v_xnor_b32" => v2!(|a: u32, b: u32| !(a ^ b)),
        "v_lshlrev_b32" => v2!(|a: u32, b: u32| b << (a & 31)),
        "v_lshrrev_b32" => v2!(|a: u32, b: u32| b >> (a & 31)),
        "v_ashrrev_i32" => v2!(|a: u32, b: u32| (b as i32 >> (a & 31)) as u32),
        "v_add_nc_u32" | "v_add_nc_i32" => v2!(|a: u32, b: u32| a.wrapping_add(b)),
        "v_sub_nc_u32" | "v_sub_nc_i32" => v2!(|a: u32, b: u32| a.wrapping_sub(b)),
        "v_subrev_nc_u32" => v2!(|a: u32, b: u32| b.wrapping_sub(a)),
        "v_add_nc_u32_sat" => v2!(u32::saturating_add),
        "v_sub_nc_u32_sat" => v2!(u32::saturating_sub),
        "v_subrev_nc_u32_sat" => v2!(|a: u32, b: u32| b.saturating_sub(a)),
        "v_add_nc_i32_sat" => v2!(|a: u32, b: u32| (a as i32).saturating_add(b as i32) as u32),
        "v_sub_nc_i32_sat" => v2!(|a: u32, b: u32| (a as i32).saturating_sub(b as i32) as u32),
        "v_mul_u32_u24" => v2!(|a: u32, b: u32| (u24(a) * u24(b)) as u32),
        "v_mul_hi_u32_u24" => v2!(|a: u32, b: u32| ((u24(a) * u24(b)) >> 32) as u32),
        "v_mul_i32_i24" => v2!(|a: u32, b: u32| (i24(a) * i24(b)) as u32),
        "v_mul_hi_i32_i24" => v2!(|a: u32, b: u32| ((i24(a) * i24(b)) >> 32) as u32),
        "v_mul_lo_u32" => v2!(|a: u32, b: u32| a.wrapping_mul(b)),
        "v_mul_hi_u32" => v2!(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "v_mul_hi_i32" => v2!(|a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        "v_cvt_pk_rtz_f16_f32" => {
            v2!(|a: u32, b: u32| u32::from(f2h_rtz(f(a))) | u32::from(f2h_rtz(f(b))) << 16)
        }
        "v_bcnt_u32_b32" => v2!(|a: u32, b: u32| a.count_ones().wrapping_add(b)),
        "v_bfm_b32" => v2!(|a: u32, b: u32| ((1u32 << (a & 31)) - 1) << (b & 31)),
        "v_fmac_f32" => exec!(|w, i, _c| {
            let (mut ra, mut rb, mut out) = (crate::wave::room(), crate::wave::room(), [0u32; 32]);
            let (a, b) = (w.src(&i.o[1], 0, &mut ra), w.src(&i.o[2], 0, &mut rb));
            let c = &w.v[usize::from(i.o[0].reg) & 255];
            for l in 0..32 {
                out[l] = f(a[l]).mul_add(f(b[l]), f(c[l])).to_bits();
            }
            w.put(usize::from(i.o[0].reg), &out);
            Step::Next
        }),
        "v_fma_f32" | "v_fmamk_f32" | "v_fmaak_f32" => {
            v3!(|a: u32, b: u32, c: u32| f(a).mul_add(f(b), f(c)).to_bits())
        }
        "v_ldexp_f32" => v2!(|a: u32, e: u32| {
            let e = (e as i32).clamp(-400, 400);
            ((f64::from(f(a)) * 2f64.powi(e)) as f32).to_bits()
        }),
        _ => return None,
    })
}
