//! `rocmforged eval` and `tokenize` as library calls, on tiny models.

use std::path::{Path, PathBuf};

use rocmforge::backend::cpu::CpuPool;
use rocmforge::offline::device::Device;
use rocmforge::offline::eval::{EvalError, Input, Options, Report};
use rocmforge::offline::tokenize;
use rocmforge::plan::cache::KvType;
use rocmforge::simd::Tier;
use tempfile::TempDir;

use crate::goldens::{Tiny, folder, max_difference, tiny};

fn golden(name: &str) -> Tiny {
    tiny().into_iter().find(|g| g.name == name).expect("a golden")
}

fn model(name: &str) -> PathBuf {
    folder().join("tiny").join(format!("{name}.gguf"))
}

fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn options(name: &str, input: Input, logits: Option<&Path>) -> Options {
    Options {
        model: model(name),
        input,
        logits: logits.map(Path::to_owned),
        context: None,
        kv_type: KvType::F32,
        chunk: None,
        copies: None,
    }
}

fn run(options: &Options) -> Result<Report, EvalError> {
    rocmforge::offline::eval::run(options, &Device::Cpu(CpuPool::new(0, Tier::detect())))
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).expect("written");
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn logits_of_tokens_are_the_goldens() {
    let dir = TempDir::new().expect("a folder");
    let out = dir.path().join("logits.f32");
    for name in ["llama-gqa", "qwen2", "gemma3"] {
        let golden = golden(name);
        let ids: Vec<String> = golden.tokens.iter().map(u32::to_string).collect();
        let tokens = Input::Tokens(write(&dir, "ids.txt", &ids.join("\n ")));
        let plain = options(name, tokens, Some(&out));
        for (chunk, copies) in [(None, None), (Some(7), None), (None, Some(3)), (Some(5), Some(2))] {
            let report = run(&Options { chunk, copies, ..plain.clone() }).expect("logits");
            let difference = max_difference(&floats(&out), &golden.logits());
            assert!(difference <= 1e-3, "{name}, chunk {chunk:?}, copies {copies:?}: {difference}");
            assert_eq!(report.n_tokens, golden.tokens.len());
            assert_eq!(report.difference, copies.map(|_| 0.0), "{name}: copies are equal");
        }
    }
}

/// Perplexity from logits that eval itself gave, by the definition.
#[test]
fn perplexity_follows_from_the_logits() {
    let dir = TempDir::new().expect("a folder");
    let out = dir.path().join("logits.f32");
    let golden = golden("qwen2");
    let window = &golden.tokens[..16];
    let all: Vec<String> = golden.tokens.iter().map(u32::to_string).collect();
    let first: Vec<String> = window.iter().map(u32::to_string).collect();
    let tokens = |ids: &[String]| Input::Tokens(write(&dir, "ids.txt", &ids.join(" ")));
    run(&options("qwen2", tokens(&first), Some(&out))).expect("logits");
    let logits = floats(&out);
    let loss = |i: usize| {
        let row = &logits[i * golden.n_vocab..][..golden.n_vocab];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        sum.ln() - f64::from(row[window[i + 1] as usize])
    };
    let mean = (8..15).map(loss).sum::<f64>() / 7.0;
    // 36 tokens are two windows of 16 and a rest; of the first 20 only the first counts.
    let part = Options { context: Some(16), ..options("qwen2", tokens(&all[..20]), None) };
    let found = run(&part).expect("a perplexity").perplexity.expect("asked for");
    assert_eq!((found.n_scored, found.context), (7, 16));
    assert!((found.value / mean.exp() - 1.0).abs() < 1e-5, "{} and {}", found.value, mean.exp());
    let whole = Options { context: Some(16), ..options("qwen2", tokens(&all), None) };
    assert_eq!(run(&whole).expect("a perplexity").perplexity.expect("asked for").n_scored, 14);
}

#[test]
fn mistakes_are_named() {
    let dir = TempDir::new().expect("a folder");
    let text = |text: &str| Input::Text(write(&dir, "text.txt", text));
    let tokens = |ids: &str| Input::Tokens(write(&dir, "ids.txt", ids));
    let refused = |result: Result<Report, EvalError>, says: &str| {
        let error = result.expect_err("must be refused").to_string();
        assert!(error.contains(says), "{error}");
    };
    let on = |input| run(&options("llama-gqa", input, None));
    refused(on(text("too short")), "are less than one window of 512");
    refused(on(tokens("1 2 x3")), "`x3` is no token id");
    refused(on(tokens("1 2 347")), "token 347 of a vocabulary of 347");
    refused(on(Input::Text(dir.path().join("absent"))), "absent: No such file");
    let good = || options("llama-gqa", tokens("1 2 3 4 5 6"), None);
    refused(run(&Options { context: Some(3), ..good() }), "windows of 3 tokens");
    refused(run(&Options { chunk: Some(0), ..good() }), "a chunk of 0 tokens");
    refused(run(&Options { copies: Some(100_000), ..good() }), "100000 copies");
    refused(run(&Options { kv_type: KvType::Q8_0, ..good() }), "a head of this model has 16 elements");
    let out = dir.path().join("out");
    let logits = Options { context: Some(5), logits: Some(out), ..good() };
    refused(run(&logits), "6 tokens do not fit in a context of 5");
    refused(run(&Options { model: dir.path().join("absent.gguf"), ..good() }), "absent.gguf");
}

#[test]
fn tokenize_writes_a_list_for_each_string() {
    let dir = TempDir::new().expect("a folder");
    let input = write(&dir, "in.json", r#"["the fox", "", "<s>é"]"#);
    let output = dir.path().join("out.json");
    let run = |special| {
        let options =
            tokenize::Options { model: model("llama-gqa"), input: input.clone(), output: output.clone(), special };
        assert_eq!(tokenize::run(&options).expect("ids"), 3);
        let json = std::fs::read(&output).expect("written");
        serde_json::from_slice::<Vec<Vec<u32>>>(&json).expect("lists of ids")
    };
    let (special, raw) = (run(true), run(false));
    assert_eq!(special[0][0], 1, "BOS");
    assert_eq!(special[0][1..], raw[0]);
    assert_eq!((special[1].as_slice(), raw[1].len()), ([1].as_slice(), 0));
    assert_eq!(special[2][..2], [1, 1], "BOS, then `<s>` in the text");
    assert!(!raw[2].contains(&1));
    // Bytes without a token of their own fall back to byte tokens, which start at 3.
    assert!(raw[2].ends_with(&[3 + 0xC3, 3 + 0xA9]), "{:?}", raw[2]);
    let bad =
        tokenize::Options { model: model("llama-gqa"), input: write(&dir, "bad.json", "{}"), output, special: true };
    let error = tokenize::run(&bad).expect_err("no list").to_string();
    assert!(error.contains("bad.json: not a JSON list of strings"), "{error}");
}
