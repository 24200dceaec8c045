//! The container's header: counts, metadata and tensor descriptions, from bytes alone.
//!
//! Nothing is believed. A count is compared with the bytes that are left before memory is
//! reserved for it; every sum and product is checked; the whole header is bounded by
//! [`limits::GGUF_META_BYTES_MAX`]. So a hostile file costs at most a small multiple of that.
//!
//! Source: `docs/gguf.md` of ggml, and ggml's reader where the page is silent.

use std::collections::HashSet;

use super::error::{Fault, printable};
use super::meta::{Array, Meta, Strings, Value};
use crate::base::limits;
use crate::quant::GgmlType;

/// Where tensor data is aligned to unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the shortest key: length of its name, type, one byte of value.
const KEY_BYTES_MIN: u64 = 8 + 4 + 1;
/// Bytes of the shortest tensor description: length of its name, dimensions, one size, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// A tensor as the header describes it, checked against the file's length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: String,
    /// Type of its elements.
    pub ty: GgmlType,
    /// Elements along each dimension; unused ones are 1.
    pub dims: [u64; 4],
    /// Dimensions the file gives (1 to 4).
    pub n_dims: usize,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The checked header of one file.
#[derive(Clone, Debug)]
pub struct Header {
    /// Version of the container, 2 or 3 (they differ in nothing that is read here).
    pub version: u32,
    /// Metadata.
    pub meta: Meta,
    /// Tensors in the file's order.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of the tensors' data in bytes, a power of two.
    pub alignment: u64,
    /// Where tensor data begins, counted from the start of the file.
    pub data_start: u64,
}

/// Reads the header of a GGUF file from all of the file's bytes. Never panics, whatever they are.
///
/// # Errors
/// [`Fault`] says what is wrong where.
pub fn parse(file: &[u8]) -> Result<Header, Fault> {
    let mut r = Reader { file, at: 0 };
    let version = preamble(&mut r)?;
    let n_tensors = r.u64(|| "the number of tensors".to_owned())?;
    let n_keys = r.u64(|| "the number of metadata keys".to_owned())?;
    let n_tensors = r.count("the number of tensors", n_tensors, limits::GGUF_TENSORS_MAX, TENSOR_BYTES_MIN)?;
    let n_keys = r.count("the number of metadata keys", n_keys, limits::GGUF_KEYS_MAX, KEY_BYTES_MIN)?;

    let mut meta = Meta::default();
    for i in 0..n_keys {
        let (key, value) = entry(&mut r, i)?;
        let shown = printable(key.as_bytes());
        if !meta.insert(key, value) {
            return Err(Fault::Key { key: shown, why: "stands in the file twice".to_owned() });
        }
    }
    let alignment = alignment(&meta)?;

    let mut tensors = Vec::with_capacity(n_tensors);
    for i in 0..n_tensors {
        tensors.push(tensor(&mut r, i)?);
    }
    let data_start = pad(r.at as u64, alignment)
        .ok_or_else(|| Fault::Key { key: "general.alignment".to_owned(), why: "leaves no room for data".to_owned() })?;
    place(&mut tensors, data_start, alignment, file.len() as u64)?;
    Ok(Header { version, meta, tensors, alignment, data_start })
}

fn preamble(r: &mut Reader) -> Result<u32, Fault> {
    if r.file.is_empty() {
        return Err(Fault::Empty);
    }
    let magic = &r.file[..r.file.len().min(4)];
    if magic != b"GGUF" {
        return Err(match magic {
            _ if b"GGUF".starts_with(magic) => r.cut("the magic number".to_owned(), 4),
            b"lmgg" | b"tjgg" | b"fmgg" | b"algg" => {
                Fault::Magic("it is in the older GGML format; fetch the model as GGUF")
            }
            b"PK\x03\x04" => Fault::Magic("it is a zip archive or a PyTorch checkpoint; fetch the model as GGUF"),
            b"vers" if r.file.starts_with(b"version https://git-lfs") => {
                Fault::Magic("it is a git-lfs pointer; fetch the file itself with `git lfs pull`")
            }
            [b'<', ..] => Fault::Magic("it looks like a web page; the download went wrong, fetch it again"),
            _ if r.file.get(8) == Some(&b'{') => Fault::Magic("it looks like safetensors; fetch the model as GGUF"),
            _ => Fault::Magic("it does not begin with the letters GGUF"),
        });
    }
    r.at = 4;
    let version = r.u32(|| "the version".to_owned())?;
    match version {
        2 | 3 => Ok(version),
        0 => Err(Fault::Version(0, "there is no such version; the file is damaged")),
        1 => Err(Fault::Version(1, "it was used for a few weeks in 2023 and is not read; fetch the model again")),
        v if v & 0xffff == 0 => Err(Fault::BigEndian(v.swap_bytes())),
        v => Err(Fault::Version(v, "only 2 and 3 are read; the file is newer than this program, or damaged")),
    }
}

/// The reader's place in the file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Bytes that may still belong to the header.
    fn left(&self) -> u64 {
        let file = (self.file.len() - self.at) as u64;
        file.min(limits::GGUF_META_BYTES_MAX.saturating_sub(self.at as u64))
    }

    /// The error for something that would end behind the file's end, or behind the header's bound.
    fn cut(&self, what: String, needed: u64) -> Fault {
        let left = (self.file.len() - self.at) as u64;
        if needed <= left {
            return Fault::TooMany {
                what: "the size of the header in bytes".to_owned(),
                found: (self.at as u64).saturating_add(needed),
                max: limits::GGUF_META_BYTES_MAX,
            };
        }
        Fault::CutHeader { what, at: self.at as u64, needed, left, found: self.file.len() as u64 }
    }

    fn take(&mut self, n: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], Fault> {
        if n > self.left() {
            return Err(self.cut(what(), n));
        }
        let start = self.at;
        self.at += n as usize;
        Ok(&self.file[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Checks a count against its limit and against the bytes that so many things take at least.
    fn count(&self, what: &str, n: u64, max: u64, bytes_each: u64) -> Result<usize, Fault> {
        if n > max {
            return Err(Fault::TooMany { what: what.to_owned(), found: n, max });
        }
        let needed = n.saturating_mul(bytes_each);
        if needed > self.left() {
            return Err(self.cut(format!("{n} entries ({what})"), needed));
        }
        Ok(n as usize)
    }

    /// A string's bytes: a length, then so many bytes.
    fn string(&mut self, max: u64, what: impl Fn() -> String) -> Result<&'a [u8], Fault> {
        let n = self.u64(|| format!("the length of {}", what()))?;
        if n > max {
            return Err(Fault::TooMany { what: format!("the length of {}", what()), found: n, max });
        }
        self.take(n, what)
    }
}

fn entry(r: &mut Reader, i: usize) -> Result<(String, Value), Fault> {
    let name = r.string(limits::GGUF_KEY_MAX, || format!("metadata key {i}"))?;
    let shown = || printable(name);
    let fault = |why: String| Fault::Key { key: shown(), why };
    if name.is_empty() {
        return Err(fault(format!("key {i} has no name")));
    }
    let key = std::str::from_utf8(name).map_err(|_| fault("its name is not UTF-8".to_owned()))?;
    let what = || format!("the value of `{}`", shown());
    let ty = r.u32(|| format!("the type of `{}`", shown()))?;
    let value = match ty {
        9 => Value::Array(array(r, name)?),
        8 => Value::Str(String::from_utf8_lossy(r.string(limits::GGUF_STRING_MAX, what)?).into_owned()),
        0 => Value::U8(u8::from_le_bytes(r.array(what)?)),
        1 => Value::I8(i8::from_le_bytes(r.array(what)?)),
        2 => Value::U16(u16::from_le_bytes(r.array(what)?)),
        3 => Value::I16(i16::from_le_bytes(r.array(what)?)),
        4 => Value::U32(u32::from_le_bytes(r.array(what)?)),
        5 => Value::I32(i32::from_le_bytes(r.array(what)?)),
        6 => Value::F32(f32::from_le_bytes(r.array(what)?)),
        7 => match r.array(what)? {
            [v @ 0..=1] => Value::Bool(v == 1),
            [v] => return Err(fault(format!("a truth value is {v}, not 0 or 1"))),
        },
        10 => Value::U64(u64::from_le_bytes(r.array(what)?)),
        11 => Value::I64(i64::from_le_bytes(r.array(what)?)),
        12 => Value::F64(f64::from_le_bytes(r.array(what)?)),
        _ => return Err(fault(format!("unknown value type {ty}"))),
    };
    Ok((key.to_owned(), value))
}

fn array(r: &mut Reader, key: &[u8]) -> Result<Array, Fault> {
    let what = || format!("the array `{}`", printable(key));
    let fault = |why: String| Fault::Key { key: printable(key), why };
    let ty = r.u32(what)?;
    let n = r.u64(what)?;
    let element = match ty {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => return Err(fault("arrays of arrays are not read".to_owned())),
        _ => return Err(fault(format!("unknown array type {ty}"))),
    };
    let n = r.count(&format!("the length of {}", what()), n, limits::GGUF_ARRAY_MAX, element)?;
    if ty == 8 {
        return strings(r, n, key).map(Array::Str);
    }
    let bytes = r.take(n as u64 * element, what)?;
    macro_rules! numbers {
        ($variant:ident, $t:ty) => {
            Array::$variant(bytes.as_chunks().0.iter().map(|c| <$t>::from_le_bytes(*c)).collect())
        };
    }
    Ok(match ty {
        0 => Array::U8(bytes.to_vec()),
        1 => numbers!(I8, i8),
        2 => numbers!(U16, u16),
        3 => numbers!(I16, i16),
        4 => numbers!(U32, u32),
        5 => numbers!(I32, i32),
        6 => numbers!(F32, f32),
        10 => numbers!(U64, u64),
        11 => numbers!(I64, i64),
        12 => numbers!(F64, f64),
        _ => match bytes.iter().find(|b| **b > 1) {
            Some(b) => return Err(fault(format!("a truth value is {b}, not 0 or 1"))),
            None => Array::Bool(bytes.iter().map(|b| *b == 1).collect()),
        },
    })
}

fn strings(r: &mut Reader, n: usize, key: &[u8]) -> Result<Strings, Fault> {
    // Real vocabularies average under 8 bytes a token; the blob grows if that is too little.
    let mut out = Strings::with_capacity(n, n * 8);
    for i in 0..n {
        out.push(r.string(limits::GGUF_STRING_MAX, || format!("string {i} of `{}`", printable(key)))?);
    }
    Ok(out)
}

fn alignment(meta: &Meta) -> Result<u64, Fault> {
    let fault = |why: String| Fault::Key { key: "general.alignment".to_owned(), why };
    match meta.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(a)) if !a.is_power_of_two() => Err(fault(format!("{a} is no power of two"))),
        Some(Value::U32(a)) if *a > limits::GGUF_ALIGNMENT_MAX => {
            Err(fault(format!("{a} is more than {}", limits::GGUF_ALIGNMENT_MAX)))
        }
        Some(Value::U32(a)) => Ok((*a).into()),
        Some(v) => Err(fault(format!("is {}, expected u32", v.type_name()))),
    }
}

/// A tensor's description; `start` is its offset in the data until [`place`] has seen it.
fn tensor(r: &mut Reader, i: usize) -> Result<TensorInfo, Fault> {
    let name = r.string(limits::GGUF_NAME_MAX as u64, || format!("the name of tensor {i}"))?;
    let shown = || printable(name);
    let what = || format!("the description of tensor `{}`", shown());
    let fault = |why: String| Fault::Tensor { tensor: shown(), why };
    if name.is_empty() {
        return Err(fault(format!("tensor {i} has no name")));
    }
    let text = std::str::from_utf8(name).map_err(|_| fault("its name is not UTF-8".to_owned()))?;
    let n_dims = r.u32(what)?;
    if !(1..=4).contains(&n_dims) {
        return Err(fault(format!("has {n_dims} dimensions; 1 to 4 are possible")));
    }
    let mut dims = [1; 4];
    let mut elements: u64 = 1;
    for d in &mut dims[..n_dims as usize] {
        *d = r.u64(what)?;
        if *d == 0 {
            return Err(fault("has a dimension of 0 elements".to_owned()));
        }
        // ggml counts elements in i64.
        elements = match elements.checked_mul(*d) {
            Some(n) if n <= i64::MAX as u64 => n,
            _ => return Err(fault("has more elements than can be counted".to_owned())),
        };
    }
    let ty = r.u32(what)?;
    let ty = GgmlType::from_id(ty).map_err(|source| Fault::Type { tensor: shown(), source })?;
    if dims[0] % ty.block_elements() as u64 != 0 {
        let (name, block) = (ty.name(), ty.block_elements());
        return Err(fault(format!("rows of {} elements are no whole number of {name} blocks of {block}", dims[0])));
    }
    let bytes = ty.bytes_of(elements).ok_or_else(|| fault("takes more bytes than can be counted".to_owned()))?;
    let start = r.u64(what)?;
    Ok(TensorInfo { name: text.to_owned(), ty, dims, n_dims: n_dims as usize, start, bytes })
}

/// Makes offsets absolute; checks alignment, the file's end, overlaps and duplicate names.
fn place(tensors: &mut [TensorInfo], data_start: u64, alignment: u64, file: u64) -> Result<(), Fault> {
    let mut names = HashSet::with_capacity(tensors.len());
    // (start, end, index) of each, to find overlaps.
    let mut spans = Vec::with_capacity(tensors.len());
    for (i, t) in tensors.iter_mut().enumerate() {
        let fault = |why: String| Fault::Tensor { tensor: printable(t.name.as_bytes()), why };
        if t.start % alignment != 0 {
            return Err(fault(format!("offset {} is no multiple of the alignment {alignment}", t.start)));
        }
        let start = t.start.checked_add(data_start);
        let end = start.and_then(|s| s.checked_add(t.bytes)).and_then(|e| pad(e, alignment).map(|_| e));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(fault(format!("offset {} and {} bytes wrap around", t.start, t.bytes)));
        };
        t.start = start;
        spans.push((start, end, i));
    }
    for t in tensors.iter() {
        if !names.insert(t.name.as_str()) {
            let tensor = printable(t.name.as_bytes());
            return Err(Fault::Tensor { tensor, why: "stands in the file twice".to_owned() });
        }
    }
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let [(start, end, a), (next, _, b)] = [pair[0], pair[1]];
        if end > next {
            let why = format!("lies at {next}, inside `{}` ({start} to {end})", printable(tensors[a].name.as_bytes()));
            return Err(Fault::Tensor { tensor: printable(tensors[b].name.as_bytes()), why });
        }
    }
    let expected = spans.last().map_or(0, |s| s.1);
    if expected > file {
        let cut = spans.iter().find(|s| s.1 > file).map_or(0, |s| s.2);
        let tensor = printable(tensors[cut].name.as_bytes());
        return Err(Fault::CutData { found: file, expected, tensor, at: tensors[cut].start });
    }
    Ok(())
}

/// `n` rounded up to a multiple of `alignment`, a power of two.
fn pad(n: u64, alignment: u64) -> Option<u64> {
    n.checked_add(alignment - 1).map(|n| n & !(alignment - 1))
}
