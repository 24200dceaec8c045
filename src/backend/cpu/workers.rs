//! The CPU pool: one pinned worker for each physical core, shared by all engines.
//!
//! An engine takes the pool for an op or a few ([`CpuPool::acquire`], first come first served)
//! and works itself as worker 0. A job is a closure that every worker runs once; work inside it
//! is claimed in tiles from a counter, so that a core which a neighbour slows down does not
//! hold the others back. Workers that find nothing to do spin for [`POOL_SPIN`], then park: an idle
//! pool uses no CPU.
//!
//! Guarantees to safe callers: a job's closure and all it borrows are used only until
//! [`Team::run`] returns, also if a worker panics, and what follows a job happens after
//! everything the workers did in it. A second job is the barrier between two phases of an op.

mod fpu;
#[cfg(test)]
mod tests;
mod tiles;

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::fpu::FlushDenormals;
pub use self::tiles::{DisjointTiles, PerWorker, Tile, TripleTiles};
use super::topology::{Core, Topology};
use crate::base::limits::{POOL_HELD_MAX, POOL_SPIN};
use crate::simd::Tier;

/// A worker inside a job: its number, below [`CpuPool::threads`].
#[derive(Debug)]
pub struct Worker {
    index: usize,
    /// Stays on its thread: two threads never are the same worker.
    _here: PhantomData<*const ()>,
}

impl Worker {
    /// Number of this worker; 0 is the thread that called [`Team::run`].
    pub fn index(&self) -> usize {
        self.index
    }
}

/// A job as the workers see it; the lifetime is erased, [`Team::run`] waits for its end.
type Job = *const (dyn Fn(&Worker) + Sync);

/// What all threads of a pool share.
struct Shared {
    /// Counts jobs; a change is the call to work. Odd or even means nothing.
    epoch: CachePadded<AtomicU64>,
    /// Workers that have not finished the current job.
    pending: CachePadded<AtomicUsize>,
    /// Next tile of [`Team::for_each_tile`].
    tile: CachePadded<AtomicUsize>,
    /// The current job: written by the team's holder while no worker works.
    job: UnsafeCell<Option<Job>>,
    /// Which workers are parked or about to.
    parked: Vec<CachePadded<AtomicBool>>,
    /// First panic of the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
}

// SAFETY: `job` is written only by the one holder of the team between jobs (`pending` is 0 and
// workers read it only after they saw the epoch that was stored after the write), and the
// pointer in it is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Shared {}

/// The workers of this process. Made once; engines hold it in an [`Arc`].
pub struct CpuPool {
    shared: Arc<Shared>,
    tier: Tier,
    threads: usize,
    /// Where worker 0 runs while it holds the pool, so that it keeps off the others' cores;
    /// a lone worker may roam.
    home: Option<CpuSet>,
    handles: Vec<JoinHandle<()>>,
    unpark: Vec<Thread>,
    turn: Mutex<Turn>,
    turned: Condvar,
    made: Instant,
    /// Milliseconds after `made` at which the current holder took the pool, plus one; 0 = idle.
    busy_since: AtomicU64,
}

/// A ticket lock's state: who comes next, and whose turn it is.
#[derive(Default)]
struct Turn {
    next: u64,
    serving: u64,
}

impl CpuPool {
    /// Starts `threads` workers (0 = one for each physical core this process may use; see
    /// [`Topology::workers`]), the caller of each job being one of them, for kernels of `tier`.
    pub fn new(threads: usize, tier: Tier) -> Arc<Self> {
        Self::on(&Topology::read(), threads, tier)
    }

    /// As [`CpuPool::new`], on a given machine.
    fn on(topology: &Topology, threads: usize, tier: Tier) -> Arc<Self> {
        let threads = topology.workers(threads);
        let shared = Arc::new(Shared {
            epoch: CachePadded::new(AtomicU64::new(0)),
            pending: CachePadded::new(AtomicUsize::new(0)),
            tile: CachePadded::new(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            parked: (0..threads).map(|_| CachePadded::new(AtomicBool::new(false))).collect(),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
        });
        let mut handles = Vec::new();
        // Closed once every worker has started: a thread that starts late allocates late.
        let (starting, started) = mpsc::channel::<()>();
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let starting = starting.clone();
            let set = home(&topology.cores, index);
            let spawned = thread::Builder::new().name(format!("cpu-worker-{index}")).spawn(move || {
                // A mask that may not be set costs speed only.
                let _ = sched_setaffinity(Pid::from_raw(0), &set);
                drop(starting);
                work(&shared, index);
            });
            match spawned {
                Ok(handle) => handles.push(handle),
                // Fewer threads than asked for is slower, not wrong.
                Err(_) => break,
            }
        }
        drop(starting);
        // Ends with an error by design: nobody sends.
        let _ = started.recv();
        let unpark = handles.iter().map(|h| h.thread().clone()).collect();
        Arc::new(Self {
            threads: handles.len() + 1,
            shared,
            tier,
            home: (threads > 1).then(|| home(&topology.cores, 0)),
            handles,
            unpark,
            turn: Mutex::new(Turn::default()),
            turned: Condvar::new(),
            made: Instant::now(),
            busy_since: AtomicU64::new(0),
        })
    }

    /// Workers, the caller of a job included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tier of the kernels that jobs should use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Whether the pool answers: its threads live and nobody holds it longer than any step may
    /// take ([`POOL_HELD_MAX`]). For the watchdog.
    pub fn alive(&self) -> bool {
        let since = self.busy_since.load(Ordering::Relaxed);
        let held = match since {
            0 => Duration::ZERO,
            _ => self.made.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        };
        held < POOL_HELD_MAX && !self.handles.iter().any(|h| h.is_finished())
    }

    /// Waits for its turn and takes the pool until the team is dropped.
    pub fn acquire(&self) -> Team<'_> {
        self.wait_turn(self.lock_turn());
        let roamed = self.home.as_ref().and_then(pin);
        Team { pool: self, since: Instant::now(), roamed, _here: PhantomData }
    }

    /// Queues up behind everyone and waits; `turn` is held from the caller's last look on, so
    /// that nobody overtakes.
    fn wait_turn(&self, mut turn: MutexGuard<'_, Turn>) {
        let ticket = turn.next;
        turn.next += 1;
        while turn.serving != ticket {
            turn = self.turned.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        self.busy_since.store(self.made.elapsed().as_millis() as u64 + 1, Ordering::Relaxed);
    }

    fn end_turn(&self, turn: &mut Turn) {
        self.busy_since.store(0, Ordering::Relaxed);
        turn.serving += 1;
        if turn.next != turn.serving {
            self.turned.notify_all();
        }
    }

    fn lock_turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for thread in &self.unpark {
            thread.unpark();
        }
        for handle in self.handles.drain(..) {
            // A worker catches the panics of jobs; it has nothing else to report.
            let _ = handle.join();
        }
    }
}

impl std::fmt::Debug for CpuPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuPool({} threads, {})", self.threads, self.tier.name())
    }
}

/// Logical CPUs of worker `index`: a core's, or one hardware thread once the cores are used up.
fn home(cores: &[Core], index: usize) -> CpuSet {
    let mut set = CpuSet::new();
    if let Some(core) = cores.get(index % cores.len().max(1)) {
        for &cpu in &core.cpus {
            // Beyond the set's size there is nothing to pin to.
            let _ = set.set(cpu);
        }
    }
    set
}

/// Confines this thread to `set`; returns the mask it had if that changed.
fn pin(set: &CpuSet) -> Option<CpuSet> {
    let this = Pid::from_raw(0);
    let before = sched_getaffinity(this).ok()?;
    if before == *set {
        return None;
    }
    sched_setaffinity(this, set).ok()?;
    Some(before)
}

/// The pool, held by one engine.
pub struct Team<'a> {
    pool: &'a CpuPool,
    /// Since when.
    since: Instant,
    /// Affinity that the thread gets back.
    roamed: Option<CpuSet>,
    /// The affinity is this thread's.
    _here: PhantomData<*const ()>,
}

impl Team<'_> {
    /// Workers of a job.
    pub fn threads(&self) -> usize {
        self.pool.threads
    }

    /// Tier of the kernels.
    pub fn tier(&self) -> Tier {
        self.pool.tier
    }

    /// Lets the engines that wait have their turn, if this one has had the pool for `turn`.
    pub fn give_way(&mut self, turn: Duration) {
        if self.since.elapsed() < turn {
            return;
        }
        let mut state = self.pool.lock_turn();
        self.pool.end_turn(&mut state);
        self.pool.wait_turn(state);
        self.since = Instant::now();
    }

    /// Runs `job` once on every worker, this thread among them, and returns when all are done.
    ///
    /// # Panics
    /// With the first panic of a worker, after all have finished.
    pub fn run(&mut self, job: &(dyn Fn(&Worker) + Sync)) {
        let shared = &*self.pool.shared;
        let others = self.pool.threads - 1;
        if others > 0 {
            let job: *const (dyn Fn(&Worker) + Sync + '_) = job;
            // SAFETY: only the lifetime changes. The pointer is used by workers that count in
            // `pending`, and this function does not return or unwind before that is 0.
            let job = unsafe { std::mem::transmute::<*const (dyn Fn(&Worker) + Sync + '_), Job>(job) };
            shared.pending.store(others, Ordering::Relaxed);
            // SAFETY: `&mut Team` is the only holder, and no worker reads the job now: all have
            // finished the last one.
            unsafe { *shared.job.get() = Some(job) };
            // SeqCst here and in `work`: either a worker sees the new epoch before it parks, or
            // its flag is seen here.
            shared.epoch.fetch_add(1, Ordering::SeqCst);
            for (i, thread) in self.pool.unpark.iter().enumerate() {
                if shared.parked[i + 1].load(Ordering::SeqCst) {
                    thread.unpark();
                }
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| {
            let _flush = FlushDenormals::new();
            job(&Worker { index: 0, _here: PhantomData });
        }));
        let mut spins = 0_u32;
        while shared.pending.load(Ordering::Acquire) > 0 {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(4096) {
                // A worker's CPU is taken by somebody else: let it be ours that waits.
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        let theirs = match others {
            0 => None,
            _ => shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take(),
        };
        if let Some(payload) = mine.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Runs `body` once for each tile `0..n_tiles`, on whichever worker is free.
    ///
    /// # Panics
    /// As [`Team::run`].
    pub fn for_each_tile(&mut self, n_tiles: usize, body: impl Fn(usize, &Worker) + Sync) {
        let pool = self.pool;
        pool.shared.tile.store(0, Ordering::Relaxed);
        self.run(&|worker| {
            loop {
                let tile = pool.shared.tile.fetch_add(1, Ordering::Relaxed);
                if tile >= n_tiles {
                    break;
                }
                body(tile, worker);
            }
        });
    }
}

impl Drop for Team<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.roamed {
            // Only speed depends on it.
            let _ = sched_setaffinity(Pid::from_raw(0), before);
        }
        self.pool.end_turn(&mut self.pool.lock_turn());
    }
}

/// A worker's life: wait for a job, run it, say so.
fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait_for_job(shared, index, seen);
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch changed, so the job was written before and stays until this worker
        // is taken off `pending`.
        let Some(job) = (unsafe { *shared.job.get() }) else { continue };
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _flush = FlushDenormals::new();
            // SAFETY: the closure lives until `pending` is 0, which is not before the end of
            // this block.
            let job = unsafe { &*job };
            job(&Worker { index, _here: PhantomData });
        }));
        if let Err(payload) = result {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        shared.pending.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, then parks, until the epoch is no longer `seen`; returns the new one.
fn wait_for_job(shared: &Shared, index: usize, seen: u64) -> u64 {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            let epoch = shared.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return epoch;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > POOL_SPIN {
            break;
        }
    }
    let parked = &shared.parked[index];
    parked.store(true, Ordering::SeqCst);
    let epoch = loop {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch != seen {
            break epoch;
        }
        thread::park();
    };
    parked.store(false, Ordering::SeqCst);
    epoch
}
