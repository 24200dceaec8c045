//! Against llama.cpp: ids and texts on real vocabularies, made by tests/data/tokenizer/make_goldens.py.
//!
//! The vocabularies are fetched by tests/models/fetch.py. Without them these tests fail, unless
//! `ROCMFORGE_TEST_MODELS_MISSING=skip` says that this is meant.

use super::*;
use crate::gguf::Gguf;
use crate::gguf::meta::Value;
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
