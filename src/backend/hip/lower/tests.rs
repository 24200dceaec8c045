//! What the tiny plan becomes.

use super::*;
use crate::base::storage::Slice;
use crate::plan::Buffer;
use crate::plan::check::tests::tiny_plan;
use crate::plan::op::{Projection, RopeId};
use std::sync::Arc;

fn chip(has: &dyn Fn(&str) -> bool) -> Chip<'_> {
    Chip { units: 48, has, left_out: &|_| false }
}

fn lowered(plan: &Plan) -> Program {
    plan.check().expect("a sound plan");
    lower(plan, &chip(&|_| true)).expect("all kernels exist")
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
    let (norm, qkv, out) = (&tokens.modes[0][1], &tokens.modes[0][2], &tokens.modes[0][7]);
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
    let chip = Chip { units: 48, has: &|name| !name.starts_with("gemv_q4_0_q8_0"), left_out: &|_| false };
    let launches = &lower(&plan, &chip).expect("all kernels exist").segments[0].modes[0];
    assert_eq!(names(launches)[1..4], ["norm_rms_q8", "gemv_q4_0_c1", "gemv_q8_0_c1"]);
    assert_eq!(launches[3].args[0], matrix(WeightId(4)));
    // Unless there is a kernel for both: the last matrix comes last, in blocks of its own.
    let launches = &lowered(&plan).segments[0].modes[0];
    assert_eq!(names(launches)[1..4], ["norm_rms_q8", "gemv_q4_0_q8_0_c1", "rope_store_f16"]);
    assert_eq!(launches[2].args[..3], [2, 3, 4].map(|i| matrix(WeightId(i))));
    assert_eq!(launches[2].args[10..13], [32, 16, 16].map(Arg::U32));
    assert_eq!(launches[2].grid[0], Extent::Fixed(12 + 4));
    // Of two matrices, the second is the last.
    let mut two = plan.clone();
    let Op::Linear { projections, .. } = &mut two.ops[2] else { panic!() };
    projections.remove(1);
    let launches =
        &lower(&two, &Chip { units: 48, has: &|_| true, left_out: &|_| false }).expect("all kernels exist").segments[0]
            .modes[0];
    assert_eq!(launches[2].args[..3], [matrix(WeightId(2)), at(Target::Null), matrix(WeightId(4))]);
    assert_eq!(launches[2].args[10..13], [32, 0, 16].map(Arg::U32));
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
    assert_eq!(names(&launches)[7..], ["gemv_q4_0_c1", "add_rows", "add_rows"]);
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
    assert_eq!(all[6..], ["quantize_q8", "gemv_q4_0_c1", "gemv_q4_0_c1"]);
    p.ops.insert(8, Op::Scale { x, factor: 2.0 });
    let launches = lowered(&p).segments[0].modes[0].clone();
    assert_eq!(names(&launches)[6..], ["quantize_q8", "gemv_q4_0_c1", "scale_rows", "quantize_q8", "gemv_q4_0_c1"]);
}

#[test]
fn keys_are_rotated_on_the_way_to_the_cache() {
    let fused = lowered(&plan(GgmlType::Q4_0)).segments[0].modes[4].clone();
    let store = fused.iter().find(|l| l.kernel == "rope_store_f16").expect("one");
    assert_eq!(store.args[..3], [2, 3, 4].map(|i| buffer(BufId(i))));
    assert_eq!(store.args[8..14], [2, 1, 16, 16, 4, 1].map(Arg::U32));
    assert_eq!(store.grid, [Extent::each(Dim::Mixed), Extent::Fixed(4), Extent::Fixed(1)]);
    // Somebody reads the rotated keys, or they are rotated otherwise.
    let alone = ["rope", "rope", "store_f16"];
    let mut p = plan(GgmlType::Q4_0);
    p.ops.insert(6, Op::Scale { x: BufId(3), factor: 2.0 });
    assert!(names(&lowered(&p).segments[0].modes[0]).windows(3).any(|w| w == alone));
    let mut p = plan(GgmlType::Q4_0);
    p.ropes.push(p.ropes[0].clone());
    p.ops[4] = Op::Rope { x: BufId(3), head_dim: 16, rope: RopeId(1) };
    assert!(names(&lowered(&p).segments[0].modes[0]).windows(3).any(|w| w == alone));
}

/// The plan with two heads of 32 values, so that the groups of a scale do not cross heads.
fn wide_values() -> Plan {
    let mut p = plan(GgmlType::Q4_0);
    p.caches[0].head_dim_v = 32;
    for (buffer, width) in [(4, 32), (5, 64)] {
        p.buffers[buffer].width = width;
    }
    p.weights[4].n_rows = 32;
    p.weights[5].n_cols = 64;
    retype(&mut p, 4, GgmlType::Q4_0);
    retype(&mut p, 5, GgmlType::Q4_0);
    p
}

#[test]
fn attention_makes_the_codes_of_the_next_product() {
    let program = lowered(&wide_values());
    let few = &program.segments[0].modes[0];
    let split = few.iter().position(|l| l.kernel == "attend_split_f16_64").expect("one");
    assert_eq!(names(&few[split + 1..]), ["attend_mma_64", "quantize_q8", "gemv_q4_0_c1"]);
    assert_eq!(few[split].args[6..8], [at(Target::Q8Codes), at(Target::Q8Scales)]);
    // Only steps with tiles make codes of numbers: of their rows there are no codes yet.
    assert_eq!(few[split + 2].grid[0], Extent::each(Dim::Mixed));
    assert_eq!(few[split].args[21], Arg::Count(Dim::Mixed, 1), "whether the numbers are wanted");
    let numbers = |tiles| super::super::program::Numbers { tokens: 3, outputs: 3, decodes: 2, tiles, splits: &[1] };
    assert_eq!([0, 1].map(|tiles| numbers(tiles).extent(Extent::each(Dim::Mixed), 3, 3)), [0, 3]);
    // Prefill takes f16.
    let many = &program.segments[0].modes[4];
    let split = many.iter().find(|l| l.kernel == "attend_split_f16_64").expect("one");
    assert_eq!((split.args[6], split.args[21]), (at(Target::Null), Arg::U32(1)));
    // Somebody else reads the numbers.
    let mut p = wide_values();
    p.ops.insert(8, Op::Scale { x: BufId(5), factor: 2.0 });
    let program = lowered(&p);
    let split = program.segments[0].modes[0].iter().find(|l| l.kernel == "attend_split_f16_64").expect("one");
    assert_eq!((split.args[6], split.args[21]), (at(Target::Q8Codes), Arg::U32(1)));
}

#[test]
fn attention_rotates_and_stores_what_it_alone_reads() {
    let fresh = |p: &Plan, mode: usize| {
        let launches = lowered(p).segments[0].modes[mode].clone();
        let split = launches.iter().find(|l| l.kernel == "attend_split_f16_64").expect("one").clone();
        let store = launches.iter().find(|l| l.kernel == "rope_store_f16").expect("one").clone();
        (store.grid[0], split.args[1], split.args[2], split.args[10])
    };
    let alone = (Extent::each(Dim::Mixed), buffer(BufId(3)), buffer(BufId(4)), at(Target::Turns(RopeId(0))));
    let apart = (Extent::each(Dim::Rows), at(Target::Null), at(Target::Null), at(Target::Null));
    assert_eq!([0, 4].map(|mode| fresh(&wide_values(), mode)), [alone; 2]);
    // With the norm read again after attention, its memory is not what attention's numbers take: that is
    // where keys or values are read. Codes lie elsewhere.
    let mut p = wide_values();
    p.ops.insert(8, Op::Scale { x: BufId(1), factor: 2.0 });
    let uses = Uses::new(&p);
    assert!([3, 4].iter().any(|&b| uses.share(BufId(5), BufId(b))), "the plan reuses their memory");
    assert_eq!([0, 4].map(|mode| fresh(&p, mode)), [alone, apart]);
    // The rotated queries are read again.
    let mut p = wide_values();
    p.ops.insert(7, Op::Scale { x: BufId(2), factor: 2.0 });
    assert_eq!(fresh(&p, 0), apart);
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
        let program = lower(p, &chip(has)).expect("all kernels exist");
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
        lower(plan, &chip(&has)).expect_err("no").to_string()
    };
    let mut p = plan(GgmlType::Q4_0);
    retype(&mut p, 5, GgmlType::IQ4_NL);
    assert_eq!(says(&p, &|_| true), "tensor `wo`: no GPU kernel gemv for IQ4_NL");
    let p = plan(GgmlType::Q4_0);
    assert_eq!(says(&p, &|name| name != "embed_q4_0"), "tensor `embd`: there is no GPU kernel embed_q4_0");
    assert_eq!(says(&p, &|name| name != "rope"), "op 3 (rope): there is no GPU kernel rope");
    let mut p = plan(GgmlType::Q4_0);
    p.caches[0].head_dim = 258;
    assert!(says(&p, &|_| true).contains("op 6 (attention): heads of 258 and 16 elements"));
    // What only saves time may be missing.
    let p = plan(GgmlType::Q4_0);
    let has = |name: &str| !name.starts_with("norm_rms_q8") && !name.starts_with("gemv_glu");
    let program = lower(&p, &chip(&has)).expect("computed with others");
    assert_eq!(names(&program.segments[0].modes[0])[1..4], ["norm_rms_team", "quantize_q8", "gemv_q4_0_c1"]);
}

#[test]
fn a_kernel_that_failed_its_test_is_named_unless_another_does_its_work() {
    let p = plan(GgmlType::Q4_0);
    let without = |wrong: &'static str| {
        let (has, left_out) = (move |name: &str| name != wrong, move |name: &str| name == wrong);
        lower(&p, &Chip { units: 48, has: &has, left_out: &left_out })
    };
    for wrong in ["gemm_q4_0", "gemv_q4_0_c8", "attend_split_f16_64", "add_rows", "embed_q4_0"] {
        match without(wrong) {
            Err(e) => assert!(e.to_string().ends_with(&format!("GPU kernel {wrong} failed the self-test")), "{e}"),
            Ok(_) => assert_eq!(wrong, "add_rows", "sums are made by the products here"),
        }
    }
    let replaced = |wrong, segment: usize, mode: usize, by| {
        let program = without(wrong).expect("another does it");
        let names = names(&program.segments[segment].modes[mode]).join(" ");
        assert!(!names.split(' ').any(|n| n == wrong) && names.contains(by), "{names}");
    };
    replaced("gemv_q4_0_c1", 0, 0, "gemv_q4_0_c2");
    replaced("gemv_q4_0_c4", 0, 2, "gemv_q4_0_c8");
    replaced("gemv_glu_q4_0_c2", 1, 1, "gemv_glu_q4_0_c4");
    replaced("gemv_glu_q4_0_c8", 1, 3, "gemv_q4_0_c8 glu_silu");
    replaced("norm_rms_q8", 0, 0, "norm_rms_team quantize_q8");
    replaced("attend_mma_64", 0, 4, "attend_tile_f16_64");
    replaced("rope_store_f16", 0, 0, "rope rope store_f16");
    let mut p = plan(GgmlType::F32);
    p.ops.insert(
        3,
        Op::Norm { kind: NormKind::Layer, x: BufId(2), weight: None, bias: None, group: 16, eps: 1e-5, out: BufId(2) },
    );
    let program = lower(&p, &chip(&|name| name != "norm_layer_team")).expect("a block does it");
    let norm = program.segments[0].modes[1].iter().find(|l| l.kernel == "norm_layer").expect("one");
    assert_eq!((norm.grid[0], norm.block), (Extent::Ceil(Dim::Rows, 2, 1), 256));
}
