//! Bodies of `/admin/v1/…`. Field names are the stable `--json` schema of `forgectl`.

use serde::{Deserialize, Serialize};

/// Where a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// In the catalog, not loaded.
    Absent,
    /// Waiting to be loaded.
    Queued,
    /// Being loaded.
    Loading,
    /// Serving.
    Ready,
    /// Finishing its requests, then unloaded.
    Draining,
    /// Could not be loaded, or failed; `reason` says why.
    Failed,
}

/// Bytes of a model by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelBytes {
    /// Weights (mapped: the size of the file).
    pub weights: u64,
    /// KV caches now.
    pub cache: u64,
    /// Activations and logits.
    pub activations: u64,
    /// Vocabulary, tokenizer, tables.
    pub tables: u64,
}

/// What a model takes of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShare {
    /// The device's id.
    pub device: String,
    /// Bytes by kind.
    pub bytes: ModelBytes,
}

/// A model as `ls`, `ps`, `show` and `status` see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its id.
    pub id: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its (first) file.
    pub path: String,
    /// Where it stands.
    pub state: ModelState,
    /// Why it is failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Size of its files in bytes.
    pub file_bytes: u64,
    /// `general.architecture`, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Parameters, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_params: Option<u64>,
    /// Type of most weights (`Q4_K`), once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Context the model was trained for, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_ctx_train: Option<u32>,
    /// Tokens of the vocabulary, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_vocab: Option<u32>,
    /// Where it runs: `cpu avx512`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why it runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_reason: Option<String>,
    /// Largest context of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Bytes by kind on all devices, if loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<ModelBytes>,
    /// The same for each device, first the one that it is named after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ModelShare>,
    /// Never evicted to make room.
    #[serde(default)]
    pub pinned: bool,
    /// Requests that hold it now.
    #[serde(default)]
    pub leases: u32,
    /// Unix time of its last use in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<f64>,
}

/// More about one model: `show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDetail {
    /// What `ls` shows.
    #[serde(flatten)]
    pub model: Model,
    /// Hyperparameters, in the order to print.
    pub hparams: Vec<(String, String)>,
    /// Tensors of each type: (type, count, bytes).
    pub tensor_types: Vec<(String, u64, u64)>,
    /// Tensors that the architecture's row knowingly ignores.
    pub ignored_tensors: Vec<String>,
    /// Tokenizer model and pre-tokenizer.
    pub tokenizer: String,
    /// Where the chat template is from (`tokenizer.chat_template`, or a named fallback).
    pub chat_template: String,
    /// What is worth knowing (template problems, clamped values).
    pub notes: Vec<String>,
    /// What loading it would do, if it is not loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Planned>,
}

/// `POST /admin/v1/plan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Ids or aliases, in the order in which they would be loaded.
    pub models: Vec<String>,
}

/// How a load would end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is loaded.
    Ready,
    /// There is room.
    Fits,
    /// There is room once others have gone.
    Evicts,
    /// It would be refused.
    Refused,
}

/// What a planned model takes of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShare {
    /// The device's id.
    pub device: String,
    /// Bytes by kind.
    pub bytes: ModelBytes,
    /// Bytes free there before it.
    pub free: u64,
}

/// What loading a model would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// The model.
    pub id: String,
    /// How it would end.
    pub outcome: Outcome,
    /// Why there, or why not.
    pub reason: String,
    /// What it would run on, as `ps` shows it then: `gpu gfx1100 20/28 + cpu avx512`.
    pub device: Option<String>,
    /// What it takes of each device, and what is free there before it.
    pub shares: Vec<PlannedShare>,
    /// Models that would have to go.
    pub evicts: Vec<String>,
    /// Expected seconds: as last time, or its bytes at 1 GB/s.
    pub load_s: f64,
}

/// `POST /admin/v1/models/load`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// An id, an alias or an absolute path.
    pub model: String,
    /// Another name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Largest context of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<u32>,
    /// `f16`, `f32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<String>,
    /// `auto`, `gpu`, `cpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Layers on the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_layers: Option<u32>,
    /// Pin it once loaded.
    #[serde(default)]
    pub pin: bool,
    /// Unload after so many idle seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// Step of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Waiting for a load before it.
    Queued,
    /// Mapping and checking the file.
    Map,
    /// Deciding where it goes.
    Plan,
    /// Making room.
    Evict,
    /// Reading the file into memory.
    Read,
    /// Copying to the device.
    Upload,
    /// First step, checked.
    Warmup,
}

/// One line of a load's answer; the last is `ready` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum LoadEvent {
    /// A step begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// Progress within a step.
    Progress {
        /// Which step.
        phase: Phase,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
        /// Bytes a second.
        rate: f64,
        /// Seconds left.
        eta_s: f64,
    },
    /// Done.
    Ready {
        /// The model.
        model: Box<Model>,
    },
    /// Failed.
    Error {
        /// Why.
        error: AdminError,
    },
}

/// An error of the admin API: `{"error":{"code","message","detail"}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdminError {
    /// `model_not_found`, `insufficient_memory`, `invalid_file`, `busy`, `invalid_request`, …
    pub code: String,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// Numbers and names for programs.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

/// `POST /admin/v1/models/{id}/evict`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvictRequest {
    /// Abort running requests instead of waiting for them.
    #[serde(default)]
    pub now: bool,
}

/// What a reload of the configuration did: `POST /admin/v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys that changed and need a restart.
    pub needs_restart: Vec<String>,
}

/// What an eviction gave back, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evicted {
    /// The model.
    pub id: String,
    /// Private memory of the daemon before (Private_Dirty + swap of smaps_rollup), bytes.
    pub private_before: u64,
    /// The same afterwards.
    pub private_after: u64,
    /// Device bytes given back.
    pub device_freed: u64,
    /// Bytes given back in the ledger.
    pub ledger_freed: u64,
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Model.
    pub owner: String,
    /// `weights`, `cache`, `activations`, `tables`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
}

/// A device and its budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `cpu`, `gpu0`.
    pub id: String,
    /// `AMD EPYC …`, 2 cores, `avx512`.
    pub description: String,
    /// PCI address of a GPU: `0000:03:00.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Whether models can run on it.
    #[serde(default = "yes")]
    pub usable: bool,
    /// Budget in bytes.
    pub budget: u64,
    /// Reserved bytes.
    pub used: u64,
    /// Who holds what.
    pub ledger: Vec<LedgerEntry>,
    /// Why it is used or not.
    pub reason: String,
}

/// `GET /admin/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: f64,
    /// `running`, `draining`.
    pub state: String,
    /// Addresses it serves on.
    pub listen: Vec<String>,
    /// One line: which device, and why.
    pub device: String,
    /// Devices.
    pub devices: Vec<Device>,
    /// Models that are not absent.
    pub models: Vec<Model>,
    /// Private memory of the process in bytes.
    pub private_bytes: u64,
}

/// Speed and queue of a loaded model: `stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelStats {
    /// The model.
    pub id: String,
    /// Requests being worked on.
    pub running: u32,
    /// Requests waiting.
    pub waiting: u32,
    /// Requests that ended well, since its load.
    pub requests: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests cancelled.
    pub cancelled: u64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens taken from the cache.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub decode_tokens: u64,
    /// Prefill speed over the last requests, tokens/s.
    pub prefill_rate: f64,
    /// Decode speed over the last requests, tokens/s a sequence.
    pub decode_rate: f64,
    /// KV blocks in use, and allocated.
    pub kv_blocks_used: u64,
    /// KV blocks allocated.
    pub kv_blocks_total: u64,
}

/// A decision that was taken, for `events` and `why`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Unix time in seconds.
    pub time: f64,
    /// `load`, `evict`, `refuse`, `device`, `config`, …
    pub kind: String,
    /// Model it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// For people: what and why, with numbers.
    pub message: String,
    /// Uid that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// A request in flight: `requests`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestInfo {
    /// Its id.
    pub id: String,
    /// Model.
    pub model: String,
    /// `waiting`, `prefill`, `decode`.
    pub state: String,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Tokens generated so far.
    pub completion_tokens: u32,
    /// Seconds since it came.
    pub age_s: f64,
}

/// `POST /admin/v1/bench`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchRequest {
    /// Model (loaded if needed).
    pub model: String,
    /// Prompt tokens of a prefill run.
    pub n_prompt: u32,
    /// Tokens of a decode run.
    pub n_gen: u32,
    /// Context already filled before each run.
    #[serde(default)]
    pub depth: u32,
    /// Sequences at once.
    #[serde(default = "one")]
    pub batch: u32,
    /// Repetitions.
    #[serde(default = "one")]
    pub repetitions: u32,
}

fn yes() -> bool {
    true
}

fn one() -> u32 {
    1
}

/// One run of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRun {
    /// `pp512`, `tg128`, with `@d4096` and `x8` where they apply.
    pub test: String,
    /// Tokens a second of each repetition.
    pub rates: Vec<f64>,
}

/// A benchmark's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// Model.
    pub model: String,
    /// Device.
    pub device: String,
    /// Worker threads.
    pub threads: u32,
    /// Version of the daemon.
    pub version: String,
    /// Runs.
    pub runs: Vec<BenchRun>,
}
