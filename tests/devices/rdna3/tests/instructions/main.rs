//! Single instructions, assembled by clang, against results computed here in another way.
//!
//! Every case is a kernel of one wave: v1 to v8 are loaded from eight rows of input, the case's code runs, v10 to v13
//! are stored.

#[path = "../common/mod.rs"]
mod common;

mod float;
mod half;
mod integer;
mod lanes;
mod memory;
mod scalar;

use amdhip64::options::Order;
use common::{Bench, Random, assemble, options};

/// Rows of input, by register: `i[1]` is v1.
pub type Rows = [[u32; 32]; 9];

/// Expected registers of a lane.
type Want = Box<dyn Fn(&Rows, usize) -> Vec<u32>>;

/// A case: code and, for each lane, the expected v10, v11, ...
pub struct Case {
    /// Assembler.
    pub code: String,
    /// Expected registers of a lane.
    pub want: Want,
    /// Allowed distance in units of the last place, for results of f32 functions; NaNs are equal.
    pub ulps: u32,
}

/// An exact case.
pub fn case(code: &str, want: impl Fn(&Rows, usize) -> Vec<u32> + 'static) -> Case {
    Case { code: code.into(), want: Box::new(want), ulps: 0 }
}

/// A case on bits of each lane: v1, v2, v3 to v10.
pub fn bits(code: &str, want: impl Fn(u32, u32, u32) -> u32 + 'static) -> Case {
    case(code, move |i, l| vec![want(i[1][l], i[2][l], i[3][l])])
}

/// A case on numbers: v1, v2, v3 to v10, computed in f64.
pub fn numbers(code: &str, ulps: u32, want: impl Fn(f64, f64, f64) -> f64 + 'static) -> Case {
    let f = |x: u32| f64::from(f32::from_bits(x));
    let want = move |i: &Rows, l: usize| vec![(want(f(i[1][l]), f(i[2][l]), f(i[3][l])) as f32).to_bits()];
    Case { code: code.into(), want: Box::new(want), ulps }
}

fn near(got: u32, want: u32, ulps: u32) -> bool {
    let (g, w) = (f32::from_bits(got), f32::from_bits(want));
    if got == want || ulps > 0 && g.is_nan() && w.is_nan() {
        return true;
    }
    let order = |x: u32| if x >> 31 != 0 { -i64::from(x & 0x7fff_ffff) } else { i64::from(x) };
    ulps > 0 && (order(got) - order(want)).unsigned_abs() <= u64::from(ulps)
}

/// Random bits, with the values where mistakes like to hide.
pub fn random_bits() -> Rows {
    let special = [
        0,
        1,
        2,
        31,
        32,
        33,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x00ff_ffff,
    ];
    let mut r = Random(7);
    std::array::from_fn(|_| {
        std::array::from_fn(|_| {
            let x = r.bits();
            if x.is_multiple_of(3) { special[(r.bits() % 16) as usize] } else { r.bits() }
        })
    })
}

/// Random numbers.
pub fn random_floats() -> Rows {
    let mut r = Random(11);
    std::array::from_fn(|_| std::array::from_fn(|_| r.float().to_bits()))
}

/// Runs the cases on the input, with all lanes and again with some; inactive lanes must keep what they had.
pub fn check(input: &Rows, cases: &[Case]) {
    run(input, cases, !0);
    run(input, cases, 0x5a3c_c7e1);
}

/// Runs the cases with the given lanes active during the case's code.
pub fn run(input: &Rows, cases: &[Case], exec: u32) {
    let loads: String = (1..9).map(|k| format!("global_load_b32 v{k}, v0, s[4:5] offset:{}\n", 128 * k)).collect();
    let stores: String =
        (0..4).map(|k| format!("global_store_b32 v0, v{}, s[6:7] offset:{}\n", 10 + k, 128 * k)).collect();
    let clear: String = (10..14).map(|k| format!("v_mov_b32 v{k}, 0xabcd1234\n")).collect();
    let names: Vec<String> = (0..cases.len()).map(|n| format!("k{n}")).collect();
    let kernels: Vec<_> = names
        .iter()
        .zip(cases)
        .map(|(name, c)| {
            let body = format!(
                "s_load_b128 s[4:7], s[0:1], null\nv_lshlrev_b32 v0, 2, v0\ns_waitcnt lgkmcnt(0)\n{loads}{clear}\
                 s_waitcnt vmcnt(0)\ns_mov_b32 exec_lo, {exec:#x}\n{}\ns_mov_b32 exec_lo, -1\n{stores}",
                c.code
            );
            (name.as_str(), 16, 1024, body)
        })
        .collect();
    let mut bench = Bench::new(&assemble(&kernels));
    let flat: Vec<u32> = input.iter().flatten().copied().collect();
    let from = bench.buffer(&flat);
    for (name, c) in names.iter().zip(cases) {
        let to = bench.buffer(&[0u32; 128]);
        if let Err(fault) = bench.launch(name, 1, 32, &[from, to], &options(Order::Forward)) {
            panic!("{}: {fault}", c.code);
        }
        let out: Vec<u32> = bench.read(to, 128);
        for l in 0..32 {
            let want = if exec >> l & 1 != 0 { (c.want)(input, l) } else { vec![0xabcd_1234] };
            for (k, want) in want.iter().enumerate() {
                let got = out[32 * k + l];
                let inputs: Vec<String> = (1..4).map(|k| format!("{:#x}", input[k][l])).collect();
                assert!(
                    near(got, *want, c.ulps),
                    "{} lane {l} v{}: {got:#x} instead of {want:#x} from {}",
                    c.code,
                    10 + k,
                    inputs.join(" ")
                );
            }
        }
    }
}
