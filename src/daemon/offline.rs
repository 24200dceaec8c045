//! `rocmforged eval` and `rocmforged tokenize`: work without a server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{config, log, say};
use crate::backend::cpu::CpuPool;
use crate::offline::device::{Device, Gpu};
use crate::offline::eval::{self, Input};
use crate::offline::tokenize;
use crate::registry::load::kv_type;
use crate::simd::Tier;
use crate::worker;

/// What `rocmforged` does instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Offline {
    /// Perplexity of a text, or the logits of a sequence of tokens
    Eval(Eval),
    /// Token ids of strings
    Tokenize(Tokenize),
    /// Drive one GPU for the daemon that started this process
    #[command(hide = true)]
    GpuWorker(GpuWorker),
}

/// `rocmforged gpu-worker`
#[derive(Clone, Debug, Args)]
pub struct GpuWorker {
    /// Number of the device, among those that the runtime shows
    #[arg(long, value_name = "N")]
    index: u32,
    /// PCI address of a device to leave alone (repeatable)
    #[arg(long, value_name = "PCI")]
    skip: Vec<String>,
    /// Results of earlier self-tests
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Test the kernels whatever was found earlier
    #[arg(long)]
    test: bool,
    /// Kernel that is neither tested nor used (repeatable)
    #[arg(long, value_name = "KERNEL")]
    without: Vec<String>,
    /// Log level
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
    /// Log format
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    log_format: String,
}

/// `rocmforged eval`
#[derive(Clone, Debug, Args)]
pub struct Eval {
    /// The model's file
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,
    /// Text to evaluate
    #[arg(long, value_name = "FILE", required_unless_present = "tokens", conflicts_with = "tokens")]
    text: Option<PathBuf>,
    /// Token ids between white space, fed as they are
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Write logits instead of computing perplexity: little-endian f32, a row for each token
    #[arg(long, value_name = "OUT.f32")]
    logits: Option<PathBuf>,
    /// Tokens of a window [default: 512]; with --logits the most that are taken
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Type of the KV cache: f16, f32 or q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    kv_type: String,
    /// Most tokens of a prefill step
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Run so many copies together, as one decode batch
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Device to run on: auto, gpu or cpu
    #[arg(long, default_value = "auto")]
    device: String,
    /// Worker threads; 0 = physical cores
    #[arg(long, value_name = "N", env = "ROCMFORGE_CPU_THREADS", default_value_t = 0)]
    threads: usize,
    /// Vector instructions: auto, scalar, avx2, avx512 or amx
    #[arg(long, value_name = "TIER", env = "ROCMFORGE_CPU_SIMD", default_value = "auto")]
    simd: String,
}

/// `rocmforged tokenize`
#[derive(Clone, Debug, Args)]
pub struct Tokenize {
    /// The model's file; one that holds only a vocabulary will do
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,
    /// A JSON list of strings
    #[arg(long = "in", value_name = "IN.json")]
    input: PathBuf,
    /// Where the JSON list of lists of ids goes
    #[arg(long = "out", value_name = "OUT.json")]
    output: PathBuf,
    /// Add BOS and EOS as the file says, and recognise special tokens in the text
    #[arg(long, conflicts_with = "raw")]
    special: bool,
    /// Do neither (the default)
    #[arg(long)]
    raw: bool,
}

impl Offline {
    /// Does it; the result goes to stdout, an error to stderr.
    pub fn run(self) -> ExitCode {
        let done = match self {
            Offline::Eval(options) => options.run(),
            Offline::Tokenize(options) => options.run(),
            Offline::GpuWorker(options) => return options.run(),
        };
        match done {
            Ok(line) => {
                // A reader that has gone wants no more.
                let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes());
                ExitCode::SUCCESS
            }
            Err(e) => {
                say(&format!("rocmforged: {e:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl GpuWorker {
    /// Its error goes to the log, beside the daemon's.
    fn run(self) -> ExitCode {
        let log = config::Log { level: self.log, format: self.log_format };
        log::start(&log, std::env::var_os("JOURNAL_STREAM").is_some());
        let Self { index, skip, record, test, without, .. } = self;
        match worker::run(&worker::Options { index, skip, record, test, without }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                tracing::error!("gpu-worker: {e}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Eval {
    fn run(self) -> anyhow::Result<String> {
        let tier = Tier::parse(&self.simd).context("--simd")?;
        let kv_type = kv_type(&self.kv_type).map_err(anyhow::Error::msg).context("--kv-type")?;
        let cpu = || Device::Cpu(CpuPool::new(self.threads, tier));
        let device = match self.device.as_str() {
            "cpu" => cpu(),
            "auto" => Gpu::open().map_or_else(|_| cpu(), Device::Gpu),
            "gpu" => Device::Gpu(Gpu::open().map_err(anyhow::Error::msg).context("--device gpu")?),
            other => anyhow::bail!("--device {other}: use auto, gpu or cpu"),
        };
        let input = match (self.text, self.tokens) {
            (Some(text), _) => Input::Text(text),
            (None, Some(tokens)) => Input::Tokens(tokens),
            (None, None) => anyhow::bail!("--text or --tokens is needed"),
        };
        let options = eval::Options {
            model: self.model,
            input,
            logits: self.logits,
            context: self.ctx,
            kv_type,
            chunk: self.chunk,
            copies: self.batch,
        };
        // These errors say their cause themselves.
        let report = eval::run(&options, &device).map_err(anyhow::Error::msg)?;
        Ok(report.to_string())
    }
}

impl Tokenize {
    fn run(self) -> anyhow::Result<String> {
        let options =
            tokenize::Options { model: self.model, input: self.input, output: self.output, special: self.special };
        let n = tokenize::run(&options).map_err(anyhow::Error::msg)?;
        Ok(format!("{n} strings tokenized"))
    }
}
