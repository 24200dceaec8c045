//! The metadata note: MessagePack, read into what a launch needs to know of each kernel.

/// A MessagePack value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer or a boolean.
    Int(i64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// A map.
    Map(Vec<(Value, Value)>),
    /// Anything else.
    Other,
}

impl Value {
    /// A map's value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        entries.iter().find(|(k, _)| matches!(k, Value::Text(t) if t == key)).map(|(_, v)| v)
    }

    /// A map's integer, zero when absent.
    pub fn int(&self, key: &str) -> i64 {
        match self.get(key) {
            Some(Value::Int(n)) => *n,
            _ => 0,
        }
    }

    /// A map's string, empty when absent.
    pub fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Value::Text(t)) => t,
            _ => "",
        }
    }

    /// A map's array, empty when absent.
    pub fn list(&self, key: &str) -> &[Value] {
        match self.get(key) {
            Some(Value::List(l)) => l,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    b: &'a [u8],
}

impl Reader<'_> {
    fn int(&mut self, n: usize) -> Option<u64> {
        let (head, rest) = self.b.split_at_checked(n)?;
        self.b = rest;
        Some(head.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    }

    fn text(&mut self, n: usize) -> Option<Value> {
        let (head, rest) = self.b.split_at_checked(n)?;
        self.b = rest;
        Some(Value::Text(String::from_utf8_lossy(head).into_owned()))
    }

    fn list(&mut self, n: usize) -> Option<Value> {
        (0..n).map(|_| self.value()).collect::<Option<Vec<_>>>().map(Value::List)
    }

    fn map(&mut self, n: usize) -> Option<Value> {
        (0..n).map(|_| Some((self.value()?, self.value()?))).collect::<Option<Vec<_>>>().map(Value::Map)
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.int(1)? as u8 {
            n @ 0..=0x7f => Value::Int(i64::from(n)),
            n @ 0x80..=0x8f => self.map(usize::from(n & 15))?,
            n @ 0x90..=0x9f => self.list(usize::from(n & 15))?,
            n @ 0xa0..=0xbf => self.text(usize::from(n & 31))?,
            0xc2 => Value::Int(0),
            0xc3 => Value::Int(1),
            0xcc => Value::Int(self.int(1)? as i64),
            0xcd => Value::Int(self.int(2)? as i64),
            0xce => Value::Int(self.int(4)? as i64),
            0xcf | 0xd3 => Value::Int(self.int(8)? as i64),
            0xd0 => Value::Int(i64::from(self.int(1)? as i8)),
            0xd1 => Value::Int(i64::from(self.int(2)? as i16)),
            0xd2 => Value::Int(i64::from(self.int(4)? as i32)),
            0xca => self.int(4).map(|_| Value::Other)?,
            0xcb => self.int(8).map(|_| Value::Other)?,
            0xd9 => {
                let n = self.int(1)? as usize;
                self.text(n)?
            }
            0xda => {
                let n = self.int(2)? as usize;
                self.text(n)?
            }
            0xdb => {
                let n = self.int(4)? as usize;
                self.text(n)?
            }
            0xdc => {
                let n = self.int(2)? as usize;
                self.list(n)?
            }
            0xdd => {
                let n = self.int(4)? as usize;
                self.list(n)?
            }
            0xde => {
                let n = self.int(2)? as usize;
                self.map(n)?
            }
            0xdf => {
                let n = self.int(4)? as usize;
                self.map(n)?
            }
            n @ 0xe0..=0xff => Value::Int(i64::from(n as i8)),
            _ => return None,
        })
    }
}

/// Reads a note's MessagePack.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    Reader { b: bytes }.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_width() {
        let b = b"\x82\xa1a\x93\x05\xcd\x01\x00\xff\xd9\x01b\xc3";
        let v = parse(b).unwrap();
        assert_eq!(v.list("a"), [Value::Int(5), Value::Int(256), Value::Int(-1)]);
        assert_eq!(v.int("b"), 1);
        assert_eq!(parse(&b[..5]), None, "cut short");
    }
}
