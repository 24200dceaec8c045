//! 16-bit formats: conversions, packed and mixed arithmetic, dot products.

use super::{Case, Rows, bits, case, check, random_bits, random_floats};

/// f16 to f64, from the definition.
fn h(bits: u32) -> f64 {
    let (s, e, m) = (bits >> 15 & 1, (bits >> 10 & 31) as i32, f64::from(bits & 1023));
    let v = match e {
        0 => m * 2f64.powi(-24),
        31 => {
            if m == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => (1024.0 + m) * 2f64.powi(e - 25),
    };
    if s == 1 { -v } else { v }
}

/// f64 to the nearest f16, ties to even, by looking at all of them.
fn to_h(v: f64) -> u32 {
    if v.is_nan() {
        return 0x7e00;
    }
    let sign = if v.is_sign_negative() { 0x8000 } else { 0 };
    let a = v.abs();
    if a >= 65520.0 {
        return sign | 0x7c00;
    }
    let up = (0..0x7c00).find(|&x| h(x) >= a).unwrap_or(0x7c00);
    if up == 0 {
        return sign;
    }
    let (high, low) = (if up == 0x7c00 { 65536.0 } else { h(up) }, h(up - 1));
    let nearest = if high - a < a - low || (high - a == a - low && up % 2 == 0) { up } else { up - 1 };
    sign | nearest
}

/// Moderate f16 numbers in both halves.
fn halves() -> Rows {
    let floats = random_floats();
    let mut rows = floats;
    for r in 0..9 {
        for l in 0..32 {
            let other = f32::from_bits(floats[r][(l + 7) % 32]);
            rows[r][l] = to_h(f64::from(f32::from_bits(floats[r][l]))) | to_h(f64::from(other)) << 16;
        }
    }
    rows
}

fn lo(x: u32) -> f64 {
    h(x & 0xffff)
}

fn hi(x: u32) -> f64 {
    h(x >> 16)
}

/// The untouched half of v10.
const KEPT: u32 = 0xabcd_0000;

fn one(code: &str, want: impl Fn(f64, f64, f64) -> f64 + 'static) -> Case {
    bits(code, move |a, b, c| KEPT | to_h(want(lo(a), lo(b), lo(c))))
}

fn both(code: &str, want: impl Fn(f64, f64, f64) -> f64 + 'static) -> Case {
    bits(code, move |a, b, c| to_h(want(lo(a), lo(b), lo(c))) | to_h(want(hi(a), hi(b), hi(c))) << 16)
}

#[test]
fn scalar_halves_keep_the_other_half() {
    check(
        &halves(),
        &[
            one("v_add_f16 v10, v1, v2", |a, b, _| a + b),
            one("v_sub_f16 v10, v1, v2", |a, b, _| a - b),
            one("v_mul_f16 v10, v1, v2", |a, b, _| a * b),
            one("v_mul_f16 v10, 2.0, |v2|", |_, b, _| 2.0 * b.abs()),
            one("v_fma_f16 v10, v1, v2, v3", |a, b, c| a * b + c),
            one("v_max_f16 v10, v1, v2", |a, b, _| a.max(b)),
            one("v_sqrt_f16 v10, |v1|", |a, _, _| a.abs().sqrt()),
            bits("v_fma_f16 v10, v1, v2, v3 op_sel:[1,0,0,1]", |a, b, c| 0x1234 | to_h(hi(a) * lo(b) + lo(c)) << 16),
            bits("v_pack_b32_f16 v10, v1, v2", |a, b, _| a & 0xffff | b << 16),
            bits("v_pack_b32_f16 v10, v1, v2 op_sel:[1,1,0]", |a, b, _| a >> 16 | b & 0xffff_0000),
            bits("v_cvt_f32_f16 v10, v1", |a, _, _| (lo(a) as f32).to_bits()),
            bits("v_cvt_f32_f16 v10, -v1", |a, _, _| (-lo(a) as f32).to_bits()),
            bits("v_cmp_lt_f16 s8, v1, v2\nv_cndmask_b32 v10, 0, 1, s8", |a, b, _| u32::from(lo(a) < lo(b))),
        ],
    );
    check(
        &random_floats(),
        &[
            bits("v_cvt_f16_f32 v10, v1", |a, _, _| KEPT | to_h(f64::from(f32::from_bits(a)))),
            bits("v_cvt_pk_rtz_f16_f32 v10, v1, v2", |a, b, _| {
                // Toward zero: the largest f16 not beyond it.
                let rtz = |x: u32| {
                    let v = f64::from(f32::from_bits(x));
                    let m = (0..0x7c00).rev().find(|&m| h(m) <= v.abs()).unwrap();
                    m | if v < 0.0 { 0x8000 } else { 0 }
                };
                rtz(a) | rtz(b) << 16
            }),
        ],
    );
    check(
        &random_bits(),
        &[
            bits("v_add_nc_u16 v10, v1, v2", |a, b, _| KEPT | (a + (b & 0xffff)) & 0xffff),
            bits("v_mul_lo_u16 v10, v1, v2", |a, b, _| KEPT | ((a & 0xffff) * (b & 0xffff)) & 0xffff),
            bits("v_lshrrev_b16 v10, 3, v2", |_, b, _| KEPT | ((b & 0xffff) / 8)),
            bits("v_ashrrev_i16 v10, 4, v2", |_, b, _| KEPT | (i32::from(b as i16).div_euclid(16) as u32 & 0xffff)),
            bits("v_mad_u32_u16 v10, v1, v2, v3", |a, b, c| {
                (u64::from(a & 0xffff) * u64::from(b & 0xffff) + u64::from(c)) as u32
            }),
        ],
    );
}

#[test]
fn packed_and_mixed() {
    check(
        &halves(),
        &[
            both("v_pk_add_f16 v10, v1, v2", |a, b, _| a + b),
            both("v_pk_mul_f16 v10, v1, v2", |a, b, _| a * b),
            both("v_pk_fma_f16 v10, v1, v2, v3", |a, b, c| a * b + c),
            both("v_pk_max_f16 v10, v1, v2", |a, b, _| a.max(b)),
            both("v_pk_add_f16 v10, v1, v2 neg_lo:[0,1] neg_hi:[0,1]", |a, b, _| a - b),
            bits("v_pk_mul_f16 v10, v1, v2 op_sel:[1,0] op_sel_hi:[0,1]", |a, b, _| {
                to_h(hi(a) * lo(b)) | to_h(lo(a) * hi(b)) << 16
            }),
            bits("v_pk_mul_f16 v10, v1, 2.0 op_sel_hi:[1,0]", |a, _, _| to_h(lo(a) * 2.0) | to_h(hi(a) * 2.0) << 16),
            bits("v_fma_mix_f32 v10, v1, v2, v3 op_sel:[1,0,0] op_sel_hi:[1,1,0]", |a, b, c| {
                ((hi(a) * lo(b) + f64::from(f32::from_bits(c))) as f32).to_bits()
            }),
            bits("v_fma_mix_f32 v10, -v1, |v2|, v3 op_sel_hi:[1,1,1]", |a, b, c| {
                ((-lo(a) * lo(b).abs() + lo(c)) as f32).to_bits()
            }),
            bits("v_fma_mixlo_f16 v10, v1, v2, v3 op_sel_hi:[1,1,1]", |a, b, c| {
                KEPT | to_h(f64::from((lo(a) * lo(b) + lo(c)) as f32))
            }),
            bits("v_fma_mixhi_f16 v10, v1, v2, v3 op_sel_hi:[1,1,1]", |a, b, c| {
                0x1234 | to_h(f64::from((lo(a) * lo(b) + lo(c)) as f32)) << 16
            }),
        ],
    );
    let each = |a: u32, b: u32, f: fn(u32, u32) -> u32| f(a & 0xffff, b & 0xffff) & 0xffff | f(a >> 16, b >> 16) << 16;
    check(
        &random_bits(),
        &[
            bits("v_pk_add_u16 v10, v1, v2", move |a, b, _| each(a, b, |x, y| x + y)),
            bits("v_pk_sub_i16 v10, v1, v2", move |a, b, _| each(a, b, |x, y| x.wrapping_sub(y))),
            bits("v_pk_sub_u16 v10, v1, v2 clamp", move |a, b, _| each(a, b, |x, y| x.saturating_sub(y))),
            bits("v_pk_mul_lo_u16 v10, v1, v2", move |a, b, _| each(a, b, |x, y| x * y)),
            bits("v_pk_max_i16 v10, v1, v2", move |a, b, _| each(a, b, |x, y| (x as i16).max(y as i16) as u32)),
            bits("v_pk_lshlrev_b16 v10, 4, v2 op_sel_hi:[0,1]", move |_, b, _| each(0, b, |_, y| y * 16)),
            bits("v_pk_ashrrev_i16 v10, 2, v2 op_sel_hi:[0,1]", move |_, b, _| {
                each(0, b, |_, y| i32::from(y as i16).div_euclid(4) as u32)
            }),
        ],
    );
}

#[test]
fn dot_products() {
    let dot4 = |a: u32, b: u32, c: u32, sa: bool, sb: bool| {
        let x = |v: u8, s: bool| if s { i64::from(v as i8) } else { i64::from(v) };
        let all = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
        (all.map(|(p, q)| x(p, sa) * x(q, sb)).sum::<i64>() + i64::from(c as i32)) as u32
    };
    let dot8 = |a: u32, b: u32, c: u32| {
        let x = |v: u32, k: u32| {
            let n = i64::from(v >> (4 * k) & 15);
            if n > 7 { n - 16 } else { n }
        };
        ((0..8).map(|k| x(a, k) * x(b, k)).sum::<i64>() + i64::from(c as i32)) as u32
    };
    check(
        &random_bits(),
        &[
            bits("v_dot4_i32_iu8 v10, v1, v2, v3", move |a, b, c| dot4(a, b, c, false, false)),
            bits("v_dot4_i32_iu8 v10, v1, v2, v3 neg_lo:[1,0,0]", move |a, b, c| dot4(a, b, c, true, false)),
            bits("v_dot4_i32_iu8 v10, v1, v2, v3 neg_lo:[0,1,0]", move |a, b, c| dot4(a, b, c, false, true)),
            bits("v_dot4_i32_iu8 v10, v1, v2, v3 neg_lo:[1,1,0]", move |a, b, c| dot4(a, b, c, true, true)),
            bits("v_dot4_u32_u8 v10, v1, v2, v3", move |a, b, c| dot4(a, b, c, false, false)),
            bits("v_dot8_i32_iu4 v10, v1, v2, v3 neg_lo:[1,1,0]", dot8),
        ],
    );
    let sum = |a: u32, b: u32, c: f64| (lo(a) * lo(b) + hi(a) * hi(b) + c) as f32;
    let mut input = halves();
    input[3] = random_floats()[3];
    let near = |c: Case| Case { ulps: 64, ..c };
    check(
        &input,
        &[
            near(case("v_dot2_f32_f16 v10, v1, v2, v3", move |i, l| {
                vec![sum(i[1][l], i[2][l], f64::from(f32::from_bits(i[3][l]))).to_bits()]
            })),
            near(case("v_dot2_f32_f16 v10, v1, v2, 1.0", move |i, l| vec![sum(i[1][l], i[2][l], 1.0).to_bits()])),
            near(case("v_mov_b32 v10, v3\nv_dot2acc_f32_f16 v10, v1, v2", move |i, l| {
                vec![sum(i[1][l], i[2][l], f64::from(f32::from_bits(i[3][l]))).to_bits()]
            })),
            near(case("v_dot2_f32_bf16 v10, v1, v2, v3", |i, l| {
                let b = |x: u32| f64::from(f32::from_bits(x << 16));
                let (a, c) = (i[1][l], i[2][l]);
                vec![((b(a) * b(c) + b(a >> 16) * b(c >> 16) + f64::from(f32::from_bits(i[3][l]))) as f32).to_bits()]
            })),
        ],
    );
}
