//! f32 and f64 arithmetic, special functions, conversions, comparisons with NaNs, modifiers.

use super::{Case, Rows, bits, case, check, numbers, random_floats};

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// Numbers where comparisons, minima and conversions are delicate, all pairs of them in two registers.
fn delicate() -> Rows {
    let values = [0.0, -0.0, 1.0, -1.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40];
    let mut rows = random_floats();
    for l in 0..32 {
        rows[1][l] = values[l / 4].to_bits();
        rows[2][l] = values[(l % 4) * 2 + (l / 4) % 2].to_bits();
        rows[3][l] = values[(l * 3) % 8].to_bits();
    }
    rows
}

#[test]
fn arithmetic() {
    check(
        &random_floats(),
        &[
            numbers("v_add_f32 v10, v1, v2", 0, |a, b, _| a + b),
            numbers("v_sub_f32 v10, v1, v2", 0, |a, b, _| a - b),
            numbers("v_subrev_f32 v10, v1, v2", 0, |a, b, _| b - a),
            numbers("v_mul_f32 v10, v1, v2", 0, |a, b, _| a * b),
            numbers("v_mul_f32 v10, -|v1|, v2", 0, |a, b, _| -a.abs() * b),
            numbers("v_mul_f32 v10, v1, v2 mul:4", 0, |a, b, _| a * b * 4.0),
            numbers("v_add_f32 v10, v1, v2 clamp", 0, |a, b, _| f64::from((a + b) as f32).clamp(0.0, 1.0)),
            numbers("v_max_f32 v10, v1, v1 div:2", 0, |a, _, _| a / 2.0),
            numbers("v_fma_f32 v10, v1, v2, v3", 1, |a, b, c| a * b + c),
            numbers("v_fma_f32 v10, v1, -v2, |v3|", 1, |a, b, c| -a * b + c.abs()),
            numbers("v_mov_b32 v10, v3\nv_fmac_f32 v10, v1, v2", 1, |a, b, c| a * b + c),
            numbers("v_fmaak_f32 v10, v1, v2, 0x40490fdb", 1, |a, b, _| a * b + f64::from(f(0x4049_0fdb))),
            numbers("v_fmamk_f32 v10, v1, 0x40490fdb, v2", 1, |a, b, _| a * f64::from(f(0x4049_0fdb)) + b),
            numbers("v_max3_f32 v10, v1, v2, v3", 0, |a, b, c| a.max(b).max(c)),
            numbers("v_min3_f32 v10, v1, v2, v3", 0, |a, b, c| a.min(b).min(c)),
            numbers("v_med3_f32 v10, v1, v2, v3", 0, |a, b, c| a + b + c - a.max(b).max(c) - a.min(b).min(c)),
            numbers("v_rcp_f32 v10, v1", 1, |a, _, _| 1.0 / a),
            numbers("v_rsq_f32 v10, |v1|", 1, |a, _, _| 1.0 / a.abs().sqrt()),
            numbers("v_sqrt_f32 v10, |v1|", 1, |a, _, _| a.abs().sqrt()),
            numbers("v_exp_f32 v10, v1", 1, |a, _, _| if a < -126.0 { 0.0 } else { a.exp2() }),
            numbers("v_log_f32 v10, |v1|", 1, |a, _, _| a.abs().log2()),
            numbers("v_sin_f32 v10, v1", 2, |a, _, _| {
                if a.abs() > 256.0 { 0.0 } else { (a.fract() * std::f64::consts::TAU).sin() }
            }),
            numbers("v_cos_f32 v10, v1", 2, |a, _, _| {
                if a.abs() > 256.0 { 1.0 } else { (a.fract() * std::f64::consts::TAU).cos() }
            }),
            numbers("v_floor_f32 v10, v1", 0, |a, _, _| a.floor()),
            numbers("v_ceil_f32 v10, v1", 0, |a, _, _| a.ceil()),
            numbers("v_trunc_f32 v10, v1", 0, |a, _, _| a.trunc()),
            numbers("v_fract_f32 v10, v1", 0, |a, _, _| a - a.floor()),
            numbers("v_rndne_f32 v10, v1", 0, |a, _, _| {
                let down = a.floor();
                let up = down + f64::from(u8::from(a > down));
                let near = if a - down < up - a || (a - down == up - a && down % 2.0 == 0.0) { down } else { up };
                near.copysign(a)
            }),
            numbers("v_ldexp_f32 v10, v1, 3", 0, |a, _, _| a * 8.0),
            case("v_cvt_u32_f32 v10, v1\nv_cvt_i32_f32 v11, v1", |i, l| {
                let x = f64::from(f(i[1][l]));
                vec![x.max(0.0).trunc() as u64 as u32, x.trunc() as i64 as u32]
            }),
            case("v_frexp_exp_i32_f32 v10, v1\nv_frexp_mant_f32 v11, v1", |i, l| {
                let (mut x, mut e) = (f64::from(f(i[1][l])), 0i32);
                while x.abs() >= 1.0 {
                    (x, e) = (x / 2.0, e + 1);
                }
                while x.abs() < 0.5 {
                    (x, e) = (x * 2.0, e - 1);
                }
                vec![e as u32, (x as f32).to_bits()]
            }),
        ],
    );
}

#[test]
fn division_as_compilers_expand_it() {
    let divide = "v_div_scale_f32 v20, null, v2, v2, v1\nv_div_scale_f32 v21, vcc_lo, v1, v2, v1\n\
                  v_rcp_f32 v22, v20\nv_fma_f32 v23, -v20, v22, 1.0\nv_fmac_f32 v22, v23, v22\n\
                  v_mul_f32 v23, v21, v22\nv_fma_f32 v24, -v20, v23, v21\nv_fmac_f32 v23, v24, v22\n\
                  v_fma_f32 v20, -v20, v23, v21\nv_div_fmas_f32 v20, v20, v22, v23\nv_div_fixup_f32 v10, v20, v2, v1";
    check(&random_floats(), &[numbers(divide, 1, |a, b, _| a / b)]);
    let mut extreme = random_floats();
    let values: [f32; 8] = [1e38, 1e-38, 3e38, 1e-42, 0.0, f32::INFINITY, -1.0, 2e-30];
    for l in 0..32 {
        extreme[1][l] = values[l % 8].to_bits();
        extreme[2][l] = values[(l / 8 * 3 + l) % 8].to_bits();
    }
    // Quotients that are subnormal lose bits on the way.
    check(&extreme, &[numbers(divide, 4, |a, b, _| a / b)]);
}

fn compare(op: &str, want: impl Fn(f32, f32) -> bool + 'static) -> Case {
    case(&format!("v_cmp_{op}_f32 s8, v1, v2\nv_cndmask_b32 v10, 0, 1, s8"), move |i, l| {
        vec![u32::from(want(f(i[1][l]), f(i[2][l])))]
    })
}

#[test]
fn comparisons_with_nans() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    check(
        &delicate(),
        &[
            compare("lt", |a, b| a.partial_cmp(&b) == Some(Less)),
            compare("le", |a, b| matches!(a.partial_cmp(&b), Some(Less | Equal))),
            compare("gt", |a, b| a.partial_cmp(&b) == Some(Greater)),
            compare("ge", |a, b| matches!(a.partial_cmp(&b), Some(Greater | Equal))),
            compare("eq", |a, b| a.partial_cmp(&b) == Some(Equal)),
            compare("neq", |a, b| a.partial_cmp(&b) != Some(Equal)),
            compare("lg", |a, b| matches!(a.partial_cmp(&b), Some(Less | Greater))),
            compare("nlg", |a, b| !matches!(a.partial_cmp(&b), Some(Less | Greater))),
            compare("o", |a, b| a.partial_cmp(&b).is_some()),
            compare("u", |a, b| a.partial_cmp(&b).is_none()),
            compare("nlt", |a, b| a.partial_cmp(&b) != Some(Less)),
            compare("nge", |a, b| !matches!(a.partial_cmp(&b), Some(Greater | Equal))),
            compare("ngt", |a, b| a.partial_cmp(&b) != Some(Greater)),
            compare("nle", |a, b| !matches!(a.partial_cmp(&b), Some(Less | Equal))),
            // Quiet NaN, infinities.
            case("v_cmp_class_f32 s8, v1, 0x206\nv_cndmask_b32 v10, 0, 1, s8", |i, l| {
                let x = f(i[1][l]);
                vec![u32::from(x.is_nan() || x.is_infinite())]
            }),
            case("v_cmp_class_f32 s8, v1, 0xf0\nv_cndmask_b32 v10, 0, 1, s8", |i, l| {
                let x = f(i[1][l]);
                vec![u32::from(x == 0.0 || x.is_subnormal())]
            }),
        ],
    );
}

#[test]
fn special_values() {
    let nan_aware = |a: f32, b: f32, max: bool| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if max == (a > b) => a,
        _ => b,
    };
    // Zeros of either sign and NaNs of any kind count as equal: what the tests of kernels can see.
    let loosely = |c: Case| Case { ulps: 1, ..c };
    check(
        &delicate(),
        &[
            loosely(bits("v_max_f32 v10, v1, v2\nv_add_f32 v10, v10, 0", move |a, b, _| {
                (nan_aware(f(a), f(b), true) + 0.0).to_bits()
            })),
            loosely(bits("v_min_f32 v10, v1, v2\nv_add_f32 v10, v10, 0", move |a, b, _| {
                (nan_aware(f(a), f(b), false) + 0.0).to_bits()
            })),
            loosely(bits("v_rcp_f32 v10, v1", |a, _, _| {
                let x = f(a);
                (if x.is_subnormal() { f32::INFINITY.copysign(x) } else { 1.0 / x }).to_bits()
            })),
            loosely(bits("v_exp_f32 v10, v1", |a, _, _| f(a).exp2().to_bits())),
            loosely(bits("v_log_f32 v10, v1", |a, _, _| {
                let x = f(a);
                (if x == 0.0 || x.is_subnormal() { f32::NEG_INFINITY } else { x.log2() }).to_bits()
            })),
            bits("v_cvt_i32_f32 v10, v1", |a, _, _| match f(a) {
                x if x.is_nan() => 0,
                f32::INFINITY => 0x7fff_ffff,
                f32::NEG_INFINITY => 0x8000_0000,
                x => x as i64 as u32,
            }),
            bits("v_cvt_u32_f32 v10, v1", |a, _, _| match f(a) {
                x if x.is_nan() || x < 0.0 => 0,
                f32::INFINITY => !0,
                x => x as i64 as u32,
            }),
            bits("v_mul_dx9_zero_f32 v10, v1, v2\nv_cmp_eq_f32 s8, 0, v10\nv_cndmask_b32 v10, 0, 1, s8", |a, b, _| {
                u32::from(f(a) == 0.0 || f(b) == 0.0 || f(a) * f(b) == 0.0)
            }),
        ],
    );
}

#[test]
fn doubles() {
    let two = |x: f64| vec![x.to_bits() as u32, (x.to_bits() >> 32) as u32];
    // v[20:21], v[22:23] = v1, v2 with bits that f32 does not have.
    let setup = "v_cvt_f64_f32 v[20:21], v1\nv_cvt_f64_f32 v[22:23], v2\ns_mov_b32 s9, 0x3ff00000\n\
                 s_mov_b32 s8, 0x1ad7f\nv_mul_f64 v[20:21], v[20:21], s[8:9]\nv_mul_f64 v[22:23], v[22:23], s[8:9]\n";
    let factor = f64::from_bits(0x3ff0_0000_0001_ad7f);
    let v = move |i: &Rows, r: usize, l: usize| f64::from(f(i[r][l])) * factor;
    let of = |code: &str| format!("{setup}{code}");
    check(
        &random_floats(),
        &[
            case("v_cvt_f64_f32 v[10:11], v1", move |i, l| two(f64::from(f(i[1][l])))),
            case(&of("v_add_f64 v[10:11], v[20:21], v[22:23]"), move |i, l| two(v(i, 1, l) + v(i, 2, l))),
            case(&of("v_mul_f64 v[10:11], v[20:21], -v[22:23]"), move |i, l| two(-(v(i, 1, l) * v(i, 2, l)))),
            case(&of("v_fma_f64 v[10:11], v[20:21], v[22:23], 1.0"), move |i, l| {
                two(v(i, 1, l).mul_add(v(i, 2, l), 1.0))
            }),
            case(&of("v_cvt_f32_f64 v10, v[20:21]"), move |i, l| vec![(v(i, 1, l) as f32).to_bits()]),
            case(&of("v_cvt_i32_f64 v10, v[20:21]"), move |i, l| vec![v(i, 1, l).trunc() as i64 as u32]),
            case(&of("v_cmp_lt_f64 s8, v[20:21], v[22:23]\nv_cndmask_b32 v10, 0, 1, s8"), move |i, l| {
                vec![u32::from(v(i, 1, l) < v(i, 2, l))]
            }),
        ],
    );
}
