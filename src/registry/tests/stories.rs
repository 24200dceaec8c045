//! What users see, story by story, in simulated time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::sim::Sim;
use super::{ON_THE_FIRST, UNSEEN};
use crate::base::limits::DEVICE_LOST_AGAIN;
use crate::policy::placement::SiteKind;
use crate::pool::budget::Budget;
use crate::proto::admin::{LoadRequest, ModelState, Outcome};
use crate::registry::command::{Command, Reload};
use crate::registry::lease::Acquired;
use crate::registry::loader::LoadError;
use crate::registry::{Options, RegistryError, Site};

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

/// A GPU before the CPU, both with 1000 bytes; what fails there says so.
fn with_gpu(options: &mut Options) {
    let gpu = Site { id: "gpu0".into(), name: "gpu gfx1100".into(), kind: SiteKind::Gpu, ..options.sites[0].clone() };
    options.sites.insert(0, Site { budget: Budget::new(1000), ..gpu });
}

#[test]
fn a_gpu_is_taken_first_and_left_when_it_fails_unless_it_was_demanded() {
    let mut sim = Sim::new(1000, &[("a", 300, 10), ("b", 300, 10)], with_gpu);
    sim.file("b").error = Some(LoadError::Device(ON_THE_FIRST.to_owned()));
    for id in ["a", "b"] {
        sim.acquire(id);
        sim.advance(S);
        assert_eq!(sim.state(id), ModelState::Ready, "{id}");
    }
    let held = |sim: &Sim, site: usize| sim.core.options.sites[site].budget.used();
    assert_eq!((held(&sim, 0), held(&sim, 1)), (333, 333), "one is on each");
    let reason = |sim: &Sim, id: &str| sim.core.view(&sim.core.entries[id]).device_reason.expect("is loaded");
    assert!(reason(&sim, "a").starts_with("gpu0 fits"), "{}", reason(&sim, "a"));
    assert_eq!(reason(&sim, "b"), format!("gpu0: {ON_THE_FIRST}"));
    sim.leases.clear();
    sim.evict("b", false);
    sim.advance(S);
    sim.load(LoadRequest { model: "b".into(), device: Some("gpu".into()), ..LoadRequest::default() });
    sim.advance(S);
    assert_ne!(sim.state("b"), ModelState::Ready, "no silent fallback");
    assert_eq!(held(&sim, 1), 0);
    // The GPU recovers: the next load takes it again.
    sim.file("b").error = None;
    sim.load(LoadRequest { model: "b".into(), ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!((held(&sim, 0), held(&sim, 1)), (666, 0));
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
fn a_model_too_large_for_the_gpu_is_divided_and_gives_both_devices_back() {
    let mut sim = Sim::new(2000, &[("a", 300, 10), ("b", 1200, 10), ("c", 1700, 10)], with_gpu);
    sim.file("b").divides = true;
    // It is looked at again.
    sim.core.entries.get_mut("b").expect("known").facts = None;
    sim.core.describe_next();
    let held = |sim: &Sim| [0, 1].map(|site: usize| sim.core.options.sites[site].budget.used());
    sim.acquire("a");
    sim.advance(S);
    sim.leases.clear();
    // Three of four layers fit, once the other model has gone.
    let planned = sim.core.forecast(&["b".to_owned()], sim.now).expect("known").remove(0);
    assert_eq!((planned.outcome, &planned.evicts[..]), (Outcome::Evicts, &["a".to_owned()][..]));
    assert_eq!(planned.device.as_deref(), Some("gpu gfx1100 3/4 + cpu avx2"));
    sim.acquire("b");
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.state("b"), held(&sim)), (ModelState::Absent, ModelState::Ready, [993, 333]));
    let shares = sim.core.view(&sim.core.entries["b"]).shares;
    assert_eq!(shares.iter().map(|s| s.device.as_str()).collect::<Vec<_>>(), ["gpu0", "cpu"]);
    assert_eq!([&planned.shares[0].bytes, &planned.shares[1].bytes], [&shares[0].bytes, &shares[1].bytes]);
    // It is in the way on the CPU as well.
    sim.leases.clear();
    sim.load(LoadRequest { model: "c".into(), device: Some("cpu".into()), ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!((sim.state("b"), sim.state("c"), held(&sim)[0]), (ModelState::Absent, ModelState::Ready, 0));
    sim.end();
}

#[test]
fn an_integrated_gpu_and_the_cpu_have_one_ledger() {
    let one_memory = |options: &mut Options| {
        with_gpu(options);
        options.sites[0].budget = Arc::clone(&options.sites[1].budget);
        options.sites[0].most = Some(500);
    };
    let mut sim = Sim::new(1000, &[("a", 400, 10), ("b", 500, 10), ("c", 400, 10)], one_memory);
    let site = |sim: &Sim, id: &str| sim.core.entries[id].live.as_ref().map(|l| l.way.site());
    sim.acquire("a");
    sim.advance(S);
    // More than the GPU may take, though the ledger has it.
    sim.acquire("b");
    sim.advance(S);
    assert_eq!((site(&sim, "a"), site(&sim, "b"), sim.budget.used()), (Some(0), Some(1), 443 + 553));
    // What makes room for a model on the GPU may be on the CPU, and is asked to go once.
    sim.leases.clear();
    sim.pin("a", true);
    sim.acquire("c");
    sim.advance(S);
    assert_eq!((site(&sim, "a"), site(&sim, "b"), site(&sim, "c")), (Some(0), None, Some(0)));
    assert_eq!(sim.budget.used(), 886);
    sim.end();
}

#[test]
fn a_gpu_with_less_memory_than_it_said_gets_less_of_the_model() {
    let mut sim = Sim::new(2000, &[("a", 400, 10)], with_gpu);
    sim.file("a").divides = true;
    sim.file("a").error = Some(LoadError::OutOfMemory("planted".to_owned()));
    sim.acquire("a");
    sim.advance(S);
    let way = |sim: &Sim| sim.core.entries["a"].live.as_ref().map(|l| (l.way.site(), l.way.layers));
    assert_eq!((sim.state("a"), way(&sim)), (ModelState::Ready, Some((1, None))));
    let said: Vec<String> = sim.core.log.recent(Some("a")).into_iter().map(|d| d.message).collect();
    let tries = ["2048 tokens of cache", "3 of 4 layers", "2 of 4 layers", "1 of 4 layers", "the next device"];
    let found: Vec<_> = said.iter().filter(|t| t.contains("could not be loaded")).collect();
    assert_eq!(found.len(), tries.len(), "{said:#?}");
    for (text, what) in found.iter().zip(tries) {
        assert!(text.contains(what) && text.contains("planted"), "{text}");
    }
    // Asked for on the GPU, it is tried with less cache, and then refused.
    sim.leases.clear();
    sim.evict("a", false);
    sim.advance(S);
    sim.load(LoadRequest { model: "a".into(), device: Some("gpu".into()), ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!(way(&sim), None);
    sim.file("a").error = None;
    sim.load(LoadRequest { model: "a".into(), device: Some("gpu".into()), ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!(way(&sim), Some((0, None)), "another load begins anew");
    sim.end();
}

#[test]
fn a_device_that_failed_a_load_is_no_reason_to_refuse_the_next() {
    let mut sim = Sim::new(1000, &[("a", 800, 10), ("b", 300, 10)], with_gpu);
    sim.file("b").error = Some(LoadError::Device(ON_THE_FIRST.to_owned()));
    sim.acquire("b");
    sim.advance(S);
    assert_eq!(
        (sim.state("b"), sim.core.entries["b"].live.as_ref().map(|l| l.way.site())),
        (ModelState::Ready, Some(1))
    );
    sim.leases.clear();
    sim.file("b").error = None;
    sim.load(LoadRequest { model: "a".into(), device: Some("cpu".into()), pin: true, ..LoadRequest::default() });
    sim.advance(S);
    assert_eq!((sim.state("a"), sim.state("b")), (ModelState::Ready, ModelState::Absent), "one made room");
    // The CPU has no room for it now; the GPU has, and may do again.
    sim.acquire("b");
    sim.advance(S);
    assert_eq!(sim.state("b"), ModelState::Ready);
    sim.end();
}

#[test]
fn a_model_whose_device_is_lost_is_loaded_again_but_not_for_ever() {
    let mut sim = Sim::new(1000, &[("a", 300, 10)], |_| ());
    sim.acquire("a");
    sim.advance(S);
    let first = sim.leases[0].1.model.clone();
    sim.lose("a");
    sim.advance(S);
    let now = |sim: &Sim| sim.core.entries["a"].live.as_ref().and_then(|l| l.model.clone()).expect("is loaded");
    assert!(sim.state("a") == ModelState::Ready && !Arc::ptr_eq(&first, &now(&sim)), "another one is there");
    // Again at once: now it may be the model.
    drop(first);
    sim.lose("a");
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Failed);
    // A request that comes later tries it again.
    sim.advance(DEVICE_LOST_AGAIN);
    sim.acquire("a");
    sim.advance(S);
    assert_eq!(sim.state("a"), ModelState::Ready);
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
