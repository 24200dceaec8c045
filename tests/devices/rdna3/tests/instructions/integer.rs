//! 32- and 64-bit integers, bit fields, carries, comparisons.

use super::{Case, bits, case, check, random_bits};

fn wide(hi: u32, lo: u32) -> u128 {
    (u128::from(hi) << 32) | u128::from(lo)
}

fn two(v: u64) -> Vec<u32> {
    vec![v as u32, (v >> 32) as u32]
}

/// Bits `from` to `from + n` of a number, one at a time.
fn field(a: u32, from: u32, n: u32) -> u32 {
    (0..n).filter(|k| from + k < 32 && a >> (from + k) & 1 != 0).map(|k| 1 << k).sum()
}

#[test]
fn arithmetic_and_logic() {
    let m = |x: i128| x as u32;
    let s = |x: u32| i128::from(x as i32);
    let u = i128::from;
    check(
        &random_bits(),
        &[
            bits("v_add_nc_u32 v10, v1, v2", move |a, b, _| m(u(a) + u(b))),
            bits("v_sub_nc_u32 v10, v1, v2", move |a, b, _| m(u(a) - u(b))),
            bits("v_subrev_nc_u32 v10, v1, v2", move |a, b, _| m(u(b) - u(a))),
            bits("v_sub_nc_u32 v10, v1, v2 clamp", move |a, b, _| m((u(a) - u(b)).max(0))),
            bits("v_add_nc_i32 v10, v1, v2 clamp", move |a, b, _| {
                m((s(a) + s(b)).clamp(i128::from(i32::MIN), i128::from(i32::MAX)))
            }),
            bits("v_mul_lo_u32 v10, v1, v2", move |a, b, _| m(u(a) * u(b))),
            bits("v_mul_hi_u32 v10, v1, v2", move |a, b, _| m((u(a) * u(b)) >> 32)),
            bits("v_mul_hi_i32 v10, v1, v2", move |a, b, _| m((s(a) * s(b)) >> 32)),
            bits("v_mul_u32_u24 v10, v1, v2", move |a, b, _| m(u(a % (1 << 24)) * u(b % (1 << 24)))),
            bits("v_mul_i32_i24 v10, v1, v2", move |a, b, _| m(s(a << 8) / 256 * (s(b << 8) / 256))),
            bits("v_mad_u32_u24 v10, v1, v2, v3", move |a, b, c| m(u(a % (1 << 24)) * u(b % (1 << 24)) + u(c))),
            bits("v_mad_i32_i24 v10, v1, v2, v3", move |a, b, c| m(s(a << 8) / 256 * (s(b << 8) / 256) + u(c))),
            bits("v_add3_u32 v10, v1, v2, v3", move |a, b, c| m(u(a) + u(b) + u(c))),
            bits("v_lshl_add_u32 v10, v1, v2, v3", move |a, b, c| m((u(a) << (b % 32)) + u(c))),
            bits("v_add_lshl_u32 v10, v1, v2, v3", move |a, b, c| m((u(a) + u(b)) << (c % 32))),
            bits("v_lshl_or_b32 v10, v1, v2, v3", move |a, b, c| m(u(a) << (b % 32)) | c),
            bits("v_and_or_b32 v10, v1, v2, v3", |a, b, c| (a & b) | c),
            bits("v_or3_b32 v10, v1, v2, v3", |a, b, c| a | b | c),
            bits("v_xor3_b32 v10, v1, v2, v3", |a, b, c| a ^ b ^ c),
            bits("v_xad_u32 v10, v1, v2, v3", move |a, b, c| m(u(a ^ b) + u(c))),
            bits("v_and_b32 v10, 0xf0f0f0f, v1", |a, _, _| a & 0x0f0f_0f0f),
            bits("v_xnor_b32 v10, v1, v2", |a, b, _| !(a ^ b)),
            bits("v_not_b32 v10, v1", |a, _, _| !a),
            bits("v_bfrev_b32 v10, v1", |a, _, _| (0..32).filter(|k| a >> k & 1 != 0).map(|k| 1 << (31 - k)).sum()),
            bits("v_lshlrev_b32 v10, v1, v2", move |a, b, _| m(u(b) << (a % 32))),
            bits("v_lshrrev_b32 v10, v1, v2", move |a, b, _| m(u(b) >> (a % 32))),
            bits("v_ashrrev_i32 v10, v1, v2", move |a, b, _| m(s(b) >> (a % 32))),
            bits("v_min_i32 v10, v1, v2", move |a, b, _| m(s(a).min(s(b)))),
            bits("v_max_u32 v10, v1, v2", |a, b, _| if a > b { a } else { b }),
            bits("v_med3_i32 v10, v1, v2, v3", |a, b, c| {
                let mut v = [a as i32, b as i32, c as i32];
                v.sort_unstable();
                v[1] as u32
            }),
            bits("v_med3_u32 v10, v1, v2, v3", |a, b, c| {
                let mut v = [a, b, c];
                v.sort_unstable();
                v[1]
            }),
            bits("v_min3_u32 v10, v1, v2, v3", |a, b, c| *[a, b, c].iter().min().unwrap()),
            bits("v_max3_i32 v10, v1, v2, v3", |a, b, c| *[a as i32, b as i32, c as i32].iter().max().unwrap() as u32),
            bits("v_clz_i32_u32 v10, v1", |a, _, _| (0..32).find(|k| a >> (31 - k) & 1 != 0).unwrap_or(!0)),
            bits("v_ctz_i32_b32 v10, v1", |a, _, _| (0..32).find(|k| a >> k & 1 != 0).unwrap_or(!0)),
            bits("v_bcnt_u32_b32 v10, v1, v2", move |a, b, _| m(u(b) + (0..32).map(|k| u(a >> k & 1)).sum::<i128>())),
            bits("v_cvt_i32_f32 v10, v1", |a, _, _| {
                let x = f64::from(f32::from_bits(a));
                if x.is_nan() { 0 } else { x.clamp(-2147483648.0, 2147483647.0).trunc() as i64 as u32 }
            }),
            bits("v_cvt_pk_u16_u32 v10, v1, v2", |a, b, _| a.min(65535) + 65536 * b.min(65535)),
        ],
    );
}

#[test]
fn fields_and_bytes() {
    check(
        &random_bits(),
        &[
            bits("v_bfe_u32 v10, v1, v2, v3", |a, o, n| field(a, o % 32, n % 32)),
            bits("v_bfe_u32 v10, v1, 4, 4", |a, _, _| a / 16 % 16),
            bits("v_bfe_i32 v10, v1, v2, v3", |a, o, n| {
                let (o, n) = (o % 32, n % 32);
                // Beyond the top bit the sign goes on.
                let bit = |k: u32| a >> (o + k).min(31) & 1;
                if n == 0 { 0 } else { (0..32).map(|k| bit(k.min(n - 1)) << k).sum() }
            }),
            bits("v_bfi_b32 v10, v1, v2, v3", |m, a, b| {
                (0..32).map(|k| (if m >> k & 1 != 0 { a } else { b }) & 1 << k).sum()
            }),
            bits("v_bfm_b32 v10, v1, v2", |a, b, _| (0..a % 32).map(|k| 1u64 << (k + b % 32)).sum::<u64>() as u32),
            bits("v_alignbit_b32 v10, v1, v2, v3", |a, b, c| (wide(a, b) >> (c % 32)) as u32),
            bits("v_alignbyte_b32 v10, v1, v2, v3", |a, b, c| (wide(a, b) >> (8 * (c % 4))) as u32),
            bits("v_perm_b32 v10, v1, v2, v3", |a, b, s| {
                let all = [b.to_le_bytes(), a.to_le_bytes()].concat();
                let byte = |s: u8| match s {
                    0..=7 => all[usize::from(s)],
                    8..=11 => {
                        if all[usize::from(s - 8) * 2 + 1] >= 128 {
                            255
                        } else {
                            0
                        }
                    }
                    12 => 0,
                    _ => 255,
                };
                u32::from_le_bytes(s.to_le_bytes().map(byte))
            }),
            bits("v_perm_b32 v10, v1, v2, 0x0c0a0501", |a, b, _| {
                let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
                u32::from_le_bytes([b[1], a[1], if a[1] >= 128 { 255 } else { 0 }, 0])
            }),
            bits("v_sad_u8 v10, v1, v2, v3", |a, b, c| {
                a.to_le_bytes().iter().zip(b.to_le_bytes()).fold(c, |s, (x, y)| s.wrapping_add(x.abs_diff(y).into()))
            }),
            bits("v_cvt_f32_ubyte2 v10, v1", |a, _, _| f32::from(a.to_le_bytes()[2]).to_bits()),
            bits("v_cvt_f32_ubyte3 v10, v1", |a, _, _| f32::from(a.to_le_bytes()[3]).to_bits()),
        ],
    );
}

#[test]
fn sixty_four_bits_and_carries() {
    let mad = |a: u32, b: u32, lo: u32, hi: u32| u128::from(a) * u128::from(b) + wide(hi, lo);
    check(
        &random_bits(),
        &[
            case("v_lshlrev_b64 v[10:11], v1, v[2:3]", |i, l| two((wide(i[3][l], i[2][l]) << (i[1][l] % 64)) as u64)),
            case("v_lshrrev_b64 v[10:11], v1, v[2:3]", |i, l| two((wide(i[3][l], i[2][l]) >> (i[1][l] % 64)) as u64)),
            case("v_ashrrev_i64 v[10:11], v1, v[2:3]", |i, l| {
                two((wide(i[3][l], i[2][l]) as u64 as i64 as i128 >> (i[1][l] % 64)) as u64)
            }),
            case("v_mad_u64_u32 v[10:11], null, v1, v2, v[3:4]", move |i, l| {
                two(mad(i[1][l], i[2][l], i[3][l], i[4][l]) as u64)
            }),
            case("v_mad_u64_u32 v[10:11], s8, v1, v2, v[3:4]\nv_cndmask_b32 v12, 0, 1, s8", move |i, l| {
                let r = mad(i[1][l], i[2][l], i[3][l], i[4][l]);
                vec![r as u32, (r >> 32) as u32, (r >> 64) as u32]
            }),
            case("v_mad_i64_i32 v[10:11], null, v1, v2, v[3:4]", |i, l| {
                let p = i128::from(i[1][l] as i32) * i128::from(i[2][l] as i32);
                two((p + wide(i[4][l], i[3][l]) as i128) as u64)
            }),
            case(
                "v_add_co_u32 v10, vcc_lo, v1, v3\nv_add_co_ci_u32 v11, vcc_lo, v2, v4, vcc_lo\n\
                 v_cndmask_b32 v12, 0, 1, vcc_lo",
                |i, l| {
                    let r = wide(i[2][l], i[1][l]) + wide(i[4][l], i[3][l]);
                    vec![r as u32, (r >> 32) as u32, (r >> 64) as u32]
                },
            ),
            case(
                "v_sub_co_u32 v10, s8, v1, v3\nv_sub_co_ci_u32 v11, s9, v2, v4, s8\nv_cndmask_b32 v12, 0, 1, s9",
                |i, l| {
                    let r = (wide(i[2][l], i[1][l]) as i128) - (wide(i[4][l], i[3][l]) as i128);
                    vec![r as u32, (r >> 32) as u32, u32::from(r < 0)]
                },
            ),
            case("v_subrev_co_u32 v10, s8, v1, v2", |i, l| vec![(i128::from(i[2][l]) - i128::from(i[1][l])) as u32]),
        ],
    );
}

/// A comparison's mask, made visible as a number in each lane.
fn compare(op: &str, want: impl Fn(u32, u32) -> bool + 'static) -> Case {
    case(&format!("v_cmp_{op} vcc_lo, v1, v2\nv_cndmask_b32 v10, 0, 1, vcc_lo"), move |i, l| {
        vec![u32::from(want(i[1][l], i[2][l]))]
    })
}

#[test]
fn comparisons() {
    let mut input = random_bits();
    for l in (0..32).step_by(5) {
        input[2][l] = input[1][l];
        input[4][l] = input[3][l];
    }
    let d = |hi: u32, lo: u32| u64::from(hi) << 32 | u64::from(lo);
    check(
        &input,
        &[
            compare("eq_u32", |a, b| a == b),
            compare("ne_i32", |a, b| a != b),
            compare("lt_u32", |a, b| a < b),
            compare("lt_i32", |a, b| (a as i32) < b as i32),
            compare("ge_i32", |a, b| a as i32 >= b as i32),
            compare("le_u32", |a, b| a <= b),
            compare("gt_u16", |a, b| a as u16 > b as u16),
            compare("le_i16", |a, b| a as i16 <= b as i16),
            case("v_cmp_lt_u64 s8, v[1:2], v[3:4]\nv_cndmask_b32 v10, 0, 1, s8", move |i, l| {
                vec![u32::from(d(i[2][l], i[1][l]) < d(i[4][l], i[3][l]))]
            }),
            case("v_cmp_gt_i64 s8, v[1:2], v[3:4]\nv_cndmask_b32 v10, 0, 1, s8", move |i, l| {
                vec![u32::from(d(i[2][l], i[1][l]) as i64 > d(i[4][l], i[3][l]) as i64)]
            }),
            // EXEC is narrowed: only lanes that compare true write.
            case("s_mov_b32 s8, exec_lo\nv_cmpx_lt_u32 v1, v2\nv_mov_b32 v10, 7\ns_mov_b32 exec_lo, s8", |i, l| {
                vec![if i[1][l] < i[2][l] { 7 } else { 0xabcd_1234 }]
            }),
        ],
    );
}
