//! MessagePack, as much as metadata uses, on bytes that may be anything.

use super::BadObject;

/// Deepest nesting (metadata has five levels).
const DEPTH_MAX: usize = 16;

/// A value; texts stay where they lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Nothing, a truth value, a float or bytes: known, but never looked at.
    Other,
    /// A number that is not negative.
    Unsigned(u64),
    /// A negative number.
    Negative,
    /// A text.
    Text(&'a str),
    /// A list.
    Array(Vec<Value<'a>>),
    /// Pairs.
    Map(Map<'a>),
}

/// Pairs in their order; keys that are no texts are dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Map<'a>(Vec<(&'a str, Value<'a>)>);

impl<'a> Map<'a> {
    /// The value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }
}

/// Reads one value; bytes after it are ignored.
pub(super) fn read(bytes: &[u8]) -> Result<Value<'_>, BadObject> {
    Reader { rest: bytes }.value(0)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, BadObject> {
        if depth > DEPTH_MAX {
            return Err(BadObject("metadata is nested too deeply".to_owned()));
        }
        let tag = self.number(1)? as u8;
        Ok(match tag {
            0x00..=0x7f => Value::Unsigned(u64::from(tag)),
            0x80..=0x8f => self.map(u64::from(tag & 0x0f), depth)?,
            0x90..=0x9f => self.array(u64::from(tag & 0x0f), depth)?,
            0xa0..=0xbf => self.text(u64::from(tag & 0x1f))?,
            0xc0 | 0xc2 | 0xc3 => Value::Other,
            // Bytes; with a type (ext) that is one byte more.
            0xc4..=0xc6 => self.skip_sized(1 << (tag - 0xc4), 0)?,
            0xc7..=0xc9 => self.skip_sized(1 << (tag - 0xc7), 1)?,
            0xca => self.skip(4)?,
            0xcb => self.skip(8)?,
            0xcc..=0xcf => Value::Unsigned(self.number(1 << (tag - 0xcc))?),
            0xd0..=0xd3 => {
                let bytes = 1 << (tag - 0xd0);
                let n = self.number(bytes)?;
                if n >> (8 * bytes - 1) == 0 { Value::Unsigned(n) } else { Value::Negative }
            }
            0xd4..=0xd8 => self.skip(1 + (1 << (tag - 0xd4)))?,
            0xd9..=0xdb => {
                let len = self.number(1 << (tag - 0xd9))?;
                self.text(len)?
            }
            0xdc | 0xdd => {
                let n = self.number(2 << (tag - 0xdc))?;
                self.array(n, depth)?
            }
            0xde | 0xdf => {
                let n = self.number(2 << (tag - 0xde))?;
                self.map(n, depth)?
            }
            0xe0..=0xff => Value::Negative,
            0xc1 => return Err(BadObject("metadata has a tag that does not exist".to_owned())),
        })
    }

    /// Lists grow as they are read: a count alone, however large, takes no memory.
    fn array(&mut self, n: u64, depth: usize) -> Result<Value<'a>, BadObject> {
        let mut items = Vec::new();
        for _ in 0..n {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, n: u64, depth: usize) -> Result<Value<'a>, BadObject> {
        let mut map = Map::default();
        for _ in 0..n {
            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
            if let Value::Text(key) = key {
                map.0.push((key, value));
            }
        }
        Ok(Value::Map(map))
    }

    fn text(&mut self, len: u64) -> Result<Value<'a>, BadObject> {
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes)
            .map(Value::Text)
            .map_err(|_| BadObject("metadata has a text that is none".to_owned()))
    }

    fn skip_sized(&mut self, bytes_of_len: usize, more: u64) -> Result<Value<'a>, BadObject> {
        let len = self.number(bytes_of_len)?;
        self.skip(len + more)
    }

    fn skip(&mut self, len: u64) -> Result<Value<'a>, BadObject> {
        self.take(len).map(|_| Value::Other)
    }

    /// A number of up to 8 bytes, highest first.
    fn number(&mut self, bytes: usize) -> Result<u64, BadObject> {
        Ok(self.take(bytes as u64)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], BadObject> {
        let (taken, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
            .ok_or_else(|| BadObject("metadata is cut short".to_owned()))?;
        self.rest = rest;
        Ok(taken)
    }
}
