//! The numbers of `/metrics`; docs/METRICS.md says what each means.
//!
//! Counters and histograms are fed where things happen. What has a present value (ledger, queues,
//! states) comes in at each scrape as a [`Snapshot`], so that there is one source for it.

use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::events::Outcomes;

/// Buckets of times that a user waits for, in seconds: about three a decade, 1 ms to 5 min.
const WAIT_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 300.0];
/// Buckets of times between tokens, in seconds: 1 ms (1000 tokens/s) to 5 s.
const TOKEN_BUCKETS: &[f64] =
    &[0.001, 0.002, 0.004, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0];

/// Bytes that a model holds on a device for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The model.
    pub model: String,
    /// `weights`, `cache`, `activations`, `tables`.
    pub kind: String,
    /// How many bytes.
    pub bytes: u64,
}

/// One device and its ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNow {
    /// `cpu`, `gpu0`.
    pub device: String,
    /// Whether models can run on it now.
    pub usable: bool,
    /// Why it is used or not.
    pub reason: String,
    /// Its budget in bytes.
    pub budget: u64,
    /// Who holds what.
    pub held: Vec<Held>,
}

/// A model's present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelNow {
    /// Its id.
    pub model: String,
    /// `ready`, `loading`, …
    pub state: String,
    /// What it runs on, if it is loaded: `gpu gfx1100`.
    pub device: Option<String>,
    /// Its engine, if it is loaded.
    pub engine: Option<EngineNow>,
}

/// An engine's present numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineNow {
    /// Requests being worked on.
    pub running: u64,
    /// Requests waiting.
    pub waiting: u64,
    /// KV blocks in use.
    pub kv_used: u64,
    /// KV blocks allocated.
    pub kv_total: u64,
}

/// What has a present value, as it is at a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The devices.
    pub devices: Vec<DeviceNow>,
    /// Models that are not absent.
    pub models: Vec<ModelNow>,
    /// Loads and evictions so far, by model ([`DecisionLog::outcomes`]).
    ///
    /// [`DecisionLog::outcomes`]: super::events::DecisionLog::outcomes
    pub outcomes: Vec<(String, Outcomes)>,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    /// Finished HTTP requests by `model`, `endpoint`, `status`.
    pub requests: IntCounterVec,
    /// HTTP requests being answered, by `endpoint`.
    pub in_flight: IntGaugeVec,
    /// Time of a request to the end of its answer, by `endpoint`.
    pub request_seconds: HistogramVec,
    tokens: IntCounterVec,
    ttft: HistogramVec,
    inter_token: HistogramVec,
    queue: HistogramVec,
    device_usable: IntGaugeVec,
    memory_budget: IntGaugeVec,
    memory_reserved: IntGaugeVec,
    model_state: IntGaugeVec,
    model_device: IntGaugeVec,
    engine_requests: IntGaugeVec,
    kv_blocks: IntGaugeVec,
    // Held while the present values are replaced and read, so that two scrapes do not mix.
    scrape: Mutex<()>,
}

/// The metrics of one model's requests, looked up once a request instead of once a token.
#[derive(Clone)]
pub struct ModelMetrics {
    /// Tokens of prompts.
    pub prompt_tokens: prometheus::IntCounter,
    /// Of these, taken from the prefix cache.
    pub cached_tokens: prometheus::IntCounter,
    /// Tokens generated.
    pub completion_tokens: prometheus::IntCounter,
    /// Seconds from the request's arrival to its first token.
    pub ttft: Histogram,
    /// Seconds between tokens.
    pub inter_token: Histogram,
    /// Seconds in the engine's queue.
    pub queue: Histogram,
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, c: C) -> prometheus::Result<C> {
    registry.register(Box::new(c.clone()))?;
    Ok(c)
}

impl Metrics {
    /// All metrics at zero; `version` and `simd` go into `rocmforge_build_info`.
    ///
    /// # Errors
    /// Only if a name is registered twice or is no valid name: a mistake in this file.
    pub fn new(version: &str, simd: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(opts, labels)?)
        };
        registry.register(Box::new(ProcessCollector::for_self()))?;
        gauge("rocmforge_build_info", "1; what is running, as labels.", &["version", "simd"])?
            .with_label_values(&[version, simd])
            .set(1);
        Ok(Self {
            requests: counter(
                "rocmforge_requests_total",
                "HTTP requests answered, by model, endpoint and status.",
                &["model", "endpoint", "status"],
            )?,
            in_flight: gauge("rocmforge_requests_in_flight", "HTTP requests being answered.", &["endpoint"])?,
            request_seconds: histogram(
                "rocmforge_request_seconds",
                "Time from a request's arrival to the end of its answer.",
                &["endpoint"],
                WAIT_BUCKETS,
            )?,
            tokens: counter(
                "rocmforge_tokens_total",
                "Tokens by kind: prompt, cached (prompt tokens taken from the prefix cache), completion.",
                &["model", "kind"],
            )?,
            ttft: histogram(
                "rocmforge_ttft_seconds",
                "Time from a request's arrival to its first token, loading included.",
                &["model"],
                WAIT_BUCKETS,
            )?,
            inter_token: histogram(
                "rocmforge_inter_token_seconds",
                "Time between two tokens of a request.",
                &["model"],
                TOKEN_BUCKETS,
            )?,
            queue: histogram(
                "rocmforge_queue_seconds",
                "Time from a request's submission to the first step that worked on it.",
                &["model"],
                WAIT_BUCKETS,
            )?,
            device_usable: gauge(
                "rocmforge_device_usable",
                "1 if models can run on a device now, 0 if not; the reason says why.",
                &["device", "reason"],
            )?,
            memory_budget: gauge("rocmforge_memory_budget_bytes", "Budget of a device.", &["device"])?,
            memory_reserved: gauge(
                "rocmforge_memory_reserved_bytes",
                "Bytes reserved in the ledger; mapped weights count at the size of their file.",
                &["device", "model", "kind"],
            )?,
            model_state: gauge("rocmforge_model_state", "1 for the state a model is in.", &["model", "state"])?,
            model_device: gauge("rocmforge_model_device", "1 for what a model runs on.", &["model", "device"])?,
            engine_requests: gauge(
                "rocmforge_engine_requests",
                "Requests in an engine: running or waiting.",
                &["model", "state"],
            )?,
            kv_blocks: gauge(
                "rocmforge_kv_blocks",
                "Blocks of KV cache: used, and allocated in all.",
                &["model", "state"],
            )?,
            scrape: Mutex::new(()),
            registry,
        })
    }

    /// The metrics of `model`'s requests.
    pub fn model(&self, model: &str) -> ModelMetrics {
        let tokens = |kind| self.tokens.with_label_values(&[model, kind]);
        ModelMetrics {
            prompt_tokens: tokens("prompt"),
            cached_tokens: tokens("cached"),
            completion_tokens: tokens("completion"),
            ttft: self.ttft.with_label_values(&[model]),
            inter_token: self.inter_token.with_label_values(&[model]),
            queue: self.queue.with_label_values(&[model]),
        }
    }

    /// Everything in Prometheus' text format, with `now` as the present values.
    ///
    /// # Errors
    /// If the encoder refuses a metric family (a mistake in this file).
    pub fn render(&self, now: &Snapshot) -> prometheus::Result<Vec<u8>> {
        let _one_scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let clip = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let present = [
            &self.device_usable,
            &self.memory_budget,
            &self.memory_reserved,
            &self.model_state,
            &self.model_device,
            &self.engine_requests,
            &self.kv_blocks,
        ];
        present.into_iter().for_each(IntGaugeVec::reset);
        for d in &now.devices {
            self.device_usable.with_label_values(&[d.device.as_str(), d.reason.as_str()]).set(i64::from(d.usable));
            self.memory_budget.with_label_values(&[d.device.as_str()]).set(clip(d.budget));
            for h in &d.held {
                let labels = [d.device.as_str(), h.model.as_str(), h.kind.as_str()];
                self.memory_reserved.with_label_values(&labels).add(clip(h.bytes));
            }
        }
        for m in &now.models {
            let id = m.model.as_str();
            self.model_state.with_label_values(&[id, m.state.as_str()]).set(1);
            if let Some(device) = &m.device {
                self.model_device.with_label_values(&[id, device.as_str()]).set(1);
            }
            let Some(e) = m.engine else { continue };
            self.engine_requests.with_label_values(&[id, "running"]).set(clip(e.running));
            self.engine_requests.with_label_values(&[id, "waiting"]).set(clip(e.waiting));
            self.kv_blocks.with_label_values(&[id, "used"]).set(clip(e.kv_used));
            self.kv_blocks.with_label_values(&[id, "total"]).set(clip(e.kv_total));
        }
        let mut families = self.registry.gather();
        families.extend(outcomes(&now.outcomes)?);
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// Counters that are kept elsewhere: made anew for each scrape, since a counter cannot be set.
fn outcomes(of: &[(String, Outcomes)]) -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    let counter =
        |name: &str, help: &str, labels: &[&str]| register(&registry, CounterVec::new(Opts::new(name, help), labels)?);
    let loads = counter("rocmforge_loads_total", "Loads that ended: ok or failed.", &["model", "result"])?;
    let seconds = counter("rocmforge_load_seconds_total", "Time of the loads that succeeded.", &["model"])?;
    let evictions = counter("rocmforge_evictions_total", "Models unloaded, whoever wanted it.", &["model"])?;
    for (model, o) in of {
        loads.with_label_values(&[model.as_str(), "ok"]).inc_by(o.loaded as f64);
        loads.with_label_values(&[model.as_str(), "failed"]).inc_by(o.failed as f64);
        seconds.with_label_values(&[model]).inc_by(o.load_seconds);
        evictions.with_label_values(&[model]).inc_by(o.evicted as f64);
    }
    Ok(registry.gather())
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(m: &Metrics, s: &Snapshot) -> String {
        String::from_utf8(m.render(s).expect("renders")).expect("UTF-8")
    }

    #[test]
    fn present_values_are_replaced_at_each_scrape() {
        let m = Metrics::new("1.2.3", "avx2").expect("metrics");
        let held = |model: &str| Held { model: model.into(), kind: "weights".into(), bytes: 7 };
        let device = |held| DeviceNow { device: "cpu".into(), usable: true, reason: "why".into(), budget: 100, held };
        let first = text(&m, &Snapshot { devices: vec![device(vec![held("a"), held("b")])], ..Snapshot::default() });
        assert!(first.contains("rocmforge_memory_reserved_bytes{device=\"cpu\",kind=\"weights\",model=\"a\"} 7\n"));
        let second = text(&m, &Snapshot { devices: vec![device(vec![held("b")])], ..Snapshot::default() });
        assert!(!second.contains("model=\"a\""), "an evicted model must not linger:\n{second}");
        assert!(second.contains("rocmforge_memory_budget_bytes{device=\"cpu\"} 100\n"));
        assert!(second.contains("rocmforge_device_usable{device=\"cpu\",reason=\"why\"} 1\n"));
        assert!(second.contains("rocmforge_build_info{simd=\"avx2\",version=\"1.2.3\"} 1\n"));
    }

    #[test]
    fn process_metrics_keep_their_names() {
        let m = Metrics::new("1", "scalar").expect("metrics");
        let t = text(&m, &Snapshot::default());
        assert!(t.contains("\nprocess_resident_memory_bytes "), "{t}");
    }

    #[test]
    fn every_metric_is_documented() {
        let m = Metrics::new("1", "scalar").expect("metrics");
        // A vector shows up once it has a child.
        m.requests.with_label_values(&["m", "e", "200"]).inc();
        m.in_flight.with_label_values(&["e"]).set(0);
        m.request_seconds.with_label_values(&["e"]).observe(0.0);
        m.model("m").ttft.observe(0.0);
        let held = vec![Held { model: "m".into(), kind: "cache".into(), bytes: 1 }];
        let engine = Some(EngineNow::default());
        let model = ModelNow { model: "m".into(), state: "ready".into(), device: None, engine };
        let devices = vec![DeviceNow { device: "cpu".into(), usable: false, reason: String::new(), budget: 1, held }];
        let outcomes = vec![("m".to_owned(), Outcomes { loaded: 3, load_seconds: 1.5, ..Outcomes::default() })];
        let t = text(&m, &Snapshot { devices, models: vec![model], outcomes });
        assert!(t.contains("\nrocmforge_loads_total{model=\"m\",result=\"ok\"} 3\n"), "{t}");
        assert!(t.contains("\nrocmforge_load_seconds_total{model=\"m\"} 1.5\n"), "{t}");
        let doc = include_str!("../../docs/METRICS.md");
        let names: Vec<_> = t.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
        assert!(names.len() > 15, "{names:?}");
        for name in names.iter().filter(|n| n.starts_with("rocmforge_")) {
            assert!(doc.contains(&format!("`{name}`")), "docs/METRICS.md does not mention {name}");
        }
    }
}
