//! How the next token is chosen from a row of logits.
//!
//! The order is llama-server's: `logit_bias`, penalties, `top_k`, `top_p`, `min_p`, temperature,
//! then one random number. `top_p` and `min_p` look at probabilities before temperature, and
//! `top_p` at those among the `top_k`. Ties go to the lower token everywhere.

use super::message::{Candidate, Sampling};
use super::random::Random;
use super::select::{self, Scored, exp, max};

/// How many of the likeliest are looked at first for `top_p` without `top_k`; few texts need more.
const NUCLEUS_FIRST: usize = 128;

/// Memory for sampling, one for each engine.
#[derive(Debug)]
pub struct Scratch {
    /// Logits after bias and penalties.
    row: Vec<f32>,
    /// Occurrences of each token in the penalties' window; all 0 between calls.
    counts: Vec<u32>,
    select: select::Scratch,
    alternatives: Vec<Candidate>,
}

impl Scratch {
    /// For a vocabulary of `n_vocab` tokens.
    pub fn new(n_vocab: usize) -> Self {
        Self {
            row: Vec::with_capacity(n_vocab),
            counts: vec![0; n_vocab],
            select: select::Scratch::new(n_vocab),
            alternatives: Vec::with_capacity(usize::from(u8::MAX)),
        }
    }

    /// Result of [`log_probability`].
    pub fn alternatives(&self) -> &[Candidate] {
        &self.alternatives
    }
}

/// Chooses the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    random: Random,
}

impl Sampler {
    /// For a request's settings.
    pub fn new(settings: Sampling) -> Self {
        Self { random: Random::new(settings.seed), settings }
    }

    /// Chooses a token. `history` is prompt and text so far. `None` if no logit is a finite
    /// number: the model is broken.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], scratch: &mut Scratch) -> Option<u32> {
        let s = &self.settings;
        let penalties = s.repeat_penalty != 1.0 || s.presence_penalty != 0.0 || s.frequency_penalty != 0.0;
        let penalties = penalties && s.repeat_last_n != 0;
        if !penalties && s.logit_bias.is_empty() {
            return choose(s, &mut self.random, logits, &mut scratch.select);
        }
        scratch.row.clear();
        scratch.row.extend_from_slice(logits);
        for &(token, bias) in &s.logit_bias {
            if let Some(logit) = scratch.row.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if penalties {
            let window = usize::try_from(s.repeat_last_n).unwrap_or(history.len()).min(history.len());
            penalize(s, &mut scratch.row, &history[history.len() - window..], &mut scratch.counts);
        }
        choose(s, &mut self.random, &scratch.row, &mut scratch.select)
    }
}

/// Keskar et al. 2019 for the repetition penalty, with the usual correction for negative logits;
/// OpenAI's for the other two.
fn penalize(s: &Sampling, row: &mut [f32], window: &[u32], counts: &mut [u32]) {
    for &token in window {
        if let Some(n) = counts.get_mut(token as usize) {
            *n += 1;
        }
    }
    for &token in window {
        let (Some(n), Some(logit)) = (counts.get_mut(token as usize), row.get_mut(token as usize)) else { continue };
        if *n > 0 {
            *logit = if *logit <= 0.0 { *logit * s.repeat_penalty } else { *logit / s.repeat_penalty };
            *logit -= *n as f32 * s.frequency_penalty + s.presence_penalty;
            *n = 0;
        }
    }
}

fn choose(s: &Sampling, random: &mut Random, row: &[f32], scratch: &mut select::Scratch) -> Option<u32> {
    let largest = max(row);
    if !largest.is_finite() {
        return None;
    }
    if s.temperature <= 0.0 {
        return select::first(row, largest).map(|i| i as u32);
    }
    let u = random.unit();
    let scale = 1.0 / s.temperature;
    let floor = if s.min_p > 0.0 { largest + s.min_p.min(1.0).ln() } else { f32::NEG_INFINITY };
    let all = s.top_k == 0 || s.top_k as usize >= row.len();
    if all && s.top_p >= 1.0 {
        return scratch.draw(row, largest, scale, floor, u);
    }
    if all {
        let enough = select::sum_exp(row, largest) * f64::from(s.top_p);
        scratch.top(row, NUCLEUS_FIRST);
        if !keep_nucleus(&mut scratch.best, enough) {
            scratch.nucleus(row, largest, enough);
            keep_nucleus(&mut scratch.best, enough);
        }
    } else {
        scratch.top(row, s.top_k as usize);
        if s.top_p < 1.0 {
            let total: f64 = scratch.best.iter().map(|c| f64::from(exp(c.logit - largest))).sum();
            keep_nucleus(&mut scratch.best, total * f64::from(s.top_p));
        }
    }
    let n = scratch.best.iter().take_while(|c| c.logit >= floor).count().max(1);
    draw_sorted(&scratch.best[..n], scale, u)
}

/// Cuts to the likeliest that together weigh `enough` (relative to the likeliest); false if all
/// of them weigh less.
fn keep_nucleus(best: &mut Vec<Scored>, enough: f64) -> bool {
    let Some(largest) = best.first().map(|c| c.logit) else { return true };
    let mut sum = 0.0;
    for (i, c) in best.iter().enumerate() {
        sum += f64::from(exp(c.logit - largest));
        if sum >= enough {
            best.truncate(i + 1);
            return true;
        }
    }
    false
}

fn draw_sorted(best: &[Scored], scale: f32, u: f64) -> Option<u32> {
    let largest = best.first()?.logit;
    let weight = |c: &Scored| f64::from(exp((c.logit - largest) * scale));
    let mut rest = u * best.iter().map(weight).sum::<f64>();
    for c in best {
        rest -= weight(c);
        if rest < 0.0 {
            return Some(c.token);
        }
    }
    best.iter().rfind(|c| weight(c) > 0.0).map(|c| c.token)
}

/// Natural logarithm of the probability of `token` in the raw logits, and the `n` likeliest, left
/// in [`Scratch::alternatives`].
pub fn log_probability(logits: &[f32], token: u32, n: usize, scratch: &mut Scratch) -> f32 {
    let largest = max(logits);
    let log_sum = select::sum_exp(logits, largest).ln();
    let log_probability = |logit: f32| (f64::from(logit - largest) - log_sum) as f32;
    scratch.select.top(logits, n);
    let best = scratch.select.best.iter();
    scratch.alternatives.clear();
    scratch.alternatives.extend(best.map(|c| Candidate { token: c.token, logprob: log_probability(c.logit) }));
    log_probability(logits[token as usize])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn plain() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() }
    }

    fn sample(s: &Sampling, logits: &[f32], history: &[u32]) -> Option<u32> {
        Sampler::new(s.clone()).sample(logits, history, &mut Scratch::new(logits.len()))
    }

    /// Shares of `n` draws.
    fn shares(s: &Sampling, logits: &[f32], history: &[u32]) -> Vec<f64> {
        const N: usize = 40_000;
        let mut sampler = Sampler::new(s.clone());
        let mut scratch = Scratch::new(logits.len());
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..N {
            counts[sampler.sample(logits, history, &mut scratch).expect("finite") as usize] += 1.0 / N as f64;
        }
        counts
    }

    fn assert_close(got: &[f64], want: &[f64]) {
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 0.01 && (*w > 0.0 || *g == 0.0), "{got:?}, not {want:?}");
        }
    }

    /// Logits of these probabilities.
    fn logits(p: &[f32]) -> Vec<f32> {
        p.iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn greedy_takes_the_largest_and_the_lowest_of_equals() {
        let greedy = Sampling { temperature: 0.0, ..plain() };
        assert_eq!(sample(&greedy, &[1.0, 5.0, f32::NAN, 5.0], &[]), Some(1));
        assert_eq!(sample(&greedy, &[f32::NAN, f32::NEG_INFINITY], &[]), None);
        assert_eq!(sample(&plain(), &[f32::NAN, f32::NAN], &[]), None);
    }

    #[test]
    fn temperature_shapes_the_distribution() {
        let l = logits(&[0.5, 0.3, 0.2]);
        assert_close(&shares(&plain(), &l, &[]), &[0.5, 0.3, 0.2]);
        // p^2, normalized.
        assert_close(
            &shares(&Sampling { temperature: 0.5, ..plain() }, &l, &[]),
            &[25.0 / 38.0, 9.0 / 38.0, 4.0 / 38.0],
        );
        let all_but_hot = Sampling { temperature: 0.5, top_k: 2, ..plain() };
        assert_close(&shares(&all_but_hot, &l, &[]), &[25.0 / 34.0, 9.0 / 34.0, 0.0]);
    }

    #[test]
    fn top_p_counts_among_the_top_k_and_before_temperature() {
        let l = logits(&[0.4, 0.3, 0.2, 0.1]);
        assert_close(&shares(&Sampling { top_p: 0.6, ..plain() }, &l, &[]), &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
        // Among the first two, the first has 4/7 = 0.571 by itself.
        assert_close(&shares(&Sampling { top_p: 0.57, top_k: 2, ..plain() }, &l, &[]), &[1.0, 0.0, 0.0, 0.0]);
        // Temperature 10 would make all equal; the nucleus is the same.
        let hot = Sampling { top_p: 0.6, temperature: 1e6, ..plain() };
        assert_close(&shares(&hot, &l, &[]), &[0.5, 0.5, 0.0, 0.0]);
        let hot = Sampling { top_k: 3, ..hot };
        assert_close(&shares(&hot, &l, &[]), &[0.5, 0.5, 0.0, 0.0]);
        // At least one stays.
        assert_close(&shares(&Sampling { top_p: 0.0, ..plain() }, &l, &[]), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn min_p_is_a_share_of_the_likeliest() {
        let l = logits(&[0.5, 0.3, 0.15, 0.05]);
        let want = [0.5 / 0.8, 0.3 / 0.8, 0.0, 0.0];
        for top_k in [0, 3] {
            assert_close(&shares(&Sampling { min_p: 0.4, top_k, ..plain() }, &l, &[]), &want);
        }
    }

    #[test]
    fn a_nucleus_may_be_larger_than_first_looked_at() {
        let l = vec![0.0; 10_000];
        let mut sampler = Sampler::new(Sampling { top_p: 0.9, ..plain() });
        let mut scratch = Scratch::new(l.len());
        let tokens: Vec<u32> = (0..2000).map(|_| sampler.sample(&l, &[], &mut scratch).expect("finite")).collect();
        let last = *tokens.iter().max().expect("some");
        assert!((8_900..9_001).contains(&last), "90 % of equal tokens, but the last is {last}");
    }

    #[test]
    fn penalties_look_at_their_window() {
        let greedy = Sampling { temperature: 0.0, ..plain() };
        let l = [2.0, 1.9, -1.0];
        let repeat = Sampling { repeat_penalty: 1.5, ..greedy.clone() };
        assert_eq!(sample(&repeat, &l, &[0]), Some(1));
        assert_eq!(sample(&Sampling { repeat_last_n: 1, ..repeat.clone() }, &l, &[0, 2]), Some(0), "0 left the window");
        assert_eq!(sample(&Sampling { repeat_last_n: -1, ..repeat.clone() }, &l, &[0, 2, 2, 2]), Some(1));
        assert_eq!(sample(&Sampling { repeat_last_n: 0, ..repeat.clone() }, &l, &[0]), Some(0), "no window");
        // Negative logits are multiplied: 2 falls below the others that are as negative.
        assert_eq!(sample(&repeat, &[-1.2, -1.0, -1.1], &[1]), Some(2));
        let frequency = Sampling { frequency_penalty: 0.06, ..greedy.clone() };
        assert_eq!(sample(&frequency, &l, &[0]), Some(0));
        assert_eq!(sample(&frequency, &l, &[0, 0]), Some(1));
        let presence = Sampling { presence_penalty: 0.06, ..greedy };
        assert_eq!(sample(&presence, &l, &[0, 0]), Some(0), "once, however often it came");
        assert_eq!(sample(&Sampling { presence_penalty: 0.2, ..presence }, &l, &[0]), Some(1));
    }

    #[test]
    fn penalties_leave_no_trace_in_the_scratch() {
        let mut scratch = Scratch::new(3);
        let s = Sampling { temperature: 0.0, presence_penalty: 5.0, ..plain() };
        assert_eq!(Sampler::new(s.clone()).sample(&[2.0, 1.0, 0.0], &[0, 0, 1], &mut scratch), Some(2));
        assert_eq!(Sampler::new(s.clone()).sample(&[2.0, 1.0, 0.0], &[], &mut scratch), Some(0));
    }

    #[test]
    fn bias_comes_first_and_can_ban() {
        let l = logits(&[0.5, 0.3, 0.2]);
        let s = Sampling { logit_bias: vec![(0, f32::NEG_INFINITY), (2, (1.5f32).ln()), (99, 1.0)], ..plain() };
        assert_close(&shares(&s, &l, &[]), &[0.0, 0.5, 0.5]);
    }

    #[test]
    fn a_seed_repeats_its_text() {
        let l = vec![0.0; 1000];
        let mut scratch = Scratch::new(l.len());
        let mut text = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..plain() });
            (0..20).map(|_| sampler.sample(&l, &[], &mut scratch).expect("finite")).collect::<Vec<_>>()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn log_probabilities_are_of_the_raw_logits() {
        let l = logits(&[0.1, 0.6, 0.3]);
        let mut scratch = Scratch::new(3);
        let p = log_probability(&l, 0, 2, &mut scratch);
        assert!((p - 0.1f32.ln()).abs() < 1e-6);
        let tokens: Vec<u32> = scratch.alternatives().iter().map(|c| c.token).collect();
        assert_eq!(tokens, [1, 2]);
        assert!((scratch.alternatives()[0].logprob - 0.6f32.ln()).abs() < 1e-6);
    }

    /// Not a benchmark: it fails only if a pass over the vocabulary has become a sort of it.
    #[test]
    fn sampling_a_large_vocabulary_is_fast() {
        let mut r = Random::new(1);
        let l: Vec<f32> = (0..262_144).map(|_| (r.unit() + r.unit() + r.unit()) as f32 * 10.0).collect();
        let mut scratch = Scratch::new(l.len());
        let penalized = Sampling { repeat_penalty: 1.1, ..Sampling::default() };
        let open = Sampling { top_k: 0, ..Sampling::default() };
        let greedy = Sampling { temperature: 0.0, ..plain() };
        for (name, s) in [
            ("default", Sampling::default()),
            ("penalized", penalized),
            ("top_k 0", open),
            ("plain", plain()),
            ("greedy", greedy),
        ] {
            let mut sampler = Sampler::new(s.clone());
            let best = (0..10).map(|_| {
                let start = Instant::now();
                sampler.sample(&l, &[1, 2, 3], &mut scratch);
                start.elapsed()
            });
            let best = best.min().expect("ten");
            println!("{name}: {best:?}");
            assert!(best.as_millis() < 20, "{name} takes {best:?}");
        }
    }
}
