//! What users see, story by story, in simulated time.

use std::time::Duration;

use tokio::sync::oneshot;

use super::UNSEEN;
use super::sim::Sim;
use crate::proto::admin::{LoadRequest, ModelState, Outcome};
use crate::registry::RegistryError;
use crate::registry::command::{Command, Reload};
use crate::registry::lease::Acquired;
use crate::registry::loader::LoadError;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn refusal(sim: &mut Sim, id: &str) -> RegistryError {
    let (reply, mut answer) = oneshot::channel();
    sim.core.command(Command::Acquire { name: id.to_owned(), reply }, sim.now);
    sim.settle();
    sim.advance(20 * MS);
    match answer.try_recv().expect("an answer") {
        Err(e) => e,
        Ok(Acquired::Ready(_)) => panic!("{id} is ready"),
        Ok(Acquired::Loading(mut p)) => p.outcome.try_recv().expect("an outcome").map(|_| ()).expect_err("a refusal"),
    }
}

#[test]
fn a_request_loads_a_second_one_joins_and_both_get_leases() {
    let mut sim = Sim::new(1000, &[("a", 300, 100)], |_| ());
    sim.acquire("A");
    sim.asked.clear();
    sim.acquire("a");
    sim.acquire("a");
    sim.advance(50 * MS);
    assert_eq!((sim.state("a"), sim.pending.len(), sim.loaded), (ModelState::Loading, 2, 0));
    sim.advance(60 * MS);
    // The first one's client is gone; the load went on without it.
    assert_eq!((sim.state("a"), sim.leases.len(), sim.loaded), (ModelState::Ready, 2, 1));
    sim.end();
}

#[test]
fn an_unknown_name_is_refused_with_the_nearest_ones() {
    let mut sim = Sim::new(1000, &[("Qwen3-8B-Q4_K_M", 300, 100), ("gemma", 300, 100)], |_| ());
    sim.advance(2 * S);
    let RegistryError::NotFound { nearest, .. } = refusal(&mut sim, "Qwen3-8B-Q4_K_S") else { panic!("is unknown") };
    assert_eq!(nearest, ["Qwen3-8B-Q4_K_M"]);
    sim.files.push(("new".to_owned(), sim.files[0].1.clone()));
    sim.advance(2 * S);
    sim.acquire("new");
    sim.advance(S);
    assert_eq!(sim.leases.len(), 1, "a file that turned up meanwhile is found");
    sim.end();
}

#[test]
fn a_plan_says_what_loads_would_do_and_they_do_it() {
    let files = [("a", 300, 10), ("b", 300, 20), ("c", 300, 10), ("big", 2000, 10)];
    let mut sim = Sim::new(1000, &files, |_| ());
    for id in ["a", "b"] {
        sim.acquire(id);
        sim.advance(S);
        sim.leases.clear();
    }
    sim.pin("b", true);
    // Facts of what was never loaded are looked up in the background.
    sim.advance(S);
    let names: Vec<String> = ["b", "c", "big", "c"].map(str::to_owned).into();
    let plan = sim.core.forecast(&names, sim.now).expect("all are known");
    let outcomes: Vec<Outcome> = plan.iter().map(|p| p.outcome).collect();
    assert_eq!(outcomes, [Outcome::Ready, Outcome::Fits, Outcome::Refused, Outcome::Evicts]);
    let share = &plan[1].shares[0];
    assert_eq!((share.free, share.bytes.weights, share.bytes.cache), (334, 300, 30));
    assert!(plan[2].reason.contains("needs 2.2 KiB"), "{}", plan[2].reason);
    assert_eq!(plan[3].evicts, ["a"], "after c, a second model of its size needs a's place");
    // Loaded, it takes just that.
    sim.acquire("c");
    sim.advance(S);
    let bytes = sim.core.view(&sim.core.entries["c"]).bytes.expect("is loaded");
    assert_eq!(bytes, plan[1].shares[0].bytes);
    assert!(sim.core.forecast(&["nobody".to_owned()], sim.now).is_err());
    sim.end();
}

#[test]
fn a_file_that_cannot_be_looked_into_is_left_until_there_is_a_reason() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |_| ());
    let plan = |sim: &Sim| sim.core.forecast(&["a".to_owned()], sim.now).expect("known").remove(0);
    assert_eq!(plan(&sim).outcome, Outcome::Fits);
    sim.acquire("a");
    sim.advance(S);
    sim.leases.clear();
    // Unloaded, it is looked at as it is configured, which goes wrong: once, and not for ever.
    sim.file("a").error = Some(LoadError::Device(UNSEEN.to_owned()));
    sim.evict("a", false);
    sim.advance(S);
    assert!(!sim.core.describing);
    assert_eq!((plan(&sim).outcome, plan(&sim).reason.as_str()), (Outcome::Refused, UNSEEN));
    // A load tries again.
    sim.file("a").error = None;
    sim.acquire("a");
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Ready);
    sim.leases.clear();
    sim.evict("a", false);
    sim.advance(S);
    assert_eq!(plan(&sim).outcome, Outcome::Fits);
    sim.end();
}

#[test]
fn what_can_never_fit_is_refused_at_once_with_numbers() {
    let mut sim = Sim::new(1000, &[("a", 300, 10), ("b", 600, 10), ("big", 2000, 10)], |_| ());
    sim.acquire("a");
    sim.pin("a", true);
    sim.advance(S);
    sim.leases.clear();
    let RegistryError::Memory(r) = refusal(&mut sim, "big") else { panic!("is too big") };
    assert_eq!((r.need.total(), r.budget, r.free), (2203, 1000, 667));
    assert_eq!(r.holders[0].id, "a");
    assert!(r.holders[0].pinned);
    sim.acquire("b");
    sim.advance(S);
    assert_eq!(sim.state("b"), ModelState::Ready, "663 are needed, 667 free");
    assert_eq!(sim.state("big"), ModelState::Absent, "a refusal is no failure");
    sim.end();
}

#[test]
fn only_as_much_is_evicted_as_is_needed_and_the_least_valuable_first() {
    let files = [("old", 250, 10), ("new", 250, 10), ("pinned", 250, 10), ("next", 250, 10)];
    let mut sim = Sim::new(900, &files, |_| ());
    for id in ["pinned", "old"] {
        sim.acquire(id);
        sim.advance(S);
        sim.leases.clear();
        sim.advance(100 * S);
    }
    sim.pin("pinned", true);
    sim.acquire("new");
    sim.advance(S);
    sim.leases.clear();
    sim.advance(S);
    sim.acquire("next");
    sim.advance(S);
    let states = ["old", "new", "pinned", "next"].map(|id| sim.state(id));
    assert_eq!(states, [ModelState::Absent, ModelState::Ready, ModelState::Ready, ModelState::Ready]);
    let why = sim.core.log.recent(Some("old"));
    assert!(why.iter().any(|d| d.kind == "evict" && d.message.contains("makes room for next")), "{why:?}");
    sim.end();
}

#[test]
fn idle_slabs_go_before_any_model_does() {
    let mut sim = Sim::new(1000, &[("a", 400, 10), ("b", 400, 10)], |_| ());
    sim.acquire("a");
    sim.advance(S);
    sim.leases[0].1.model.grow(500);
    assert!(sim.budget.free() < 100);
    sim.acquire("b");
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.state("b")), (ModelState::Ready, ModelState::Ready));
    sim.end();
}

#[test]
fn a_busy_model_is_drained_and_never_aborted() {
    let mut sim = Sim::new(500, &[("a", 400, 10), ("b", 400, 10)], |_| ());
    sim.acquire("a");
    sim.advance(S);
    sim.acquire("b");
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Ready, "it has its turn");
    sim.acquire("a");
    assert_eq!(sim.leases.len(), 2, "and takes requests meanwhile");
    sim.advance(10 * S);
    assert_eq!(sim.state("a"), ModelState::Draining, "then it takes none");
    sim.acquire("a");
    assert_eq!(sim.leases.len(), 2);
    sim.release(0);
    sim.advance(100 * S);
    assert_eq!(sim.state("a"), ModelState::Draining, "a request may take as long as it likes");
    sim.release(0);
    sim.advance(S);
    assert_eq!(sim.leases[0].0, "b", "its turn has come");
    sim.release(0);
    sim.advance(3 * S);
    assert_eq!(sim.state("a"), ModelState::Ready, "who waited for it gets it back");
    sim.end();
}

#[test]
fn alternating_requests_are_grouped() {
    let mut sim = Sim::new(500, &[("a", 400, 500), ("b", 400, 500)], |_| ());
    // 100 requests, A and B in turn, one every 20 ms; each runs for 50 ms.
    let mut sent = 0;
    let mut ends = Vec::new();
    let mut known = 0;
    let mut waited = 0;
    while ends.len() < 100 {
        if sent < 100 {
            sim.acquire(if sent % 2 == 0 { "a" } else { "b" });
            sent += 1;
        }
        for _ in known..sim.granted {
            ends.push(sim.now + 50 * MS);
        }
        known = sim.granted;
        for _ in 0..20 {
            let t = sim.now;
            let done = ends.iter().filter(|e| **e > t && **e <= t + MS).count();
            sim.advance(MS);
            (0..done).for_each(|_| sim.release(0));
        }
        waited += 1;
        assert!(waited < 2000, "it takes for ever");
    }
    assert!(sim.loaded <= 4, "{} loads for 100 requests", sim.loaded);
    assert_eq!(sim.refused, 0);
    sim.end();
}

#[test]
fn a_failed_load_is_visible_and_tried_again_later_or_by_an_operator() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |_| ());
    sim.files[0].1.error = Some(LoadError::Device("the disk is on fire".to_owned()));
    let e = refusal(&mut sim, "a");
    assert!(matches!(&e, RegistryError::Failed { reason, .. } if reason == "the disk is on fire"), "{e}");
    assert_eq!(sim.state("a"), ModelState::Failed);
    assert_eq!(sim.budget.used(), 0);
    sim.files[0].1.error = None;
    sim.advance(S);
    assert!(matches!(refusal(&mut sim, "a"), RegistryError::Failed { retry_after_s: Some(9), .. }), "not yet");
    sim.load(LoadRequest { model: "a".to_owned(), ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Ready, "an operator's load tries at once");
    sim.acquire("a");
    sim.fail("a");
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.leases.len(), sim.budget.used()), (ModelState::Failed, 0, 0));
    sim.advance(10 * S);
    sim.acquire("a");
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Ready, "a request tries again after a while");
    sim.end();
}

#[test]
fn a_failure_leaves_the_others_alone() {
    let mut sim = Sim::new(1000, &[("a", 300, 10), ("b", 300, 10)], |_| ());
    sim.acquire("a");
    sim.acquire("b");
    sim.advance(S);
    sim.fail("a");
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.state("b")), (ModelState::Failed, ModelState::Ready));
    assert_eq!(sim.leases.iter().map(|l| l.0.as_str()).collect::<Vec<_>>(), ["b"]);
    sim.end();
}

#[test]
fn evict_while_loading_cancels_the_load_and_answers_all() {
    let mut sim = Sim::new(1000, &[("a", 300, 500)], |_| ());
    sim.acquire("a");
    sim.load(LoadRequest { model: "a".to_owned(), ..LoadRequest::default() });
    sim.advance(100 * MS);
    sim.evict("a", false);
    sim.settle();
    assert_eq!((sim.refused, sim.pending.len(), sim.watched.len()), (1, 0, 0));
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.budget.used(), sim.evictions.len()), (ModelState::Absent, 0, 0));
    sim.end();
}

#[test]
fn time_to_live_counts_idle_time_only() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |_| ());
    sim.load(LoadRequest { model: "a".to_owned(), ttl_s: Some(60), ..LoadRequest::default() });
    sim.acquire("a");
    sim.advance(500 * S);
    assert_eq!(sim.state("a"), ModelState::Ready);
    sim.release(0);
    sim.advance(59 * S);
    assert_eq!(sim.state("a"), ModelState::Ready);
    sim.advance(2 * S);
    assert_eq!((sim.state("a"), sim.budget.used()), (ModelState::Absent, 0));
    sim.end();
}

#[test]
fn autoload_off_refuses_by_name_and_loads_on_command() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |o| o.autoload = false);
    assert_eq!(refusal(&mut sim, "a"), RegistryError::AutoloadOff { model: "a".to_owned() });
    sim.load(LoadRequest { model: "a".to_owned(), name: Some("my".to_owned()), ..LoadRequest::default() });
    sim.advance(S);
    sim.acquire("a");
    let (reply, mut answer) = oneshot::channel();
    sim.core.command(Command::Acquire { name: "MY".to_owned(), reply }, sim.now);
    assert!(matches!(answer.try_recv(), Ok(Ok(Acquired::Ready(_)))), "by its other name");
    sim.end();
}

#[test]
fn preloading_makes_ready_and_says_what_is_missing() {
    let mut sim = Sim::new(1000, &[("a", 300, 100)], |o| o.preload = vec!["a".to_owned(), "z".to_owned()]);
    let ask = |sim: &mut Sim| {
        let (reply, mut answer) = oneshot::channel();
        sim.core.command(Command::Unready { reply }, sim.now);
        answer.try_recv().expect("at once").expect("no error")
    };
    assert_eq!(ask(&mut sim), ["a is loading", "z is not in the catalog"]);
    sim.advance(S);
    assert_eq!(ask(&mut sim), ["z is not in the catalog"]);
    sim.end();
}

#[test]
fn a_smaller_budget_makes_idle_models_leave() {
    let mut sim = Sim::new(1000, &[("a", 300, 10), ("b", 300, 10)], |_| ());
    sim.acquire("a");
    sim.acquire("b");
    sim.advance(S);
    sim.release(0);
    let idle = if sim.leases[0].0 == "a" { "b" } else { "a" };
    let (reply, _answer) = oneshot::channel();
    let changes = Reload { budgets: vec![("cpu".to_owned(), 500)], ..Reload::default() };
    sim.core.command(Command::Reload { changes, uid: None, reply }, sim.now);
    sim.shrunk = true;
    sim.settle();
    sim.advance(S);
    assert_eq!(sim.state(idle), ModelState::Absent);
    assert_eq!(sim.leases.len(), 1, "the busy one stays");
    sim.end();
}

#[test]
fn draining_waits_for_requests_then_cancels_them() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |_| ());
    sim.acquire("a");
    sim.advance(S);
    let (reply, mut drained) = oneshot::channel();
    sim.core.command(Command::Drain { deadline: 30 * S, uid: None, reply }, sim.now);
    sim.settle();
    assert_eq!(refusal(&mut sim, "a"), RegistryError::Draining);
    sim.advance(29 * S);
    assert_eq!(sim.leases.len(), 1);
    sim.allow_abort("a");
    sim.advance(2 * S);
    assert!(sim.leases.is_empty() && drained.try_recv().is_ok());
    assert_eq!(sim.budget.used(), 0);
}
