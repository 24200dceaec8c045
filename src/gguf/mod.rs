//! GGUF files: the container of weights and metadata, versions 2 and 3, whole or split.
//!
//! Source: ggml's `docs/gguf.md`. Every offset, size, count, alignment and overlap is checked
//! before it is used; a hostile file costs bounded time and memory and gives one clear error.

#[cfg(test)]
mod build;
mod error;
mod header;
#[cfg(test)]
mod hostile;
pub mod map;
pub mod meta;
mod shards;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub use error::{Fault, GgufError};
pub use header::{Header, TensorInfo, parse};

use crate::base::storage::{Slice, Storage};
use crate::quant::GgmlType;
use map::Map;
use meta::Meta;
use shards::Split;

/// A tensor of the file(s).
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name (`blk.0.attn_q.weight`).
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Elements along each dimension; the first is contiguous. Unused ones are 1.
    pub dims: [u64; 4],
    /// Dimensions the file gives (1 to 4).
    pub n_dims: usize,
    /// Its bytes, mapped.
    pub data: Slice,
}

/// An opened model: all parts of a split file as one.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Metadata of the first part.
    pub meta: Meta,
    /// Tensors of all parts, in file order.
    pub tensors: Vec<Tensor>,
    /// Bytes of all parts together.
    pub file_bytes: u64,
    /// The parts, mapped; the first one first. Empty for a model made in memory.
    pub maps: Vec<Arc<Map>>,
    index: HashMap<String, usize>,
}

/// One part, parsed.
struct Part {
    file: String,
    map: Arc<Map>,
    header: Header,
    split: Option<Split>,
}

impl Part {
    fn new(file: File, name: String) -> Result<Self, GgufError> {
        let map = Map::new(file).map_err(|source| match source {
            map::MapError::Empty => GgufError::invalid(&name, Fault::Empty),
            source => GgufError::Map { file: name.clone(), source },
        })?;
        let header = parse(map.bytes());
        if map.poisoned() {
            return Err(GgufError::Shrank { file: name });
        }
        let header = header.map_err(|fault| GgufError::invalid(&name, fault))?;
        let split = shards::split(&name, &header)?;
        Ok(Self { file: name, map: Arc::new(map), header, split })
    }

    fn open(path: &Path) -> Result<Self, GgufError> {
        let name = path.to_string_lossy().into_owned();
        match File::open(path) {
            Ok(file) => Self::new(file, name),
            Err(source) => Err(GgufError::Open { file: name, source }),
        }
    }
}

impl Gguf {
    /// Opens a model by its (first) file and finds the other parts of a split one beside it.
    ///
    /// # Errors
    /// [`GgufError`] names the file and what is wrong.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let first = Part::open(path)?;
        let Some(split) = first.split else { return Self::join(vec![first]) };
        if split.no != 0 {
            return Err(shards::not_first(&first.file, split));
        }
        let mut parts = vec![first];
        for no in 1..split.count {
            let Some(name) = shards::sibling(path, no, split.count) else {
                let why = format!(
                    "it is part 1 of {0} by its metadata, but its name does not end in -00001-of-{0:05}.gguf, \
                     so the other parts cannot be found: give the parts their names back",
                    split.count
                );
                return Err(GgufError::Parts { file: parts.swap_remove(0).file, why });
            };
            parts.push(Part::open(&path.with_file_name(&name)).map_err(|e| match e {
                GgufError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    GgufError::PartMissing {
                        file: parts[0].file.clone(),
                        no: no + 1,
                        count: split.count,
                        missing: name,
                    }
                }
                e => e,
            })?);
        }
        Self::join(parts)
    }

    /// Opens a model from descriptors that somebody passed: (file, name for messages) of each
    /// part, in any order.
    ///
    /// # Errors
    /// As [`Gguf::open`]; parts that are missing are named.
    pub fn from_files(files: Vec<(File, String)>) -> Result<Self, GgufError> {
        let mut parts = files.into_iter().map(|(f, name)| Part::new(f, name)).collect::<Result<Vec<_>, _>>()?;
        parts.sort_by_key(|p| p.split.map_or(0, |s| s.no));
        Self::join(parts)
    }

    /// Joins parts, sorted by their number, after checking that they belong together.
    fn join(parts: Vec<Part>) -> Result<Self, GgufError> {
        let Some(first) = parts.first() else {
            return Err(GgufError::Parts { file: "(no file)".to_owned(), why: "no part was given".to_owned() });
        };
        let whole = first.split.unwrap_or(Split { no: 0, count: 1, tensors: None });
        for (i, part) in parts.iter().enumerate() {
            let split = part.split.unwrap_or(Split { no: 0, count: 1, tensors: None });
            let misfit = |why: String| GgufError::Parts { file: part.file.clone(), why };
            if split.count != whole.count {
                let (a, b) = (split.count, whole.count);
                return Err(misfit(format!("it is of a model of {a} parts, {} of one of {b}", first.file)));
            }
            if split.no as usize > i {
                return Err(missing(first, i as u32, whole.count));
            }
            if (split.no as usize) < i {
                return Err(misfit(format!("it says that it is part {}, expected part {}", split.no + 1, i + 1)));
            }
        }
        if parts.len() < whole.count as usize {
            return Err(missing(first, parts.len() as u32, whole.count));
        }
        let found: usize = parts.iter().map(|p| p.header.tensors.len()).sum();
        if let Some(expected) = whole.tensors.filter(|n| *n as usize != found) {
            let why = format!("its parts have {found} tensors, its metadata says {expected}");
            return Err(GgufError::Parts { file: first.file.clone(), why });
        }
        Self::assemble(parts, found)
    }

    fn assemble(parts: Vec<Part>, n_tensors: usize) -> Result<Self, GgufError> {
        let mut gguf = Self::new(Meta::default(), Vec::with_capacity(n_tensors));
        for (i, part) in parts.into_iter().enumerate() {
            let storage: Arc<dyn Storage> = part.map.clone();
            for t in part.header.tensors {
                // Both were checked against the length of the map, which is a usize.
                let data = Slice::new(Arc::clone(&storage), t.start as usize, t.bytes as usize);
                if gguf.index.insert(t.name.clone(), gguf.tensors.len()).is_some() {
                    let why = format!("tensor `{}` stands in another part too", error::printable(t.name.as_bytes()));
                    return Err(GgufError::Parts { file: part.file, why });
                }
                gguf.tensors.push(Tensor { name: t.name, ty: t.ty, dims: t.dims, n_dims: t.n_dims, data });
            }
            if i == 0 {
                gguf.meta = part.header.meta;
            }
            gguf.file_bytes += part.map.len() as u64;
            gguf.maps.push(part.map);
        }
        Ok(gguf)
    }

    /// A model from metadata and tensors in memory; of tensors with one name the last is found.
    pub fn new(meta: Meta, tensors: Vec<Tensor>) -> Self {
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let file_bytes = tensors.iter().map(|t| t.data.len() as u64).sum();
        Self { meta, tensors, file_bytes, maps: Vec::new(), index }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// Whether a file became unreadable since it was opened; see [`Storage::poisoned`].
    pub fn poisoned(&self) -> bool {
        self.maps.iter().any(|m| m.poisoned())
    }
}

fn missing(first: &Part, no: u32, count: u32) -> GgufError {
    let missing = shards::sibling(Path::new(&first.file), no, count)
        .unwrap_or_else(|| format!("the file that ends in -{:05}-of-{count:05}.gguf", no + 1));
    GgufError::PartMissing { file: first.file.clone(), no: no + 1, count, missing }
}
