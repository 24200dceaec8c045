//! Every bound of the product in one place, each with its reason.
//!
//! A limit that a user may set stands here as its default or its hard cap; the
//! config key is named. Nothing is silently cut at a limit: what exceeds one is refused.

use std::time::Duration;

/// GGUF: longest metadata string (ggml's own limit is 1 GiB; no real file passes 32 MiB).
pub const GGUF_STRING_MAX: u64 = 64 << 20;
/// GGUF: most metadata keys of a file (real files have under 100).
pub const GGUF_KEYS_MAX: u64 = 1 << 16;
/// GGUF: most tensors of a model (largest public mixture-of-experts files: a few thousand).
pub const GGUF_TENSORS_MAX: u64 = 1 << 16;
/// GGUF: most elements of one metadata array (the largest vocabularies have 262,144 tokens).
pub const GGUF_ARRAY_MAX: u64 = 1 << 24;
/// GGUF: longest tensor name, as ggml has it (`GGML_MAX_NAME` is 64 with its end byte).
pub const GGUF_NAME_MAX: usize = 63;
/// GGUF: most bytes of keys, values and tensor descriptions of one part. The largest public
/// vocabularies with their merges take 20 MiB; memory for parsing is a small multiple of this.
pub const GGUF_META_BYTES_MAX: u64 = 256 << 20;
/// GGUF: longest metadata key (the format's own limit).
pub const GGUF_KEY_MAX: u64 = (1 << 16) - 1;
/// GGUF: largest `general.alignment` (every public file has 32; a page would be 4096).
pub const GGUF_ALIGNMENT_MAX: u32 = 1 << 20;
/// Files mapped at once: slots of the table in which the SIGBUS handler looks an address up.
/// 64 models of 64 parts.
pub const MAPS_MAX: usize = 4096;
/// Bytes that are read ahead between two reports of progress.
pub const POPULATE_CHUNK: usize = 16 << 20;
/// GGUF: most parts of a split file (`-%05d-of-%05d`; hubs split at 50 GB).
pub const GGUF_SHARDS_MAX: u16 = 1000;

/// Hyperparameters: most transformer layers (the deepest public models have 126).
pub const LAYERS_MAX: u32 = 1024;
/// Hyperparameters: longest context that is believed (128 M tokens).
pub const CONTEXT_MAX: u32 = 1 << 27;
/// Hyperparameters: widest vector of a layer (the widest public models have 53,248).
pub const WIDTH_MAX: u32 = 1 << 20;
/// Vocabulary: most tokens.
pub const VOCAB_MAX: usize = 1 << 22;

/// Tokens of a KV block. Small enough that a short chat wastes little, large enough that a
/// block's key rows fill whole cache lines and that a block table stays short.
pub const KV_BLOCK_TOKENS: usize = 32;
/// Bytes of a KV slab, the unit in which caches grow and give memory back.
pub const KV_SLAB_BYTES: u64 = 16 << 20;
/// Device memory is allocated in chunks of up to this many bytes: few calls of the driver's allocator,
/// and gaps that another model can use again.
pub const GPU_CHUNK_BYTES: u64 = 1 << 30;
/// Bytes of each of the two buffers through which weights go to a GPU: a copy of one takes about a
/// millisecond, far longer than starting it.
pub const GPU_UPLOAD_BYTES: usize = 16 << 20;
/// Threads that fill one of them.
pub const GPU_UPLOAD_THREADS: usize = 4;
/// Most parts into which the keys of a sequence are split on a GPU.
pub const GPU_SPLITS_MAX: u32 = 64;
/// A GPU runtime that takes longer than this to show its device is given up.
pub const WORKER_START: Duration = Duration::from_secs(60);
/// The self-test of one kernel takes milliseconds; one that takes longer than this hangs.
pub const SELFTEST_KERNEL: Duration = Duration::from_secs(20);
/// The self-test of all kernels of a device takes about a second; a device that needs longer than this is
/// not used.
pub const SELFTEST: Duration = Duration::from_secs(180);
/// Workers that a device's kernels may take along in their tests before the device is given up.
pub const SELFTEST_TRIES: usize = 3;
/// A device with more wrong kernels than this is not used: its driver is not sound, and what the others
/// compute is not to be trusted.
pub const SELFTEST_FAILURES_MAX: usize = 32;
/// Longest file of results of self-tests that is read.
pub const SELFTEST_RECORD_BYTES: u64 = 1 << 20;
/// A GPU worker answers anything but a step within this time, or is replaced.
pub const WORKER_ANSWER: Duration = Duration::from_secs(20);
/// A load in a GPU worker that says nothing for this long is given up, and the worker with it: a part of
/// a file takes a second from the slowest disk.
pub const WORKER_STALL: Duration = Duration::from_secs(60);
/// A load waits so long for the end of a worker that was given up, whose memory it needs: the driver
/// resets a card within seconds.
pub const WORKER_GONE: Duration = Duration::from_secs(30);
/// How often a load in a GPU worker looks whether it is still wanted.
pub const WORKER_POLL: Duration = Duration::from_millis(50);
/// Longest message between the daemon and a GPU worker: names of files, mostly.
pub const WORKER_MESSAGE_BYTES: usize = 64 << 10;
/// Files of a split model that go to a GPU worker: Linux passes up to 253 descriptors at a time.
pub const MODEL_PARTS_MAX: usize = 250;
/// A GPU worker that has closed its socket is killed if it has not ended by then.
pub const WORKER_EXIT: Duration = Duration::from_secs(2);
/// A GPU whose worker cannot be started is tried again after this long, then twice as long, …
pub const GPU_RETRY_FIRST: Duration = Duration::from_secs(5);
/// … up to this.
pub const GPU_RETRY_MAX: Duration = Duration::from_secs(600);
/// A model whose device is lost under it twice within this time is not loaded again by itself.
pub const DEVICE_LOST_AGAIN: Duration = Duration::from_secs(300);
/// Bytes of memory that are filled or read to measure how fast a device is; more than caches hold.
pub const BANDWIDTH_BYTES: usize = 256 << 20;
/// `engine.cache_min`: tokens of cache reserved when a model is loaded.
pub const CACHE_MIN_TOKENS: u32 = 8192;
/// The same at most for a load that is tried again because its GPU had less memory than its ledger
/// says: enough for a chat.
pub const CACHE_SPARED_TOKENS: u32 = 2048;

/// `engine.max_batch`: sequences decoded together.
pub const MAX_BATCH: usize = 32;
/// `engine.max_batch`: hard cap.
pub const MAX_BATCH_CAP: usize = 256;
/// `engine.queue`: requests waiting for an engine; one more is refused with 429.
pub const ENGINE_QUEUE: usize = 256;
/// `engine.queue`: hard cap; each waiting request holds its prompt in memory.
pub const ENGINE_QUEUE_CAP: usize = 1 << 16;
/// `cpu.threads`: hard cap, above the largest machines (two sockets of 192 cores with two threads).
pub const CPU_THREADS_MAX: usize = 1024;
/// `memory.gpu_reserve`: memory of a GPU that is left to others, in bytes, beside what they have when
/// the daemon starts.
pub const GPU_RESERVE: u64 = 512 << 20;
/// The same where a display hangs on the GPU: a desktop's windows and videos take more as they come.
pub const GPU_RESERVE_DISPLAY: u64 = 1 << 30;
/// Tokens of one step of an engine: all decodes, then prefill chunks up to this number.
/// Sized so that a step of a 1.5 B model on a slow CPU stays under about two seconds.
pub const STEP_TOKENS: usize = 512;
/// Tokens of prefill in a step in which others decode, so that a long prompt does not raise
/// the others' inter-token latency without bound.
pub const STEP_TOKENS_SHARED: usize = 128;
/// Events an engine may have ahead of its client before the client counts as gone.
pub const EVENTS_AHEAD: usize = 4096;

/// `http.max_body`: largest request body.
pub const HTTP_BODY_MAX: u64 = 16 << 20;
/// Longest time from a connection's first byte to the end of its headers.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time a request's body may take to arrive. Generous for 16 MiB over a slow line.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bodies in memory at once, all connections together, in bytes; further ones wait (bounded by
/// [`HTTP_BODY_TIMEOUT`]). Without it `HTTP_CONNECTIONS_MAX` times `http.max_body` is 64 GiB.
pub const HTTP_BODIES_MAX: u64 = 256 << 20;
/// Fields of a request's JSON object (OpenAI's chat request has about 35).
pub const JSON_FIELDS_MAX: usize = 256;
/// `tools` and `chat_template_kwargs`: bytes of JSON each. They become values in memory several
/// times their text's size.
pub const JSON_VALUE_BYTES_MAX: usize = 1 << 20;
/// `messages`, `tools`, `chat_template_kwargs`: JSON values each. A value takes up to a hundred
/// bytes of memory, however short its text is; the longest real chats have some ten thousand.
pub const JSON_VALUES_MAX: usize = 1 << 18;
/// `x-rocmforge-ignored`: most names listed.
pub const IGNORED_NAMES_MAX: usize = 32;
/// Longest `x-request-id` that is taken over from a client.
pub const REQUEST_ID_MAX: usize = 64;
/// Longest model name that is looked up.
pub const MODEL_NAME_MAX: usize = 512;
/// `/v1/completions`: most prompts of a request, and most choices of all of them together.
pub const PROMPTS_MAX: usize = 64;
/// `Retry-After` while a GPU's worker is replaced: its start and the reload of a model.
pub const GPU_RESET_RETRY_AFTER_S: u64 = 10;
/// `/health`: how long the registry may take to answer before the daemon counts as degraded.
pub const HEALTH_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Work on text of up to this many bytes is done where the request is; more goes to the blocking
/// pool, so that no I/O thread is kept for over about a millisecond.
pub const INLINE_TEXT_BYTES: usize = 4096;
/// Connections served at once; further ones wait in the kernel's backlog.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Connections to the admin socket served at once; people and scripts, so few suffice, and they
/// must not be kept out by a full public side.
pub const ADMIN_CONNECTIONS_MAX: usize = 256;
/// Between the end of accepting and the end of idle connections: a request that was on its way
/// when the listener closed still arrives.
pub const DRAIN_LINGER: Duration = Duration::from_millis(250);
/// After the drain's deadline: cancelled requests get this long to say so to their clients.
pub const DRAIN_CANCEL: Duration = Duration::from_secs(3);
/// How often the registry and the CPU pool are asked whether they answer.
pub const PULSE_INTERVAL: Duration = Duration::from_secs(2);
/// Largest answer, or line of one, that `forgectl` keeps in memory, in bytes.
pub const CTL_ANSWER_MAX: usize = 64 << 20;
/// Pause after a failed accept (usually: no descriptors left), so that it does not spin.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Largest configuration file; the documented one has 5 KiB.
pub const CONFIG_FILE_MAX: u64 = 1 << 20;
/// `stop`: most stop strings of a request (OpenAI allows 4; clients of llama-server send more).
pub const STOP_STRINGS_MAX: usize = 16;
/// `stop`: longest stop string in bytes.
pub const STOP_STRING_BYTES_MAX: usize = 1024;
/// `top_logprobs`: most alternatives a position (OpenAI's limit).
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// `n`: most choices of a request.
pub const CHOICES_MAX: u32 = 16;
/// `logit_bias`: most entries.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Chat: most messages of a request.
pub const MESSAGES_MAX: usize = 4096;
/// Chat templates: instructions a rendering may take; 64 bytes of text that it makes count as one, so
/// that this bounds memory (640 MB), too. Of 70 public templates 68 take less for [`MESSAGES_MAX`] messages,
/// and the two that look back from every message do for a thousand.
pub const TEMPLATE_FUEL: u64 = 10_000_000;
/// Chat templates: longest one in bytes (the longest public ones have under 20 KB).
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Chat templates: the same for a trial when a model is loaded; trials have a few short messages.
pub const TEMPLATE_TRIAL_FUEL: u64 = 1_000_000;
/// Chat templates: nested calls (a macro costs four), so that a recursive macro ends before the 2 MiB
/// stack of a blocking thread does. Public templates that walk through a JSON schema stay under 80.
pub const TEMPLATE_RECURSION: usize = 200;
/// Comment interval of a stream while its model loads.
pub const SSE_LOADING_INTERVAL: Duration = Duration::from_secs(2);
/// Comment interval of a silent stream.
pub const SSE_SILENCE_INTERVAL: Duration = Duration::from_secs(10);
/// `http.drain_secs`: how long SIGTERM waits for running requests.
pub const DRAIN_SECS: u64 = 30;

/// Commands waiting for the registry actor.
pub const REGISTRY_QUEUE: usize = 1024;
/// Requests waiting for one model to load.
pub const LOAD_WAITERS_MAX: usize = 1024;
/// Models loaded at once.
pub const MODELS_MAX: usize = 64;
/// Models loaded at once: two reads of a disk in turn are slower than one after the other, but a
/// small model must not wait for minutes behind a large one.
pub const LOADS_AT_ONCE: usize = 2;
/// Files opened and checked at once (headers only).
pub const INSPECTIONS_AT_ONCE: usize = 4;
/// A request waits so long for others to start on the model in its way, then that one drains.
pub const SWAP_MAX_WAIT: Duration = Duration::from_secs(2);
/// An idle model counts as busy for so long against one that waits: clients that take turns come
/// back within a round trip.
pub const SWAP_GRACE: Duration = Duration::from_millis(100);
/// Longest stay that a slow load earns its model; bounds how long others wait.
pub const SWAP_RESIDENCY_MAX: Duration = Duration::from_secs(30);
/// Engines are asked for idle cache slabs before anybody is evicted; so long they have to answer
/// (a slab is given back between two steps).
pub const SLAB_WAIT: Duration = Duration::from_millis(50);
/// After an eviction with `--now`, handlers of cancelled requests have so long to let go.
pub const CANCEL_WAIT: Duration = Duration::from_secs(5);
/// An engine that does not end within this time after its requests were cancelled hangs in a step.
pub const STOP_WAIT: Duration = Duration::from_secs(15);
/// The end of an engine that was given up in the middle of a step is looked for this often.
pub const STOP_POLL: Duration = Duration::from_millis(20);
/// A model's first step may take this long: a few tokens, its weights read beforehand.
pub const WARMUP_MAX: Duration = Duration::from_secs(120);
/// `bench`: most repetitions.
pub const BENCH_REPETITIONS_MAX: u32 = 1000;
/// `load` tells progress at most this often.
pub const LOAD_EVENT_INTERVAL: Duration = Duration::from_millis(100);
/// Models dirs are scanned again at most this often (on access; nothing polls). Who asks for a
/// name that is not known waits for the next scan.
pub const SCAN_INTERVAL: Duration = Duration::from_millis(200);
/// Folders below a models dir that are searched: `owner/repo/file.gguf`, as hubs lay them out.
pub const SCAN_DEPTH: usize = 3;
/// Model files in all models dirs.
pub const CATALOG_MAX: usize = 4096;
/// Running models are asked for their health this often (only while somebody uses one).
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// Decisions remembered for `why` and `events`.
pub const DECISIONS_MAX: usize = 1024;
/// A model that failed to load is not tried again by requests for this long.
pub const LOAD_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Longest text of one `/tokenize` call in bytes.
pub const TOKENIZE_BYTES_MAX: usize = 16 << 20;
/// Busy CPU step: its deadline is this many times the time its bytes need at a slow 1 GB/s,
/// plus [`STEP_DEADLINE_FLOOR`].
pub const STEP_DEADLINE_FACTOR: u32 = 20;
/// Smallest deadline of a step.
pub const STEP_DEADLINE_FLOOR: Duration = Duration::from_secs(30);
/// Tokens whose products cost a slow CPU as much time as reading the weights once: a step's
/// deadline counts its bytes once more for each so many tokens.
pub const STEP_DEADLINE_TOKENS: u32 = 64;
/// Longest wait for a step at a stretch; between two, an engine looks at its commands.
pub const STEP_POLL: Duration = Duration::from_millis(50);
/// A `Retry-After` is no longer than this: the estimate behind it is rough.
pub const RETRY_AFTER_MAX_SECS: u64 = 600;
/// What a request is taken to need before the first has ended, for `Retry-After`.
pub const SERVICE_GUESS: Duration = Duration::from_secs(5);
/// A CPU worker that finds no work spins this long before it parks: longer than the gaps between
/// the ops of a step, short enough that an idle daemon uses no CPU.
pub const POOL_SPIN: Duration = Duration::from_micros(50);
/// An engine that has held the CPU pool this long gives way to others at its next op: long
/// beside the cost of a change, short beside what a client notices.
pub const POOL_TURN: Duration = Duration::from_millis(10);
/// The CPU pool counts as stuck if one engine holds it this long without giving way: the largest
/// op of the largest step is far below.
pub const POOL_HELD_MAX: Duration = Duration::from_secs(60);
/// Element-wise ops of fewer elements (times their cost) run on one thread: a job on all of
/// them costs about as much as this many additions.
pub const POOL_SERIAL_ELEMENTS: usize = 8192;
/// `rocmforged eval`: memory for the logits of a step; a vocabulary of 262,144 gets 128 rows.
pub const EVAL_LOGITS_BYTES: usize = 128 << 20;
/// `rocmforged eval --batch`: most copies, as many as an engine may decode together.
pub const EVAL_COPIES_MAX: usize = MAX_BATCH_CAP;
/// `memory.ram_budget = auto`: share of the memory that was available at the start, in percent; the
/// rest is for the page cache of others and for what grows outside of the ledger.
pub const RAM_BUDGET_PERCENT: u8 = 80;
/// Health and the watchdog wait so long for the registry's answer before it counts as stuck.
pub const ANSWER_WAIT: Duration = Duration::from_secs(2);
