//! Loading a model: map and check, plan, bring the weights to their device, start the engine, try
//! a step.
//!
//! On the CPU weights are used where they lie in the file: reading ahead only brings their pages
//! into memory with progress to show, and a file that is in the page cache already takes
//! milliseconds. Onto a GPU its worker copies them.

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::Notify;

use super::facts;
use super::gpu::{Gpu, Steps};
use super::loaded::{Loaded, Pieces};
use super::loader::{Facts, Grant, Job, LoadError, Loader, Prepared, Reporter, Source};
use crate::backend::cpu::{CpuBackend, CpuPool};
use crate::backend::remote::process::Process;
use crate::backend::{Backend, BackendError};
use crate::base::limits::{
    CACHE_MIN_TOKENS, CONTEXT_MAX, ENGINE_QUEUE, MAX_BATCH, STEP_TOKENS, STEP_TOKENS_SHARED, WARMUP_MAX,
};
use crate::chat::template::{Source as TemplateSource, Template};
use crate::engine::events::Events;
use crate::engine::handle::Handle;
use crate::engine::message::{Event, Generate, Sampling};
use crate::engine::{self, cache};
use crate::gguf::map::MapError;
use crate::gguf::meta::Value;
use crate::gguf::{Gguf, GgufError};
use crate::model::{Model, PlanOptions};
use crate::plan::Plan;
use crate::plan::cache::KvType;
use crate::policy::admission::Need;
use crate::proto::admin::Phase;
use crate::tokenizer::Tokenizer;

/// What engines are made with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// `engine.max_batch`: sequences worked on at a time.
    pub max_batch: usize,
    /// `engine.queue`: requests that may wait for an engine.
    pub queue: usize,
    /// `engine.context`: largest context of a request; `None` is what the model was trained for.
    pub context: Option<u32>,
    /// `engine.cache_min`: tokens of cache reserved at load.
    pub cache_min: u32,
    /// `engine.kv_type`: `f16`, `f32`.
    pub kv_type: String,
    /// Tokens of a step.
    pub step_tokens: usize,
    /// Tokens of prompts in a step that also decodes.
    pub step_tokens_shared: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            max_batch: MAX_BATCH,
            queue: ENGINE_QUEUE,
            context: None,
            cache_min: CACHE_MIN_TOKENS,
            kv_type: "f16".to_owned(),
            step_tokens: STEP_TOKENS,
            step_tokens_shared: STEP_TOKENS_SHARED,
        }
    }
}

impl LoadOptions {
    /// The largest step of a model with this context.
    fn steps(&self, context: u32) -> Steps {
        Steps { tokens: self.step_tokens, sequences: self.max_batch, context }
    }
}

/// A device that models can be loaded onto.
#[derive(Clone, Debug)]
pub enum Target {
    /// The CPU's workers, shared by all models there.
    Cpu(Arc<CpuPool>),
    /// A GPU.
    Gpu(Arc<Gpu>),
    /// One that cannot be used; nothing is ever placed there.
    Unusable,
}

/// Loads models.
pub struct ModelLoader {
    /// In the order of the registry's sites.
    targets: Vec<Target>,
    options: LoadOptions,
}

impl ModelLoader {
    /// A loader for `targets`, which are in the order of the registry's sites.
    pub fn new(targets: Vec<Target>, options: LoadOptions) -> Self {
        Self { targets, options }
    }
}

/// The element type of caches by its name in the configuration.
///
/// # Errors
/// A name that is not known, or not built yet.
pub fn kv_type(name: &str) -> Result<KvType, String> {
    match name {
        "f16" => Ok(KvType::F16),
        "f32" => Ok(KvType::F32),
        "bf16" | "q8_0" | "q4_0" => Err(format!("KV caches of type `{name}` are not built yet: use f16 or f32")),
        _ => Err(format!("`{name}` is no type of KV caches: use f16 or f32")),
    }
}

fn invalid(error: impl std::fmt::Display) -> LoadError {
    LoadError::Invalid(error.to_string())
}

fn device(error: impl std::fmt::Display) -> LoadError {
    LoadError::Device(error.to_string())
}

fn open(source: &Source) -> Result<Gguf, LoadError> {
    let opened = match source {
        Source::Path(path) => Gguf::open(path),
        Source::Files(files) => {
            let again = |(file, name): &(std::fs::File, String)| Ok((file.try_clone()?, name.clone()));
            Gguf::from_files(files.iter().map(again).collect::<std::io::Result<_>>().map_err(device)?)
        }
    };
    opened.map_err(|e| match e {
        // A file that cannot be opened now, or is being written, may be fine in a while.
        GgufError::Open { .. } | GgufError::Shrank { .. } => device(e),
        e => invalid(e),
    })
}

impl Loader<Loaded> for ModelLoader {
    fn inspect(&self, job: &Job, reporter: &Reporter) -> Result<Box<dyn Prepared<Loaded>>, LoadError> {
        if job.wanted.gpu_layers.is_some() {
            return Err(device("a model runs on one device as a whole: --gpu-layers is not built yet"));
        }
        let kv_type = kv_type(job.wanted.kv_type.as_ref().unwrap_or(&self.options.kv_type)).map_err(device)?;
        reporter.phase(Phase::Map);
        let gguf = open(&job.source)?;
        let model = Model::from_gguf(&gguf).map_err(invalid)?;
        reporter.phase(Phase::Plan);
        let plan = Arc::new(model.plan(&PlanOptions { kv_type }));
        let trained = model.hparams.n_ctx_train;
        let context = job.wanted.context.or(self.options.context).unwrap_or(trained).clamp(1, CONTEXT_MAX);
        let mut facts = facts::of(&model, &gguf);
        if context > trained {
            facts.notes.push(format!("a context of {context} tokens is more than the {trained} it was trained for"));
        }
        Ok(Box::new(Checked {
            id: job.id.clone(),
            targets: self.targets.clone(),
            options: self.options.clone(),
            needs: self.needs(&gguf, &plan, context),
            kv_type,
            gguf,
            plan,
            context,
            facts: Arc::new(facts),
        }))
    }

    fn attach(&self, bell: Arc<Notify>) {
        for target in &self.targets {
            if let Target::Gpu(gpu) = target {
                gpu.attach(Arc::clone(&bell));
            }
        }
    }
}

impl ModelLoader {
    fn needs(&self, gguf: &Gguf, plan: &Plan, context: u32) -> Arc<[Need]> {
        let o = &self.options;
        let cache = cache::minimum_bytes(&plan.caches, o.cache_min.min(context), o.step_tokens as u32);
        let need = |target: &Target| match target {
            Target::Cpu(pool) => Need {
                weights: gguf.file_bytes,
                cache,
                activations: CpuBackend::activation_bytes(plan, pool, o.step_tokens, o.max_batch),
                tables: facts::tables(&gguf.meta),
            },
            Target::Gpu(gpu) => gpu.need(plan, &o.steps(context), cache),
            Target::Unusable => Need::default(),
        };
        self.targets.iter().map(need).collect()
    }
}

/// A model's backend, and the worker process that it lives in, if it does.
type Placed = (Box<dyn Backend>, Option<Arc<Process>>);

/// A checked model.
struct Checked {
    id: String,
    targets: Vec<Target>,
    options: LoadOptions,
    needs: Arc<[Need]>,
    kv_type: KvType,
    gguf: Gguf,
    plan: Arc<Plan>,
    context: u32,
    facts: Arc<Facts>,
}

impl Prepared<Loaded> for Checked {
    fn needs(&self) -> Arc<[Need]> {
        Arc::clone(&self.needs)
    }

    fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    fn start(self: Box<Self>, mut grant: Grant, reporter: &Reporter) -> Result<Loaded, LoadError> {
        // The tokenizer needs the processor and the weights need the disk.
        let (text, backend) = std::thread::scope(|scope| {
            let text = scope.spawn(|| self.text());
            let backend = self.backend(grant.site, reporter);
            let text = text.join().unwrap_or_else(|_| Err(invalid("its tokenizer cannot be made: it panicked")));
            (text, backend)
        });
        let (backend, worker) = backend?;
        let (tokenizer, template) = text?;
        if tokenizer.n_vocab() > self.plan.n_vocab {
            let (tokens, rows) = (tokenizer.n_vocab(), self.plan.n_vocab);
            return Err(invalid(format!("the vocabulary has {tokens} tokens, the output matrix {rows} rows")));
        }
        let o = &self.options;
        let device_name = backend.device();
        let options = engine::Options {
            model: self.id.clone(),
            max_batch: o.max_batch,
            queue: o.queue,
            context: self.context,
            cache_min: o.cache_min.min(self.context),
            cache_max: None,
            budget: Arc::clone(&grant.budget),
            reserved: grant.cache.take(),
            step_bytes: self.gguf.file_bytes,
            step_tokens: o.step_tokens,
            step_tokens_shared: o.step_tokens_shared,
        };
        let vocabulary = Arc::new(Pieces(Arc::clone(&tokenizer)));
        let engine =
            engine::start(options, backend, &self.plan.caches, self.plan.n_vocab, vocabulary).map_err(device)?;
        reporter.phase(Phase::Warmup);
        warm_up(&engine, &tokenizer)?;
        engine.forget_stats();
        if self.gguf.poisoned() {
            return Err(device(BackendError::Poisoned));
        }
        let mut facts = Facts::clone(&self.facts);
        facts.tokenizer = tokenizer.describe();
        facts.chat_template = template.origin().to_owned();
        facts.notes.extend(tokenizer.notes().iter().map(ToString::to_string));
        facts.notes.extend(template.notes().iter().map(ToString::to_string));
        Ok(Loaded {
            id: self.id.clone(),
            engine,
            tokenizer,
            template: Arc::new(template),
            context: self.context,
            device: device_name,
            n_vocab: self.plan.n_vocab,
            worker,
            facts: Arc::new(facts),
            grant,
        })
    }
}

impl Checked {
    /// Brings the weights to the device and makes ready to run steps there.
    fn backend(&self, site: usize, reporter: &Reporter) -> Result<Placed, LoadError> {
        let o = &self.options;
        match &self.targets[site] {
            Target::Cpu(pool) => {
                reporter.phase(Phase::Read);
                self.read(reporter)?;
                let backend = CpuBackend::new(Arc::clone(&self.plan), Arc::clone(pool), o.step_tokens, o.max_batch);
                backend.map(|b| (Box::new(b) as Box<dyn Backend>, None)).map_err(|e| match e {
                    BackendError::Unsupported(why) => LoadError::Invalid(why),
                    e => device(e),
                })
            }
            Target::Gpu(gpu) => {
                reporter.phase(Phase::Upload);
                let steps = o.steps(self.context);
                let (backend, worker) = gpu.load(&self.id, &self.gguf, &self.plan, self.kv_type, &steps, reporter)?;
                Ok((backend, Some(worker)))
            }
            Target::Unusable => Err(device("this device cannot be used")),
        }
    }

    /// Tokenizer and chat template.
    fn text(&self) -> Result<(Arc<Tokenizer>, Template), LoadError> {
        let meta = &self.gguf.meta;
        let tokenizer = Tokenizer::from_meta(meta).map_err(invalid)?;
        let token = |id: Option<u32>| {
            let bytes = id.and_then(|id| tokenizer.token_text(id)).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (mut template, mut named) = (None, Vec::new());
        for (key, value) in meta.iter() {
            let (Some(rest), Value::Str(text)) = (key.strip_prefix("tokenizer.chat_template"), value) else { continue };
            match rest.strip_prefix('.') {
                Some(name) => named.push((name, text.as_str())),
                None if rest.is_empty() => template = Some(text.as_str()),
                None => {}
            }
        }
        let (bos, eos) = (token(tokenizer.bos()), token(tokenizer.eos()));
        let chatml = tokenizer.token_id("<|im_start|>").is_some();
        let template = Template::from_source(TemplateSource { template, named: &named, bos: &bos, eos: &eos, chatml });
        Ok((Arc::new(tokenizer), template))
    }

    /// Brings the files into memory.
    fn read(&self, reporter: &Reporter) -> Result<(), LoadError> {
        let total = self.gguf.file_bytes;
        let mut before = 0;
        for map in &self.gguf.maps {
            map.populate(|done, _| reporter.bytes(before + done, total)).map_err(|e| match e {
                MapError::Stopped => LoadError::Cancelled,
                e => device(e),
            })?;
            before += map.len() as u64;
        }
        match reporter.bytes(total, total) {
            ControlFlow::Break(()) => Err(LoadError::Cancelled),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

/// A short text and one token after it: every kernel runs once, and the logits must be finite
/// (the backend refuses others; a log-probability proves it).
fn warm_up(engine: &Handle, tokenizer: &Tokenizer) -> Result<(), LoadError> {
    let mut prompt = tokenizer.encode("Hello", true, false);
    prompt.truncate(engine.context().saturating_sub(1).max(1) as usize);
    if prompt.is_empty() {
        prompt.push(0);
    }
    let request = Generate {
        id: "warmup".to_owned(),
        prompt,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        max_tokens: Some(1),
        stop: Vec::new(),
        logprobs: Some(1),
        ignore_eos: true,
        cache_prompt: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(device)?;
    runtime.block_on(async {
        let outcome = match engine.submit(request) {
            Ok(events) => tokio::time::timeout(WARMUP_MAX, finite(events)).await,
            Err(e) => Ok(Err(device(format!("the first step failed: {e}")))),
        };
        let outcome =
            outcome.unwrap_or_else(|_| Err(device(format!("the first step took over {} s", WARMUP_MAX.as_secs()))));
        if outcome.is_err() {
            tokio::time::timeout(WARMUP_MAX, engine.stop(false)).await.ok();
        }
        outcome
    })
}

async fn finite(mut events: Events) -> Result<(), LoadError> {
    let mut seen = false;
    loop {
        match events.recv().await {
            Some(Event::Token(token)) => {
                let finite = token.logprobs.as_ref().is_some_and(|l| l.0.logprob.is_finite());
                if !finite {
                    return Err(device("the first step gave logits that are not finite"));
                }
                seen = true;
            }
            Some(Event::Finished(_)) if seen => return Ok(()),
            Some(Event::Failed(e)) => return Err(device(format!("the first step failed: {e}"))),
            Some(Event::Started { .. }) => {}
            Some(Event::Finished(_)) | None => return Err(device("the first step gave no token")),
        }
    }
}
