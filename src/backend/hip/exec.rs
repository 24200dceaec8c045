//! A step from its batch to its logits.

use std::time::{Duration, Instant};

use super::HipBackend;
use super::buffers::splits;
use super::graphs::{Key, bucket, bucket_keys};
use super::program::{Numbers, Target};
use super::sys::HipError;
use crate::backend::BackendError;
use crate::backend::batch::{self, Limits};
use crate::backend::cpu::all_finite;
use crate::plan::batch::Batch;

/// A step that ends within this time is waited for without sleeping: a sleep takes at least as long.
const SPIN: Duration = Duration::from_micros(200);
/// Naps between two questions are this part of the time that the step has taken: nobody waits
/// longer for its end than that.
const NAP_PART: u32 = 64;
/// Longest nap.
const NAP_MAX: Duration = Duration::from_millis(1);
/// A step like the last one is expected to take as long, give or take this part of it but no more
/// than [`EXPECT_MAX`]: then it is waited for without naps, which end late by 50 to 100 us.
const EXPECT_PART: u32 = 8;
/// See [`EXPECT_PART`].
const EXPECT_MAX: Duration = Duration::from_micros(300);

/// The step in flight.
#[derive(Debug, Default)]
pub struct Flight {
    since: Option<Instant>,
    outputs: usize,
    /// The recording that the step takes.
    key: Option<Key>,
    /// The recording that the last step took, and how long that was.
    last: Option<(Key, Duration)>,
}

impl Flight {
    /// Outputs of the last step.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How long to sleep before the next question, if the step has taken so long.
    fn nap(&self, taken: Duration) -> Option<Duration> {
        if taken < SPIN {
            return None;
        }
        let alike = self.last.filter(|(key, _)| Some(*key) == self.key);
        let nap = match alike.map(|(_, took)| (took, (took / EXPECT_PART).min(EXPECT_MAX))) {
            Some((took, about)) if taken < took - about => took - about - taken,
            Some((took, about)) if taken < took + about => return None,
            _ => taken / NAP_PART,
        };
        Some(nap.min(NAP_MAX))
    }

    /// The step has ended.
    fn end(&mut self, taken: Duration) {
        self.since = None;
        self.last = self.key.take().map(|key| (key, taken));
    }
}

impl HipBackend {
    /// Starts a step.
    pub(super) fn start(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        if self.flight.since.is_some() {
            return Err(BackendError::Batch("a step is in flight".to_owned()));
        }
        if self.arrays.is_lent() || self.given.is_lent() || self.logits.is_lent() {
            return Err(BackendError::Lost(format!("{}: an earlier step did not end", self.device.label())));
        }
        let limits = Limits { max_tokens: self.options.max_tokens, max_outputs: self.options.max_outputs };
        batch::check(batch, input, &self.plan, limits, |group, block| self.caches[group].has(block))?;
        self.device.select()?;
        let caches = &self.caches;
        let filled = self.inputs.fill(self.arrays.bytes_mut(), batch, |group, block| caches[group].address(block))?;
        let since = Instant::now();
        self.flight.outputs = batch.outputs.len();
        self.flight.key = None;
        if !batch.tokens.is_empty() {
            // The numbers from which parts are made are those of the bucket: a recording fits all.
            let keys = bucket_keys(bucket(filled.keys));
            for (parts, group) in self.splits.iter_mut().zip(&self.plan.caches) {
                let keys = group.window.map_or(keys, |window| keys.min(window));
                *parts = splits(keys, filled.decodes, group.n_head_kv as u32, self.device.properties.compute_units);
            }
            let (tokens, outputs) = (batch.tokens.len() as u32, batch.outputs.len() as u32);
            let key = self.graphs.key(tokens, outputs, filled.decodes, filled.keys);
            let numbers =
                Numbers { tokens, outputs, decodes: filled.decodes, tiles: filled.tiles, splits: &self.splits };
            let failed = |e: HipError| self.device.error(e, 0, "a step");
            self.stream.upload(self.buffers.arrays(), &mut self.arrays, filled.bytes).map_err(failed)?;
            if let Some(rows) = self.plan.input.and_then(|id| self.buffers.region(Target::Buffer(id))) {
                self.given.floats_mut(input.len()).copy_from_slice(input);
                self.stream.upload(rows, &mut self.given, 4 * input.len()).map_err(failed)?;
            }
            let mut recorded = false;
            if let Some(key) = key {
                if self.graphs.get(key).is_none() {
                    let bound = &mut self.bound;
                    match self.stream.capture(|stream| bound.run(stream, &numbers)) {
                        Ok(graph) => self.graphs.put(key, graph),
                        Err(error) if !error.is_of_recording() => return Err(failed(error)),
                        Err(error) => {
                            tracing::info!(%error, "steps are launched kernel by kernel: the runtime records none");
                            self.graphs.turn_off();
                        }
                    }
                }
                if let Some(graph) = self.graphs.get(key) {
                    self.stream.replay(graph).map_err(failed)?;
                    self.flight.key = Some(key);
                    recorded = true;
                }
            }
            if !recorded {
                self.bound.run(&self.stream, &numbers).map_err(failed)?;
            }
            let bytes = 4 * batch.outputs.len() * self.plan.n_vocab;
            if let Some(logits) = self.buffers.region(Target::Buffer(self.plan.output)).filter(|_| bytes > 0) {
                self.stream.download(&mut self.logits, logits, bytes).map_err(failed)?;
            }
            self.stream.record(&mut self.event).map_err(failed)?;
        }
        self.flight.since = Some(since);
        Ok(())
    }

    /// Waits up to `wait` for the step in flight; whether there was one and it is done.
    pub(super) fn wait(&mut self, wait: Duration) -> Result<bool, BackendError> {
        let Some(since) = self.flight.since else { return Ok(false) };
        if self.arrays.is_lent() {
            self.device.select()?;
            let deadline = Instant::now() + wait;
            let done = loop {
                match self.event.query() {
                    Ok(Some(done)) => break done,
                    Ok(None) => {}
                    Err(e) => return Err(self.device.error(e, 0, "a step")),
                }
                let now = Instant::now();
                if now >= deadline {
                    return Ok(false);
                }
                match self.flight.nap(now - since) {
                    Some(nap) => std::thread::sleep(nap.min(deadline - now)),
                    None => std::thread::yield_now(),
                }
            };
            self.arrays.take_back(done);
            self.given.take_back(done);
            self.logits.take_back(done);
        }
        self.flight.end(since.elapsed());
        let rows = self.logits.floats(self.flight.outputs * self.plan.n_vocab);
        match rows.chunks_exact(self.plan.n_vocab).position(|row| !all_finite(self.tier, row)) {
            Some(output) => Err(BackendError::NotFinite { output }),
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::graphs::Graphs;
    use super::*;

    #[test]
    fn naps_end_before_a_step_is_expected_to() {
        let graphs = Graphs::default();
        let us = Duration::from_micros;
        let mut flight = Flight { key: graphs.key(1, 1, 1, 10), ..Flight::default() };
        // Nothing is known: a 64th of the time taken, and no nap at first.
        assert_eq!([100, 199, 200, 6400].map(|t| flight.nap(us(t))), [None, None, Some(us(200) / 64), Some(us(100))]);
        assert_eq!(flight.nap(Duration::from_secs(5)), Some(NAP_MAX));
        // The last one like it took 1.6 ms: within an eighth there are no naps.
        flight.end(us(1600));
        flight.key = graphs.key(1, 1, 1, 10);
        assert_eq!([199, 600, 1300].map(|t| flight.nap(us(t))), [None, Some(us(800)), Some(us(100))]);
        assert_eq!([1400, 1799].map(|t| flight.nap(us(t))), [None, None]);
        assert_eq!(flight.nap(us(1800)), Some(us(1800) / 64));
        // Nobody spins for long, and nobody sleeps for long.
        flight.last = flight.key.map(|key| (key, us(64_000)));
        assert_eq!([1000, 63_700, 64_299].map(|t| flight.nap(us(t))), [Some(NAP_MAX), None, None]);
        // Another kind of step took something else.
        flight.key = graphs.key(2, 2, 2, 10);
        assert_eq!(flight.nap(us(63_900)), Some(us(63_900) / 64));
        flight.key = None;
        flight.end(us(10));
        assert_eq!(flight.last, None);
    }
}
