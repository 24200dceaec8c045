//! What an engine counts about itself: atomics that it writes and anyone may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache::Usage;

/// Upper bounds of the buckets of waiting times and of the time to the first token, seconds.
pub const WAIT_BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Upper bounds of the buckets of the time between two tokens, seconds.
pub const GAP_BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0];
/// Share of the last request in a running mean.
const MEAN_SHARE: f64 = 0.2;

/// A counter, or a level that one thread sets.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add_time(&self, t: Duration) {
        self.add(t.as_nanos() as u64);
    }

    fn seconds(&self) -> f64 {
        self.get() as f64 * 1e-9
    }
}

/// A mean in which older values fade; written by one thread.
#[derive(Debug, Default)]
pub struct Mean(AtomicU64);

impl Mean {
    /// Adds a value.
    pub fn add(&self, x: f64) {
        let old = self.get();
        let new = if old == 0.0 { x } else { old + MEAN_SHARE * (x - old) };
        self.0.store(new.to_bits(), Ordering::Relaxed);
    }

    fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// The mean; 0 before the first value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Times in buckets, as Prometheus counts them.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64; 14],
    /// The last is of what exceeds all bounds.
    counts: [AtomicU64; 15],
    sum: Number,
}

impl Histogram {
    fn new(bounds: &'static [f64; 14]) -> Self {
        Self { bounds, counts: Default::default(), sum: Number::default() }
    }

    /// Adds a time.
    pub fn add(&self, t: Duration) {
        let s = t.as_secs_f64();
        let bucket = self.bounds.iter().position(|&b| s <= b).unwrap_or(self.bounds.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.add_time(t);
    }

    fn forget(&self) {
        self.counts.iter().for_each(|c| c.store(0, Ordering::Relaxed));
        self.sum.set(0);
    }

    /// Its numbers now.
    pub fn read(&self) -> Buckets {
        let counts = self.counts.each_ref().map(|c| c.load(Ordering::Relaxed));
        Buckets { bounds: self.bounds, counts, sum_s: self.sum.seconds() }
    }
}

/// Numbers of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Upper bounds in seconds.
    pub bounds: &'static [f64; 14],
    /// Values in each bucket (not cumulated); the last is of what exceeds all bounds.
    pub counts: [u64; 15],
    /// Sum of all values in seconds.
    pub sum_s: f64,
}

impl Buckets {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The counters of an engine.
#[derive(Debug)]
pub struct Stats {
    /// Requests that ended with `stop` or `length`.
    pub requests: Number,
    /// Requests that failed.
    pub failed: Number,
    /// Requests that were cancelled, or whose client had gone or was too slow.
    pub cancelled: Number,
    /// Sequences that gave their blocks up to others and were computed again.
    pub preempted: Number,
    /// Prompt tokens computed (again, after a preemption).
    pub prefill_tokens: Number,
    /// Prompt tokens taken from the cache.
    pub cached_tokens: Number,
    /// Tokens generated.
    pub decode_tokens: Number,
    /// Steps.
    pub steps: Number,
    prefill: Number,
    decode: Number,
    /// Requests being worked on.
    pub running: Number,
    /// Speed of prefill in tokens/s, over the last requests.
    pub prefill_rate: Mean,
    /// Speed of one sequence's decoding in tokens/s, over the last requests.
    pub decode_rate: Mean,
    /// Seconds of work on a request, over the last ones.
    pub service_s: Mean,
    kv_used: Number,
    kv_kept: Number,
    kv_total: Number,
    kv_bytes: Number,
    /// From submission to the first step.
    pub queued: Histogram,
    /// From submission to the first token.
    pub first_token: Histogram,
    /// Between tokens of a sequence.
    pub gap: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            requests: Number::default(),
            failed: Number::default(),
            cancelled: Number::default(),
            preempted: Number::default(),
            prefill_tokens: Number::default(),
            cached_tokens: Number::default(),
            decode_tokens: Number::default(),
            steps: Number::default(),
            prefill: Number::default(),
            decode: Number::default(),
            running: Number::default(),
            prefill_rate: Mean::default(),
            decode_rate: Mean::default(),
            service_s: Mean::default(),
            kv_used: Number::default(),
            kv_kept: Number::default(),
            kv_total: Number::default(),
            kv_bytes: Number::default(),
            queued: Histogram::new(&WAIT_BOUNDS),
            first_token: Histogram::new(&WAIT_BOUNDS),
            gap: Histogram::new(&GAP_BOUNDS),
        }
    }
}

impl Stats {
    /// A step took `time`; it had so many tokens of prompts and so many generated before. A mixed
    /// step's time is shared out by tokens.
    pub(super) fn step(&self, time: Duration, prefill_tokens: u32, decode_tokens: u32) {
        self.steps.add(1);
        self.prefill_tokens.add(u64::from(prefill_tokens));
        let prefill = time.mul_f64(f64::from(prefill_tokens) / f64::from((prefill_tokens + decode_tokens).max(1)));
        self.prefill.add_time(prefill);
        self.decode.add_time(time.saturating_sub(prefill));
    }

    /// Starts counting anew; levels (what runs, what is in the cache) stay.
    pub(super) fn forget(&self) {
        let counters = [
            &self.requests,
            &self.failed,
            &self.cancelled,
            &self.preempted,
            &self.prefill_tokens,
            &self.cached_tokens,
            &self.decode_tokens,
            &self.steps,
            &self.prefill,
            &self.decode,
        ];
        counters.into_iter().for_each(|c| c.set(0));
        [&self.prefill_rate, &self.decode_rate, &self.service_s].into_iter().for_each(Mean::forget);
        [&self.queued, &self.first_token, &self.gap].into_iter().for_each(Histogram::forget);
    }

    pub(super) fn cache(&self, usage: Usage) {
        self.kv_used.set(usage.used);
        self.kv_kept.set(usage.kept);
        self.kv_total.set(usage.total);
        self.kv_bytes.set(usage.bytes);
    }

    /// All numbers now. They are read one after the other, so that they may differ by a step.
    pub(super) fn read(&self, waiting: usize) -> Snapshot {
        Snapshot {
            running: self.running.get() as u32,
            waiting: waiting as u32,
            requests: self.requests.get(),
            failed: self.failed.get(),
            cancelled: self.cancelled.get(),
            preempted: self.preempted.get(),
            prefill_tokens: self.prefill_tokens.get(),
            cached_tokens: self.cached_tokens.get(),
            decode_tokens: self.decode_tokens.get(),
            steps: self.steps.get(),
            prefill_s: self.prefill.seconds(),
            decode_s: self.decode.seconds(),
            prefill_rate: self.prefill_rate.get(),
            decode_rate: self.decode_rate.get(),
            kv_blocks_used: self.kv_used.get(),
            kv_blocks_kept: self.kv_kept.get(),
            kv_blocks_total: self.kv_total.get(),
            kv_bytes: self.kv_bytes.get(),
            queued: self.queued.read(),
            first_token: self.first_token.read(),
            gap: self.gap.read(),
        }
    }
}

/// An engine's numbers at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Requests being worked on.
    pub running: u32,
    /// Requests waiting.
    pub waiting: u32,
    /// Requests that ended with `stop` or `length`.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests cancelled.
    pub cancelled: u64,
    /// Sequences that gave their blocks up to others and were computed again.
    pub preempted: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens taken from the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub decode_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Seconds spent on prompts.
    pub prefill_s: f64,
    /// Seconds spent on generating.
    pub decode_s: f64,
    /// Speed of prefill over the last requests, tokens/s.
    pub prefill_rate: f64,
    /// Speed of one sequence's decoding over the last requests, tokens/s.
    pub decode_rate: f64,
    /// Blocks in use by sequences.
    pub kv_blocks_used: u64,
    /// Blocks kept for later sequences.
    pub kv_blocks_kept: u64,
    /// Blocks in all.
    pub kv_blocks_total: u64,
    /// Bytes of the cache.
    pub kv_bytes: u64,
    /// From submission to the first step.
    pub queued: Buckets,
    /// From submission to the first token.
    pub first_token: Buckets,
    /// Between tokens of a sequence.
    pub gap: Buckets,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_their_buckets() {
        let h = Histogram::new(&WAIT_BOUNDS);
        for ms in [5, 6, 400_000] {
            h.add(Duration::from_millis(ms));
        }
        let b = h.read();
        assert_eq!((b.counts[0], b.counts[1], b.counts[14], b.count()), (1, 1, 1, 3));
        assert!((b.sum_s - 400.011).abs() < 1e-9);
    }

    #[test]
    fn a_mixed_step_is_shared_out() {
        let s = Stats::default();
        s.step(Duration::from_secs(4), 3, 1);
        let read = s.read(2);
        assert_eq!((read.prefill_s, read.decode_s, read.prefill_tokens, read.waiting), (3.0, 1.0, 3, 2));
    }
}
