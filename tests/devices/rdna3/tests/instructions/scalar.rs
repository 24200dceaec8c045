//! Scalar instructions, control flow, scalar loads.

use super::{Case, case, random_bits, run};

/// Two words loaded by scalar loads, the code's s12 and SCC, made visible: `want(a, b)` gives both.
fn scalar(code: &str, want: impl Fn(u32, u32) -> (u32, u32) + 'static) -> Case {
    // a and b are row 1 and 2 of lane 3.
    let code = format!(
        "s_load_b32 s8, s[4:5], 0x8c\ns_load_b32 s9, s[4:5], 0x10c\ns_waitcnt lgkmcnt(0)\ns_cmp_eq_u32 s8, s8\n{code}\n\
         s_cselect_b32 s13, 1, 0\nv_mov_b32 v10, s12\nv_mov_b32 v11, s13"
    );
    case(&code, move |i, _| {
        let (r, scc) = want(i[1][3], i[2][3]);
        vec![r, scc]
    })
}

fn nz(r: u32) -> (u32, u32) {
    (r, u32::from(r != 0))
}

/// SCC was set before and is left alone.
fn keep(r: u32) -> (u32, u32) {
    (r, 1)
}

#[test]
fn arithmetic() {
    for seed in 0..6 {
        let mut input = random_bits();
        (input[1][3], input[2][3]) = (input[3][seed], input[4][seed + 7]);
        let overflow = |r: i64| (r as u32, u32::from(r != i64::from(r as i32)));
        let s = |x: u32| i64::from(x as i32);
        run(
            &input,
            &[
                scalar("s_add_i32 s12, s8, s9", move |a, b| overflow(s(a) + s(b))),
                scalar("s_sub_i32 s12, s8, s9", move |a, b| overflow(s(a) - s(b))),
                scalar("s_mov_b32 s12, s8\ns_addk_i32 s12, 0xff00", move |a, _| overflow(s(a) - 256)),
                scalar("s_mov_b32 s12, s8\ns_mulk_i32 s12, 0xfff0", move |a, _| keep((s(a) * -16) as u32)),
                scalar("s_movk_i32 s12, 0x8000", |_, _| keep(0xffff_8000)),
                scalar("s_add_u32 s12, s8, s9", |a, b| {
                    let r = u64::from(a) + u64::from(b);
                    (r as u32, (r >> 32) as u32)
                }),
                scalar("s_sub_u32 s12, s8, s9", |a, b| (a.wrapping_sub(b), u32::from(b > a))),
                scalar("s_addc_u32 s12, s8, s9", |a, b| {
                    let r = u64::from(a) + u64::from(b) + 1;
                    (r as u32, (r >> 32) as u32)
                }),
                scalar("s_subb_u32 s12, s8, s9", |a, b| {
                    let r = i64::from(a) - i64::from(b) - 1;
                    (r as u32, u32::from(r < 0))
                }),
                scalar("s_mul_i32 s12, s8, s9", |a, b| keep((u64::from(a) * u64::from(b)) as u32)),
                scalar("s_mul_hi_u32 s12, s8, s9", |a, b| keep(((u64::from(a) * u64::from(b)) >> 32) as u32)),
                scalar("s_mul_hi_i32 s12, s8, s9", move |a, b| keep(((s(a) * s(b)) >> 32) as u32)),
                scalar("s_min_u32 s12, s8, s9", |a, b| (a.min(b), u32::from(a < b))),
                scalar("s_max_i32 s12, s8, s9", move |a, b| (s(a).max(s(b)) as u32, u32::from(s(a) >= s(b)))),
                scalar("s_and_b32 s12, s8, s9", |a, b| nz(a & b)),
                scalar("s_and_not1_b32 s12, s8, s9", |a, b| nz(a & !b)),
                scalar("s_or_not1_b32 s12, s8, s9", |a, b| nz(a | !b)),
                scalar("s_xnor_b32 s12, s8, s9", |a, b| nz(!(a ^ b))),
                scalar("s_lshl_b32 s12, s8, s9", |a, b| nz((u64::from(a) << (b % 32)) as u32)),
                scalar("s_ashr_i32 s12, s8, s9", move |a, b| nz((s(a) >> (b % 32)) as u32)),
                scalar("s_lshl_b64 s[12:13], s[8:9], 9\ns_mov_b32 s12, s13", |a, b| {
                    let r = (u64::from(a) | u64::from(b) << 32) << 9;
                    ((r >> 32) as u32, u32::from(r != 0))
                }),
                scalar("s_lshl3_add_u32 s12, s8, s9", |a, b| {
                    let r = u64::from(a) * 8 + u64::from(b);
                    (r as u32, u32::from(r > u64::from(u32::MAX)))
                }),
                scalar("s_bfe_u32 s12, s8, 0x50004", |a, _| nz(a / 16 % 32)),
                scalar("s_bfe_i32 s12, s8, 0x80008", |a, _| nz((a >> 8) as i8 as i32 as u32)),
                scalar("s_bfm_b32 s12, 5, 7", |_, _| keep(31 << 7)),
                scalar("s_sext_i32_i16 s12, s8", |a, _| keep(a as i16 as i32 as u32)),
                scalar("s_bcnt1_i32_b32 s12, s8", |a, _| nz((0..32).filter(|k| a >> k & 1 != 0).count() as u32)),
                scalar("s_ctz_i32_b32 s12, s8", |a, _| keep((0..32).find(|k| a >> k & 1 != 0).unwrap_or(!0))),
                scalar("s_clz_i32_u32 s12, s8", |a, _| keep((0..32).find(|k| a >> (31 - k) & 1 != 0).unwrap_or(!0))),
                scalar("s_pack_lh_b32_b16 s12, s8, s9", |a, b| keep(a % 65536 + b / 65536 * 65536)),
                scalar("s_cmp_lt_i32 s8, s9\ns_cselect_b32 s12, s8, s9", move |a, b| {
                    (s(a).min(s(b)) as u32, u32::from(s(a) < s(b)))
                }),
                scalar("s_cmpk_gt_u32 s8, 0x8000\ns_mov_b32 s12, 0", |a, _| (0, u32::from(a > 0x8000))),
                scalar("s_bitcmp1_b32 s8, 7\ns_mov_b32 s12, 0", |a, _| (0, a >> 7 & 1)),
                scalar("s_abs_i32 s12, s8", move |a, _| nz(s(a).unsigned_abs() as u32)),
                scalar("s_not_b64 s[12:13], s[8:9]", |a, b| (!a, u32::from(!a != 0 || !b != 0))),
            ],
            !0,
        );
    }
}

#[test]
fn flow_and_masks() {
    run(
        &random_bits(),
        &[
            // A loop that counts down lanes one after the other.
            case(
                "v_mov_b32 v10, 0\nv_lshrrev_b32 v20, 2, v0\ns_mov_b32 s9, exec_lo\ns_mov_b32 s8, 0\n1:\n\
                 v_add_nc_u32 v10, 3, v10\nv_cmp_le_u32 vcc_lo, v20, v10\ns_or_b32 s8, vcc_lo, s8\n\
                 s_and_not1_b32 exec_lo, exec_lo, s8\ns_cbranch_execnz 1b\ns_mov_b32 exec_lo, s9",
                |_, l| vec![(l as u32).div_ceil(3).max(1) * 3],
            ),
            case(
                "v_cmp_gt_u32 vcc_lo, 64, v0\ns_and_saveexec_b32 s8, vcc_lo\nv_mov_b32 v10, 1\ns_xor_b32 exec_lo, exec_lo, s8\n\
                 v_mov_b32 v10, 2\ns_mov_b32 exec_lo, s8",
                |_, l| vec![if l < 16 { 1 } else { 2 }],
            ),
            case(
                "s_getpc_b64 s[8:9]\ns_add_u32 s8, s8, 20\ns_addc_u32 s9, s9, 0\ns_setpc_b64 s[8:9]\nv_mov_b32 v10, 1\nv_mov_b32 v11, 2",
                |_, _| {
                    // s_getpc gives the address after itself; 12 bytes on s_setpc ends, 20 bytes on both moves end.
                    vec![0xabcd_1234, 0xabcd_1234]
                },
            ),
            case(
                "s_load_b64 s[8:9], s[4:5], 0x80\ns_load_b128 s[16:19], s[4:5], 0x100\ns_waitcnt lgkmcnt(0)\nv_mov_b32 v10, s9\nv_mov_b32 v11, s19",
                |i, _| vec![i[1][1], i[2][3]],
            ),
            case(
                "s_mov_b32 s8, 0x104\ns_load_b32 s9, s[4:5], s8 offset:0x4\ns_waitcnt lgkmcnt(0)\nv_mov_b32 v10, s9",
                |i, _| vec![i[2][2]],
            ),
        ],
        !0,
    );
}
