//! Tests of the pool: jobs, panics, turns, tiles.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::simd::Tier;

fn pool(threads: usize) -> Arc<CpuPool> {
    CpuPool::new(threads, Tier::Scalar)
}

#[test]
fn every_worker_runs_a_job_once_and_run_waits_for_them() {
    for threads in [1, 2, 3] {
        let pool = pool(threads);
        let mut team = pool.acquire();
        let counts: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
        for round in 1..=500 {
            team.run(&|w| {
                counts[w.index()].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == round));
        }
    }
}

#[test]
fn parked_workers_wake_up() {
    let pool = pool(3);
    for _ in 0..20 {
        std::thread::sleep(POOL_SPIN * 20);
        let hits = AtomicU32::new(0);
        pool.acquire().run(&|_| {
            hits.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(hits.load(Ordering::Relaxed), 3);
    }
}

#[test]
fn an_idle_pool_uses_no_cpu() {
    let pool = pool(3);
    let workers = Mutex::new(HashSet::new());
    pool.acquire().run(&|worker| {
        if worker.index() > 0 {
            workers.lock().unwrap().insert(nix::unistd::gettid());
        }
    });
    let workers = workers.into_inner().unwrap();
    assert_eq!(workers.len(), 2);
    std::thread::sleep(Duration::from_millis(20));
    let before = cpu_time(&workers);
    std::thread::sleep(Duration::from_millis(200));
    let used = cpu_time(&workers) - before;
    assert!(used < Duration::from_millis(20), "{used:?} in 200 ms");
}

/// CPU time of these threads. Other threads that are named alike do not count: under `cargo test`
/// other tests have pools at work in this process.
fn cpu_time(threads: &HashSet<Pid>) -> Duration {
    let ticks = |thread: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // In user mode and in the kernel.
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    Duration::from_millis(threads.iter().map(ticks).sum::<u64>() * 10)
}

#[test]
fn each_tile_is_worked_on_once() {
    let pool = pool(3);
    let mut team = pool.acquire();
    for n in [0, 1, 2, 100, 1001] {
        let hits: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
        team.for_each_tile(n, |tile, _| {
            hits[tile].fetch_add(1, Ordering::Relaxed);
        });
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
    let pool = pool(3);
    for victim in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.acquire().run(&|w| {
                if w.index() == victim {
                    std::panic::resume_unwind(Box::new("broken"));
                }
            });
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"broken"));
        let hits = AtomicU32::new(0);
        pool.acquire().run(&|_| {
            hits.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(hits.load(Ordering::Relaxed), 3);
        assert!(pool.alive());
    }
}

#[test]
fn engines_take_turns() {
    let pool = pool(2);
    let order = Mutex::new(Vec::new());
    let team = pool.acquire();
    std::thread::scope(|scope| {
        for engine in 0..4 {
            let (pool, order) = (&pool, &order);
            scope.spawn(move || {
                let mut team = pool.acquire();
                for _ in 0..3 {
                    order.lock().unwrap().push(engine);
                    team.run(&|_| {});
                    team.give_way(Duration::ZERO);
                }
            });
            // Each must have its ticket before the next comes.
            while pool.lock_turn().next != engine + 2 {
                std::thread::yield_now();
            }
        }
        drop(team);
    });
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn the_caller_gets_its_affinity_back() {
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let pool = pool(2);
    drop(pool.acquire());
    assert!(sched_getaffinity(Pid::from_raw(0)).unwrap() == before);
}

#[test]
fn alive_notices_a_holder_that_never_ends() {
    let pool = pool(1);
    let team = pool.acquire();
    assert!(pool.alive());
    // As if it had been taken long before the pool was made.
    pool.busy_since.store(1, Ordering::Relaxed);
    assert!(pool.alive(), "just made");
    assert!(!bare(&pool, Instant::now() - POOL_HELD_MAX * 2).alive());
    drop(team);
}

/// A pool without threads that shares nothing but the numbers.
fn bare(pool: &CpuPool, made: Instant) -> CpuPool {
    CpuPool {
        shared: Arc::clone(&pool.shared),
        tier: pool.tier,
        threads: 1,
        home: None,
        handles: Vec::new(),
        unpark: Vec::new(),
        turn: Mutex::new(Turn::default()),
        turned: Condvar::new(),
        made,
        busy_since: AtomicU64::new(pool.busy_since.load(Ordering::Relaxed)),
    }
}

#[test]
fn denormals_are_zero_inside_a_job_only() {
    let tiny = std::hint::black_box(f32::MIN_POSITIVE);
    let seen = Mutex::new(HashSet::new());
    let pool = pool(2);
    pool.acquire().run(&|_| {
        seen.lock().unwrap().insert((std::hint::black_box(tiny) / 2.0).to_bits());
    });
    if cfg!(target_arch = "x86_64") {
        assert_eq!(seen.into_inner().unwrap(), HashSet::from([0]));
    }
    assert!(std::hint::black_box(tiny) / 2.0 > 0.0);
}

#[test]
fn tiles_cover_a_matrix_once() {
    let pool = pool(3);
    for (rows, width, tile_rows, tile_cols) in
        [(1, 1, 1, 1), (5, 7, 2, 3), (3, 64, 3, 16), (4, 10, 1, 10), (0, 3, 1, 1)]
    {
        let mut data = vec![0_u32; rows * width];
        let tiles = DisjointTiles::new(&mut data, width, tile_rows, tile_cols);
        let taken = AtomicUsize::new(0);
        pool.acquire().run(&|_| {
            while let Some(mut tile) = tiles.take() {
                taken.fetch_add(1, Ordering::Relaxed);
                for r in tile.rows() {
                    let first = tile.cols().start;
                    for (c, x) in tile.row(r).iter_mut().enumerate() {
                        *x += (r * width + first + c) as u32 + 1;
                    }
                }
            }
        });
        assert_eq!(taken.load(Ordering::Relaxed), tiles.len());
        assert!(data.iter().enumerate().all(|(i, &x)| x == i as u32 + 1));
    }
}

#[test]
fn whole_rows_come_as_one_slice() {
    let mut data = [0_u8; 10];
    let tiles = DisjointTiles::new(&mut data, 2, 3, 2);
    assert_eq!(tiles.take().unwrap().all().len(), 6);
    let mut last = tiles.take().unwrap();
    assert_eq!((last.rows(), last.all().len()), (3..5, 4));
    assert!(tiles.take().is_none());
}

#[test]
#[should_panic(expected = "in use")]
fn scratch_is_not_lent_twice() {
    let pool = pool(1);
    let scratch = PerWorker::new(1, || 0);
    pool.acquire().run(&|w| scratch.with(w, |_| scratch.with(w, |_| {})));
}

/// Not a test of correctness: prints what a job costs. Run with `--ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn cost_of_a_job() {
    for threads in [1, 2] {
        let pool = pool(threads);
        let mut team = pool.acquire();
        for _ in 0..3 {
            let start = Instant::now();
            for _ in 0..20_000 {
                team.run(&|_| {});
            }
            println!("{threads} threads: {:?} a job", start.elapsed() / 20_000);
        }
    }
}
