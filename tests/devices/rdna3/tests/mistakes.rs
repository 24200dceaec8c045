//! Mistakes planted in kernels: each must be found, with words that lead to it.

mod common;

use amdhip64::elf::Refusal;
use amdhip64::fault::{Cause, Fault};
use amdhip64::memory::Use;
use amdhip64::module::Module;
use amdhip64::options::{Options, Order};
use common::{Bench, assemble, compile, options};

const ORDERS: [Order; 3] = [Order::Forward, Order::Reverse, Order::Random(1)];

fn expect(fault: Result<amdhip64::stats::Stats, Fault>, cause: Cause, words: &[&str]) {
    let fault = fault.expect_err("the mistake goes unnoticed");
    assert_eq!(fault.cause, cause, "{fault}");
    let text = fault.to_string();
    for w in words {
        assert!(text.contains(w), "{text:?} does not say {w:?}");
    }
}

const SUM: &str = r#"
// Sum over a block of 128 by way of local memory, with and without its barriers.
KERNEL void sum(const float* x, float* y) {
  SHARED static float part[4];
  float v = x[bid() * 128 + tid()];
  for (u32 m = 16; m; m >>= 1) v += __builtin_bit_cast(float, __builtin_amdgcn_ds_bpermute((i32)((tid() ^ m) << 2), __builtin_bit_cast(i32, v)));
  if ((tid() & 31) == 0) part[tid() >> 5] = v;
  BARRIER
  if (tid() == 0) y[bid()] = part[0] + part[1] + part[2] + part[3];
}
"#;

#[test]
fn a_missing_barrier_is_a_race_in_every_order() {
    let x: Vec<f32> = (0..512).map(|i| i as f32).collect();
    for (barrier, good) in [("barrier();", true), ("", false)] {
        let mut bench = Bench::new(&compile(&SUM.replace("BARRIER", barrier)));
        let (from, to) = (bench.buffer(&x), bench.buffer(&[0f32; 4]));
        for order in ORDERS {
            let outcome = bench.launch("sum", 4, 128, &[from, to], &options(order));
            if good {
                outcome.unwrap();
                let want: Vec<f32> = x.chunks(128).map(|c| c.iter().sum()).collect();
                assert_eq!(bench.read::<f32>(to, 4), want);
            } else {
                expect(outcome, Cause::LdsRace, &["sum: pc 0x", "LDS byte", "since the last barrier"]);
            }
        }
    }
}

#[test]
fn divergent_and_missing_barriers() {
    let source = r#"
    KERNEL void lanes(u32* y) { if (tid() < 20) { barrier(); y[tid()] = 1; } }
    KERNEL void waves(u32* y) { if (__builtin_amdgcn_readfirstlane(tid()) < 32) { barrier(); y[tid()] = 1; } }
    "#;
    let mut bench = Bench::new(&compile(source));
    let y = bench.buffer(&[0u32; 64]);
    expect(bench.launch("lanes", 1, 32, &[y], &options(Order::Forward)), Cause::Barrier, &["lane 20", "divergent"]);
    expect(bench.launch("waves", 1, 64, &[y], &options(Order::Forward)), Cause::Barrier, &["wave 1 has ended"]);
}

#[test]
fn one_element_too_far() {
    let source = r#"
    KERNEL void copy(const float* x, float* y, u32 n, u32 extra) { u32 i = bid() * 128 + tid(); if (i < n + extra) y[i] = x[i]; }
    "#;
    let mut bench = Bench::new(&compile(source));
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (from, to, short) = (bench.buffer(&x), bench.buffer(&x), bench.buffer(&x[..999]));
    let args = |x: u64, y: u64, n: u32, extra: u32| {
        [&x.to_le_bytes()[..], &y.to_le_bytes(), &n.to_le_bytes(), &extra.to_le_bytes()].concat()
    };
    let o = Options { threads: 2, ..options(Order::Forward) };
    bench.launch_bytes("copy", 8, 128, &args(from, to, 1000, 0), &o).unwrap();
    expect(
        bench.launch_bytes("copy", 8, 128, &args(from, to, 1000, 1), &o),
        Cause::Address,
        &[
            "copy: pc 0x",
            "lane 8:",
            "global_load_b32 reads 4 bytes",
            "4 bytes past the end of an allocation of 4000 bytes",
            "block 7,0,0 wave 3",
        ],
    );
    expect(
        bench.launch_bytes("copy", 8, 128, &args(from, short, 1000, 0), &o),
        Cause::Address,
        &["lane 7:", "global_store_b32 writes 4 bytes", "4 bytes past the end of an allocation of 3996 bytes"],
    );
    // A wrong argument: 0 where an address belongs.
    expect(bench.launch_bytes("copy", 1, 128, &args(0, to, 5, 0), &o), Cause::Address, &["at 0x0"]);
    bench.memory.free(from, Use::Device);
    expect(
        bench.launch_bytes("copy", 1, 128, &args(from, to, 5, 0), &o),
        Cause::Address,
        &["reads 4 bytes at byte 0 of an allocation of 4000 bytes that was freed"],
    );
}

#[test]
fn constants_are_read_only_and_fresh_memory_is_poison() {
    let source = r#"
    __attribute__((constant)) static const u32 table[4] = {11, 22, 33, 44};
    KERNEL void look(const u32* i, u32* y) { y[tid()] = table[i[tid()] & 3]; }
    KERNEL void deface(u32* p) { p[0] = 1; }
    "#;
    let mut bench = Bench::new(&compile(source));
    let i: Vec<u32> = (0..32).map(|l| l * 7).collect();
    let (from, to) = (bench.buffer(&i), bench.memory.allocate(128, Use::Device).unwrap());
    assert!(bench.read::<f32>(to, 32).iter().all(|x| x.is_nan()));
    bench.launch("look", 1, 32, &[from, to], &options(Order::Forward)).unwrap();
    let want: Vec<u32> = i.iter().map(|i| [11, 22, 33, 44][(i & 3) as usize]).collect();
    assert_eq!(bench.read::<u32>(to, 32), want);
    let code = bench.module.range().0;
    expect(
        bench.launch("deface", 1, 32, &[code], &options(Order::Forward)),
        Cause::Address,
        &["the code object, which is read-only"],
    );
    let stale = "s_load_b64 s[4:5], s[0:1], null\nv_lshlrev_b32 v0, 2, v0\nds_load_b32 v1, v0\ns_waitcnt lgkmcnt(0)\n\
                 global_store_b32 v0, v1, s[4:5]\n";
    let mut bench = Bench::new(&assemble(&[("stale", 8, 128, stale.into())]));
    let to = bench.buffer(&[0u32; 32]);
    bench.launch("stale", 1, 32, &[to], &options(Order::Forward)).unwrap();
    assert_eq!(bench.read::<u32>(to, 32), [!0; 32]);
}

#[test]
fn missing_waits() {
    let head = "s_load_b128 s[4:7], s[0:1], null\nv_lshlrev_b32 v0, 2, v0\n";
    let wait = "s_waitcnt lgkmcnt(0)\n";
    let of = |body: &str| format!("{head}{body}");
    let mut bench = Bench::new(&assemble(&[
        ("scalar", 16, 0, of("global_load_b32 v1, v0, s[4:5]\n")),
        ("vector", 16, 0, of(&format!("{wait}global_load_b32 v1, v0, s[4:5]\nv_add_nc_u32 v2, v1, v0\n"))),
        // Two loads in flight; waiting for one proves the first.
        (
            "first",
            16,
            0,
            of(&format!(
                "{wait}global_load_b32 v1, v0, s[4:5]\nglobal_load_b32 v2, v0, s[4:5]\ns_waitcnt vmcnt(1)\nv_mov_b32 v3, v1\n"
            )),
        ),
        (
            "second",
            16,
            0,
            of(&format!(
                "{wait}global_load_b32 v1, v0, s[4:5]\nglobal_load_b32 v2, v0, s[4:5]\ns_waitcnt vmcnt(1)\nv_mov_b32 v3, v2\n"
            )),
        ),
        ("overwrite", 16, 0, of(&format!("{wait}global_load_b32 v1, v0, s[4:5]\nv_mov_b32 v1, 0\n"))),
        ("local", 16, 256, of("ds_load_b32 v1, v0\nv_mov_b32 v2, v1\n")),
        ("store", 16, 256, of("ds_store_b32 v0, v0\ns_barrier\n")),
        ("stored", 16, 256, of(&format!("ds_store_b32 v0, v0\n{wait}s_barrier\n"))),
    ]));
    let buffer = bench.buffer(&[0u32; 64]);
    let mut run = |k: &str, o: &Options| bench.launch(k, 1, 32, &[buffer, buffer], o);
    let o = options(Order::Forward);
    expect(run("scalar", &o), Cause::Wait, &["uses s4 while s_load_b128", "a wait is missing"]);
    expect(run("vector", &o), Cause::Wait, &["v_add_nc_u32_e32 uses v1 while global_load_b32"]);
    run("first", &o).unwrap();
    expect(run("second", &o), Cause::Wait, &["uses v2"]);
    expect(run("overwrite", &o), Cause::Wait, &["uses v1"]);
    expect(run("local", &o), Cause::Wait, &["uses v1 while ds_load_b32"]);
    expect(run("store", &o), Cause::Wait, &["s_barrier with ds_store_b32", "lgkmcnt"]);
    run("stored", &o).unwrap();
    run("vector", &Options { waits: false, ..o }).unwrap();
}

#[test]
fn local_bounds_inactive_sources_and_endless_loops() {
    let mut bench = Bench::new(&assemble(&[
        ("bounds", 8, 124, "v_lshlrev_b32 v0, 2, v0\nds_store_b32 v0, v0\n".into()),
        ("endless", 8, 0, "1:\ns_branch 1b\n".into()),
        // What clang 19 makes of an exchange before `if (lane == 0)`.
        ("sunk", 8, 0, "v_cmpx_eq_u32 0, v0\nv_permlanex16_b32 v1, v0, 0, 0\n".into()),
        ("ran_past", 8, 0, "s_branch 2f\n.p2align 8\n.fill 4, 4, 0xbf9f0000\n2:\ns_code_end\n".into()),
    ]));
    let o = Options { limit: 1 << 22, ..options(Order::Forward) };
    let mut run = |k: &str| bench.launch(k, 1, 32, &[0], &o);
    expect(run("bounds"), Cause::LdsBounds, &["lane 31", "writes 4 bytes at LDS byte 124, outside of the group's 124"]);
    expect(run("endless"), Cause::Timeout, &["endless", "no end in sight"]);
    expect(run("sunk"), Cause::Lane, &["lane 0", "reads lane 16, which is inactive"]);
    expect(run("ran_past"), Cause::Jump, &["ran past its end"]);
}

#[test]
fn unknown_instructions_are_listed_at_load() {
    let image = assemble(&[(
        "odd",
        8,
        0,
        "buffer_load_b32 v1, v0, s[4:7], 0 offen\nv_mov_b32 v1, 0\nv_cvt_f16_f32 v1, v2\nimage_load v[0:3], v0, s[8:15] dmask:0xf dim:SQ_RSRC_IMG_1D\nbuffer_load_b32 v2, v0, s[4:7], 0 offen".into(),
    )]);
    let Err(Refusal::Invalid(text)) = Module::load(&image) else { panic!("loaded") };
    assert!(text.starts_with("2 not understood: buffer_load_b32 (pc 0x"), "{text}");
    assert!(text.contains("2 in all); image_load (pc 0x"), "{text}");
}

#[test]
fn orders_and_threads_agree_and_statistics_count() {
    let mut bench = Bench::new(&compile(&SUM.replace("BARRIER", "barrier();")));
    let x: Vec<f32> = (0..128 * 50).map(|i| (i % 91) as f32).collect();
    let from = bench.buffer(&x);
    let want: Vec<f32> = x.chunks(128).map(|c| c.iter().sum()).collect();
    let mut instructions = Vec::new();
    for order in ORDERS {
        for threads in [1, 3] {
            let to = bench.buffer(&[0f32; 50]);
            let o = Options { threads, order, stats: true, ..Options::default() };
            let s = bench.launch("sum", 50, 128, &[from, to], &o).unwrap();
            assert_eq!(bench.read::<f32>(to, 50), want);
            assert_eq!((s.waves, s.stored), (200, 200));
            // The input's 400 lines, the output's, and those of the arguments that each run holds elsewhere.
            let lines = s.lines().0;
            assert!((404..=409).contains(&lines), "{lines} lines");
            instructions.push(s.instructions);
        }
    }
    assert!(instructions.iter().all(|n| *n == instructions[0]));
}
