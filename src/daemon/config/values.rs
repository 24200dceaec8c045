//! Values of the configuration that are more than text or a number.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A size in bytes: `512MiB`, `16GiB`, `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut n, mut unit) = (self.0, 0);
        while n != 0 && n % 1024 == 0 && unit < 4 {
            n /= 1024;
            unit += 1;
        }
        write!(f, "{n}{}", ["", "KiB", "MiB", "GiB", "TiB"][unit])
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.trim().parse::<bytesize::ByteSize>() {
            Ok(n) => Ok(Self(n.as_u64())),
            Err(_) => Err(format!("`{s}` is no size: write it as 512MiB or 16GiB")),
        }
    }
}

/// A budget of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// The daemon decides.
    Auto,
    /// Of what is available, in percent (1 to 100).
    Percent(u8),
    /// Bytes.
    Bytes(Size),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Auto => f.write_str("auto"),
            Amount::Percent(p) => write!(f, "{p}%"),
            Amount::Bytes(s) => s.fmt(f),
        }
    }
}

impl FromStr for Amount {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "auto" {
            return Ok(Amount::Auto);
        }
        let Some(percent) = s.strip_suffix('%') else {
            return s
                .parse()
                .map(Amount::Bytes)
                .map_err(|_| format!("`{s}` is no amount of memory: write auto, 80% or 16GiB"));
        };
        match percent.trim().parse() {
            Ok(p @ 1..=100) => Ok(Amount::Percent(p)),
            _ => Err(format!("`{s}`: a percentage is 1% to 100%")),
        }
    }
}

/// Memory of a GPU that is left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// The daemon decides, by whether a display hangs on the GPU.
    Auto,
    /// So many bytes.
    Bytes(Size),
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reserve::Auto => f.write_str("auto"),
            Reserve::Bytes(s) => s.fmt(f),
        }
    }
}

impl FromStr for Reserve {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Reserve::Auto),
            _ => s.parse().map(Reserve::Bytes).map_err(|_| format!("`{s}` is no size: write auto, 512MiB or 1GiB")),
        }
    }
}

/// The largest context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// What the model was trained for.
    Auto,
    /// So many tokens.
    Tokens(u32),
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Context::Auto => f.write_str("auto"),
            Context::Tokens(n) => n.fmt(f),
        }
    }
}

impl FromStr for Context {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Context::Auto),
            _ => match s.parse() {
                Ok(n) if n > 0 => Ok(Context::Tokens(n)),
                _ => Err(format!("`{s}` is neither auto nor a number of tokens")),
            },
        }
    }
}

/// An address to serve on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    /// `host:port`; the host may be a name.
    Tcp(String),
    /// `unix:/path`.
    Unix(std::path::PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(a) => f.write_str(a),
            Listen::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(path) = s.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Listen::Unix(path.into())),
                false => Err(format!("`{s}`: the path of a socket is absolute, as in unix:/run/rocmforge/api.sock")),
            };
        }
        match s.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Listen::Tcp(s.to_owned())),
            _ => Err(format!("`{s}` is no address: write it as 127.0.0.1:11535, [::1]:11535 or unix:/path")),
        }
    }
}

/// Read from a string or, where it is one, a number; written as a string.
macro_rules! textual {
    ($($t:ty),*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $t;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }
                    fn visit_str<E: de::Error>(self, s: &str) -> Result<$t, E> {
                        s.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: de::Error>(self, n: u64) -> Result<$t, E> {
                        self.visit_str(&n.to_string())
                    }
                    fn visit_i64<E: de::Error>(self, n: i64) -> Result<$t, E> {
                        self.visit_str(&n.to_string())
                    }
                }
                d.deserialize_any(Text)
            }
        }
    )*};
}
textual!(Size, Amount, Reserve, Context, Listen);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_they_are_read() {
        for (text, bytes) in [("512MiB", 512 << 20), ("16GiB", 16 << 30), ("1KiB", 1024), ("1000", 1000), ("0", 0)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!("1.5 GiB".parse(), Ok(Size(3 << 29)));
        assert_eq!("2GB".parse(), Ok(Size(2_000_000_000)));
        assert!("lots".parse::<Size>().is_err());
        assert!("-1".parse::<Size>().is_err());
    }

    #[test]
    fn amounts_contexts_and_addresses() {
        assert_eq!("80%".parse(), Ok(Amount::Percent(80)));
        assert_eq!("auto".parse(), Ok(Amount::Auto));
        assert_eq!("8GiB".parse(), Ok(Amount::Bytes(Size(8 << 30))));
        for bad in ["0%", "101%", "x%", "half"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad}");
        }
        assert_eq!("auto".parse(), Ok(Reserve::Auto));
        assert_eq!("1GiB".parse(), Ok(Reserve::Bytes(Size(1 << 30))));
        assert!("5%".parse::<Reserve>().is_err());
        assert_eq!("8192".parse(), Ok(Context::Tokens(8192)));
        assert!("0".parse::<Context>().is_err());
        assert_eq!("unix:/a/b".parse(), Ok(Listen::Unix("/a/b".into())));
        for bad in ["unix:a", "127.0.0.1", ":80", "host:99999"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
        assert!("[::1]:80".parse::<Listen>().is_ok());
    }
}
