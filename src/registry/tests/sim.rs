//! The core under random operations in simulated time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::sync::{Notify, oneshot};

use super::{Fake, FakeFile, LOST, UNSEEN, anywhere, divided, need, options};
use crate::pool::budget::Budget;
use crate::proto::admin::{Evicted, LoadRequest, ModelState};
use crate::registry::catalog::{Found, Scan};
use crate::registry::command::{Command, Done, Effect, Watched};
use crate::registry::core::Core;
use crate::registry::lease::{Acquired, Lease, Pending};
use crate::registry::loader::{LoadError, Prepared, Reporter};
use crate::registry::{Options, RegistryError};
use crate::telemetry::events::DecisionLog;

type Answer<T> = oneshot::Receiver<Result<T, RegistryError>>;

/// Work that takes simulated time.
enum Work {
    Ready(Done<Fake>),
    Start {
        id: String,
        number: u64,
        prepared: Box<dyn Prepared<Fake>>,
        grant: crate::registry::loader::Grant,
        reporter: Reporter,
    },
    Stop {
        id: String,
        model: Arc<Fake>,
        budgets: Vec<Arc<Budget>>,
    },
}

/// A model file of the simulation.
#[derive(Clone)]
pub(super) struct File {
    pub weights: u64,
    pub load: Duration,
    /// Its layers can lie on both devices.
    pub divides: bool,
    /// The next loads fail like this.
    pub error: Option<LoadError>,
}

/// The core, the threads that work for it, and its clients.
pub(super) struct Sim {
    pub core: Core<Fake>,
    pub budget: Arc<Budget>,
    pub now: Instant,
    pub files: Vec<(String, File)>,
    work: Vec<(Instant, u64, Work)>,
    sequence: u64,
    wake: Option<Instant>,
    pub asked: Vec<(String, Answer<Acquired<Fake>>)>,
    pub pending: Vec<(String, Pending<Fake>)>,
    pub leases: Vec<(String, Lease<Fake>)>,
    pub loads: Vec<Answer<Watched>>,
    pub watched: Vec<oneshot::Receiver<Result<crate::proto::admin::Model, RegistryError>>>,
    pub evictions: Vec<Answer<Evicted>>,
    /// Models whose requests may be cancelled: evicted with `now`, or failed.
    may_abort: BTreeSet<String>,
    /// Models that may go although they are pinned.
    may_go: BTreeSet<String>,
    /// The budget was lowered under what is reserved.
    pub shrunk: bool,
    pub loaded: usize,
    pub granted: usize,
    pub refused: usize,
}

const MS: Duration = Duration::from_millis(1);

impl Sim {
    pub fn new(budget: u64, files: &[(&str, u64, u64)], change: impl FnOnce(&mut Options)) -> Self {
        let budget = Budget::new(budget);
        let mut options = options(&budget);
        options.dirs = vec!["/models".into()];
        change(&mut options);
        let now = Instant::now();
        let core = Core::new(options, Arc::new(DecisionLog::new()), Arc::new(Notify::new()), now);
        let file = |&(id, weights, ms): &(&str, u64, u64)| {
            (id.to_owned(), File { weights, load: Duration::from_millis(ms), divides: false, error: None })
        };
        let mut sim = Self {
            core,
            budget,
            now,
            files: files.iter().map(file).collect(),
            work: Vec::new(),
            sequence: 0,
            wake: None,
            asked: Vec::new(),
            pending: Vec::new(),
            leases: Vec::new(),
            loads: Vec::new(),
            watched: Vec::new(),
            evictions: Vec::new(),
            may_abort: BTreeSet::new(),
            may_go: BTreeSet::new(),
            shrunk: false,
            loaded: 0,
            granted: 0,
            refused: 0,
        };
        sim.settle();
        sim.advance(5 * MS);
        sim
    }

    pub fn file(&mut self, id: &str) -> &mut File {
        &mut self.files.iter_mut().find(|f| f.0 == id).expect("a file").1
    }

    fn later(&mut self, after: Duration, work: Work) {
        self.sequence += 1;
        self.work.push((self.now + after, self.sequence, work));
    }

    /// Lets the core look around and takes the work it gives.
    pub fn settle(&mut self) {
        self.wake = self.core.step(self.now);
        for effect in std::mem::take(&mut self.core.effects) {
            self.execute(effect);
        }
        assert!(self.shrunk || self.budget.used() <= self.budget.total(), "the ledger is over its budget");
        self.collect();
    }

    fn execute(&mut self, effect: Effect<Fake>) {
        match effect {
            Effect::Scan { .. } => {
                let found = self.files.iter().map(|(id, f)| found(id, f.weights)).collect();
                let done = Done::Scanned { scan: Scan { found, problems: Vec::new() }, files: Vec::new() };
                self.later(MS, Work::Ready(done));
            }
            Effect::Inspect { number, job, .. } => {
                let prepared = self.prepared(&job.id);
                let done = Done::Inspected { id: job.id, number, found: None, result: prepared };
                self.later(2 * MS, Work::Ready(done));
            }
            Effect::Describe { job } => {
                let result = self.prepared(&job.id).map(|p| (p.facts(), p.needs()));
                self.later(MS, Work::Ready(Done::Described { id: job.id, found: None, result }));
            }
            Effect::Start { id, number, prepared, grant, reporter } => {
                let load = self.file(&id).load;
                self.later(load, Work::Start { id, number, prepared, grant, reporter });
            }
            Effect::Abort { model } => {
                assert!(
                    self.may_abort.contains(&model.id),
                    "requests of {} are cancelled and nobody said so",
                    model.id
                );
                model.aborted.store(true, Ordering::Relaxed);
                // Their handlers end a moment later.
                let id = model.id.clone();
                self.leases.retain(|l| l.0 != id || !Arc::ptr_eq(&l.1.model, &model));
            }
            Effect::Stop { id, model, budgets, trim: _ } => {
                let leased = self.leases.iter().any(|l| Arc::ptr_eq(&l.1.model, &model));
                assert!(!leased || self.may_abort.contains(&id), "{id} is torn down under a lease");
                let pinned = self.core.entries[&id].pinned;
                assert!(!pinned || self.may_go.contains(&id), "{id} is pinned and goes");
                self.later(3 * MS, Work::Stop { id, model, budgets });
            }
        }
    }

    fn prepared(&mut self, id: &str) -> Result<Box<dyn Prepared<Fake>>, LoadError> {
        let file = self.file(id).clone();
        match file.error {
            Some(LoadError::Invalid(e)) => Err(LoadError::Invalid(e)),
            Some(LoadError::Device(e)) if e == UNSEEN => Err(LoadError::Device(e)),
            error => {
                let sites = self.core.options.sites.len();
                let needs = if file.divides { divided(file.weights) } else { anywhere(sites, need(file.weights)) };
                Ok(Box::new(FakeFile { id: id.to_owned(), needs, delay: Duration::ZERO, error }))
            }
        }
    }

    fn finish(&mut self, work: Work) {
        let done = match work {
            Work::Ready(done) => done,
            Work::Start { id, number, prepared, grant, reporter } => {
                let result = prepared.start(grant, &reporter);
                self.loaded += usize::from(result.is_ok());
                Done::Started { id, number, result }
            }
            Work::Stop { id, model, budgets } => {
                let held = || budgets.iter().map(|b| b.held_by(&id)).sum::<u64>();
                let before = held();
                drop(model);
                let ledger_freed = before - held();
                // What was allowed for this instance is not for the next one.
                self.may_abort.remove(&id);
                self.may_go.remove(&id);
                let evicted = Evicted { ledger_freed, ..crate::registry::nothing_evicted(&id) };
                Done::Gone { id, evicted }
            }
        };
        self.core.done(done, self.now);
    }

    /// Time goes on; everything that is due happens in order.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        loop {
            let due = self.work.iter().map(|w| (w.0, w.1)).min();
            let next = [due.map(|d| d.0), self.wake].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if let Some(i) = self.work.iter().position(|w| due == Some((w.0, w.1)) && w.0 <= self.now) {
                let work = self.work.swap_remove(i).2;
                self.finish(work);
            }
            self.settle();
        }
        self.now = end;
    }

    /// Takes the answers that came.
    fn collect(&mut self) {
        let (mut asked, mut pending) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.pending));
        asked.retain_mut(|(id, answer)| match answer.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => panic!("a request for {id} got no answer"),
            Ok(Ok(Acquired::Ready(lease))) => {
                self.got(id, lease);
                false
            }
            Ok(Ok(Acquired::Loading(p))) => {
                pending.push((id.clone(), p));
                false
            }
            Ok(Err(_)) => {
                self.refused += 1;
                false
            }
        });
        pending.retain_mut(|(id, p)| match p.outcome.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => panic!("a waiter for {id} got no answer"),
            Ok(Ok(lease)) => {
                self.got(id, lease);
                false
            }
            Ok(Err(_)) => {
                self.refused += 1;
                false
            }
        });
        (self.asked, self.pending) = (asked, pending);
        let watched = &mut self.watched;
        self.loads.retain_mut(|l| match l.try_recv() {
            Ok(Ok((_, outcome))) => {
                watched.push(outcome);
                false
            }
            Ok(Err(_)) => false,
            Err(e) => {
                assert_eq!(e, oneshot::error::TryRecvError::Empty, "a load got no answer");
                true
            }
        });
        self.watched.retain_mut(unanswered);
        self.evictions.retain_mut(unanswered);
    }

    fn got(&mut self, id: &str, lease: Lease<Fake>) {
        assert!(!lease.model.aborted.load(Ordering::Relaxed), "a lease of {id}, whose requests are being cancelled");
        assert_eq!(lease.model.id, id);
        self.granted += 1;
        self.leases.push((id.to_owned(), lease));
    }

    pub fn acquire(&mut self, id: &str) {
        let (reply, answer) = oneshot::channel();
        self.core.command(Command::Acquire { name: id.to_owned(), reply }, self.now);
        self.asked.push((id.to_owned(), answer));
        self.settle();
    }

    pub fn load(&mut self, request: LoadRequest) {
        self.pinned_late(&request.model, request.pin);
        let (reply, answer) = oneshot::channel();
        self.core.command(Command::Load { request, source: None, uid: Some(7), reply }, self.now);
        self.loads.push(answer);
        self.settle();
    }

    pub fn evict(&mut self, id: &str, now: bool) {
        let (reply, answer) = oneshot::channel();
        let entry = &self.core.entries[id];
        if entry.live.is_some() && now {
            self.may_abort.insert(id.to_owned());
        }
        if entry.live.is_some() || entry.load.is_some() {
            self.may_go.insert(id.to_owned());
        }
        self.core.command(Command::Evict { name: id.to_owned(), now, uid: Some(7), reply }, self.now);
        self.evictions.push(answer);
        self.settle();
    }

    /// A model that is pinned on its way out goes all the same.
    fn pinned_late(&mut self, id: &str, pin: bool) {
        let leaving = self.core.entries[id].live.as_ref().is_some_and(|l| l.leaving.is_some());
        if pin && leaving {
            self.may_go.insert(id.to_owned());
        }
    }

    pub fn pin(&mut self, id: &str, pinned: bool) {
        let (reply, _answer) = oneshot::channel();
        self.pinned_late(id, pinned);
        self.core.command(Command::Pin { name: id.to_owned(), pinned, uid: None, reply }, self.now);
        self.settle();
    }

    pub fn fail(&mut self, id: &str) {
        self.fail_with(id, "simulated");
    }

    /// The device of a model is lost.
    pub fn lose(&mut self, id: &str) {
        self.fail_with(id, LOST);
    }

    fn fail_with(&mut self, id: &str, reason: &str) {
        if let Some(model) = self.core.entries[id].live.as_ref().and_then(|l| l.model.clone()) {
            *model.failed.lock().expect("no panic") = Some(reason.to_owned());
            self.allow_abort(id);
            self.settle();
        }
    }

    /// Requests of the model may be cancelled from now on.
    pub fn allow_abort(&mut self, id: &str) {
        self.may_abort.insert(id.to_owned());
        self.may_go.insert(id.to_owned());
    }

    pub fn release(&mut self, i: usize) {
        if !self.leases.is_empty() {
            let i = i % self.leases.len();
            drop(self.leases.swap_remove(i));
            self.settle();
        }
    }

    pub fn state(&self, id: &str) -> ModelState {
        self.core.entries[id].state()
    }

    /// Everybody lets go; then all must be answered, all memory be given back.
    pub fn end(mut self) {
        for _ in 0..20_000 {
            self.leases.clear();
            self.settle();
            self.advance(50 * MS);
            if self.asked.is_empty() && self.pending.is_empty() && self.loads.is_empty() && self.watched.is_empty() {
                break;
            }
        }
        self.leases.clear();
        self.settle();
        let waiting: Vec<_> = self.asked.iter().map(|a| &a.0).chain(self.pending.iter().map(|p| &p.0)).collect();
        assert!(waiting.is_empty(), "nobody answers {waiting:?}");
        assert!(self.loads.is_empty() && self.watched.is_empty(), "an operator waits for ever");
        self.may_go.extend(self.files.iter().map(|f| f.0.clone()));
        let (reply, mut drained) = oneshot::channel();
        self.core.command(Command::Drain { deadline: Duration::from_secs(1), uid: None, reply }, self.now);
        self.settle();
        self.advance(Duration::from_secs(10));
        assert!(drained.try_recv().is_ok(), "draining never ends");
        assert!(self.evictions.is_empty(), "an eviction got no answer");
        assert_eq!(self.budget.used(), 0, "leaked: {:?}", self.budget.holdings());
        assert!(self.core.entries.values().all(|e| e.live.is_none() && e.load.is_none()));
    }
}

fn unanswered<T>(answer: &mut Answer<T>) -> bool {
    match answer.try_recv() {
        Ok(_) => false,
        Err(e) => {
            assert_eq!(e, oneshot::error::TryRecvError::Empty, "no answer");
            true
        }
    }
}

/// A file as a scan would find it.
fn found(id: &str, weights: u64) -> Found {
    // Any stamp does, as long as it stays the same.
    let stamp = crate::registry::catalog::look(&PathBuf::from("/proc/self/exe")).expect("this program").stamp;
    Found { path: PathBuf::from(format!("/models/{id}.gguf")), id: id.to_owned(), bytes: weights, stamp, problem: None }
}

#[derive(Clone, Debug)]
enum Op {
    Acquire(usize),
    Release(usize),
    GiveUp(usize),
    Load(usize, bool),
    Evict(usize, bool),
    Pin(usize, bool),
    Fail(usize),
    Break(usize, u8),
    Grow(usize, u64),
    Wait(u64),
}

const FILES: [(&str, u64, u64); 6] =
    [("a", 300, 40), ("b", 450, 900), ("c", 80, 10), ("d", 900, 300), ("e", 5000, 10), ("f", 200, 5000)];

fn op() -> impl Strategy<Value = Op> {
    let model = 0usize..FILES.len();
    prop_oneof![
        12 => model.clone().prop_map(Op::Acquire),
        12 => any::<usize>().prop_map(Op::Release),
        1 => any::<usize>().prop_map(Op::GiveUp),
        2 => (model.clone(), any::<bool>()).prop_map(|(m, p)| Op::Load(m, p)),
        2 => (model.clone(), any::<bool>()).prop_map(|(m, n)| Op::Evict(m, n)),
        1 => (model.clone(), prop::bool::weighted(0.3)).prop_map(|(m, p)| Op::Pin(m, p)),
        1 => model.clone().prop_map(Op::Fail),
        1 => (model.clone(), 0u8..4).prop_map(|(m, k)| Op::Break(m, k)),
        4 => (model, 1u64..200).prop_map(|(m, b)| Op::Grow(m, b)),
        12 => (0u64..3000).prop_map(Op::Wait),
    ]
}

fn run(ops: &[Op]) -> (usize, usize, usize) {
    let mut sim = Sim::new(1000, &FILES, |o| o.retry_after = Duration::from_secs(2));
    for op in ops {
        match *op {
            Op::Acquire(m) => sim.acquire(FILES[m].0),
            Op::Release(i) => sim.release(i),
            Op::GiveUp(i) if !sim.pending.is_empty() => {
                let i = i % sim.pending.len();
                sim.pending.swap_remove(i);
            }
            Op::GiveUp(_) => {}
            Op::Load(m, pin) => sim.load(LoadRequest { model: FILES[m].0.to_owned(), pin, ..LoadRequest::default() }),
            Op::Evict(m, now) => sim.evict(FILES[m].0, now),
            Op::Pin(m, pinned) => sim.pin(FILES[m].0, pinned),
            Op::Fail(m) => sim.fail(FILES[m].0),
            Op::Break(m, kind) => {
                sim.file(FILES[m].0).error = match kind {
                    0 => Some(LoadError::Device("simulated".to_owned())),
                    _ => None,
                }
            }
            Op::Grow(m, bytes) => {
                if let Some(model) = sim.core.entries[FILES[m].0].ready().and_then(|l| l.model.clone()) {
                    model.grow(bytes);
                }
            }
            Op::Wait(ms) => sim.advance(ms as u32 * MS),
        }
    }
    let counts = (sim.loaded, sim.granted, sim.refused);
    sim.end();
    counts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_ledger_holds_and_everybody_is_answered(ops in prop::collection::vec(op(), 1..300)) {
        run(&ops);
    }
}

#[test]
fn ten_thousand_operations() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let ops = prop::collection::vec(op(), 10_000).new_tree(&mut runner).expect("a tree").current();
    let (loaded, granted, refused) = run(&ops);
    // The run must have done something of everything.
    assert!(loaded > 100 && granted > 500 && refused > 100, "{loaded} loads, {granted} leases, {refused} refusals");
}
