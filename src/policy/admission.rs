//! What a model needs, and whether that can be had: decided before the first byte moves.

use std::fmt;

use super::human;

/// Bytes that a model needs to serve at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Weights; mapped ones at the size of their files.
    pub weights: u64,
    /// The smallest KV caches it starts with.
    pub cache: u64,
    /// Activations and logits of a step.
    pub activations: u64,
    /// Vocabulary, tokenizer, tables.
    pub tables: u64,
}

impl Need {
    /// Both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            activations: self.activations.saturating_add(other.activations),
            tables: self.tables.saturating_add(other.tables),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.activations).saturating_add(self.tables)
    }
}

/// Somebody who holds memory of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The model's id.
    pub id: String,
    /// Bytes it holds.
    pub bytes: u64,
    /// Never evicted to make room.
    pub pinned: bool,
    /// Requests that run on it.
    pub leases: u32,
    /// Being loaded: it cannot go before it is ready.
    pub loading: bool,
}

/// Why a model is refused, with all numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The model.
    pub model: String,
    /// The device.
    pub device: String,
    /// What it needs.
    pub need: Need,
    /// The budget of the device.
    pub budget: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Who holds the rest, largest first.
    pub holders: Vec<Holder>,
    /// What to do about it.
    pub suggestion: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} needs {} on {}, the budget is {}, {} are free",
            self.model,
            human(self.need.total()),
            self.device,
            human(self.budget),
            human(self.free)
        )?;
        for (i, h) in self.holders.iter().enumerate() {
            let state = match (h.pinned, h.leases, h.loading) {
                (true, _, _) => ", pinned",
                (_, _, true) => ", loading",
                (_, 1.., _) => ", busy",
                _ => "",
            };
            write!(f, "{} {} ({}{state})", if i == 0 { "; held by" } else { "," }, h.id, human(h.bytes))?;
        }
        write!(f, ". {}", self.suggestion)
    }
}

/// Whether a model can be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is room.
    Fits,
    /// There would be if so many bytes of unpinned models went.
    Evict {
        /// Bytes that are missing.
        short: u64,
    },
    /// There is none, whoever goes.
    Refuse(Box<Refusal>),
}

/// Judges a model against a device with `budget` bytes of which `free` are free. `holders` are all
/// who hold the rest.
pub fn judge(model: &str, device: &str, need: Need, budget: u64, free: u64, holders: &[Holder]) -> Verdict {
    let total = need.total();
    if total <= free {
        return Verdict::Fits;
    }
    // Counted from the budget down, so that memory which nobody answers for is no help.
    let pinned: u64 = holders.iter().filter(|h| h.pinned).fold(0, |s, h| s.saturating_add(h.bytes));
    let movable: u64 = holders.iter().filter(|h| !h.pinned).fold(0, |s, h| s.saturating_add(h.bytes));
    if total <= free.saturating_add(movable).min(budget) {
        return Verdict::Evict { short: total - free };
    }
    let mut holders = holders.to_vec();
    holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.id.cmp(&b.id)));
    let suggestion = suggest(need, budget, free.saturating_add(movable), pinned, &holders);
    Verdict::Refuse(Box::new(Refusal {
        model: model.to_owned(),
        device: device.to_owned(),
        need,
        budget,
        free,
        holders,
        suggestion,
    }))
}

fn suggest(need: Need, budget: u64, available: u64, pinned: u64, holders: &[Holder]) -> String {
    let total = need.total();
    if total <= budget && total <= available.saturating_add(pinned) {
        let mut names = Vec::new();
        let mut gained = available;
        for h in holders.iter().filter(|h| h.pinned) {
            if gained >= total {
                break;
            }
            names.push(h.id.as_str());
            gained += h.bytes;
        }
        return format!("Unpin {} to make room.", names.join(" and "));
    }
    let rest = total - need.cache;
    if rest < available {
        return format!(
            "It would fit with at most {} of KV cache instead of {}: lower engine.cache_min, or set engine.kv_type to a smaller type.",
            human(available - rest),
            human(need.cache)
        );
    }
    format!(
        "Raise the memory budget to at least {}, or take a smaller quantization of the model.",
        human(total.saturating_add(pinned))
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holder(id: &str, bytes: u64, pinned: bool, leases: u32) -> Holder {
        Holder { id: id.to_owned(), bytes, pinned, leases, loading: false }
    }

    #[test]
    fn a_refusal_says_who_holds_what_and_what_to_do() {
        const G: u64 = 1 << 30;
        let need = Need { weights: 20 * G, cache: G, activations: 0, tables: 0 };
        let holders = [holder("phi4", 2 * G, true, 0), holder("bge", 4 * G, true, 0), holder("qwen", 3 * G, false, 2)];
        let Verdict::Refuse(r) = judge("big", "gpu0", need, 24 * G, 15 * G, &holders) else { panic!("does not fit") };
        assert_eq!(
            r.to_string(),
            "big needs 21.0 GiB on gpu0, the budget is 24.0 GiB, 15.0 GiB are free; held by bge (4.0 GiB, pinned), \
             qwen (3.0 GiB, busy), phi4 (2.0 GiB, pinned). Unpin bge to make room."
        );
        let Verdict::Refuse(r) = judge("big", "cpu", Need { weights: 30 * G, ..need }, 24 * G, 24 * G, &[]) else {
            panic!("too big")
        };
        assert_eq!(
            r.suggestion,
            "Raise the memory budget to at least 31.0 GiB, or take a smaller quantization of the model."
        );
        let Verdict::Refuse(r) =
            judge("big", "cpu", Need { weights: 20 * G, cache: 5 * G, ..need }, 24 * G, 24 * G, &[])
        else {
            panic!("too big")
        };
        assert!(
            r.suggestion.starts_with("It would fit with at most 4.0 GiB of KV cache instead of 5.0 GiB"),
            "{}",
            r.suggestion
        );
    }

    proptest! {
        #[test]
        fn the_verdict_is_right(
            parts in (0u64..400, 0u64..100, 0u64..100, 0u64..100),
            held in prop::collection::vec((0u64..200, any::<bool>(), 0u32..3), 0..8),
            spare in 0u64..500,
        ) {
            let need = Need { weights: parts.0, cache: parts.1, activations: parts.2, tables: parts.3 };
            let holders: Vec<Holder> = held.iter().enumerate().map(|(i, &(b, p, l))| holder(&format!("m{i}"), b, p, l)).collect();
            let budget = spare + held.iter().map(|h| h.0).sum::<u64>();
            let pinned: u64 = held.iter().filter(|h| h.1).map(|h| h.0).sum();
            match judge("x", "cpu", need, budget, spare, &holders) {
                Verdict::Fits => prop_assert!(need.total() <= spare),
                Verdict::Evict { short } => {
                    prop_assert_eq!(short, need.total() - spare);
                    prop_assert!(short > 0 && need.total() <= budget - pinned);
                }
                Verdict::Refuse(r) => {
                    prop_assert!(need.total() > budget - pinned);
                    prop_assert_eq!(r.holders.len(), holders.len());
                    prop_assert!(!r.suggestion.is_empty());
                    for h in &holders {
                        prop_assert!(r.to_string().contains(&h.id));
                    }
                }
            }
        }
    }
}
