//! Loading a model: map and check, plan, bring the weights to their device, start the engine, try
//! a step.
//!
//! On the CPU weights are used where they lie in the file: reading ahead only brings their pages
//! into memory with progress to show, and a file that is in the page cache already takes
//! milliseconds. Onto a GPU its worker copies them.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::Notify;

use super::facts;
use super::gpu::{Gpu, OnGpu, Steps};
use super::loaded::{Loaded, Pieces};
use super::loader::{Facts, Grant, Job, LoadError, Loader, Prepared, Reporter, Source};
use super::needs;
use crate::backend::cpu::{CpuBackend, CpuPool};
use crate::backend::remote::process::Process;
use crate::backend::split::SplitBackend;
use crate::backend::{Backend, BackendError};
use crate::base::limits::{
    CACHE_MIN_TOKENS, CONTEXT_MAX, ENGINE_QUEUE, MAX_BATCH, STEP_TOKENS, STEP_TOKENS_SHARED, WARMUP_MAX,
};
use crate::chat::template::{Source as TemplateSource, Template};
use crate::engine::events::Events;
use crate::engine::handle::Handle;
use crate::engine::message::{Event, Generate, Sampling};
use crate::engine::{self, Ledger, cache};
use crate::gguf::map::{Map, MapError};
use crate::gguf::meta::Value;
use crate::gguf::{Gguf, GgufError};
use crate::model::{Model, PlanOptions};
use crate::plan::cache::{CacheGroup, KvType};
use crate::plan::{Plan, Weight};
use crate::policy::placement::{Needs, Way};
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
    /// `engine.kv_type`: `f16`, `f32`, `q8_0`.
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
    pub(super) fn steps(&self, context: u32) -> Steps {
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
        "bf16" | "q4_0" => Err(format!("KV caches of type `{name}` are not built yet: use f16, f32 or q8_0")),
        _ => KvType::parse(name).ok_or_else(|| format!("`{name}` is no type of KV caches: use f16, f32 or q8_0")),
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
        let kv_type = kv_type(job.wanted.kv_type.as_ref().unwrap_or(&self.options.kv_type)).map_err(device)?;
        reporter.phase(Phase::Map);
        let gguf = open(&job.source)?;
        let model = Model::from_gguf(&gguf).map_err(invalid)?;
        model.takes_caches(kv_type).map_err(device)?;
        reporter.phase(Phase::Plan);
        let plan = Arc::new(model.plan(&PlanOptions { kv_type }));
        let trained = model.hparams.n_ctx_train;
        let context = job.wanted.context.or(self.options.context).unwrap_or(trained).clamp(1, CONTEXT_MAX);
        let mut facts = facts::of(&model, &gguf);
        if context > trained {
            facts.notes.push(format!("a context of {context} tokens is more than the {trained} it was trained for"));
        }
        let mut options = self.options.clone();
        options.cache_min = options.cache_min.min(job.cache_most.unwrap_or(u32::MAX));
        Ok(Box::new(Checked {
            id: job.id.clone(),
            targets: self.targets.clone(),
            needs: Arc::new(needs::of(&self.targets, &options, &gguf, &plan, context)),
            options,
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

/// A model's backend with the caches that it has, and the worker process that it lives in, if it
/// does.
struct Placed {
    backend: Box<dyn Backend>,
    caches: Vec<CacheGroup>,
    worker: Option<Arc<Process>>,
    /// Bytes that its GPU got back, once it has gone.
    freed: Arc<AtomicU64>,
}

/// A checked model.
struct Checked {
    id: String,
    targets: Vec<Target>,
    options: LoadOptions,
    needs: Arc<Needs>,
    kv_type: KvType,
    gguf: Gguf,
    plan: Arc<Plan>,
    context: u32,
    facts: Arc<Facts>,
}

impl Prepared<Loaded> for Checked {
    fn needs(&self) -> Arc<Needs> {
        Arc::clone(&self.needs)
    }

    fn facts(&self) -> Arc<Facts> {
        Arc::clone(&self.facts)
    }

    fn start(self: Box<Self>, mut grant: Grant, reporter: &Reporter) -> Result<Loaded, LoadError> {
        // The tokenizer needs the processor and the weights need the disk.
        let (text, backend) = std::thread::scope(|scope| {
            let text = scope.spawn(|| self.text());
            let backend = self.backend(&grant.way, reporter);
            let text = text.join().unwrap_or_else(|_| Err(invalid("its tokenizer cannot be made: it panicked")));
            (text, backend)
        });
        let Placed { backend, caches, worker, freed } = backend?;
        let (tokenizer, template) = text?;
        if tokenizer.n_vocab() > self.plan.n_vocab {
            let (tokens, rows) = (tokenizer.n_vocab(), self.plan.n_vocab);
            return Err(invalid(format!("the vocabulary has {tokens} tokens, the output matrix {rows} rows")));
        }
        let o = &self.options;
        let device_name = backend.device();
        let mut ledgers = std::mem::take(&mut grant.ledgers);
        match grant.way.layers {
            // A split's first part is the CPU's, which is named last.
            Some(_) if ledgers.len() > 1 => ledgers.reverse(),
            // One memory for both: what was reserved for all caches is divided as well.
            Some(_) => {
                let first = cache::minimum_bytes(&caches, 0, o.cache_min.min(self.context), o.step_tokens as u32);
                let budget = Arc::clone(&ledgers[0].budget);
                let reserved = ledgers[0].reserved.as_mut().and_then(|r| r.split(first));
                ledgers.insert(0, Ledger { budget, reserved });
            }
            // What is left of the host's memory is no cache.
            None => ledgers.truncate(1),
        }
        let options = engine::Options {
            model: self.id.clone(),
            max_batch: o.max_batch,
            queue: o.queue,
            context: self.context,
            cache_min: o.cache_min.min(self.context),
            cache_max: None,
            ledgers,
            step_bytes: self.gguf.file_bytes,
            step_tokens: o.step_tokens,
            step_tokens_shared: o.step_tokens_shared,
        };
        let vocabulary = Arc::new(Pieces(Arc::clone(&tokenizer)));
        let engine = engine::start(options, backend, &caches, self.plan.n_vocab, vocabulary).map_err(|e| match e {
            engine::StartError::Cache(short) => {
                LoadError::OutOfMemory(format!("no room for the smallest KV cache: {short}"))
            }
            e => device(e),
        })?;
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
            freed,
            facts: Arc::new(facts),
            grant,
        })
    }
}

impl Checked {
    /// Brings the weights to their devices and makes ready to run steps there.
    fn backend(&self, way: &Way, reporter: &Reporter) -> Result<Placed, LoadError> {
        match (&self.targets[way.site()], way.layers) {
            (Target::Cpu(pool), _) => {
                let backend = self.on_cpu(pool, &self.plan, reporter)?;
                Ok(Placed { backend, caches: self.plan.caches.clone(), worker: None, freed: Arc::default() })
            }
            (Target::Gpu(gpu), None) => {
                let OnGpu { backend, worker, freed } = self.on_gpu(gpu, (&self.plan, None), reporter)?;
                Ok(Placed { backend, caches: self.plan.caches.clone(), worker: Some(worker), freed })
            }
            (Target::Gpu(gpu), Some(layers)) => {
                let first = self.plan.layers.len().saturating_sub(layers as usize);
                let cpu = self.targets.iter().find_map(|t| if let Target::Cpu(pool) = t { Some(pool) } else { None });
                let (Some(parts), Some(pool)) = (self.plan.split(first), cpu) else {
                    return Err(device(format!("its layers cannot be divided before layer {first}")));
                };
                let OnGpu { backend: rest, worker, freed } = self.on_gpu(gpu, (&parts[1], Some(first)), reporter)?;
                let start = self.on_cpu(pool, &Arc::new(parts[0].clone()), reporter)?;
                let backend = Box::new(SplitBackend::new(start, rest, &parts));
                Ok(Placed { backend, caches: parts[0].caches.clone(), worker: Some(worker), freed })
            }
            (Target::Unusable, _) => Err(device("this device cannot be used")),
        }
    }

    fn on_gpu(&self, gpu: &Gpu, part: (&Plan, Option<usize>), reporter: &Reporter) -> Result<OnGpu, LoadError> {
        reporter.phase(Phase::Upload);
        gpu.load(&self.id, &self.gguf, part, self.kv_type, &self.options.steps(self.context), reporter)
    }

    fn on_cpu(
        &self,
        pool: &Arc<CpuPool>,
        plan: &Arc<Plan>,
        reporter: &Reporter,
    ) -> Result<Box<dyn Backend>, LoadError> {
        reporter.phase(Phase::Read);
        self.read(plan, reporter)?;
        let o = &self.options;
        let backend = CpuBackend::new(Arc::clone(plan), Arc::clone(pool), o.step_tokens, o.max_batch);
        backend.map(|b| Box::new(b) as Box<dyn Backend>).map_err(|e| match e {
            BackendError::Unsupported(why) => LoadError::Invalid(why),
            e => device(e),
        })
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

    /// Brings the weights of `plan` into memory: of a whole model its files, as they lie there.
    fn read(&self, plan: &Plan, reporter: &Reporter) -> Result<(), LoadError> {
        let whole = plan.layers.len() == self.plan.layers.len();
        let ranges: Vec<(&Map, Range<usize>)> = match whole {
            true => self.gguf.maps.iter().map(|map| (&**map, 0..map.len())).collect(),
            false => {
                let of = |w: &Weight| self.gguf.maps.iter().find_map(|m| Some((&**m, m.range_of(w.data.bytes())?)));
                plan.weights.iter().filter_map(of).collect()
            }
        };
        let total = ranges.iter().map(|(_, range)| range.len() as u64).sum();
        let mut before = 0;
        for (map, range) in ranges {
            let len = range.len() as u64;
            map.populate(range, |done| reporter.bytes(before + done, total)).map_err(|e| match e {
                MapError::Stopped => LoadError::Cancelled,
                e => device(e),
            })?;
            before += len;
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
