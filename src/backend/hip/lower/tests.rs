//! What the tiny plan becomes.

use super::*;
use crate::base::storage::Slice;
use crate::plan::Buffer;
use crate::plan::check::tests::tiny_plan;
use crate::plan::op::Projection;
use std::sync::Arc;

fn lowered(plan: &Plan) -> Program {
    plan.check().expect("a sound plan");
    lower(plan, &Chip { units: 48, has: &|_| true }).expect("all kernels exist")
}

/// Gives a weight another type; its bytes are zeros.
fn retype(plan: &mut Plan, id: usize, ty: GgmlType) {
    let w = &mut plan.weights[id];
    let bytes = w.n_rows * ty.bytes_of(w.n_cols as u64).expect("whole blocks") as usize;
    (w.ty, w.data) = (ty, Slice::new(Arc::new(vec![0u8; bytes]), 0, bytes));
}

/// The tiny plan with rows of 32, heads of 16 and matrices of `ty`.
fn plan(ty: GgmlType) -> Plan {
    let mut plan = tiny_plan();
    let widths = [32, 32, 32, 16, 16, 32, 32, 32, 64, 64, 32, 10];
    for (Buffer { width, .. }, new) in plan.buffers.iter_mut().zip(widths) {
        *width = new;
    }
    let shapes = [(10, 32), (1, 32), (32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64), (1, 2)];
    for (i, (n_rows, n_cols)) in shapes.into_iter().enumerate() {
        (plan.weights[i].n_rows, plan.weights[i].n_cols) = (n_rows, n_cols);
        retype(&mut plan, i, if n_rows == 1 { GgmlType::F32 } else { ty });
    }
    (plan.caches[0].head_dim, plan.caches[0].head_dim_v) = (16, 16);
    for op in &mut plan.ops {
        match op {
            Op::Norm { group, .. } => *group = 32,
            Op::Rope { head_dim, .. } => *head_dim = 16,
            _ => {}
        }
    }
    plan
}

fn names(launches: &[Launch]) -> Vec<&str> {
    launches.iter().map(|l| l.kernel.as_str()).collect()
}

#[test]
fn decode_is_fused() {
    let program = lowered(&plan(GgmlType::Q4_0));
    let [tokens, outputs] = &program.segments[..] else { panic!("{} segments", program.segments.len()) };
    assert_eq!((tokens.rows, outputs.rows), (Rows::Tokens, Rows::Outputs));
    assert_eq!(
        names(&tokens.modes[0]),
        [
            "embed_q4_0",
            "norm_rms_q8",
            "gemv_q4_0_c1",
            "rope_store_f16",
            "attend_split_f16_64",
            "attend_combine_64",
            "attend_mma_64",
            "quantize_q8",
            "gemv_q4_0_c1",
        ]
    );
    assert_eq!(
        names(&outputs.modes[3]),
        [
            "select_rows",
            "quantize_q8",
            "gemv_glu_q4_0_c8",
            "quantize_q8",
            "gemv_q4_0_c8",
            "norm_rms_q8",
            "gemv_q4_0_c8",
            "softcap_rows",
        ]
    );
    // Query, key and value in one launch: rows of the three, and nobody wants the norm itself.
    let (norm, qkv, out) = (&tokens.modes[0][1], &tokens.modes[0][2], &tokens.modes[0][8]);
    assert_eq!(norm.args[2], at(Target::Null));
    assert_eq!(qkv.args.len(), 17);
    assert_eq!(qkv.args[..3], [2, 3, 4].map(|i| matrix(WeightId(i))));
    assert_eq!(qkv.args[3..6], [2, 3, 4].map(|i| buffer(BufId(i))));
    assert_eq!(qkv.args[10..14], [32, 16, 16, 32].map(Arg::U32));
    assert_eq!(qkv.args[14..], [at(Target::Q8Codes), at(Target::Q8Scales), Arg::Count(Dim::Rows, 1)]);
    assert_eq!(qkv.grid[0], Extent::Fixed(16));
    // The residual is added by the product: its result is the sum.
    assert_eq!((out.args[3], out.args[9]), (buffer(BufId(0)), buffer(BufId(0))));
    // An in-place norm of which only the codes are wanted leaves its buffer alone.
    assert_eq!(outputs.modes[3][5].args[2], at(Target::Null));
}

#[test]
fn prefill_multiplies_matrices() {
    let program = lowered(&plan(GgmlType::Q8_0));
    let launches = &program.segments[0].modes[4];
    let gemms: Vec<&Launch> = launches.iter().filter(|l| l.kernel == "gemm_q8_0").collect();
    assert_eq!(gemms.len(), 4, "each matrix is its own");
    assert_eq!(names(launches).iter().filter(|n| **n == "norm_rms_f16").count(), 1, "one input for three");
    assert_eq!(gemms[0].grid, [Extent::Fixed(1), Extent::Ceil(Dim::Rows, 1, 64), Extent::Fixed(1)]);
    assert_eq!((gemms[3].args[1], gemms[3].args[3]), (buffer(BufId(0)), buffer(BufId(0))));
    let outputs = names(&program.segments[1].modes[4]);
    assert!(outputs.contains(&"glu_silu") && !outputs.iter().any(|n| n.starts_with("gemv")), "{outputs:?}");
}

#[test]
fn f32_weights_stay_exact_with_many_rows() {
    let program = lowered(&plan(GgmlType::F32));
    let launches = &program.segments[0].modes[4];
    assert!(!names(launches).iter().any(|n| n.starts_with("gemm") || n.contains("quantize")), "{:?}", names(launches));
    let qkv = launches.iter().find(|l| l.kernel == "gemv_f32_c8").expect("one");
    assert_eq!(qkv.chunk, Some(8));
    assert_eq!(qkv.args[3], Arg::AtRow(Target::Buffer(BufId(2)), 4 * 32));
    assert_eq!(qkv.args[14], Arg::AtRow(Target::Buffer(BufId(1)), 4 * 32));
    assert_eq!(qkv.args[16], Arg::Count(Dim::Chunk, 1));
}

#[test]
fn mixed_types_have_their_own_launches_and_share_the_input() {
    let mut plan = plan(GgmlType::Q4_0);
    retype(&mut plan, 4, GgmlType::Q8_0);
    let launches = &lowered(&plan).segments[0].modes[0];
    assert_eq!(names(launches)[1..4], ["norm_rms_q8", "gemv_q4_0_c1", "gemv_q8_0_c1"]);
    assert_eq!(launches[3].args[0], matrix(WeightId(4)));
    // Someone multiplies the numbers themselves: the norm writes them, too.
    retype(&mut plan, 4, GgmlType::F16);
    let launches = &lowered(&plan).segments[0].modes[0];
    assert_eq!(names(launches)[1..4], ["norm_rms_q8", "gemv_q4_0_c1", "gemv_f16_c1"]);
    assert_eq!((launches[1].args[2], launches[3].args[14]), (buffer(BufId(1)), buffer(BufId(1))));
}

#[test]
fn what_others_read_is_not_fused_away() {
    // The sum's operand is read again later.
    let mut p = plan(GgmlType::Q4_0);
    p.ops.insert(9, Op::Add { a: BufId(0), b: BufId(6), out: BufId(0) });
    let launches = lowered(&p).segments[0].modes[0].clone();
    assert_eq!(names(&launches)[8..], ["gemv_q4_0_c1", "add_rows", "add_rows"]);
    // The gate is read again after the activation, which goes elsewhere.
    let mut p = plan(GgmlType::Q4_0);
    p.buffers.push(Buffer { name: "product", width: 64, rows: Rows::Outputs });
    p.ops[11] = Op::Glu { gate: BufId(8), up: BufId(9), act: Activation::Silu, out: BufId(12) };
    p.ops.insert(12, Op::Add { a: BufId(8), b: BufId(12), out: BufId(8) });
    let outputs = names(&lowered(&p).segments[1].modes[0]).join(" ");
    assert!(outputs.contains("gemv_q4_0_c1 glu_silu add_rows"), "{outputs}");
    // A bias has no place in the fused activation.
    let mut p = plan(GgmlType::Q4_0);
    p.weights.push(Weight { n_cols: 64, ..p.weights[1].clone() });
    p.weights[10].n_cols = 64;
    retype(&mut p, 10, GgmlType::F32);
    let Op::Linear { projections, .. } = &mut p.ops[10] else { panic!() };
    projections[1] = Projection { bias: Some(WeightId(10)), ..projections[1] };
    let outputs = names(&lowered(&p).segments[1].modes[0]).join(" ");
    assert!(outputs.contains("gemv_q4_0_c1 glu_silu"), "{outputs}");
}

#[test]
fn an_input_is_quantized_once_until_it_changes() {
    let mut p = plan(GgmlType::Q4_0);
    // The attention's result goes through another product of the same input.
    let Op::Linear { x, projections } = p.ops[7].clone() else { panic!() };
    p.ops.insert(7, Op::Linear { x, projections });
    let launches = lowered(&p).segments[0].modes[0].clone();
    let all = names(&launches);
    assert_eq!(all[7..], ["quantize_q8", "gemv_q4_0_c1", "gemv_q4_0_c1"]);
    p.ops.insert(8, Op::Scale { x, factor: 2.0 });
    let launches = lowered(&p).segments[0].modes[0].clone();
    assert_eq!(names(&launches)[7..], ["quantize_q8", "gemv_q4_0_c1", "scale_rows", "quantize_q8", "gemv_q4_0_c1"]);
}

#[test]
fn keys_are_rotated_on_the_way_to_the_cache() {
    let fused = lowered(&plan(GgmlType::Q4_0)).segments[0].modes[4].clone();
    let store = fused.iter().find(|l| l.kernel == "rope_store_f16").expect("one");
    assert_eq!(store.args[..3], [2, 3, 4].map(|i| buffer(BufId(i))));
    assert_eq!(store.args[8..14], [2, 1, 16, 16, 4, 1].map(Arg::U32));
    assert_eq!(store.grid, [Extent::each(Dim::Rows), Extent::Fixed(4), Extent::Fixed(1)]);
    // Somebody reads the rotated keys, or they are rotated otherwise.
    let alone = ["rope", "rope", "store_f16"];
    let mut p = plan(GgmlType::Q4_0);
    p.ops.insert(6, Op::Scale { x: BufId(3), factor: 2.0 });
    assert!(names(&lowered(&p).segments[0].modes[0]).windows(3).any(|w| w == alone));
    let mut p = plan(GgmlType::Q4_0);
    p.ropes.push(p.ropes[0].clone());
    p.ops[4] = Op::Rope { x: BufId(3), head_dim: 16, rope: crate::plan::op::RopeId(1) };
    assert!(names(&lowered(&p).segments[0].modes[0]).windows(3).any(|w| w == alone));
}

#[test]
fn joining_parts_makes_the_codes_of_the_next_product() {
    let mut p = plan(GgmlType::Q4_0);
    // Heads of 32, two of them: the scales' groups do not cross heads.
    p.caches[0].head_dim_v = 32;
    for (buffer, width) in [(4, 32), (5, 64)] {
        p.buffers[buffer].width = width;
    }
    p.weights[4].n_rows = 32;
    p.weights[5].n_cols = 64;
    retype(&mut p, 4, GgmlType::Q4_0);
    retype(&mut p, 5, GgmlType::Q4_0);
    let program = lowered(&p);
    let few = &program.segments[0].modes[0];
    let at_combine = few.iter().position(|l| l.kernel == "attend_combine_q8_64").expect("one");
    assert_eq!(names(&few[at_combine + 1..]), ["attend_mma_64", "quantize_q8", "gemv_q4_0_c1"]);
    // Only for steps with tiles, whose rows have no codes yet.
    assert_eq!(few[at_combine + 2].grid[0], Extent::each(Dim::Mixed));
    let numbers = |tiles| super::super::program::Numbers { tokens: 3, outputs: 3, decodes: 2, tiles, splits: &[1] };
    assert_eq!([0, 1].map(|tiles| numbers(tiles).extent(Extent::each(Dim::Mixed), 3, 3)), [0, 3]);
    assert!(names(&program.segments[0].modes[4]).contains(&"attend_combine_64"), "prefill takes f16");
}

#[test]
fn few_rows_of_long_columns_share_their_teams() {
    let mut p = plan(GgmlType::F32);
    let long = 2048;
    p.buffers[8].width = long;
    p.buffers[9].width = long;
    for (i, rows, cols) in [(6, long, 32), (7, long, 32), (8, 32, long)] {
        (p.weights[i].n_rows, p.weights[i].n_cols) = (rows, cols);
        retype(&mut p, i, GgmlType::Q4_0);
    }
    let program = lowered(&p);
    let launches = &program.segments[1].modes[0];
    let down = launches.iter().find(|l| l.kernel.ends_with("_k4")).expect("one");
    assert_eq!((down.kernel.as_str(), down.grid[0]), ("gemv_q4_0_c1_k4", Extent::Fixed(32)));
}

#[test]
fn head_norms_take_teams() {
    let mut p = plan(GgmlType::Q4_0);
    let norm =
        Op::Norm { kind: NormKind::Layer, x: BufId(2), weight: None, bias: None, group: 16, eps: 1e-5, out: BufId(2) };
    p.ops.insert(3, norm);
    let launches = lowered(&p).segments[0].modes[1].clone();
    let norm = launches.iter().find(|l| l.kernel == "norm_layer_team").expect("one");
    assert_eq!(norm.grid[0], Extent::Ceil(Dim::Rows, 2, 4));
    assert_eq!(norm.args[1..3], [at(Target::Null), at(Target::Null)]);
    assert_eq!(norm.args[4..7], [Arg::U32(16), Arg::U32(2), Arg::Count(Dim::Rows, 2)]);
}

#[test]
fn the_matrix_unit_attends_to_whole_tiles_in_f16_and_q8_0() {
    let prefill = |p: &Plan, has: &dyn Fn(&str) -> bool| {
        let program = lower(p, &Chip { units: 48, has }).expect("all kernels exist");
        let launches = &program.segments[0].modes[4];
        launches.iter().find(|l| l.args.contains(&at(Target::Tiles))).expect("one").kernel.clone()
    };
    let mut p = plan(GgmlType::Q4_0);
    assert_eq!(prefill(&p, &|_| true), "attend_mma_64");
    assert_eq!(prefill(&p, &|name| !name.starts_with("attend_mma")), "attend_tile_f16_64");
    p.caches[0].kv_type = crate::plan::cache::KvType::F32;
    assert_eq!(prefill(&p, &|_| true), "attend_tile_f32_64");
    p.caches[0].kv_type = crate::plan::cache::KvType::F16;
    p.caches[0].head_dim_v = 72;
    assert_eq!(prefill(&p, &|_| true), "attend_tile_f16_128");
    p.caches[0].kv_type = crate::plan::cache::KvType::Q8_0;
    (p.caches[0].head_dim, p.caches[0].head_dim_v) = (64, 160);
    assert_eq!(prefill(&p, &|_| true), "attend_mma_q8_0_256");
    assert_eq!(prefill(&p, &|name| !name.starts_with("attend_mma")), "attend_tile_q8_0_256");
}

#[test]
fn what_has_no_kernel_is_named() {
    let says = |plan: &Plan, has: &dyn Fn(&str) -> bool| {
        let has = |name: &str| has(name) && !name.starts_with("rope_store");
        lower(plan, &Chip { units: 48, has: &has }).expect_err("no").to_string()
    };
    let mut p = plan(GgmlType::Q4_0);
    retype(&mut p, 5, GgmlType::IQ4_NL);
    assert_eq!(says(&p, &|_| true), "tensor `wo`: no GPU kernel gemv for IQ4_NL");
    let p = plan(GgmlType::Q4_0);
    assert_eq!(says(&p, &|name| name != "embed_q4_0"), "tensor `embd`: no GPU kernel embed for Q4_0");
    assert_eq!(says(&p, &|name| name != "rope"), "op 3 (rope): there is no GPU kernel rope");
    let mut p = plan(GgmlType::Q4_0);
    p.caches[0].head_dim = 258;
    assert!(says(&p, &|_| true).contains("op 6 (attention): heads of 258 and 16 elements"));
    // What only saves time may be missing.
    let p = plan(GgmlType::Q4_0);
    let has = |name: &str| !name.starts_with("norm_rms_q8") && !name.starts_with("gemv_glu");
    let program = lower(&p, &Chip { units: 48, has: &has }).expect("computed with others");
    assert_eq!(names(&program.segments[0].modes[0])[1..4], ["norm_rms_team", "quantize_q8", "gemv_q4_0_c1"]);
}
