//! The two real models of fetch.py: greedy text and perplexity beside llama.cpp's.

use std::collections::HashMap;
use std::sync::Arc;

use rocmforge::backend::cpu::CpuPool;
use rocmforge::gguf::Gguf;
use rocmforge::model::{Model, PlanOptions};
use rocmforge::offline::device::Device;
use rocmforge::offline::drive::Part;
use rocmforge::offline::eval::{self, Input};
use rocmforge::plan::cache::KvType;
use rocmforge::simd::Tier;
use serde::Deserialize;

use crate::backend::driver;
use crate::goldens::{Greedy, best, data, folder};

const QWEN: &str = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf";
const GEMMA: &str = "gemma-3-270m-Q4_K_M.gguf";
/// Distance of two logits (nat) that llama.cpp itself does not keep when its batch size changes.
const TIE: f32 = 0.35;
/// Tokens of a prefill step.
const CHUNK: usize = 512;

fn path(file: &str) -> std::path::PathBuf {
    let path = folder().join(file);
    assert!(path.exists(), "{} is not there: run tests/models/fetch.py", path.display());
    path
}

/// The same greedy text as llama.cpp, up to a place where its two best logits are nearly equal.
/// Gives how many tokens of each prompt are the same, ascending.
fn greedy(name: &str, file: &str) -> Vec<usize> {
    let text = std::fs::read_to_string(data("greedy.json")).expect("tests/data/models/greedy.json");
    let goldens: HashMap<String, Vec<Greedy>> = serde_json::from_str(&text).expect("greedy.json");
    let gguf = Gguf::open(&path(file)).expect("a sound file");
    let model = Model::from_gguf(&gguf).expect("a known model");
    let plan = Arc::new(model.plan(&PlanOptions { kv_type: KvType::F16 }));
    let mut driver = driver(&plan, Tier::detect(), CHUNK, 1);
    let sequence = driver.add();
    let mut matches = Vec::new();
    for golden in &goldens[name] {
        driver.clear(sequence);
        let (last, prompt) = golden.prompt.split_last().expect("a prompt");
        for tokens in prompt.chunks(CHUNK) {
            driver.step(&[Part { sequence, tokens, outputs: 0..0 }]).expect("a step");
        }
        let mut next = *last;
        let mut same = golden.ids.len();
        for (i, id) in golden.ids.iter().enumerate() {
            let part = Part { sequence, tokens: &[next], outputs: 0..1 };
            next = best(driver.step(&[part]).expect("a step").rows);
            if next != *id {
                let gap = golden.gaps[i];
                println!("{name}, {}: differs at token {i}, where llama.cpp's gap is {gap}", golden.label);
                assert!(gap <= TIE, "{name}, {}: token {i} is {next}, llama.cpp's is {id} by {gap}", golden.label);
                same = i;
                break;
            }
        }
        println!("{name}, {}: {same} of {} tokens", golden.label, golden.ids.len());
        // A text that ended early and was the same to its end counts as a full match.
        matches.push(if same == golden.ids.len() { same.max(64) } else { same });
    }
    matches.sort_unstable();
    matches
}

#[test]
fn qwen_writes_what_llama_cpp_writes() {
    let matches = greedy("qwen", QWEN);
    assert!(matches[matches.len() / 2] >= 48, "median match of {matches:?}");
}

/// So small a model leaves its text early: llama.cpp itself differs by 0.2 to 0.4 in its logits
/// between a prefill and the same tokens one by one, and is further from the exact ones than we.
#[test]
fn gemma_writes_what_llama_cpp_writes() {
    greedy("gemma", GEMMA);
}

#[derive(Deserialize)]
struct Golden {
    tokens: usize,
    scored: usize,
    context: usize,
    perplexity: f64,
    error: f64,
}

fn perplexity(name: &str, file: &str) {
    let text = std::fs::read_to_string(data("perplexity.json")).expect("tests/data/models/perplexity.json");
    let goldens: HashMap<String, Golden> = serde_json::from_str(&text).expect("perplexity.json");
    let golden = &goldens[name];
    let options = eval::Options {
        model: path(file),
        input: Input::Text(data("text.txt")),
        logits: None,
        context: None,
        kv_type: KvType::F16,
        chunk: None,
        copies: None,
    };
    let report = eval::run(&options, &Device::Cpu(CpuPool::new(0, Tier::detect()))).expect("a perplexity");
    println!("{name}: {report}; llama.cpp {:.4}", golden.perplexity);
    let ours = report.perplexity.expect("asked for");
    assert_eq!((report.n_tokens, ours.n_scored, ours.context), (golden.tokens, golden.scored, golden.context));
    let off = (ours.value / golden.perplexity - 1.0).abs();
    assert!(off < 0.003, "{name}: perplexity {} is {:.2} % off {}", ours.value, 100.0 * off, golden.perplexity);
    assert!((ours.error / golden.error - 1.0).abs() < 0.02, "{name}: error {}", ours.error);
}

#[test]
fn qwen_perplexity_is_llama_cpps() {
    perplexity("qwen", QWEN);
}

#[test]
fn gemma_perplexity_is_llama_cpps() {
    perplexity("gemma", GEMMA);
}
