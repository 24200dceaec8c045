//! Against llama.cpp: ids and texts on real vocabularies, made by tests/data/tokenizer/make_goldens.py.
//!
//! The vocabularies are fetched by tests/models/fetch.py. Without them these tests fail, unless
//! `ROCMFORGE_TEST_MODELS_MISSING=skip` says that this is meant.

use super::*;
use crate::gguf::Gguf;
use crate::gguf::meta::{Strings, Value};
use serde_json::Value as Json;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn models() -> PathBuf {
    let cache = || env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    env::var_os("ROCMFORGE_TEST_MODELS").map_or_else(|| cache().join("rocmforge/test-models"), PathBuf::from)
}

fn home() -> PathBuf {
    env::var_os("HOME").map(PathBuf::from).unwrap_or_default()
}

/// Metadata of a test model; `None` if it is missing and that is allowed.
fn meta(file: &str) -> Option<Meta> {
    let path = models().join(file);
    if !path.exists() {
        let allowed = env::var("ROCMFORGE_TEST_MODELS_MISSING").is_ok_and(|v| v == "skip");
        assert!(allowed, "{} is missing: run tests/models/fetch.py", path.display());
        return None;
    }
    Some(Gguf::open(&path).unwrap().meta)
}

/// Copy of `meta` with other values of some keys (`None` removes one).
fn with(meta: &Meta, changes: &[(&str, Option<Value>)]) -> Meta {
    let mut out = Meta::default();
    for (key, value) in changes {
        if let Some(value) = value {
            out.insert((*key).to_owned(), value.clone());
        }
    }
    for (key, value) in meta.iter().filter(|(key, _)| !changes.iter().any(|(k, _)| k == key)) {
        out.insert(key.to_owned(), value.clone());
    }
    out
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn fnv(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    format!("{:016x}", bytes.into_iter().fold(0xCBF2_9CE4_8422_2325, step))
}

/// Whether `ids` are what the golden keeps: the ids, or `count:hash`.
fn same(ids: &[u32], golden: &Json) -> bool {
    match golden {
        Json::String(s) => *s == format!("{}:{}", ids.len(), fnv(ids.iter().flat_map(|id| id.to_le_bytes()))),
        list => *list == Json::from(ids),
    }
}

fn list(golden: &Json) -> Vec<u32> {
    golden.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Compares with one golden file; what differs.
fn check(golden: &Json, texts: &[Json]) -> Vec<String> {
    let Some(mut meta) = meta(golden["vocabulary"].as_str().unwrap()) else { return Vec::new() };
    if let Some(pre) = golden["pre"].as_str() {
        meta = with(&meta, &[("tokenizer.ggml.pre", Some(Value::Str(pre.to_owned())))]);
    }
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    let mut wrong = Vec::new();
    let (bos, eos) = (list(&golden["bos"]), list(&golden["eos"]));
    for (i, text) in texts.iter().enumerate() {
        let text = text.as_str().unwrap();
        let raw = tokenizer.encode(text, false, false);
        let special = tokenizer.encode(text, false, true);
        if !same(&raw, &golden["raw"][i]) {
            wrong.push(format!("raw {text:?}: {raw:?}, llama.cpp {}", golden["raw"][i]));
        }
        let expected = if golden["special"][i].is_null() { &golden["raw"][i] } else { &golden["special"][i] };
        if !same(&special, expected) {
            wrong.push(format!("special {text:?}: {special:?}, llama.cpp {expected}"));
        }
        for (ids, parse) in [(&raw, false), (&special, true)] {
            if tokenizer.encode(text, true, parse) != [&bos[..], ids, &eos].concat() {
                wrong.push(format!("added {text:?}"));
            }
        }
    }
    if tokenizer.eog() != list(&golden["eog"]) {
        wrong.push(format!("end of generation: {:?}, llama.cpp {}", tokenizer.eog(), golden["eog"]));
    }
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for (ids, texts) in golden["detokenized"].as_object().into_iter().flatten() {
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let found = [hex(tokenizer.decode(&ids, true)), hex(tokenizer.decode(&ids, false))];
        if *texts != Json::from(&found[..]) {
            wrong.push(format!("decode {ids:?}: {found:?}, llama.cpp {texts}"));
        }
    }
    // Tokens that llama.cpp spells as an error message are those that are no byte-level text.
    let odd = |id: &u32| {
        let text = std::str::from_utf8(tokenizer.vocab.text(*id)).unwrap_or("\u{FFFD}");
        let plain = tokenizer.vocab.attr(*id) & vocab::NORMAL != 0 && matches!(tokenizer.kind, Kind::Bpe(_));
        plain && golden["vocabulary"].as_str().unwrap().contains("command-r") && text.chars().any(|c| c > '\u{143}')
    };
    if let Some(hash) = golden["pieces"].as_str() {
        let ids = (0..tokenizer.n_vocab() as u32).filter(|id| !odd(id));
        if fnv(ids.flat_map(|id| tokenizer.piece(id).iter().copied())) != hash {
            wrong.push("pieces of all tokens".to_owned());
        }
    }
    wrong
}

#[test]
fn golden() {
    let folder = env::var_os("ROCMFORGE_TEST_TOKENIZER_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizer"), PathBuf::from);
    let texts = json(&folder.join("texts.json"));
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "json") && !p.ends_with("texts.json"))
        .collect();
    files.sort();
    assert!(files.len() > 30, "{} has too few goldens", folder.display());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        wrong.extend(check(&json(&file), texts.as_array().unwrap()).into_iter().map(|w| format!("{name}: {w}")));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(60)].join("\n"));
}

/// llama.cpp's own test strings, which come with its vocabularies.
#[test]
fn vendored_strings() {
    let folder = models().join("vocabularies");
    let mut compared = 0;
    for entry in fs::read_dir(&folder).into_iter().flatten() {
        let input = entry.unwrap().path();
        let Some(stem) = input.to_str().and_then(|p| p.strip_suffix(".inp")) else { continue };
        if stem.contains("bert") {
            continue;
        }
        let meta = meta(stem).unwrap();
        let tokenizer = Tokenizer::from_meta(&meta).unwrap();
        let inputs = fs::read_to_string(&input).unwrap();
        let outputs = fs::read_to_string(format!("{stem}.out")).unwrap();
        for (text, ids) in inputs.split("\n__ggml_vocab_test__\n").zip(outputs.lines()) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false, false), ids, "{stem}: {text:?}");
            compared += 1;
        }
    }
    let allowed = env::var("ROCMFORGE_TEST_MODELS_MISSING").is_ok_and(|v| v == "skip");
    assert!(compared > 600 || allowed && compared == 0, "only {compared} strings: run tests/models/fetch.py");
}

/// Metadata of a small byte-level vocabulary: all bytes, and the tokens of `merges`.
fn small(merges: &[&str], extra: &[(&str, i32)]) -> Meta {
    let mut tokens = Strings::default();
    let mut types = Vec::new();
    let chars: Vec<String> = (0..=255u8).map(|b| byte_char(b).to_string()).collect();
    let joined = merges.iter().map(|m| m.replace(' ', ""));
    for text in chars.into_iter().chain(joined) {
        tokens.push(text.as_bytes());
        types.push(1);
    }
    for (text, ty) in extra {
        tokens.push(text.as_bytes());
        types.push(*ty);
    }
    let mut list = Strings::default();
    merges.iter().for_each(|m| list.push(m.as_bytes()));
    let mut meta = Meta::default();
    let mut set = |key: &str, value| assert!(meta.insert(format!("tokenizer.ggml.{key}"), value));
    set("model", Value::Str("gpt2".to_owned()));
    set("pre", Value::Str("qwen2".to_owned()));
    set("tokens", Value::Array(Array::Str(tokens)));
    set("token_type", Value::Array(Array::I32(types)));
    set("merges", Value::Array(Array::Str(list)));
    meta
}

fn byte_char(b: u8) -> char {
    match b {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => b as char,
        _ => char::from_u32(
            256 + (0..b).filter(|b| !matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)).count() as u32,
        )
        .unwrap(),
    }
}

#[test]
fn small_vocabulary() {
    let meta = small(&["h i", "Ġ hi"], &[("<|im_end|>", 3), ("<x>", 4)]);
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    assert_eq!(tokenizer.encode("hi hi<x>hi", false, false), [256, 257, 259, 256]);
    assert_eq!(tokenizer.encode("<|im_end|>", false, true), [258]);
    assert_eq!(tokenizer.encode("<|im_end|>", false, false).len(), 10);
    assert_eq!(tokenizer.piece(257), b" hi");
    assert_eq!(tokenizer.decode(&[256, 258, 257, 9999], false), b"hi hi");
    assert_eq!(tokenizer.decode(&[256, 258], true), b"hi<|im_end|>");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(11), Some(11)));
    assert_eq!(tokenizer.eog(), [11, 258]);
    assert!(tokenizer.is_control(258) && !tokenizer.is_control(259) && !tokenizer.adds_bos());
    assert_eq!(tokenizer.describe(), "gpt2, pre qwen2");
}

#[test]
fn wrong_metadata_names_its_key() {
    let good = small(&["h i"], &[]);
    let strings = |list: &[&str]| {
        let mut strings = Strings::default();
        list.iter().for_each(|s| strings.push(s.as_bytes()));
        Some(Value::Array(Array::Str(strings)))
    };
    let text = |s: &str| Some(Value::Str(s.to_owned()));
    let cases: &[(&str, Option<Value>, &str)] = &[
        ("tokenizer.ggml.model", None, "`tokenizer.ggml.model` is missing"),
        ("tokenizer.ggml.model", text("bert"), "`bert`: not supported (supported: gpt2"),
        ("tokenizer.ggml.pre", text("qwen3"), "`qwen3`: not known; nearest known: qwen35, qwen2"),
        ("tokenizer.ggml.tokens", None, "`tokenizer.ggml.tokens` is missing"),
        ("tokenizer.ggml.tokens", Some(Value::U32(1)), "`tokenizer.ggml.tokens` is u32"),
        ("tokenizer.ggml.tokens", strings(&[]), "has 0 tokens"),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "a"]), "tokens 0 and 2 are both `a`"),
        ("tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![1; 5]))), "5 entries for 257 tokens"),
        ("tokenizer.ggml.token_type", Some(Value::Array(Array::F32(vec![1.0]))), "`tokenizer.ggml.token_type`"),
        ("tokenizer.ggml.merges", None, "`tokenizer.ggml.merges` is missing"),
        ("tokenizer.ggml.merges", strings(&["h i", "hi"]), "merge 1 `hi`: no space"),
        ("tokenizer.ggml.merges", strings(&["h i", "hx i"]), "merge 1 `hx i`: names a token"),
        ("tokenizer.ggml.merges", strings(&["h i", "i h"]), "merge 1 `i h`: gives a token"),
        ("tokenizer.ggml.bos_token_id", text("x"), "`tokenizer.ggml.bos_token_id` is string"),
    ];
    for (key, value, expected) in cases {
        let error = Tokenizer::from_meta(&with(&good, &[(key, value.clone())])).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let spm = |scores: Vec<f32>| {
        let scores = Some(Value::Array(Array::F32(scores)));
        Tokenizer::from_meta(&with(&good, &[("tokenizer.ggml.model", text("llama")), (SCORES, scores)]))
    };
    assert_eq!(spm(vec![0.0; 9]).unwrap_err(), TokenizerError::Length { key: SCORES, found: 9, tokens: 257 });
    assert_eq!(spm([vec![0.0; 256], vec![f32::NAN]].concat()).unwrap_err(), TokenizerError::Score(256));
    assert!(spm(vec![0.0; 300]).is_ok());
}

#[test]
fn ids_outside_of_the_vocabulary_are_passed_over() {
    let meta = small(&["h i"], &[]);
    let far = with(
        &meta,
        &[
            ("tokenizer.ggml.bos_token_id", Some(Value::U32(257))),
            ("tokenizer.ggml.eos_token_id", Some(Value::I32(-1))),
            ("tokenizer.ggml.pre", None),
        ],
    );
    let tokenizer = Tokenizer::from_meta(&far).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(11), Some(11)));
    assert_eq!(tokenizer.notes().len(), 3, "{:?}", tokenizer.notes());
    assert_eq!(tokenizer.describe(), "gpt2, pre default");
}

#[test]
fn harmony_end_is_no_end() {
    let meta = small(&[], &[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3), ("<|channel|>", 3)]);
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    assert_eq!(tokenizer.eog(), [11, 257, 258]);
    assert!(!tokenizer.is_control(256) && !tokenizer.is_control(259));
    let tokenizer = Tokenizer::from_meta(&small(&[], &[("<|end|>", 1), ("</s>", 1)])).unwrap();
    assert_eq!(tokenizer.eog(), [11, 256, 257]);
    assert!(tokenizer.is_control(256));
}

/// A SentencePiece vocabulary without byte tokens: llama.cpp throws an exception here.
#[test]
fn sentencepiece_without_bytes() {
    let mut tokens = Strings::default();
    ["<unk>", "<s>", "</s>", "\u{2581}", "a", "\u{2581}a", "aa"].iter().for_each(|t| tokens.push(t.as_bytes()));
    let mut meta = Meta::default();
    let mut set = |key: &str, value| assert!(meta.insert(format!("tokenizer.ggml.{key}"), value));
    set("model", Value::Str("llama".to_owned()));
    set("tokens", Value::Array(Array::Str(tokens)));
    set("scores", Value::Array(Array::F32(vec![0.0, 0.0, 0.0, -4.0, -3.0, -1.0, -2.0])));
    set("token_type", Value::Array(Array::I32(vec![2, 3, 3, 1, 1, 1, 1])));
    let tokenizer = Tokenizer::from_meta(&meta).unwrap();
    assert_eq!(tokenizer.encode("aaa a", true, false), [1, 5, 6, 5]);
    assert_eq!(tokenizer.encode("é", false, false), [3, 0, 0]);
    assert_eq!(tokenizer.decode(&[5, 6, 5], false), b"aaa a");
    assert_eq!(tokenizer.encode("a</s>a", false, true), [5, 2, 5]);
}

/// A megabyte in one word must not take quadratic time, whatever the kind.
#[test]
fn long_words_stay_fast() {
    let started = std::time::Instant::now();
    for file in
        ["ggml-vocab-llama-spm.gguf", "ggml-vocab-qwen2.gguf", "ggml-vocab-gemma-4.gguf", "ggml-vocab-gpt-2.gguf"]
    {
        let Some(meta) = meta(&format!("vocabularies/{file}")) else { return };
        let tokenizer = Tokenizer::from_meta(&meta).unwrap();
        for unit in ["a", "ab1", "漢字", "\n", " ", "é\u{301}", "!", "<|im_end|>"] {
            let text = unit.repeat(400_000 / unit.len());
            let ids = tokenizer.encode(&text, false, true);
            assert_eq!(tokenizer.decode(&ids, true), text.as_bytes(), "{file} {unit:?}");
        }
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// Speed by hand: `cargo test --release --lib tokenizer::tests::speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let text = fs::read_to_string(env::var("ROCMFORGE_TEST_TEXT").expect("a text file of about 2 MB")).unwrap();
    for file in [
        "vocabularies/ggml-vocab-qwen2.gguf",
        "vocabularies/ggml-vocab-llama-bpe.gguf",
        "vocabularies/ggml-vocab-gpt-2.gguf",
        "vocabularies/ggml-vocab-llama-spm.gguf",
        "vocabularies/ggml-vocab-deepseek-llm.gguf",
        "vocabularies/ggml-vocab-gemma-4.gguf",
        "gemma-3-270m-Q4_K_M.gguf",
        "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf",
    ] {
        let meta = meta(file).unwrap();
        let at = std::time::Instant::now();
        let tokenizer = Tokenizer::from_meta(&meta).unwrap();
        let loaded = at.elapsed();
        let mut speeds = Vec::new();
        let mut n = 0;
        for _ in 0..3 {
            let at = std::time::Instant::now();
            n = tokenizer.encode(&text, false, true).len();
            speeds.push(format!("{:.1}", text.len() as f64 / 1e6 / at.elapsed().as_secs_f64()));
        }
        println!("{file}: load {loaded:.1?}, {n} ids, MB/s cold then warm {}", speeds.join(" "));
    }
}
