//! What a model file says about itself, for lists, `show` and the ledger.

use super::loader::Facts;
use crate::gguf::Gguf;
use crate::gguf::meta::Meta;
use crate::model::Model;

/// The facts that need no tokenizer and no template; those two are named by their metadata.
pub(super) fn of(model: &Model, gguf: &Gguf) -> Facts {
    let mut types: Vec<(String, u64, u64)> = Vec::new();
    for tensor in &gguf.tensors {
        let name = tensor.ty.name();
        let bytes = tensor.data.len() as u64;
        match types.iter_mut().find(|t| t.0 == name) {
            Some(t) => (t.1, t.2) = (t.1 + 1, t.2 + bytes),
            None => types.push((name.to_owned(), 1, bytes)),
        }
    }
    types.sort_by_key(|t| std::cmp::Reverse(t.2));
    let word = |key: &str| gguf.meta.str(key).ok().flatten().unwrap_or("?").to_owned();
    let template = match gguf.meta.str("tokenizer.chat_template") {
        Ok(Some(_)) => "tokenizer.chat_template",
        _ => "none in the file: a fallback is chosen at load",
    };
    Facts {
        architecture: word("general.architecture"),
        n_params: model.n_params,
        quantization: types.first().map(|t| t.0.clone()).unwrap_or_default(),
        n_ctx_train: model.hparams.n_ctx_train,
        n_vocab: model.hparams.n_vocab as u32,
        hparams: model.describe().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        tensor_types: types,
        ignored_tensors: model.ignored.clone(),
        tokenizer: format!("{}, pre {}", word("tokenizer.ggml.model"), word("tokenizer.ggml.pre")),
        chat_template: template.to_owned(),
        notes: Vec::new(),
    }
}

/// Bytes of a token in the tokenizer's tables: its text, its type, its place in hash tables of
/// texts and in the word cache. An estimate from the sizes of these structures.
const TOKEN_BYTES: u64 = 112;
/// Bytes of a merge: its pair of ids and rank in a hash table.
const MERGE_BYTES: u64 = 32;

/// Bytes that the tokenizer of a file will take, for the ledger.
pub(super) fn tables(meta: &Meta) -> u64 {
    let strings = |key: &str, each: u64| match meta.strings(key) {
        Ok(Some(s)) => s.iter().map(|s| s.len() as u64 + each).sum(),
        _ => 0u64,
    };
    strings("tokenizer.ggml.tokens", TOKEN_BYTES) + strings("tokenizer.ggml.merges", MERGE_BYTES)
}
