//! Typed metadata of a GGUF file. Errors name the key, what was found and what was expected.

use std::collections::HashMap;
use std::sync::Arc;

use thiserror::Error;

/// Strings of an array, in one piece of memory (a vocabulary has 262,144 of them).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    /// No strings yet, with room for `n` of `bytes` bytes together.
    pub fn with_capacity(n: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(n) }
    }

    /// Appends a string; GGUF strings are bytes, nearly always UTF-8.
    pub fn push(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.ends.push(self.bytes.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`, if there is one.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    /// All strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let s = &self.bytes[start..end];
            start = end;
            s
        })
    }
}

/// An array of metadata. Nested arrays do not occur in real files and are refused.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Str(Strings),
}

/// A value of metadata.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    Array(Array),
}

impl Value {
    /// GGUF's name of the value's type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::Str(_) => "string",
            Value::Array(_) => "array",
        }
    }
}

/// What is wrong with a key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MetaError {
    /// A key that the model needs is absent.
    #[error("metadata key `{0}` is missing")]
    Missing(String),
    /// A key has another type than the format says.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// Type in the file.
        found: &'static str,
        /// Type in the format.
        expected: &'static str,
    },
    /// A value makes no sense.
    #[error("metadata key `{key}` is {value}: {why}")]
    Value {
        /// The key.
        key: String,
        /// The value, shortened.
        value: String,
        /// What is wrong.
        why: String,
    },
}

/// Keys and values of a file, in its order. Look-ups return `Ok(None)` for an absent key and an
/// error for one of another type; integers of any width and sign are taken where they fit.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    entries: Vec<(Arc<str>, Value)>,
    // std's keyed hash: the keys are the file's, and a hostile file must not choose collisions.
    index: HashMap<Arc<str>, usize>,
}

impl Meta {
    /// Adds a key; `false` if it is there already (a file with duplicate keys is refused).
    pub fn insert(&mut self, key: String, value: Value) -> bool {
        let key: Arc<str> = key.into();
        match self.index.entry(Arc::clone(&key)) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(self.entries.len());
                self.entries.push((key, value));
                true
            }
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All keys and values in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (&**k, v))
    }

    /// An integer.
    ///
    /// # Errors
    /// [`MetaError`] if it is no integer or does not fit in `u32`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, MetaError> {
        let wide: i128 = match self.get(key) {
            None => return Ok(None),
            Some(Value::U8(v)) => (*v).into(),
            Some(Value::I8(v)) => (*v).into(),
            Some(Value::U16(v)) => (*v).into(),
            Some(Value::I16(v)) => (*v).into(),
            Some(Value::U32(v)) => (*v).into(),
            Some(Value::I32(v)) => (*v).into(),
            Some(Value::U64(v)) => (*v).into(),
            Some(Value::I64(v)) => (*v).into(),
            Some(v) => return Err(wrong_type(key, v, "an integer")),
        };
        u32::try_from(wide).map(Some).map_err(|_| MetaError::Value {
            key: key.to_owned(),
            value: wide.to_string(),
            why: "does not fit in 32 bits".to_owned(),
        })
    }

    /// A number.
    ///
    /// # Errors
    /// [`MetaError`] if it is no finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, MetaError> {
        let v = match self.get(key) {
            None => return Ok(None),
            Some(Value::F32(v)) => *v,
            Some(Value::F64(v)) => *v as f32,
            Some(v) => return Err(wrong_type(key, v, "a float")),
        };
        if v.is_finite() {
            Ok(Some(v))
        } else {
            Err(MetaError::Value { key: key.to_owned(), value: v.to_string(), why: "not a finite number".to_owned() })
        }
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`MetaError`] if it is none.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, MetaError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(v) => Err(wrong_type(key, v, "a bool")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`MetaError`] if it is none.
    pub fn str(&self, key: &str) -> Result<Option<&str>, MetaError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Str(v)) => Ok(Some(v)),
            Some(v) => Err(wrong_type(key, v, "a string")),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`MetaError`] if it is none.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, MetaError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Str(v))) => Ok(Some(v)),
            Some(v) => Err(wrong_type(key, v, "an array of strings")),
        }
    }

    /// An array.
    ///
    /// # Errors
    /// [`MetaError`] if it is none.
    pub fn array(&self, key: &str) -> Result<Option<&Array>, MetaError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(v)) => Ok(Some(v)),
            Some(v) => Err(wrong_type(key, v, "an array")),
        }
    }
}

fn wrong_type(key: &str, value: &Value, expected: &'static str) -> MetaError {
    MetaError::Type { key: key.to_owned(), found: value.type_name(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_are_typed_and_duplicates_refused() {
        let mut m = Meta::default();
        assert!(m.insert("a".into(), Value::I64(7)));
        assert!(m.insert("b".into(), Value::F32(f32::NAN)));
        assert!(!m.insert("a".into(), Value::Bool(true)));
        assert_eq!(m.u32("a"), Ok(Some(7)));
        assert_eq!(m.u32("absent"), Ok(None));
        assert!(matches!(m.f32("b"), Err(MetaError::Value { .. })));
        assert_eq!(m.str("a").expect_err("an integer").to_string(), "metadata key `a` is i64, expected a string");
        m.insert("neg".into(), Value::I32(-1));
        assert_eq!(
            m.u32("neg").expect_err("negative").to_string(),
            "metadata key `neg` is -1: does not fit in 32 bits"
        );
        assert_eq!(m.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["a", "b", "neg"]);
    }

    #[test]
    fn strings_share_one_blob() {
        let mut s = Strings::with_capacity(3, 8);
        for x in ["one", "", "\u{20ac}"] {
            s.push(x.as_bytes());
        }
        assert_eq!(s.len(), 3);
        assert_eq!(s.get(1), Some(&b""[..]));
        assert_eq!(s.get(2), Some("\u{20ac}".as_bytes()));
        assert_eq!(s.get(3), None);
        assert_eq!(s.iter().map(<[u8]>::len).collect::<Vec<_>>(), [3, 0, 3]);
    }
}
