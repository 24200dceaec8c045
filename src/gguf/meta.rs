//! Typed metadata of a GGUF file. Errors name the key, what was found and what was expected.

use thiserror::Error;

/// Strings of an array, in one piece of memory (a vocabulary has 262,144 of them).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
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
    entries: Vec<(String, Value)>,
}

impl Meta {
    /// Adds a key; `false` if it is there already (a file with duplicate keys is refused).
    pub fn insert(&mut self, key: String, value: Value) -> bool {
        if self.get(&key).is_some() {
            return false;
        }
        self.entries.push((key, value));
        true
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// All keys and values in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
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
