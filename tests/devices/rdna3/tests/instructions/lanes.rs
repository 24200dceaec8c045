//! Exchange between lanes: DPP, permutes, swizzles, reads and writes of single lanes. Dual instructions.

use super::{Case, case, check, random_bits, random_floats, run};

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// All lanes active: each lane takes the value of `from(lane)`, or keeps v10.
fn moved(code: &str, from: impl Fn(usize) -> Option<usize> + 'static) -> Case {
    case(code, move |i, l| vec![from(l).map_or(0xabcd_1234, |s| i[1][s])])
}

#[test]
fn dpp() {
    let mov = |control: &str| format!("v_mov_b32_dpp v10, v1 {control}");
    run(
        &random_bits(),
        &[
            moved(&mov("quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf"), |l| Some(l ^ 1)),
            moved(&mov("quad_perm:[2,3,0,1] row_mask:0xf bank_mask:0xf"), |l| Some(l ^ 2)),
            moved(&mov("quad_perm:[0,0,0,3] row_mask:0xf bank_mask:0xf"), |l| Some(l / 4 * 4 + [0, 0, 0, 3][l % 4])),
            moved(&mov("row_half_mirror row_mask:0xf bank_mask:0xf"), |l| Some(l / 8 * 8 + 7 - l % 8)),
            moved(&mov("row_mirror row_mask:0xf bank_mask:0xf"), |l| Some(l / 16 * 16 + 15 - l % 16)),
            moved(&mov("row_share:5 row_mask:0xf bank_mask:0xf"), |l| Some(l / 16 * 16 + 5)),
            moved(&mov("row_xmask:9 row_mask:0xf bank_mask:0xf"), |l| Some(l ^ 9)),
            moved(&mov("row_ror:3 row_mask:0xf bank_mask:0xf"), |l| Some(l / 16 * 16 + (l % 16 + 13) % 16)),
            moved(&mov("row_shr:2 row_mask:0xf bank_mask:0xf"), |l| (l % 16 >= 2).then(|| l - 2)),
            moved(&mov("row_shl:1 row_mask:0xf bank_mask:0xf"), |l| (l % 16 < 15).then_some(l + 1)),
            moved(&mov("row_mirror row_mask:0x2 bank_mask:0xf"), |l| (l >= 16).then(|| 16 + 15 - l % 16)),
            moved(&mov("row_mirror row_mask:0xf bank_mask:0x5"), |l| {
                (l / 4 % 2 == 0).then(|| l / 16 * 16 + 15 - l % 16)
            }),
            moved(&mov("dpp8:[7,6,5,4,3,2,1,0]"), |l| Some(l / 8 * 8 + 7 - l % 8)),
            case(&mov("row_shr:1 row_mask:0xf bank_mask:0xf bound_ctrl:1"), |i, l| {
                vec![if l % 16 == 0 { 0 } else { i[1][l - 1] }]
            }),
            // A source that is overwritten by its own instruction.
            case("v_mov_b32 v10, v1\nv_mov_b32_dpp v10, v10 row_ror:1 row_mask:0xf bank_mask:0xf", |i, l| {
                vec![i[1][l / 16 * 16 + (l % 16 + 15) % 16]]
            }),
            case("v_sub_nc_u32_dpp v10, v1, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf", |i, l| {
                vec![i[1][l ^ 1].wrapping_sub(i[2][l])]
            }),
        ],
        !0,
    );
    // Lane 1 is inactive: who reads it gets zero with bound_ctrl, else is not written, unless fi lets it be read.
    let mask = !2;
    run(
        &random_bits(),
        &[
            case(&mov("quad_perm:[1,1,3,2] row_mask:0xf bank_mask:0xf bound_ctrl:1"), |i, l| match l {
                0 => vec![0],
                _ => vec![i[1][l / 4 * 4 + [1, 1, 3, 2][l % 4]]],
            }),
            case(&mov("quad_perm:[1,1,3,2] row_mask:0xf bank_mask:0xf"), |i, l| match l {
                0 => vec![0xabcd_1234],
                _ => vec![i[1][l / 4 * 4 + [1, 1, 3, 2][l % 4]]],
            }),
            case(&mov("quad_perm:[1,1,3,2] row_mask:0xf bank_mask:0xf fi:1"), |i, l| {
                vec![i[1][l / 4 * 4 + [1, 1, 3, 2][l % 4]]]
            }),
        ],
        mask,
    );
    let numbers = case("v_fmac_f32_dpp v10, v1, v2 row_mirror row_mask:0xf bank_mask:0xf", |i, l| {
        vec![f(i[1][l / 16 * 16 + 15 - l % 16]).mul_add(f(i[2][l]), f(0xabcd_1234)).to_bits()]
    });
    run(&random_floats(), &[numbers], !0);
}

#[test]
fn permutes_and_single_lanes() {
    run(
        &random_bits(),
        &[
            moved("s_mov_b32 s8, 0x76543210\ns_mov_b32 s9, 0xfedcba98\nv_permlanex16_b32 v10, v1, s8, s9", |l| {
                Some(l ^ 16)
            }),
            moved("s_mov_b32 s8, 0x01234567\ns_mov_b32 s9, 0x89abcdef\nv_permlane16_b32 v10, v1, s8, s9", |l| {
                Some(l / 16 * 16 + if l % 16 < 8 { 7 - l % 16 } else { 23 - l % 16 })
            }),
            moved("v_lshlrev_b32 v20, 2, v2\nds_bpermute_b32 v10, v20, v1\ns_waitcnt lgkmcnt(0)", {
                let source = random_bits()[2];
                move |l| Some((source[l] % 32) as usize)
            }),
            moved("v_xor_b32 v20, 0x54, v0\nds_permute_b32 v10, v20, v1\ns_waitcnt lgkmcnt(0)", |l| Some(l ^ 21)),
            moved("ds_swizzle_b32 v10, v1 offset:swizzle(SWAP,16)\ns_waitcnt lgkmcnt(0)", |l| Some(l ^ 16)),
            moved("ds_swizzle_b32 v10, v1 offset:swizzle(QUAD_PERM,3,2,1,0)\ns_waitcnt lgkmcnt(0)", |l| Some(l ^ 3)),
            moved("ds_swizzle_b32 v10, v1 offset:swizzle(BROADCAST,8,3)\ns_waitcnt lgkmcnt(0)", |l| {
                Some(l / 8 * 8 + 3)
            }),
            moved("v_readlane_b32 s8, v1, 13\nv_mov_b32 v10, s8", |_| Some(13)),
            moved(
                "s_mov_b32 exec_lo, 0xffffff00\nv_readfirstlane_b32 s8, v1\ns_mov_b32 exec_lo, -1\nv_mov_b32 v10, s8",
                |_| Some(8),
            ),
            case("v_mov_b32 v10, v1\nv_writelane_b32 v10, 77, 5", |i, l| vec![if l == 5 { 77 } else { i[1][l] }]),
            case("v_mov_b32 v10, v1\nv_mov_b32 v11, v2\nv_swap_b32 v10, v11", |i, l| vec![i[2][l], i[1][l]]),
            case("v_mbcnt_lo_u32_b32 v10, -1, 0\nv_mbcnt_hi_u32_b32 v10, -1, v10", |_, l| vec![l as u32]),
            case("s_mov_b32 s8, 0x00ff00f3\nv_mbcnt_lo_u32_b32 v10, s8, 100", |_, l| {
                vec![100 + (0..l).filter(|k| 0x00ff_00f3u32 >> k & 1 != 0).count() as u32]
            }),
            case("s_mov_b32 s8, 0xf0f0aaaa\nv_cndmask_b32 v10, v1, v2, s8", |i, l| {
                vec![if 0xf0f0_aaaau32 >> l & 1 != 0 { i[2][l] } else { i[1][l] }]
            }),
        ],
        !0,
    );
    // A lane that pulls from an inactive one gets zero.
    let pull = "v_mov_b32 v20, 4\nds_bpermute_b32 v10, v20, v1\ns_waitcnt lgkmcnt(0)";
    run(&random_bits(), &[case(pull, |_, _| vec![0])], !2);
}

#[test]
fn dual_instructions_read_before_they_write() {
    check(
        &random_floats(),
        &[
            case("v_mov_b32 v10, v1\nv_mov_b32 v11, v2\nv_dual_mov_b32 v10, v11 :: v_dual_mov_b32 v11, v10", |i, l| {
                vec![i[2][l], i[1][l]]
            }),
            case("v_mov_b32 v10, v1\nv_dual_mov_b32 v10, v4 :: v_dual_add_f32 v11, v10, v3", |i, l| {
                vec![i[4][l], (f(i[1][l]) + f(i[3][l])).to_bits()]
            }),
            case("v_mov_b32 v11, v1\nv_dual_mul_f32 v10, v11, v2 :: v_dual_mov_b32 v11, v4", |i, l| {
                vec![(f(i[1][l]) * f(i[2][l])).to_bits(), i[4][l]]
            }),
            case("v_dual_fmac_f32 v10, v1, v2 :: v_dual_lshlrev_b32 v11, 3, v3", |i, l| {
                vec![f(i[1][l]).mul_add(f(i[2][l]), f(0xabcd_1234)).to_bits(), i[3][l] << 3]
            }),
            case(
                "s_mov_b32 vcc_lo, 0xcccc3333\nv_dual_cndmask_b32 v10, v1, v2 :: v_dual_max_f32 v11, v4, v3",
                |i, l| {
                    let on = 0xcccc_3333u32 >> l & 1 != 0;
                    vec![i[if on { 2 } else { 1 }][l], f(i[4][l]).max(f(i[3][l])).to_bits()]
                },
            ),
            case("v_dual_fmaak_f32 v10, v1, v2, 0x41200000 :: v_dual_subrev_f32 v11, v4, v3", |i, l| {
                vec![f(i[1][l]).mul_add(f(i[2][l]), 10.0).to_bits(), (f(i[3][l]) - f(i[4][l])).to_bits()]
            }),
        ],
    );
}
