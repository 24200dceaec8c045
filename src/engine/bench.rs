//! Benchmarks of a loaded model: ordinary requests of random tokens, so that what is measured is
//! what clients get.
//!
//! Names and meaning are llama-bench's: `pp512` is prefill of 512 tokens, `tg128` is generation of
//! 128 one after the other; `@d4096` with so many tokens before them, `x8` so many sequences at once.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::events::Events;
use super::handle::Handle;
use super::message::{EngineError, Event, Finish, FinishReason, Generate, Sampling};
use super::random::Random;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Tokens of a prefill; 0 = no prefill runs.
    pub n_prompt: u32,
    /// Tokens generated; 0 = no generation runs.
    pub n_gen: u32,
    /// Tokens in the cache before each run (to a block's end).
    pub depth: u32,
    /// Sequences at once.
    pub batch: u32,
    /// Runs, besides one that is not counted.
    pub repetitions: u32,
}

/// One test's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// `pp512`, `tg128@d4096x8`.
    pub test: String,
    /// Tokens a second over all sequences, of each repetition.
    pub rates: Vec<f64>,
}

/// Runs the benchmark. Other requests in the engine disturb it and are disturbed by it.
///
/// # Errors
/// [`EngineError`] of a request: the context or the queue is too small, the cache cannot grow.
pub async fn run(handle: &Handle, spec: Spec) -> Result<Vec<Run>, EngineError> {
    let mut bench = Bench { handle, spec, random: Random::new(seed()) };
    let mut runs = Vec::new();
    for (name, n) in [("pp", spec.n_prompt), ("tg", spec.n_gen)] {
        if n == 0 {
            continue;
        }
        let mut rates = Vec::new();
        for i in 0..=spec.repetitions {
            let rate = if name == "pp" { bench.prefill().await? } else { bench.decode().await? };
            if i > 0 {
                rates.push(rate);
            }
        }
        let depth = if spec.depth > 0 { format!("@d{}", spec.depth) } else { String::new() };
        let batch = if spec.batch > 1 { format!("x{}", spec.batch) } else { String::new() };
        runs.push(Run { test: format!("{name}{n}{depth}{batch}"), rates });
    }
    Ok(runs)
}

/// Another text each time: the cache must not know it from the last benchmark.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

struct Bench<'a> {
    handle: &'a Handle,
    spec: Spec,
    random: Random,
}

impl Bench<'_> {
    fn tokens(&mut self, n: u32) -> Vec<u32> {
        let n_vocab = self.handle.n_vocab() as u64;
        (0..n).map(|_| (self.random.bits() % n_vocab) as u32).collect()
    }

    /// What each sequence begins with; it is in the cache afterwards.
    async fn beginnings(&mut self) -> Result<Vec<Vec<u32>>, EngineError> {
        let beginnings: Vec<Vec<u32>> = (0..self.spec.batch).map(|_| self.tokens(self.spec.depth)).collect();
        if self.spec.depth > 0 {
            self.generate(&beginnings, 1).await?;
        }
        Ok(beginnings)
    }

    /// Runs a request for each prompt; returns their ends and the time of all together.
    async fn generate(&self, prompts: &[Vec<u32>], n: u32) -> Result<(Vec<Finish>, Duration), EngineError> {
        let begin = Instant::now();
        let submit = |prompt: &Vec<u32>| {
            self.handle.submit(Generate {
                id: "bench".to_owned(),
                prompt: prompt.clone(),
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                max_tokens: Some(n),
                stop: Vec::new(),
                logprobs: None,
                ignore_eos: true,
                cache_prompt: self.spec.depth > 0,
            })
        };
        let all: Vec<Events> = prompts.iter().map(submit).collect::<Result<_, _>>()?;
        let mut finishes = Vec::new();
        for events in all {
            finishes.push(end(events).await?);
        }
        Ok((finishes, begin.elapsed()))
    }

    /// Prompt tokens a second.
    async fn prefill(&mut self) -> Result<f64, EngineError> {
        let mut prompts = self.beginnings().await?;
        for prompt in &mut prompts {
            prompt.extend(self.tokens(self.spec.n_prompt));
        }
        let (finishes, time) = self.generate(&prompts, 1).await?;
        let n: u32 = finishes.iter().map(|f| f.prompt_tokens - f.cached_tokens).sum();
        Ok(f64::from(n) / time.as_secs_f64())
    }

    /// Tokens generated a second.
    async fn decode(&mut self) -> Result<f64, EngineError> {
        let mut prompts = self.beginnings().await?;
        for prompt in &mut prompts {
            prompt.extend(self.tokens(1));
        }
        // The first token comes from the prompt's step; those after it are counted.
        let (finishes, _) = self.generate(&prompts, self.spec.n_gen + 1).await?;
        let n: u32 = finishes.iter().map(|f| f.completion_tokens - 1).sum();
        let time = finishes.iter().map(|f| f.decode).max().unwrap_or_default();
        Ok(f64::from(n) / time.as_secs_f64())
    }
}

async fn end(mut events: Events) -> Result<Finish, EngineError> {
    loop {
        match events.recv().await {
            Some(Event::Finished(f)) if f.reason == FinishReason::Cancelled => return Err(EngineError::Stopping),
            Some(Event::Finished(f)) => return Ok(f),
            Some(Event::Failed(e)) => return Err(e),
            Some(_) => {}
            None => return Err(EngineError::Stopping),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::fake::{Setup, group};
    use super::*;

    #[tokio::test]
    async fn it_computes_what_its_name_says() {
        let (handle, control) = Setup::plain().start();
        let spec = Spec { n_prompt: 100, n_gen: 10, depth: 0, batch: 1, repetitions: 2 };
        let runs = run(&handle, spec).await.expect("runs");
        let tests: Vec<_> = runs.iter().map(|r| (r.test.as_str(), r.rates.len())).collect();
        assert_eq!(tests, [("pp100", 2), ("tg10", 2)]);
        assert!(runs.iter().flat_map(|r| &r.rates).all(|&r| r > 0.0 && r.is_finite()));
        let steps: Vec<usize> = control.steps.lock().expect("not poisoned").iter().flatten().copied().collect();
        assert_eq!(steps, [&[100; 3][..], &[1; 33]].concat());
    }

    #[tokio::test]
    async fn depth_is_computed_before() {
        let (handle, control) = Setup::new(vec![group(None)], 1000, 4).start();
        let spec = Spec { n_prompt: 50, n_gen: 0, depth: 64, batch: 2, repetitions: 1 };
        let runs = run(&handle, spec).await.expect("runs");
        assert_eq!(runs[0].test, "pp50@d64x2");
        let n: usize = control.steps.lock().expect("not poisoned").iter().flatten().sum();
        assert_eq!(n, 2 * 2 * (64 + 50));
    }

    #[tokio::test]
    async fn what_cannot_run_says_why() {
        let (handle, _) = Setup::plain().start();
        let spec = Spec { n_prompt: 5000, n_gen: 0, depth: 0, batch: 1, repetitions: 1 };
        assert!(matches!(run(&handle, spec).await, Err(EngineError::ContextLength { prompt: 5000, .. })));
    }
}
