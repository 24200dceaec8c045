//! The matrix unit, element by element, with asymmetric data: no row, column or k looks like another.

mod common;

use amdhip64::fault::Cause;
use amdhip64::float::{f2h, h2f};
use amdhip64::options::Order;
use common::{Bench, Random, compile, options};

/// One tile; `a` is [16][16], `b` is given by columns, `c` and `d` are [16][16].
const KERNELS: &str = r#"
typedef f16 h16 __attribute__((ext_vector_type(16)));
typedef short s16 __attribute__((ext_vector_type(16)));
typedef float f8 __attribute__((ext_vector_type(8)));
typedef i32 i8v __attribute__((ext_vector_type(8)));
typedef i32 i4v __attribute__((ext_vector_type(4)));
typedef i32 i2v __attribute__((ext_vector_type(2)));
#define LAYOUT const u32 l = tid(), r = l & 15, top = l >> 4
KERNEL void tile_f16(const h16* a, const h16* b, const float* c, float* d) {
  LAYOUT; f8 acc;
  for (u32 i = 0; i < 8; i++) acc[i] = c[(2 * i + top) * 16 + r];
  acc = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a[r], b[r], acc);
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[i];
}
KERNEL void tile_bf16(const s16* a, const s16* b, const float* c, float* d) {
  LAYOUT; f8 acc;
  for (u32 i = 0; i < 8; i++) acc[i] = c[(2 * i + top) * 16 + r];
  acc = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(a[r], b[r], acc);
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[i];
}
KERNEL void tile_half(const h16* a, const h16* b, const f16* c, f16* d) {
  LAYOUT; h16 acc;
  for (u32 i = 0; i < 16; i++) acc[i] = c[(2 * (i / 2) + top) * 16 + r];
  acc = __builtin_amdgcn_wmma_f16_16x16x16_f16_w32(a[r], b[r], acc, true);
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[2 * i + 1];
}
#define INTEGER(name, builtin, type, sa, sb) \
KERNEL void name(const type* a, const type* b, const i32* c, i32* d) { \
  LAYOUT; i8v acc; \
  for (u32 i = 0; i < 8; i++) acc[i] = c[(2 * i + top) * 16 + r]; \
  acc = builtin(sa, a[r], sb, b[r], acc, false); \
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[i]; \
}
INTEGER(tile_u8_i8, __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32, i4v, false, true)
INTEGER(tile_i8_u8, __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32, i4v, true, false)
INTEGER(tile_i8_i8, __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32, i4v, true, true)
INTEGER(tile_i4_i4, __builtin_amdgcn_wmma_i32_16x16x16_iu4_w32, i2v, true, true)
INTEGER(tile_u4_u4, __builtin_amdgcn_wmma_i32_16x16x16_iu4_w32, i2v, false, false)
// Mistakes: fragments that do not repeat; a tile whose last lanes are off.
KERNEL void not_repeated(const h16* a, const h16* b, float* d) {
  LAYOUT; f8 acc = {};
  acc = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a[(r + top) & 15], b[r], acc);
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[i];
}
KERNEL void swapped(const h16* a, const h16* b, const float* c, float* d) {
  LAYOUT; f8 acc;
  for (u32 i = 0; i < 8; i++) acc[i] = c[(2 * i + top) * 16 + r];
  acc = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(b[r], a[r], acc);
  for (u32 i = 0; i < 8; i++) d[(2 * i + top) * 16 + r] = acc[i];
}
"#;

fn floats() -> Vec<f32> {
    let mut r = Random(3);
    // Small integers and eighths: every product and sum is exact in f32 and, for the smaller ones, in f16.
    (0..256).map(|_| (r.bits() % 33) as f32 / 8.0 - 2.0).collect()
}

/// D = A B + C with B by columns.
fn product(a: &[f32], b: &[f32], c: &[f32]) -> Vec<f32> {
    let at = |m: usize, n: usize| (0..16).map(|k| f64::from(a[m * 16 + k]) * f64::from(b[n * 16 + k])).sum::<f64>();
    (0..256).map(|i| (at(i / 16, i % 16) + f64::from(c[i])) as f32).collect()
}

fn three() -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let a = floats();
    let b: Vec<f32> = a.iter().rev().enumerate().map(|(i, x)| x * 0.5 + (i % 7) as f32).collect();
    let c: Vec<f32> = (0..256).map(|i| i as f32 * 0.25 - 9.0).collect();
    (a, b, c)
}

#[test]
fn every_element_of_a_float_tile() {
    let mut bench = Bench::new(&compile(KERNELS));
    let (a, b, c) = three();
    let want = product(&a, &b, &c);
    let bytes = |v: &[f32], f: fn(f32) -> u16| v.iter().map(|x| f(*x)).collect::<Vec<u16>>();
    for (kernel, f) in [("tile_f16", f2h as fn(f32) -> u16), ("tile_bf16", |x| (x.to_bits() >> 16) as u16)] {
        let d = bench.buffer(&[0f32; 256]);
        let args = [bench.buffer(&bytes(&a, f)), bench.buffer(&bytes(&b, f)), bench.buffer(&c), d];
        bench.launch(kernel, 1, 32, &args, &options(Order::Forward)).unwrap();
        assert_eq!(bench.read::<f32>(d, 256), want, "{kernel}");
    }
    // Accumulator in the high halves: small enough values to be exact in f16.
    let small: Vec<f32> = a.iter().map(|x| x.trunc()).collect();
    let other: Vec<f32> = (0..256).map(|i| ((i * 7) % 5) as f32 - 2.0).collect();
    let (want, d) = (product(&small, &other, &other), bench.buffer(&[0u16; 256]));
    let args =
        [bench.buffer(&bytes(&small, f2h)), bench.buffer(&bytes(&other, f2h)), bench.buffer(&bytes(&other, f2h)), d];
    bench.launch("tile_half", 1, 32, &args, &options(Order::Forward)).unwrap();
    assert_eq!(bench.read::<u16>(d, 256).iter().map(|h| h2f(*h)).collect::<Vec<_>>(), want);
}

#[test]
fn every_element_of_an_integer_tile() {
    let mut bench = Bench::new(&compile(KERNELS));
    let mut r = Random(5);
    let (a, b): (Vec<u8>, Vec<u8>) = (0..256).map(|_| (r.bits() as u8, r.bits() as u8)).unzip();
    let c: Vec<i32> = (0..256).map(|i| i * 1000 - 77777).collect();
    let value = |x: u8, bits: u32, signed: bool| {
        let x = i32::from(x) & ((1 << bits) - 1);
        if signed && x >> (bits - 1) != 0 { x - (1 << bits) } else { x }
    };
    let pack = |v: &[u8]| v.chunks(2).map(|p| p[0] & 15 | p[1] << 4).collect::<Vec<u8>>();
    for (kernel, bits, sa, sb) in [
        ("tile_u8_i8", 8, false, true),
        ("tile_i8_u8", 8, true, false),
        ("tile_i8_i8", 8, true, true),
        ("tile_i4_i4", 4, true, true),
        ("tile_u4_u4", 4, false, false),
    ] {
        let want: Vec<i32> = (0..256)
            .map(|i| {
                let (m, n) = (i / 16 * 16, i % 16 * 16);
                c[i] + (0..16).map(|k| value(a[m + k], bits, sa) * value(b[n + k], bits, sb)).sum::<i32>()
            })
            .collect();
        let (pa, pb) = if bits == 4 { (pack(&a), pack(&b)) } else { (a.clone(), b.clone()) };
        let d = bench.buffer(&[0i32; 256]);
        let args = [bench.buffer(&pa), bench.buffer(&pb), bench.buffer(&c), d];
        bench.launch(kernel, 1, 32, &args, &options(Order::Forward)).unwrap();
        assert_eq!(bench.read::<i32>(d, 256), want, "{kernel}");
    }
}

#[test]
fn undefined_matrix_operands_are_refused() {
    let mut bench = Bench::new(&compile(KERNELS));
    let (a, b, c) = three();
    let half = |v: &[f32]| v.iter().map(|x| f2h(*x)).collect::<Vec<u16>>();
    let d = bench.buffer(&[0f32; 256]);
    let (pa, pb, pc) = (bench.buffer(&half(&a)), bench.buffer(&half(&b)), bench.buffer(&c));
    let fault = bench.launch("not_repeated", 1, 32, &[pa, pb, d], &options(Order::Forward)).unwrap_err();
    assert_eq!(fault.cause, Cause::Matrix);
    assert!(fault.to_string().contains("halves must repeat"), "{fault}");
    let fault = bench.launch("tile_f16", 1, 20, &[pa, pb, pc, d], &options(Order::Forward)).unwrap_err();
    assert_eq!((fault.cause, fault.lane), (Cause::Matrix, Some(20)));
    // Swapped fragments are well defined and wrong: the element-wise comparison is what finds them.
    bench.launch("swapped", 1, 32, &[pa, pb, pc, d], &options(Order::Forward)).unwrap();
    assert_ne!(bench.read::<f32>(d, 256), product(&a, &b, &c));
}
