//! Loads, stores and atomics on local and device memory.

use super::{case, check, random_bits, run};

#[test]
fn local_memory() {
    let b = |x: u32, k: usize| x.to_le_bytes()[k];
    check(
        &random_bits(),
        &[
            case("ds_store_b32 v0, v1\ns_waitcnt lgkmcnt(0)\nds_load_b32 v10, v0\ns_waitcnt lgkmcnt(0)", |i, l| {
                vec![i[1][l]]
            }),
            case(
                "v_lshlrev_b32 v20, 2, v0\nds_store_b128 v20, v[1:4]\ns_waitcnt lgkmcnt(0)\n\
                 ds_load_b96 v[10:12], v20 offset:4\ns_waitcnt lgkmcnt(0)",
                |i, l| vec![i[2][l], i[3][l], i[4][l]],
            ),
            case(
                "v_lshlrev_b32 v20, 1, v0\nds_store_b64 v20, v[1:2]\ns_waitcnt lgkmcnt(0)\nds_load_u8 v10, v20 offset:3\n\
                 ds_load_i8 v11, v20 offset:5\nds_load_i16 v12, v20 offset:2\nds_load_u16 v13, v20 offset:6\ns_waitcnt lgkmcnt(0)",
                move |i, l| {
                    vec![
                        b(i[1][l], 3).into(),
                        b(i[2][l], 1) as i8 as i32 as u32,
                        (i[1][l] as i32 >> 16) as u32,
                        i[2][l] >> 16,
                    ]
                },
            ),
            case(
                "ds_store_b8 v0, v1\nds_store_b8_d16_hi v0, v1 offset:1\nds_store_b16_d16_hi v0, v2 offset:2\n\
                 s_waitcnt lgkmcnt(0)\nds_load_b32 v10, v0\ns_waitcnt lgkmcnt(0)",
                move |i, l| vec![u32::from_le_bytes([b(i[1][l], 0), b(i[1][l], 2), b(i[2][l], 2), b(i[2][l], 3)])],
            ),
            case(
                "ds_store_b32 v0, v1\ns_waitcnt lgkmcnt(0)\nds_load_u16_d16 v10, v0 offset:2\nds_load_u8_d16_hi v11, v0 offset:1\n\
                 s_waitcnt lgkmcnt(0)",
                move |i, l| vec![0xabcd_0000 | i[1][l] >> 16, u32::from(b(i[1][l], 1)) << 16 | 0x1234],
            ),
            case(
                "v_lshlrev_b32 v20, 1, v0\nds_store_2addr_b32 v20, v1, v2 offset0:1 offset1:0\ns_waitcnt lgkmcnt(0)\n\
                 ds_load_b64 v[10:11], v20\ns_waitcnt lgkmcnt(0)",
                |i, l| vec![i[2][l], i[1][l]],
            ),
            case(
                "ds_store_2addr_stride64_b32 v0, v1, v2 offset0:0 offset1:2\ns_waitcnt lgkmcnt(0)\n\
                 ds_load_2addr_b32 v[10:11], v0 offset0:128 offset1:0\ns_waitcnt lgkmcnt(0)",
                |i, l| vec![i[2][l], i[1][l]],
            ),
            case(
                "v_lshlrev_b32 v20, 2, v0\nds_store_2addr_b64 v20, v[1:2], v[3:4] offset0:0 offset1:1\ns_waitcnt lgkmcnt(0)\n\
                 ds_load_2addr_b64 v[10:13], v20 offset0:1 offset1:0\ns_waitcnt lgkmcnt(0)",
                |i, l| vec![i[3][l], i[4][l], i[1][l], i[2][l]],
            ),
            case(
                "ds_store_b32 v0, v1\ns_waitcnt lgkmcnt(0)\nds_add_rtn_u32 v10, v0, v2\nds_max_u32 v0, v3\n\
                 ds_load_b32 v11, v0\ns_waitcnt lgkmcnt(0)",
                |i, l| vec![i[1][l], i[1][l].wrapping_add(i[2][l]).max(i[3][l])],
            ),
        ],
    );
    // All lanes add to one word, in any order.
    let all = "v_mov_b32 v20, 0\nv_mov_b32 v21, 0\nds_store_b32 v20, v21 offset:64\nds_add_u32 v20, v1 offset:64\n\
               ds_load_b32 v10, v20 offset:64\ns_waitcnt lgkmcnt(0)";
    run(&random_bits(), &[case(all, |i, _| vec![i[1].iter().fold(0u32, |s, x| s.wrapping_add(*x))])], !0);
}

#[test]
fn device_memory() {
    // The output rows serve as memory before the results are stored there: 16 bytes a lane.
    let place = "v_lshlrev_b32 v20, 2, v0\n";
    let of = |code: &str| format!("{place}{code}\ns_waitcnt vmcnt(0)\ns_waitcnt_vscnt null, 0x0");
    check(
        &random_bits(),
        &[
            case(
                &of("global_store_b128 v20, v[1:4], s[6:7]\nglobal_load_b96 v[10:12], v20, s[6:7] offset:4"),
                |i, l| vec![i[2][l], i[3][l], i[4][l]],
            ),
            case(
                &of("v_add_co_u32 v22, s8, s6, v20\nv_add_co_ci_u32 v23, null, s7, 0, s8\n\
                     global_store_b64 v[22:23], v[2:3], off offset:8\nflat_load_b64 v[10:11], v[22:23] offset:8\n\
                     s_waitcnt lgkmcnt(0)"),
                |i, l| vec![i[2][l], i[3][l]],
            ),
            case(
                &of("global_store_b32 v20, v1, s[6:7]\nglobal_load_d16_b16 v10, v20, s[6:7] offset:2\n\
                     global_load_d16_hi_u8 v11, v20, s[6:7] offset:1\nglobal_load_i8 v12, v20, s[6:7] offset:3\n\
                     global_load_u16 v13, v20, s[6:7]"),
                |i, l| {
                    let x = i[1][l];
                    vec![0xabcd_0000 | x >> 16, (x >> 8 & 255) << 16 | 0x1234, (x as i32 >> 24) as u32, x & 0xffff]
                },
            ),
            case(
                &of("global_store_b8 v20, v1, s[6:7]\nglobal_store_d16_hi_b8 v20, v1, s[6:7] offset:1\n\
                     global_store_d16_hi_b16 v20, v2, s[6:7] offset:2\nglobal_load_b32 v10, v20, s[6:7]"),
                |i, l| vec![i[1][l] & 255 | (i[1][l] >> 16 & 255) << 8 | i[2][l] & 0xffff_0000],
            ),
            case(
                &of("global_store_b32 v20, v1, s[6:7]\nglobal_atomic_add_u32 v10, v20, v2, s[6:7] glc\n\
                     global_atomic_min_i32 v20, v3, s[6:7]\nglobal_load_b32 v11, v20, s[6:7]"),
                |i, l| vec![i[1][l], (i[1][l].wrapping_add(i[2][l]) as i32).min(i[3][l] as i32) as u32],
            ),
            case(
                &of("global_store_b32 v20, v1, s[6:7]\nv_mov_b32 v22, v2\nv_mov_b32 v23, v1\n\
                     global_atomic_cmpswap_b32 v10, v20, v[22:23], s[6:7] glc\nglobal_load_b32 v11, v20, s[6:7]"),
                |i, l| vec![i[1][l], i[2][l]],
            ),
            case(
                &of("global_store_b64 v20, v[1:2], s[6:7]\nglobal_atomic_add_u64 v[10:11], v20, v[3:4], s[6:7] glc\n\
                     global_load_b64 v[12:13], v20, s[6:7]"),
                |i, l| {
                    let d = |k: usize| u64::from(i[k][l]) | u64::from(i[k + 1][l]) << 32;
                    let sum = d(1).wrapping_add(d(3));
                    vec![i[1][l], i[2][l], sum as u32, (sum >> 32) as u32]
                },
            ),
        ],
    );
}
