//! What can be wrong with a GGUF file. Every message names the file, the key or tensor, the
//! numbers, and what to do about it.

use std::io;

use thiserror::Error;

use super::map::MapError;
use crate::base::limits;
use crate::quant::TypeError;

/// Why a model file cannot be used.
#[derive(Debug, Error)]
pub enum GgufError {
    /// The file cannot be opened.
    #[error("{file}: cannot open: {source}")]
    Open {
        /// The file.
        file: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file cannot be mapped.
    #[error("{file}: {source}")]
    Map {
        /// The file.
        file: String,
        /// Why.
        source: MapError,
    },
    /// Its content is wrong.
    #[error("{file}: {fault}")]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong.
        fault: Fault,
    },
    /// It shrank while it was read.
    #[error("{file}: the file became shorter while it was read; wait until its download has ended")]
    Shrank {
        /// The file.
        file: String,
    },
    /// It is another part of a split model than the first.
    #[error("{file}: this is part {no} of {count} of a split model: load its first part, {first}")]
    NotFirstPart {
        /// The file.
        file: String,
        /// Which part it is, from 1.
        no: u32,
        /// Parts of the model.
        count: u32,
        /// Name of the first part.
        first: String,
    },
    /// A part of a split model is not there.
    #[error("{file}: part {no} of {count} is missing: {missing} was not found; fetch it into the same folder")]
    PartMissing {
        /// The first part.
        file: String,
        /// Which part is missing, from 1.
        no: u32,
        /// Parts of the model.
        count: u32,
        /// Its name.
        missing: String,
    },
    /// The parts do not belong together.
    #[error("{file}: {why}; fetch all parts of the model again")]
    Parts {
        /// The part that does not fit.
        file: String,
        /// What does not fit.
        why: String,
    },
}

impl GgufError {
    pub(super) fn invalid(file: &str, fault: Fault) -> Self {
        GgufError::Invalid { file: file.to_owned(), fault }
    }
}

/// What is wrong with the bytes of one file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// No bytes at all.
    #[error("the file is empty; fetch it again")]
    Empty,
    /// It does not begin with `GGUF`.
    #[error("not a GGUF file: {0}")]
    Magic(&'static str),
    /// A version that is not read.
    #[error("GGUF version {0}: {1}")]
    Version(u32, &'static str),
    /// Written on a big-endian machine.
    #[error(
        "a big-endian GGUF file (version {0}); fetch the little-endian one, or convert it with gguf_convert_endian.py"
    )]
    BigEndian(u32),
    /// The header ends in the middle.
    #[error(
        "the file ends too early: {what} at byte {at} needs {needed} bytes, {left} are left of {found} \
         (incomplete download? fetch it again)"
    )]
    CutHeader {
        /// What was being read.
        what: String,
        /// Where.
        at: u64,
        /// Bytes it takes, at least.
        needed: u64,
        /// Bytes that are there.
        left: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The tensors end behind the file's end.
    #[error(
        "the file ends too early: it has {found} bytes, its tensors need {expected} (`{tensor}` lies at {at}): \
         the download is incomplete, fetch the rest"
    )]
    CutData {
        /// Bytes of the file.
        found: u64,
        /// Bytes it must have.
        expected: u64,
        /// The first tensor that is cut.
        tensor: String,
        /// Where it begins.
        at: u64,
    },
    /// A count or length that no real file has.
    #[error("{what} is {found}; at most {max} are read (the file is damaged)")]
    TooMany {
        /// What is counted.
        what: String,
        /// The number in the file.
        found: u64,
        /// The limit, from `base::limits`.
        max: u64,
    },
    /// Something else about a key.
    #[error("metadata key `{key}`: {why}")]
    Key {
        /// The key, shortened.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Something else about a tensor.
    #[error("tensor `{tensor}`: {why}")]
    Tensor {
        /// Its name, shortened.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor of a type that is not known.
    #[error("tensor `{tensor}`: {source}")]
    Type {
        /// Its name.
        tensor: String,
        /// What is wrong with its type.
        source: TypeError,
    },
}

/// A name from a file for a message: control characters escaped, at most 80 characters.
pub(super) fn printable(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(limits::GGUF_NAME_MAX * 4)]);
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().count() > 80 || name.len() > limits::GGUF_NAME_MAX * 4 {
        out.push('…');
    }
    out
}
