//! When a model may be displaced by one that waits: requests for models that do not fit together
//! are served in groups, so that `A B A B …` does not swap at each request, and nobody starves.
//!
//! A model with work (or whose clients are likely to come back within [`Rules::grace`]) keeps its
//! place until the oldest request of the other has waited [`Rules::max_wait`] *and* it was
//! resident for as long as its own load took (else slow loads would do nothing but swap), at most
//! [`Rules::residency_max`]. Then it takes no new requests, finishes those it has, and goes.
//! Groups are served in the order of their oldest request ([`order`]).

use std::time::Duration;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A request waits no longer than this for others to finish *starting* on the model in its way.
    pub max_wait: Duration,
    /// An idle model counts as busy for so long: clients that take turns come back at once.
    pub grace: Duration,
    /// Longest residency a slow load earns.
    pub residency_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        use crate::base::limits::{SWAP_GRACE, SWAP_MAX_WAIT, SWAP_RESIDENCY_MAX};
        Self { max_wait: SWAP_MAX_WAIT, grace: SWAP_GRACE, residency_max: SWAP_RESIDENCY_MAX }
    }
}

/// A resident model that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Requests run on it.
    pub busy: bool,
    /// Since its last use.
    pub idle: Duration,
    /// Since it became ready.
    pub resident: Duration,
    /// What its load took.
    pub load_time: Duration,
}

/// How much longer `holder` keeps its place against a request that has waited for `waited`; zero
/// means it may be displaced now.
pub fn hold(holder: &Holder, waited: Duration, rules: &Rules) -> Duration {
    let turn = rules
        .max_wait
        .saturating_sub(waited)
        .max(holder.load_time.min(rules.residency_max).saturating_sub(holder.resident));
    if holder.busy { turn } else { turn.min(rules.grace.saturating_sub(holder.idle)) }
}

/// Order in which waiting groups get their turn: indices of `waited` (the wait of each group's
/// oldest request), longest first.
pub fn order(waited: &[Duration]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..waited.len()).collect();
    order.sort_by(|&a, &b| waited[b].cmp(&waited[a]).then(a.cmp(&b)));
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const RULES: Rules = Rules {
        max_wait: Duration::from_millis(2000),
        grace: Duration::from_millis(100),
        residency_max: Duration::from_millis(30_000),
    };

    /// One place, several models; time in milliseconds. Requests are (model, arrival, service);
    /// all requests of the resident model run at once. Gives each one's wait and the swaps.
    struct Sim {
        waits: Vec<u64>,
        swaps: usize,
    }

    fn simulate(requests: &[(usize, u64, u64)], load: &[u64], rules: &Rules) -> Sim {
        let mut waits = vec![u64::MAX; requests.len()];
        let mut ends: Vec<u64> = Vec::new();
        let (mut resident, mut ready_at, mut last_use, mut draining) = (None::<usize>, 0, 0, false);
        let mut swaps = 0;
        for t in 0u64.. {
            assert!(t < 10_000_000, "somebody waits for ever");
            if ends.contains(&t) {
                last_use = t;
            }
            ends.retain(|&e| e > t);
            if let Some(m) = resident.filter(|_| t >= ready_at && !draining) {
                for (i, &(model, at, service)) in requests.iter().enumerate() {
                    if waits[i] == u64::MAX && model == m && at <= t {
                        waits[i] = t - at;
                        ends.push(t + service);
                        last_use = t;
                    }
                }
            }
            if waits.iter().all(|&w| w != u64::MAX) {
                return Sim { waits, swaps };
            }
            // The group whose oldest request has waited longest wants the place.
            let oldest: Vec<(usize, u64)> = (0..load.len())
                .filter_map(|m| {
                    let first = requests
                        .iter()
                        .zip(&waits)
                        .filter(|((r, at, _), w)| *r == m && *at <= t && **w == u64::MAX)
                        .map(|((_, at, _), _)| *at)
                        .min()?;
                    Some((m, t - first))
                })
                .filter(|&(m, _)| resident != Some(m) || draining)
                .collect();
            let waited: Vec<Duration> = oldest.iter().map(|&(_, w)| MS * w as u32).collect();
            let Some(&next) = order(&waited).first() else { continue };
            if resident.is_some() && t < ready_at {
                continue;
            }
            let free = match resident {
                None => true,
                Some(m) => {
                    let holder = Holder {
                        busy: !ends.is_empty(),
                        idle: MS * (t - last_use.max(ready_at)) as u32,
                        resident: MS * (t - ready_at) as u32,
                        load_time: MS * load[m] as u32,
                    };
                    draining |= hold(&holder, waited[next], rules) == Duration::ZERO;
                    draining && ends.is_empty()
                }
            };
            if free {
                let m = oldest[next].0;
                (resident, ready_at, draining) = (Some(m), t + load[m], false);
                swaps += 1;
            }
        }
        unreachable!()
    }

    #[test]
    fn a_hundred_alternating_requests_swap_at_most_four_times() {
        // One request every 20 ms, A and B in turn, each takes 50 ms; loads take half a second.
        let requests: Vec<_> = (0..100).map(|i| (i % 2, i as u64 * 20, 50)).collect();
        let sim = simulate(&requests, &[500, 500], &RULES);
        assert!(sim.swaps <= 4, "{} swaps", sim.swaps);
        // Without a bound on grouping it would be one swap a request.
        let none = Rules { max_wait: Duration::ZERO, grace: Duration::ZERO, residency_max: Duration::ZERO };
        assert!(simulate(&requests, &[500, 500], &none).swaps > sim.swaps);
    }

    #[test]
    fn an_idle_model_goes_after_its_grace_and_a_busy_one_after_the_wait() {
        let idle = Holder { busy: false, idle: MS * 40, resident: MS * 40, load_time: MS * 500 };
        assert_eq!(hold(&idle, Duration::ZERO, &RULES), MS * 60);
        assert_eq!(hold(&Holder { idle: MS * 100, ..idle }, Duration::ZERO, &RULES), Duration::ZERO);
        let busy = Holder { busy: true, idle: Duration::ZERO, resident: MS * 5000, load_time: MS * 500 };
        assert_eq!(hold(&busy, MS * 500, &RULES), MS * 1500);
        assert_eq!(hold(&busy, MS * 2000, &RULES), Duration::ZERO);
        let fresh = Holder { resident: MS * 100, load_time: MS * 9000, ..busy };
        assert_eq!(hold(&fresh, MS * 60_000, &RULES), MS * 8900, "a slow load earns its stay");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nobody_starves(
            mut requests in prop::collection::vec((0usize..3, 0u64..8000, 1u64..400), 1..60),
            load in prop::collection::vec(1u64..3000, 3),
        ) {
            requests.sort_by_key(|r| r.1);
            let sim = simulate(&requests, &load, &RULES);
            // Each other group may go first once: its load, its turn (the larger of the longest
            // wait and its own load time), its last requests; and then comes the own load.
            let turn = |m: usize| load[m] + 2000u64.max(load[m]) + 400 + 100;
            let bound: u64 = 2 * (0..3).map(turn).sum::<u64>();
            for (r, w) in requests.iter().zip(&sim.waits) {
                prop_assert!(*w <= bound, "{r:?} waited {w} ms, bound {bound}");
            }
            prop_assert!(sim.swaps <= requests.len());
        }
    }
}
