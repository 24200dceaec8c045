//! Who has to go to make room: the victim set that loses the least value.
//!
//! Evicting a model costs its reload, if it is wanted again soon; how soon is judged by how long
//! nobody wanted it. So the value lost is `reload time / idle time`, and per byte gained a good
//! victim has much of `idle time x bytes / reload time`. The set is the cheapest that frees
//! enough (a knapsack turned round, solved exactly up to [`NODES_MAX`] steps, and never with a
//! member that could have stayed). Models with running requests come last: they must be waited for.

use std::time::Duration;

/// Whether a model can be made to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Nobody uses it.
    Idle,
    /// Requests run on it; it can be drained.
    Busy,
    /// Pinned, or being loaded or unloaded: never a victim.
    Fixed,
}

/// A resident model as this policy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Bytes that come free when it goes.
    pub bytes: u64,
    /// Since its last use.
    pub idle: Duration,
    /// What loading it again would take.
    pub reload: Duration,
    /// Whether it can go.
    pub standing: Standing,
}

impl Candidate {
    /// The value that is lost when it goes: always positive, and larger for any busy model than
    /// for all idle ones together.
    pub fn value(&self) -> f64 {
        // Floors keep the quotient finite: no reload is free, no idle time is under a second.
        let v = self.reload.as_secs_f64().max(1e-3) / self.idle.as_secs_f64().max(1.0);
        match self.standing {
            Standing::Busy => v + BUSY,
            _ => v,
        }
    }
}

/// Above any sum of idle values (a reload takes minutes at most, and models are few).
const BUSY: f64 = 1e9;
/// Steps of the search, after which the best set found so far is taken. 64 models are decided in
/// a few hundred steps unless their sizes are contrived.
const NODES_MAX: u32 = 50_000;

/// The candidates (indices, ascending) that should go so that at least `needed` bytes come free,
/// or `None` if all that can go are not enough.
pub fn victims(candidates: &[Candidate], needed: u64) -> Option<Vec<usize>> {
    if needed == 0 {
        return Some(Vec::new());
    }
    let mut order: Vec<usize> = (0..candidates.len())
        .filter(|&i| candidates[i].standing != Standing::Fixed && candidates[i].bytes > 0)
        .collect();
    let all = order.iter().fold(0u64, |sum, &i| sum.saturating_add(candidates[i].bytes));
    if all < needed {
        return None;
    }
    // Cheapest byte first.
    order.sort_by(|&a, &b| {
        let per_byte = |i: usize| candidates[i].value() / candidates[i].bytes as f64;
        per_byte(a).total_cmp(&per_byte(b)).then(a.cmp(&b))
    });
    let mut search =
        Search { candidates, order: &order, needed, best: Vec::new(), best_value: f64::INFINITY, nodes: 0 };
    search.go(0, needed, 0.0, &mut Vec::new());
    let mut best = search.best;
    best.sort_unstable();
    Some(best)
}

struct Search<'a> {
    candidates: &'a [Candidate],
    order: &'a [usize],
    needed: u64,
    best: Vec<usize>,
    best_value: f64,
    nodes: u32,
}

impl Search<'_> {
    /// Depth first over `order[at..]`, taking before leaving: the first leaf is the greedy set.
    fn go(&mut self, at: usize, missing: u64, value: f64, taken: &mut Vec<usize>) {
        self.nodes += 1;
        if missing == 0 {
            self.offer(taken);
            return;
        }
        if self.nodes > NODES_MAX || value + self.bound(at, missing) >= self.best_value {
            return;
        }
        let i = self.order[at];
        let c = &self.candidates[i];
        taken.push(i);
        self.go(at + 1, missing.saturating_sub(c.bytes), value + c.value(), taken);
        taken.pop();
        self.go(at + 1, missing, value, taken);
    }

    /// The least value that the rest of the order can free `missing` bytes for, if the last
    /// victim could be taken in part; infinite if the rest does not suffice.
    fn bound(&self, at: usize, mut missing: u64) -> f64 {
        let mut value = 0.0;
        for &i in &self.order[at..] {
            let c = &self.candidates[i];
            if c.bytes >= missing {
                return value + c.value() * (missing as f64 / c.bytes as f64);
            }
            missing -= c.bytes;
            value += c.value();
        }
        f64::INFINITY
    }

    /// Takes a set that suffices, less the members it does not need (dearest first).
    fn offer(&mut self, taken: &[usize]) {
        let value_of = |i: usize| self.candidates[i].value();
        let mut dearest_first = taken.to_vec();
        dearest_first.sort_by(|&a, &b| value_of(b).total_cmp(&value_of(a)));
        let mut set = taken.to_vec();
        let mut freed = set.iter().fold(0u64, |sum, &i| sum.saturating_add(self.candidates[i].bytes));
        for i in dearest_first {
            let bytes = self.candidates[i].bytes;
            if freed - bytes >= self.needed {
                freed -= bytes;
                set.retain(|&j| j != i);
            }
        }
        let value: f64 = set.iter().map(|&i| value_of(i)).sum();
        if value < self.best_value {
            self.best_value = value;
            self.best = set;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        (
            0u64..1000,
            0u64..10_000,
            0u64..100_000,
            prop_oneof![Just(Standing::Idle), Just(Standing::Busy), Just(Standing::Fixed)],
        )
            .prop_map(|(bytes, idle_s, reload_ms, standing)| Candidate {
                bytes,
                idle: Duration::from_secs(idle_s),
                reload: Duration::from_millis(reload_ms),
                standing,
            })
    }

    fn freed(c: &[Candidate], set: &[usize]) -> u64 {
        set.iter().map(|&i| c[i].bytes).sum()
    }

    fn lost(c: &[Candidate], set: &[usize]) -> f64 {
        set.iter().map(|&i| c[i].value()).sum()
    }

    /// The least value by trying every set.
    fn exhaustive(c: &[Candidate], needed: u64) -> Option<f64> {
        (0u32..1 << c.len())
            .map(|bits| (0..c.len()).filter(|i| bits >> i & 1 == 1).collect::<Vec<_>>())
            .filter(|set| set.iter().all(|&i| c[i].standing != Standing::Fixed) && freed(c, set) >= needed)
            .map(|set| lost(c, &set))
            .min_by(f64::total_cmp)
    }

    proptest! {
        #[test]
        fn the_set_is_the_cheapest_there_is(c in prop::collection::vec(candidate(), 0..10), needed in 0u64..4000) {
            match (victims(&c, needed), exhaustive(&c, needed)) {
                (Some(set), Some(best)) => {
                    prop_assert!(freed(&c, &set) >= needed);
                    prop_assert!(lost(&c, &set) <= best * (1.0 + 1e-9) + 1e-12, "{} > {best}", lost(&c, &set));
                }
                (None, None) => {}
                (got, want) => prop_assert!(false, "{got:?}, exhaustive search says {want:?}"),
            }
        }

        #[test]
        fn no_victim_could_have_stayed_and_none_is_fixed(c in prop::collection::vec(candidate(), 0..64), needed in 0u64..30_000) {
            if let Some(set) = victims(&c, needed) {
                prop_assert!(freed(&c, &set) >= needed);
                for &i in &set {
                    prop_assert!(c[i].standing != Standing::Fixed);
                    prop_assert!(freed(&c, &set) - c[i].bytes < needed, "victim {i} of {set:?} is not needed");
                }
                let idle: u64 = c.iter().filter(|c| c.standing == Standing::Idle).map(|c| c.bytes).sum();
                if idle >= needed {
                    prop_assert!(set.iter().all(|&i| c[i].standing == Standing::Idle), "a busy model goes though idle ones suffice");
                }
            }
        }
    }

    #[test]
    fn a_search_that_is_cut_short_spares_whom_it_can() {
        // Small ones are cheapest by the byte, but the large one is needed and suffices.
        let c = |bytes, reload_s| Candidate {
            bytes,
            idle: Duration::from_secs(1000),
            reload: Duration::from_secs(reload_s),
            standing: Standing::Idle,
        };
        let mut all = vec![c(10, 1); 40];
        all.push(c(1000, 1000));
        assert_eq!(victims(&all, 1000), Some(vec![40]));
    }

    #[test]
    fn long_idle_large_and_quickly_reloaded_goes_first() {
        let c = |bytes, idle_s, reload_s| Candidate {
            bytes,
            idle: Duration::from_secs(idle_s),
            reload: Duration::from_secs(reload_s),
            standing: Standing::Idle,
        };
        assert_eq!(victims(&[c(10, 10, 1), c(10, 1000, 1)], 5), Some(vec![1]), "the longest idle");
        assert_eq!(victims(&[c(10, 10, 9), c(10, 10, 1)], 5), Some(vec![1]), "the cheapest to reload");
        assert_eq!(victims(&[c(4, 10, 1), c(4, 10, 1), c(9, 10, 1)], 8), Some(vec![2]), "one instead of two");
        assert_eq!(victims(&[c(4, 10, 1)], 5), None);
        assert_eq!(victims(&[c(4, 10, 1)], 0), Some(vec![]));
    }
}
