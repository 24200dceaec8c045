//! How fast the kernels are, against what memory delivers in the same run. Times are those a
//! thread had a CPU, so that a busy machine can be used; but then two threads need not have run
//! at the same moment, and only an idle machine tells how they share its memory.
//!
//! `cargo test --release --lib quant::speed -- --ignored --nocapture` (`SPEED_MIB`: size of the
//! matrix, 512; `SPEED_K`: length of its rows, 2048; `SPEED_TILE`: rows of a call, 32;
//! `SPEED_CACHED`: KiB of the part that is read again and again, 256; `SPEED_TYPES`: for example
//! Q4_K,Q6_K).

use super::tests::{CODED, Random, weights};
use super::*;
use crate::simd::Tier;
use std::hint::black_box;

/// Rows of one call over cached data.
const TILE: usize = 32;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn wanted(ty: GgmlType) -> bool {
    std::env::var("SPEED_TYPES").map_or(true, |types| types.split(',').any(|t| t == ty.name()))
}

/// Seconds this thread has had a CPU: others at work on the machine count less in it than in
/// wall time.
fn cpu_time() -> f64 {
    // The kernel brings the figure up to date when a thread enters the scheduler.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Best seconds of `work` on `threads` threads, each with its part of `data` (whole `unit`s):
/// those of the slowest thread.
fn best(threads: usize, data: &[u8], unit: usize, work: impl Fn(&[u8]) + Sync) -> f64 {
    let part = (data.len() / unit).div_ceil(threads) * unit;
    let once = || {
        let timed = |part| {
            let start = cpu_time();
            work(part);
            cpu_time() - start
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = data.chunks(part).map(|part| scope.spawn(move || timed(part))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).fold(0.0, f64::max)
        })
    };
    (0..7).map(|_| once()).fold(f64::INFINITY, f64::min)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512dq,avx512vl,avx512vbmi,avx512vnni")]
fn read(data: &[u8]) {
    use crate::simd::x86::{load512, prefetch};
    use std::arch::x86_64::*;
    let quarter = data.len() / 4 / 64;
    let lines = data.as_chunks::<64>().0;
    let mut sums = [_mm512_setzero_si512(); 4];
    for i in 0..quarter {
        for (j, sum) in sums.iter_mut().enumerate() {
            let line = &lines[i + j * quarter];
            prefetch(line, 2048, 64);
            *sum = _mm512_xor_si512(*sum, load512(line));
        }
    }
    for sum in sums {
        black_box(_mm512_reduce_add_epi64(sum));
    }
}

fn read_any(data: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = Tier::detect().avx512() {
        crate::simd::enter!(Avx512, token => read(data: &[u8]));
        return;
    }
    black_box(data.as_chunks::<8>().0.iter().fold(0, |a, b| a ^ u64::from_le_bytes(*b)));
}

#[test]
#[ignore = "a measurement"]
fn dot() {
    let (bytes, k) = (setting("SPEED_MIB", 512) << 20, setting("SPEED_K", 2048));
    let tile = setting("SPEED_TILE", TILE);
    let mut random = Random(1);
    let x: Vec<f32> = (0..k).map(|_| random.value()).collect();
    let mut buf = Q8Buf::default();
    buf.quantize(Tier::detect(), &x, k);
    for (ty, scales) in CODED.into_iter().filter(|(ty, _)| wanted(*ty)) {
        let format = ty.format().unwrap();
        let row = format.row_bytes(k);
        let some = weights(&mut random, ty, scales, TILE, k);
        let data: Vec<u8> = some.iter().copied().cycle().take(bytes / (row * tile) * row * tile).collect();
        let gigabytes = data.len() as f64 / 1e9;
        for threads in [1, 2] {
            let memory = gigabytes / best(threads, &data, row * tile, read_any);
            print!("{:5} {threads} threads: read {memory:5.1} GB/s", ty.name());
            for tier in Tier::available() {
                if tier == Tier::Scalar {
                    continue;
                }
                let rate = gigabytes
                    / best(threads, &data, row * tile, |part| {
                        let mut out = vec![0.0; tile];
                        for rows in part.chunks(row * tile) {
                            format.dot(tier, rows, &buf.row(0), &mut out[..rows.len() / row]);
                            black_box(&out);
                        }
                    });
                print!(", {} {rate:5.1} ({:3.0} %)", tier.name(), 100.0 * rate / memory);
            }
            println!();
        }
        let cached = &data[..row * ((setting("SPEED_CACHED", 256) << 10) / row / 8).max(1) * 8];
        print!("{:5} cached:    ", ty.name());
        for tier in Tier::available() {
            let rounds = if tier == Tier::Scalar { 5 } else { 200 } * (256 << 10) / cached.len();
            let time = best(1, cached, cached.len(), |part| {
                let mut out = [0.0; TILE];
                for _ in 0..rounds {
                    for rows in part.chunks(row * TILE) {
                        format.dot(tier, rows, &buf.row(0), &mut out[..rows.len() / row]);
                        black_box(&out);
                    }
                }
            });
            let weights = (cached.len() / row * k * rounds) as f64 / time / 1e9;
            print!(" {} {weights:.1} G weights/s;", tier.name());
        }
        println!();
    }
}

#[test]
#[ignore = "a measurement"]
fn unpack_and_quantize() {
    let k = setting("SPEED_K", 2048);
    let mut random = Random(1);
    for (ty, scales) in CODED.into_iter().filter(|(ty, _)| wanted(*ty)) {
        let data = weights(&mut random, ty, scales, 64, k);
        let row = ty.format().unwrap().row_bytes(k);
        print!("{:5}", ty.name());
        for tier in Tier::available() {
            let time = best(1, &data, data.len(), |data| {
                let (mut codes, mut scales, mut mins) = (vec![0; k], vec![0.0; k / SUB], vec![0.0; k / SUB]);
                for row in data.chunks(row).cycle().take(4000) {
                    ty.format().unwrap().unpack(tier, row, &mut codes, &mut scales, &mut mins);
                    black_box(&codes);
                }
            });
            let time_f32 = best(1, &data, data.len(), |data| {
                let mut out = vec![0.0; k];
                for row in data.chunks(row).cycle().take(4000) {
                    ty.format().unwrap().to_f32(tier, row, &mut out);
                    black_box(&out);
                }
            });
            let rate = |time: f64| (4000 * k) as f64 / time / 1e9;
            print!("  {}: unpack {:.1}, to_f32 {:.1} G weights/s;", tier.name(), rate(time), rate(time_f32));
        }
        println!();
    }
    let x: Vec<f32> = (0..k).map(|_| random.value()).collect();
    for tier in Tier::available() {
        let time = best(1, &[0], 1, |_| {
            let mut buf = Q8Buf::default();
            for _ in 0..4000 {
                buf.quantize(tier, black_box(&x), k);
            }
        });
        println!("quantize {}: {:.2} G values/s", tier.name(), (4000 * k) as f64 / time / 1e9);
    }
}
