//! `rocmforged eval`: perplexity of a text, or the logits of a sequence of tokens.
//!
//! Perplexity is counted as `llama-perplexity` does, so that figures compare: the text is
//! tokenized once and cut into windows; tokens after a window's middle are scored.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::device::Device;
use super::drive::{Driver, Part};
use crate::backend::BackendError;
use crate::base::limits::{EVAL_COPIES_MAX, EVAL_LOGITS_BYTES, STEP_TOKENS};
use crate::gguf::{Gguf, GgufError};
use crate::model::{Model, ModelError, PlanOptions};
use crate::plan::cache::{HeadSizeError, KvType};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Tokens of a perplexity window, unless said otherwise.
const WINDOW: usize = 512;

/// What to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file of UTF-8 text.
    Text(PathBuf),
    /// A file of token ids between white space, fed as they are.
    Tokens(PathBuf),
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's file.
    pub model: PathBuf,
    /// What to evaluate.
    pub input: Input,
    /// Write logits (little-endian f32, a row of the vocabulary for each token) here instead of
    /// computing perplexity.
    pub logits: Option<PathBuf>,
    /// Tokens of a window (perplexity), or the most that are taken (logits).
    pub context: Option<usize>,
    /// Element type of the caches.
    pub kv_type: KvType,
    /// Most tokens of a step.
    pub chunk: Option<usize>,
    /// Run so many copies together, token by token unless `chunk` says otherwise.
    pub copies: Option<usize>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The device it ran on.
    pub device: String,
    /// Tokens of the input.
    pub n_tokens: usize,
    /// With copies: the largest difference between a logit of one and of another.
    pub difference: Option<f32>,
    /// Perplexity, unless logits were asked for.
    pub perplexity: Option<Perplexity>,
}

/// Perplexity with its error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`.
    pub error: f64,
    /// Tokens that were scored.
    pub n_scored: usize,
    /// Tokens of a window.
    pub context: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.perplexity {
            Some(p) => write!(f, "perplexity {:.4} +/- {:.4}", p.value, p.error)
                .and_then(|()| write!(f, " ({} of {} tokens, windows of {}", p.n_scored, self.n_tokens, p.context))?,
            None => write!(f, "logits of {} tokens (", self.n_tokens)?,
        }
        if self.perplexity.is_some() {
            f.write_str(", ")?;
        }
        write!(f, "{})", self.device)?;
        match self.difference {
            Some(d) => write!(f, "; copies differ by at most {d}"),
            None => Ok(()),
        }
    }
}

/// Why nothing came out.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The file is no sound GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is no model that can be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its heads do not go into caches of the type asked for.
    #[error(transparent)]
    HeadSize(#[from] HeadSizeError),
    /// Its vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A step failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The input or an option makes no sense.
    #[error("{0}")]
    Input(String),
}

/// Evaluates on `device`.
///
/// # Errors
/// [`EvalError`]; a file of logits may have been begun.
pub fn run(options: &Options, device: &Device) -> Result<Report, EvalError> {
    let copies = options.copies.unwrap_or(1);
    if !(1..=EVAL_COPIES_MAX).contains(&copies) {
        return Err(EvalError::Input(format!("{copies} copies: from 1 to {EVAL_COPIES_MAX} can run together")));
    }
    if options.chunk == Some(0) {
        return Err(EvalError::Input("a chunk of 0 tokens".to_owned()));
    }
    let gguf = Gguf::open(&options.model)?;
    let model = Model::from_gguf(&gguf)?;
    let (tokens, bos) = tokens(options, &gguf)?;
    if let Some(id) = tokens.iter().find(|t| **t as usize >= model.hparams.n_vocab) {
        return Err(EvalError::Input(format!("token {id} of a vocabulary of {}", model.hparams.n_vocab)));
    }
    let longest = if options.logits.is_some() { tokens.len() } else { options.context.unwrap_or(WINDOW) };
    let mut run = Run::new(options, &model, device, copies, longest)?;
    let mut report = Report { device: run.driver.device(), n_tokens: tokens.len(), difference: None, perplexity: None };
    match &options.logits {
        Some(path) => logits(&mut run, &tokens, options.context, path)?,
        None => report.perplexity = Some(perplexity(&mut run, tokens, bos, options.context.unwrap_or(WINDOW))?),
    }
    report.difference = options.copies.map(|_| run.difference);
    Ok(report)
}

/// The input's tokens, and BOS if windows start with it.
fn tokens(options: &Options, gguf: &Gguf) -> Result<(Vec<u32>, Option<u32>), EvalError> {
    match &options.input {
        Input::Text(path) => {
            let text = read(path)?;
            let tokenizer = Tokenizer::from_meta(&gguf.meta)?;
            let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
            Ok((tokenizer.encode(&text, true, false), bos))
        }
        Input::Tokens(path) => {
            let id = |word: &str| {
                word.parse().map_err(|_| EvalError::Input(format!("{}: `{word}` is no token id", path.display())))
            };
            Ok((read(path)?.split_whitespace().map(id).collect::<Result<_, _>>()?, None))
        }
    }
}

fn read(path: &Path) -> Result<String, EvalError> {
    std::fs::read_to_string(path).map_err(|source| EvalError::Io { path: path.to_owned(), source })
}

/// Writes the logits of every token.
fn logits(run: &mut Run, tokens: &[u32], context: Option<usize>, path: &Path) -> Result<(), EvalError> {
    if let Some(context) = context.filter(|c| *c < tokens.len()) {
        return Err(EvalError::Input(format!("{} tokens do not fit in a context of {context}", tokens.len())));
    }
    let io = |source| EvalError::Io { path: path.to_owned(), source };
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    run.feed(tokens, 0, |_, logits| logits.iter().try_for_each(|x| out.write_all(&x.to_le_bytes())).map_err(io))?;
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)
}

fn perplexity(run: &mut Run, mut tokens: Vec<u32>, bos: Option<u32>, context: usize) -> Result<Perplexity, EvalError> {
    if context < 4 {
        return Err(EvalError::Input(format!("windows of {context} tokens are too short to score any")));
    }
    if tokens.len() < context {
        return Err(EvalError::Input(format!("{} tokens are less than one window of {context}", tokens.len())));
    }
    let (mut n, mut sum, mut squares) = (0usize, 0f64, 0f64);
    for window in tokens.chunks_exact_mut(context) {
        if let Some(bos) = bos {
            window[0] = bos;
        }
        let window = &window[..context];
        // The last token predicts nothing that is known.
        run.feed(&window[..context - 1], context / 2, |i, logits| {
            let loss = loss(logits, window[i + 1]);
            n += 1;
            sum += loss;
            squares += loss * loss;
            Ok(())
        })?;
    }
    let mean = sum / n as f64;
    let value = mean.exp();
    let variance = (squares / n as f64 - mean * mean).max(0.0);
    let error = (variance / (n.max(2) - 1) as f64).sqrt() * value;
    Ok(Perplexity { value, error, n_scored: n, context })
}

/// Negative log-likelihood of `target`.
fn loss(logits: &[f32], target: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from((x - most).exp())).sum();
    sum.ln() + f64::from(most) - f64::from(logits[target as usize])
}

/// Copies of one sequence on a backend.
struct Run {
    driver: Driver,
    sequences: Vec<usize>,
    n_vocab: usize,
    /// Most tokens of a step for each copy, and most of them with logits.
    chunk: usize,
    max_outputs: usize,
    difference: f32,
}

impl Run {
    /// For `copies` of a sequence of up to `longest` tokens.
    fn new(
        options: &Options,
        model: &Model,
        device: &Device,
        copies: usize,
        longest: usize,
    ) -> Result<Self, EvalError> {
        model.takes_caches(options.kv_type)?;
        let plan = Arc::new(model.plan(&PlanOptions { kv_type: options.kv_type }));
        let n_vocab = plan.n_vocab;
        let rows = EVAL_LOGITS_BYTES / size_of::<f32>() / n_vocab / copies;
        let chunk = options.chunk.unwrap_or(if options.copies.is_some() { 1 } else { STEP_TOKENS });
        let chunk = chunk.min(1 << 16);
        let max_outputs = options.chunk.map_or(chunk.min(rows.max(1)), |_| chunk);
        let backend = device.start(&plan, chunk * copies, max_outputs * copies, copies, longest)?;
        let mut driver = Driver::new(backend, plan.caches.clone());
        let sequences = (0..copies).map(|_| driver.add()).collect();
        Ok(Self { driver, sequences, n_vocab, chunk, max_outputs, difference: 0.0 })
    }

    /// Feeds a sequence from its start; `take` gets the index and logits of each token from
    /// `first` on.
    fn feed(
        &mut self,
        tokens: &[u32],
        first: usize,
        mut take: impl FnMut(usize, &[f32]) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        for s in &self.sequences {
            self.driver.clear(*s);
        }
        let mut at = 0;
        while at < tokens.len() {
            let mut end = tokens.len().min(at + self.chunk);
            if end > first {
                // At most so many rows of logits at once.
                end = end.min(at.max(first) + self.max_outputs);
            }
            let outputs = first.clamp(at, end) - at..end - at;
            let part = |&sequence| Part { sequence, tokens: &tokens[at..end], outputs: outputs.clone() };
            let parts: Vec<Part> = self.sequences.iter().map(part).collect();
            let logits = self.driver.step(&parts)?.rows;
            let size = outputs.len() * self.n_vocab;
            if size > 0 {
                let (own, others) = logits.split_at(size);
                for (a, b) in others.chunks_exact(size).flat_map(|copy| own.iter().zip(copy)) {
                    let d = (a - b).abs();
                    // A NaN stays: it is the worst of differences.
                    self.difference = if d > self.difference || d.is_nan() { d } else { self.difference };
                }
                for (i, row) in own.chunks_exact(self.n_vocab).enumerate() {
                    take(at + outputs.start + i, row)?;
                }
            }
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_the_negative_log_of_the_softmax() {
        assert!((loss(&[0.0, 0.0, 0.0, 0.0], 2) - 4f64.ln()).abs() < 1e-9);
        let shifted = loss(&[1000.0, 1001.0], 1);
        assert!((shifted - (1.0 + (-1f64).exp()).ln()).abs() < 1e-6, "{shifted}");
    }

    #[test]
    fn a_report_reads_as_a_line() {
        let mut report = Report { device: "cpu avx2".to_owned(), n_tokens: 30, difference: None, perplexity: None };
        assert_eq!(report.to_string(), "logits of 30 tokens (cpu avx2)");
        report.perplexity = Some(Perplexity { value: 12.34567, error: 0.5, n_scored: 14, context: 16 });
        report.difference = Some(0.25);
        let line =
            "perplexity 12.3457 +/- 0.5000 (14 of 30 tokens, windows of 16, cpu avx2); copies differ by at most 0.25";
        assert_eq!(report.to_string(), line);
    }
}
