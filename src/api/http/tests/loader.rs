//! Models of a few bytes whose engines run on the test's backend.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{CONTEXT, Control, EOG, N_VOCAB, engine};
use crate::chat::Template;
use crate::gguf::meta::{Array, Meta, Strings, Value};
use crate::policy::admission::Need;
use crate::policy::placement::{Needs, Way};
use crate::registry::Loaded;
use crate::registry::loader::{Facts, Grant, Job, LoadError, Loader, Prepared, Reporter};
use crate::tokenizer::Tokenizer;

/// Files of the models.
pub fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes) in [("m", 1000), ("slow", 1000), ("big", 20_000), ("broken", 1000)] {
        let mut content = b"GGUF".to_vec();
        content.resize(bytes, 0);
        std::fs::write(dir.path().join(format!("{name}.gguf")), content).expect("a file");
    }
    dir
}

/// Loads what [`files`] made.
pub struct TestLoader {
    pub control: Arc<Control>,
}

struct TestFile {
    id: String,
    control: Arc<Control>,
}

impl Loader<Loaded> for TestLoader {
    fn attach(&self, _: Arc<tokio::sync::Notify>) {}

    fn inspect(&self, job: &Job, _: &Reporter) -> Result<Box<dyn Prepared<Loaded>>, LoadError> {
        if job.id == "broken" {
            return Err(LoadError::Invalid("tensor x is missing".into()));
        }
        Ok(Box::new(TestFile { id: job.id.clone(), control: Arc::clone(&self.control) }))
    }
}

impl Prepared<Loaded> for TestFile {
    fn needs(&self) -> Arc<Needs> {
        let weights = if self.id == "big" { 20_000 } else { 1000 };
        let need = Need { weights, cache: 10, activations: 2, tables: 1 };
        Arc::new(Needs { ways: vec![Way::whole(0, need)], n_layer: 1 })
    }

    fn facts(&self) -> Arc<Facts> {
        let n_vocab = N_VOCAB as u32;
        Arc::new(Facts { n_params: 50, n_ctx_train: 100, n_vocab, ..Facts::default() })
    }

    fn start(self: Box<Self>, grant: Grant, reporter: &Reporter) -> Result<Loaded, LoadError> {
        let slow = self.id == "slow";
        loop {
            let (percent, well) = if slow { self.control.loaded() } else { (100, true) };
            if !well || reporter.bytes(percent, 100).is_break() {
                return Err(LoadError::Device("the disk is gone".into()));
            }
            if percent == 100 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(loaded(self.id.clone(), engine(&self.control), self.facts(), grant))
    }
}

fn loaded(id: String, engine: crate::engine::handle::Handle, facts: Arc<Facts>, grant: Grant) -> Loaded {
    Loaded {
        worker: None,
        freed: Arc::default(),
        id,
        engine,
        tokenizer: Arc::new(tokenizer()),
        template: Arc::new(Template::new(Some("{{ messages[-1].content }}"), "", "")),
        context: CONTEXT,
        device: "cpu avx2".into(),
        n_vocab: N_VOCAB,
        facts,
        grant,
    }
}

/// Byte-level, without merges: a token for each byte, and one that ends a text.
fn tokenizer() -> Tokenizer {
    let mut meta = Meta::default();
    let mut tokens = Strings::default();
    let mut unprintable = 256;
    for byte in 0..=255u32 {
        // GPT-2's way to write bytes as characters.
        let c = match byte {
            33..=126 | 161..=172 | 174..=255 => byte,
            _ => {
                unprintable += 1;
                unprintable - 1
            }
        };
        tokens.push(char::from_u32(c).expect("a character").to_string().as_bytes());
    }
    tokens.push(b"<|end|>");
    let types = (0..=EOG).map(|id| if id == EOG { 3 } else { 1 }).collect();
    for (key, value) in [
        ("tokenizer.ggml.model", Value::Str("gpt2".into())),
        ("tokenizer.ggml.pre", Value::Str("gpt-2".into())),
        ("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", Value::Array(Array::Str(Strings::default()))),
        ("tokenizer.ggml.eos_token_id", Value::U32(EOG)),
    ] {
        assert!(meta.insert(key.to_owned(), value));
    }
    Tokenizer::from_meta(&meta).expect("a vocabulary")
}
