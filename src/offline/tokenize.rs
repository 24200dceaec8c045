//! `rocmforged tokenize`: token ids of strings. Works on vocabulary-only files.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::gguf::{Gguf, GgufError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// What to tokenize and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The model's file.
    pub model: PathBuf,
    /// A JSON list of strings.
    pub input: PathBuf,
    /// Where the JSON list of lists of ids goes.
    pub output: PathBuf,
    /// Add BOS and EOS as the file says, and recognise special tokens in the text.
    pub special: bool,
}

/// Why nothing came out.
#[derive(Debug, Error)]
pub enum TokenizeError {
    /// The file is no sound GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Its vocabulary cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The input is no list of strings.
    #[error("{}: not a JSON list of strings: {source}", path.display())]
    Json {
        /// The input.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
}

/// Tokenizes; gives the number of strings.
///
/// # Errors
/// [`TokenizeError`]; the output is written last and in one piece.
pub fn run(options: &Options) -> Result<usize, TokenizeError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TokenizeError::Io { path, source }
    };
    let tokenizer = Tokenizer::from_meta(&Gguf::open(&options.model)?.meta)?;
    let input = std::fs::read(&options.input).map_err(io(&options.input))?;
    let texts: Vec<String> =
        serde_json::from_slice(&input).map_err(|source| TokenizeError::Json { path: options.input.clone(), source })?;
    let ids: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t, options.special, options.special)).collect();
    let json =
        serde_json::to_vec(&ids).map_err(|source| TokenizeError::Json { path: options.output.clone(), source })?;
    std::fs::write(&options.output, json).map_err(io(&options.output))?;
    Ok(texts.len())
}
