//! The goldens under tests/data/models and the models they belong to (see tests/models).

use std::path::PathBuf;

use rocmforge::gguf::Gguf;
use rocmforge::model::{Model, PlanOptions};
use rocmforge::plan::Plan;
use rocmforge::plan::cache::KvType;
use serde::Deserialize;

/// A tiny model's golden; see make_goldens.py.
#[derive(Deserialize)]
pub struct Tiny {
    pub name: String,
    pub tokens: Vec<u32>,
    pub n_vocab: usize,
    offset: usize,
    /// Standard deviation of the exact logits.
    pub std: f32,
    /// For quantized models: how far llama.cpp is from the exact logits.
    pub llama_cpp_rms: Option<f64>,
    /// For F32 models: the greedy continuation.
    #[serde(default)]
    pub greedy: Vec<u32>,
}

/// What a real model answers; see make_goldens.py.
#[derive(Deserialize)]
pub struct Greedy {
    pub label: String,
    pub prompt: Vec<u32>,
    pub ids: Vec<u32>,
    /// How far llama.cpp's best logit was above the second at each step.
    pub gaps: Vec<f32>,
}

/// A file under tests/data/models.
pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name)
}

/// Where fetch.py and make_tiny.py put models.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("ROCMFORGE_TEST_MODELS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        cache.expect("HOME is set").join("rocmforge/test-models")
    })
}

/// All tiny models.
pub fn tiny() -> Vec<Tiny> {
    let text = std::fs::read_to_string(data("tiny.json")).expect("tests/data/models/tiny.json");
    serde_json::from_str(&text).expect("tiny.json")
}

impl Tiny {
    /// The logits of each token, one row after the other.
    pub fn logits(&self) -> Vec<f32> {
        let bytes = std::fs::read(data("tiny.f32")).expect("tests/data/models/tiny.f32");
        let (floats, _) = bytes.as_chunks::<4>();
        let rows = &floats[self.offset..][..self.tokens.len() * self.n_vocab];
        rows.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// The model.
    pub fn open(&self) -> Model {
        let path = folder().join("tiny").join(format!("{}.gguf", self.name));
        assert!(path.exists(), "{} is not there: run tests/models/make_tiny.py", path.display());
        let gguf = Gguf::open(&path).expect("a sound file");
        Model::from_gguf(&gguf).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Its plan with caches in f32.
    pub fn plan(&self) -> Plan {
        self.open().plan(&PlanOptions { kv_type: KvType::F32 })
    }
}

/// Largest difference of two lists of numbers.
#[track_caller]
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// Root of the mean squared difference.
#[track_caller]
pub fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

/// Index of the largest.
pub fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("a vocabulary") as u32
}
