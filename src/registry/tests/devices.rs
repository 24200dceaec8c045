//! Stories of models on several devices: where they go, and what a device costs that has too little or is lost.

use std::sync::Arc;
use std::time::Duration;

use super::ON_THE_FIRST;
use super::sim::Sim;
use crate::base::limits::DEVICE_LOST_AGAIN;
use crate::policy::placement::SiteKind;
use crate::pool::budget::Budget;
use crate::proto::admin::{LoadRequest, ModelState, Outcome};
use crate::registry::loader::LoadError;
use crate::registry::{Options, Site};

const S: Duration = Duration::from_secs(1);

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
