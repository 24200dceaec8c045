//! Split models: `NAME-00001-of-000NN.gguf`, metadata in the first part, tensors in all.

use std::path::Path;

use super::error::GgufError;
use super::header::Header;
use super::meta::{MetaError, Value};
use crate::base::limits;
use crate::base::name::{part_name, split_part};

/// What a part says about the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Which part, from 0.
    pub(super) no: u32,
    /// How many parts.
    pub(super) count: u32,
    /// Tensors of all parts together.
    pub(super) tensors: Option<u32>,
}

/// Reads the split keys; `None` for a whole file.
pub(super) fn split(file: &str, header: &Header) -> Result<Option<Split>, GgufError> {
    let meta = &header.meta;
    let bad = |e: MetaError| GgufError::Parts { file: file.to_owned(), why: e.to_string() };
    let Some(count) = meta.u32("split.count").map_err(bad)? else { return Ok(None) };
    let no = meta.u32("split.no").map_err(bad)?.unwrap_or(0);
    // A lone part may still carry the keys.
    if count <= 1 && no == 0 {
        return Ok(None);
    }
    if count > limits::GGUF_SHARDS_MAX.into() || no >= count {
        let max = limits::GGUF_SHARDS_MAX;
        let why = format!("it says that it is part {} of {count} (at most {max} are read)", u64::from(no) + 1);
        return Err(GgufError::Parts { file: file.to_owned(), why });
    }
    let tensors = match meta.get("split.tensors.count") {
        None => None,
        Some(Value::I32(-1)) => None,
        Some(_) => meta.u32("split.tensors.count").map_err(bad)?,
    };
    Ok(Some(Split { no, count, tensors }))
}

/// The file name of part `no` (from 0) beside `file`, if `file` is named as a part of `count`.
pub(super) fn sibling(file: &Path, no: u32, count: u32) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let (stem, ending) = name.rsplit_once('.')?;
    let (base, _, named) = split_part(stem)?;
    (named == count).then(|| format!("{}.{ending}", part_name(base, no + 1, count)))
}

/// The error for a part that is not the first.
pub(super) fn not_first(file: &str, split: Split) -> GgufError {
    let first = sibling(Path::new(file), 0, split.count)
        .unwrap_or_else(|| format!("the file that ends in -00001-of-{:05}.gguf", split.count));
    GgufError::NotFirstPart { file: file.to_owned(), no: split.no + 1, count: split.count, first }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_keep_base_and_ending() {
        let f = Path::new("/m/a-b-00001-of-00012.gguf");
        assert_eq!(sibling(f, 11, 12).as_deref(), Some("a-b-00012-of-00012.gguf"));
        assert_eq!(sibling(f, 1, 13), None);
        assert_eq!(sibling(Path::new("/m/a.gguf"), 1, 2), None);
    }
}
