//! Products against f64, in every format, tier and shape; and how fast they are.

use std::time::Instant;

use half::f16;

use super::super::matmul::{DIRECT_ROWS, Matmul, Product};
use super::super::testing::{each_team, random, random_bytes};
use super::*;
use crate::backend::cpu::workers::CpuPool;
use crate::quant::GgmlType;

const TYPES: [GgmlType; 13] = [
    GgmlType::F32,
    GgmlType::F16,
    GgmlType::BF16,
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];

/// Random bytes of a matrix whose weights are finite and of ordinary size.
pub fn matrix(format: &Format, seed: u64, n_rows: usize, k: usize) -> Vec<u8> {
    let mut bytes = random_bytes(seed, n_rows * format.row_bytes(k));
    match format.ty {
        GgmlType::F32 => {
            let values = random(seed, n_rows * k, 1.0);
            bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        GgmlType::F16 => {
            let values = random(seed, n_rows * k, 1.0);
            bytes = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        }
        GgmlType::BF16 => {
            let values = random(seed, n_rows * k, 1.0);
            bytes = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        }
        ty => {
            // Where the f16 scales of a block lie.
            let at: &[usize] = match ty {
                GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 => &[0],
                GgmlType::Q2_K => &[80, 82],
                GgmlType::Q3_K => &[108],
                GgmlType::Q6_K => &[208],
                _ => &[0, 2],
            };
            for (i, block) in bytes.chunks_mut(ty.block_bytes()).enumerate() {
                for &at in at {
                    let d = f16::from_f32(0.001 * (1.0 + (i % 7) as f32));
                    block[at..at + 2].copy_from_slice(&d.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// Whether products of so many tokens run on matrix tiles.
fn tiled(tier: Tier, format: &Format, tokens: usize) -> bool {
    tier.amx().is_some() && !format.is_float() && tokens > DIRECT_ROWS
}

/// A value as a matrix tile holds it.
fn rounded(x: f32) -> f64 {
    f64::from(half::bf16::from_f32(x).to_f32())
}

/// `x` as the GEMM sees it: quantized for coded formats, or in bf16 on matrix tiles.
fn seen(tier: Tier, format: &Format, x: &[f32], tokens: usize) -> Vec<f64> {
    if format.is_float() {
        return x.iter().map(|&x| f64::from(x)).collect();
    }
    if tiled(tier, format, tokens) {
        return x.iter().map(|&x| rounded(x)).collect();
    }
    let (mut q, mut d, mut s) = (vec![0; x.len()], vec![0.0; x.len() / GROUP], vec![0.0; x.len() / SUB]);
    quantize(tier, x, &mut q, &mut d, &mut s);
    q.iter().enumerate().map(|(i, &q)| f64::from(q) * f64::from(d[i / GROUP])).collect()
}

#[test]
fn every_format_matches_f64_in_every_shape() {
    each_team(|team| {
        for ty in TYPES {
            let format = ty.format().unwrap();
            for (n_rows, k, tokens) in [(1, 256, 1), (5, 512, 3), (33, 768, 8), (70, 1280, 11), (161, 256, 20)] {
                if team.tier() == Tier::Scalar && n_rows > 70 {
                    continue;
                }
                let bytes = matrix(format, 3, n_rows, k);
                let x = random(4, tokens * k, 2.0);
                let bias = random(5, n_rows, 1.0);
                let mut out = vec![f32::NAN; tokens * n_rows];
                let extent = Extent { coded_k: k, float_k: k, tokens, matrix_tiles: team.tier().amx().is_some() };
                let mut matmul = Matmul::new(extent, team.threads());
                let weight = Matrix { format, rows: &bytes, k };
                let product = Product { weight, bias: Some(&bias), out: &mut out, width: n_rows };
                matmul.linear(team, &x, k, &mut [product]);
                let seen = seen(team.tier(), format, &x, tokens);
                let as_is = |w: f32| f64::from(w);
                let weight_seen = if tiled(team.tier(), format, tokens) { rounded } else { as_is };
                let mut w = vec![0.0; k];
                for row in 0..n_rows {
                    format.dequantize(&bytes[row * format.row_bytes(k)..][..format.row_bytes(k)], &mut w);
                    for t in 0..tokens {
                        let terms = w.iter().zip(&seen[t * k..]).map(|(&w, &x)| weight_seen(w) * x);
                        let size: f64 = terms.clone().map(f64::abs).sum();
                        let want = terms.sum::<f64>() + f64::from(bias[row]);
                        let got = f64::from(out[t * n_rows + row]);
                        assert!(
                            (got - want).abs() <= 1e-5 * (size + 1.0),
                            "{} {} {n_rows}x{k} T={tokens} at {row},{t}: {got} for {want}",
                            team.tier().name(),
                            ty.name()
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn codes_of_all_bits_do_not_saturate() {
    // The largest codes and activations there are, all of one sign: sums of two products pass 16 bits.
    each_team(|team| {
        let format = GgmlType::Q8_0.format().unwrap();
        let (k, tokens) = (64, DIRECT_ROWS + 1);
        let block: Vec<u8> = f16::ONE.to_le_bytes().into_iter().chain([127; 32]).collect();
        let bytes = block.repeat(2 * k / 32);
        let x = vec![-1.0; tokens * k];
        let mut out = vec![0.0; tokens * 2];
        let mut matmul = Matmul::new(
            Extent { coded_k: k, float_k: 0, tokens, matrix_tiles: team.tier().amx().is_some() },
            team.threads(),
        );
        let weight = Matrix { format, rows: &bytes, k };
        matmul.linear(team, &x, k, &mut [Product { weight, bias: None, out: &mut out, width: 2 }]);
        for x in out {
            assert!((x + 127.0 * k as f32).abs() < 0.01, "{x}");
        }
    });
}

#[test]
fn a_token_does_not_depend_on_its_batch() {
    each_team(|team| {
        for ty in [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::F32] {
            let format = ty.format().unwrap();
            let (n_rows, k, tokens) = (40, 768, 17);
            let bytes = matrix(format, 3, n_rows, k);
            let x = random(4, tokens * k, 2.0);
            let mut matmul = Matmul::new(
                Extent { coded_k: k, float_k: k, tokens, matrix_tiles: team.tier().amx().is_some() },
                team.threads(),
            );
            let weight = Matrix { format, rows: &bytes, k };
            let mut run = |x: &[f32]| {
                let mut out = vec![0.0; x.len() / k * n_rows];
                matmul.linear(team, x, k, &mut [Product { weight, bias: None, out: &mut out, width: n_rows }]);
                out
            };
            let all = run(&x);
            let some = run(&x[3 * k..12 * k]);
            assert_eq!(all[3 * n_rows..12 * n_rows], some);
        }
    });
}

#[test]
fn several_products_of_one_input() {
    each_team(|team| {
        let (k, tokens) = (256, 9);
        let x = random(4, tokens * k, 2.0);
        let kinds = [(GgmlType::Q4_K, 64), (GgmlType::F16, 33), (GgmlType::Q6_K, 20)];
        let weights: Vec<_> = kinds.iter().map(|&(ty, n)| matrix(ty.format().unwrap(), 1, n, k)).collect();
        let mut matmul = Matmul::new(
            Extent { coded_k: k, float_k: k, tokens, matrix_tiles: team.tier().amx().is_some() },
            team.threads(),
        );
        let mut together: Vec<Vec<f32>> = kinds.iter().map(|(_, n)| vec![0.0; n * tokens]).collect();
        let mut products: Vec<_> = together
            .iter_mut()
            .zip(&weights)
            .zip(kinds)
            .map(|((out, rows), (ty, width))| Product {
                weight: Matrix { format: ty.format().unwrap(), rows, k },
                bias: None,
                out,
                width,
            })
            .collect();
        matmul.linear(team, &x, k, &mut products);
        for ((rows, (ty, width)), together) in weights.iter().zip(kinds).zip(&together) {
            let mut out = vec![0.0; width * tokens];
            let weight = Matrix { format: ty.format().unwrap(), rows, k };
            matmul.linear(team, &x, k, &mut [Product { weight, bias: None, out: &mut out, width }]);
            assert_eq!(out, *together);
        }
    });
}

/// Not a test of correctness: prints GOP/s beside the peak of the unit. `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed_of_the_gemm() {
    let tokens: usize = std::env::var("T").ok().and_then(|t| t.parse().ok()).unwrap_or(512);
    for threads in [1, 2] {
        let pool = CpuPool::new(threads, Tier::detect());
        let mut team = pool.acquire();
        // Others use this machine too: the best of many short runs.
        let best = |run: &mut dyn FnMut() -> f64| (0..12).map(|_| run()).fold(0.0, f64::max);
        println!("{threads} threads, vpdpbusd in registers: {:.0} GOP/s", best(&mut || peak(&mut team)));
        for ty in [GgmlType::Q4_K, GgmlType::Q6_K] {
            println!(
                "{threads} threads, {} from the first-level cache: {:.0} GOP/s",
                ty.name(),
                best(&mut || stage(&mut team, ty))
            );
        }
        for (ty, n_rows, k) in [
            (GgmlType::Q4_K, 8960, 1536),
            (GgmlType::Q4_K, 1536, 8960),
            (GgmlType::Q6_K, 1536, 8960),
            (GgmlType::Q8_0, 1536, 1536),
            (GgmlType::F16, 1536, 1536),
        ] {
            let format = ty.format().unwrap();
            let bytes = matrix(format, 3, n_rows, k);
            let x = random(4, tokens * k, 2.0);
            let mut out = vec![0.0; tokens * n_rows];
            let mut matmul = Matmul::new(
                Extent { coded_k: k, float_k: k, tokens, matrix_tiles: team.tier().amx().is_some() },
                threads,
            );
            let weight = Matrix { format, rows: &bytes, k };
            let mut times = [0.0; 7];
            for time in &mut times {
                let start = Instant::now();
                matmul.linear(&mut team, &x, k, &mut [Product { weight, bias: None, out: &mut out, width: n_rows }]);
                *time = start.elapsed().as_secs_f64();
            }
            times.sort_by(f64::total_cmp);
            let gops = 2.0 * (n_rows * k * tokens) as f64 / times[0] / 1e9;
            let start = Instant::now();
            matmul.gemm.pack_coded(&mut team, &x, k);
            let pack = start.elapsed().as_secs_f64() / times[0];
            println!(
                "{threads} threads, {} {n_rows}x{k} T={tokens}: {gops:.0} GOP/s, packing {:.1} %",
                ty.name(),
                pack * 100.0
            );
        }
    }
}

/// GOP/s of nothing but `vpdpbusd` on registers, all workers; 0 without it.
fn peak(team: &mut Team<'_>) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = team.tier().avx512() {
        use std::arch::x86_64::*;
        #[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
        fn spin(n: usize) -> i32 {
            let (a, b) = (_mm512_set1_epi8(std::hint::black_box(3)), _mm512_set1_epi8(std::hint::black_box(5)));
            let mut dots = [_mm512_setzero_si512(); 12];
            for _ in 0..n {
                for dot in &mut dots {
                    *dot = _mm512_dpbusd_epi32(*dot, a, b);
                }
            }
            dots.iter().map(|&d| _mm512_reduce_add_epi32(d)).fold(0, i32::wrapping_add)
        }
        const N: usize = 300_000;
        let start = Instant::now();
        let threads = team.threads();
        team.run(&|_| {
            let n = N;
            std::hint::black_box(crate::simd::enter!(Avx512, token => spin(n: usize) -> i32));
        });
        return (threads * N * 12 * 128) as f64 / start.elapsed().as_secs_f64() / 1e9;
    }
    let _ = team;
    0.0
}

/// GOP/s of the multiplying stage alone, on one chunk.
fn stage(team: &mut Team<'_>, ty: GgmlType) -> f64 {
    const N: usize = 2_000;
    let (tier, format) = (team.tier(), ty.format().unwrap());
    let rows = matrix(format, 1, ROWS, CHUNK);
    let (mut q, mut d, mut s) = (vec![0; CHUNK], vec![0.0; CHUNK / GROUP], vec![0.0; CHUNK / SUB]);
    quantize(tier, &random(1, CHUNK, 1.0), &mut q, &mut d, &mut s);
    let mut x = vec![ActBlock::default(); CHUNK / GROUP];
    for i in 0..TOKENS {
        coded::pack_token(&mut x, i, &q, &d, &s);
    }
    let start = Instant::now();
    team.run(&|_| {
        let mut panel = coded::Panel::new();
        panel.unpack(tier, Matrix { format, rows: &rows, k: CHUNK }, 0..ROWS, 0, CHUNK);
        let mut sums = [[[0.0; LANES]; TOKENS]; 2];
        for _ in 0..N {
            panel.multiply(tier, std::hint::black_box(&x), TOKENS, &mut sums);
        }
        std::hint::black_box(sums);
    });
    (team.threads() * N * 2 * ROWS * TOKENS * CHUNK) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Prints where the GEMM overtakes the dots. `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed_of_few_rows() {
    let pool = CpuPool::new(1, Tier::detect());
    let mut team = pool.acquire();
    for (ty, n_rows, k) in [(GgmlType::Q4_K, 8960, 1536), (GgmlType::Q6_K, 1536, 8960)] {
        let format = ty.format().unwrap();
        let rows = matrix(format, 3, n_rows, k);
        let weight = Matrix { format, rows: &rows, k };
        for tokens in 1..=8 {
            let x = random(4, tokens * k, 2.0);
            let mut matmul =
                Matmul::new(Extent { coded_k: k, float_k: k, tokens, matrix_tiles: team.tier().amx().is_some() }, 1);
            let mut best = [f64::MAX; 2];
            for _ in 0..8 {
                for (best, direct) in best.iter_mut().zip([true, false]) {
                    let mut out = vec![0.0; tokens * n_rows];
                    let products = &mut [Product { weight, bias: None, out: &mut out, width: n_rows }];
                    let start = Instant::now();
                    match direct {
                        true => matmul.dots(&mut team, &x, k, products),
                        false => matmul.gemm(&mut team, &x, k, products),
                    }
                    *best = best.min(start.elapsed().as_secs_f64() * 1e3);
                }
            }
            println!("{} {n_rows}x{k} T={tokens}: dots {:.2} ms, GEMM {:.2} ms", ty.name(), best[0], best[1]);
        }
    }
}
