//! A request's JSON object, read field by field.
//!
//! Each field stays unparsed text until it is asked for by name and type: a wrong one is named
//! with what was expected, what nobody asks for is listed in `x-rocmforge-ignored` and costs no
//! memory, however large it is. `null` means absent, as with OpenAI.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::error::{ApiError, clip};
use crate::base::limits::{JSON_FIELDS_MAX, JSON_VALUES_MAX};

/// The fields of a request that have not been read yet.
pub struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Splits a body into fields.
    ///
    /// # Errors
    /// 400 for what is not UTF-8 or not JSON (with line and column), for anything but an object,
    /// for a field given twice, and for too many of them.
    pub fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body).map_err(|e| {
            ApiError::invalid(None, format!("The body is not UTF-8: invalid byte at offset {}.", e.valid_up_to()))
        })?;
        let bad = |e: serde_json::Error| {
            let message = if e.is_data() {
                format!("The body is no usable JSON object: {e}.")
            } else {
                format!("The body is not valid JSON: {e}.")
            };
            ApiError::invalid(None, message)
        };
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = Self::deserialize(&mut json).map_err(bad)?;
        json.end().map_err(bad)?;
        Ok(fields)
    }

    /// Takes field `name` as it was sent.
    pub fn raw(&mut self, name: &str) -> Option<&'a str> {
        let i = self.entries.iter().position(|(n, _)| n == name)?;
        let raw = self.entries.remove(i).1.get();
        (raw != "null").then_some(raw)
    }

    /// Takes field `name` as a `T`; `expected` is for the message: "an array of strings".
    ///
    /// # Errors
    /// 400 naming the field, what was expected and what came.
    pub fn read<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        serde_json::from_str(raw).map(Some).map_err(|_| wrong(name, expected, raw))
    }

    /// A string.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.read(name, "a string")
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// 400 if it is neither.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        self.read(name, "true or false")
    }

    /// A finite number within `range`.
    ///
    /// # Errors
    /// 400 naming the field and the bounds.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let expected = if *range.end() == f64::MAX {
            format!("a number of at least {}", range.start())
        } else {
            format!("a number between {} and {}", range.start(), range.end())
        };
        match serde_json::from_str::<f64>(raw) {
            // The cast rounds; what is finite as f64 and not as f32 is no sensible setting.
            Ok(v) if range.contains(&v) && (v as f32).is_finite() => Ok(Some(v as f32)),
            _ => Err(wrong(name, &expected, raw)),
        }
    }

    /// An integer within `range`.
    ///
    /// # Errors
    /// 400 naming the field and the bounds.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let expected = match (*range.start(), *range.end()) {
            (low, i64::MAX) => format!("an integer of at least {low}"),
            (low, high) => format!("an integer between {low} and {high}"),
        };
        match serde_json::from_str::<i64>(raw) {
            Ok(v) if range.contains(&v) => Ok(Some(v)),
            _ => Err(wrong(name, &expected, raw)),
        }
    }

    /// Any JSON of at most `bytes` and [`JSON_VALUES_MAX`] values, as a value.
    ///
    /// # Errors
    /// 400 if it is larger, or cannot be a value (nested too deeply, a number without end).
    pub fn value(&mut self, name: &str, bytes: usize) -> Result<Option<serde_json::Value>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        if raw.len() > bytes {
            let message = format!("'{name}' has {} bytes of JSON; at most {bytes} are taken.", raw.len());
            return Err(ApiError::invalid(Some(name), message));
        }
        if values(raw) > JSON_VALUES_MAX {
            let message = format!("'{name}' has more than {JSON_VALUES_MAX} values.");
            return Err(ApiError::invalid(Some(name), message));
        }
        serde_json::from_str(raw).map(Some).map_err(|e| ApiError::invalid(Some(name), format!("'{name}': {e}.")))
    }

    /// Names nobody asked for.
    pub fn rest(self) -> Vec<String> {
        self.entries.into_iter().filter(|(_, raw)| raw.get() != "null").map(|(n, _)| n.into_owned()).collect()
    }
}

/// At least as many as there are values in valid JSON: each but the first follows an opening
/// bracket or a comma.
fn values(json: &str) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for b in json.bytes() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// 400: `name` should have been something else.
pub fn wrong(name: &str, expected: &str, raw: &str) -> ApiError {
    ApiError::invalid(Some(name), format!("Invalid '{name}': expected {expected}, got {}.", describe(raw)))
}

/// JSON text as a person would name it: short values as they are, others by kind.
fn describe(raw: &str) -> String {
    let kind = match raw.as_bytes().first() {
        Some(b'"') => "the string",
        Some(b'{') => return "an object".to_owned(),
        Some(b'[') => return "an array".to_owned(),
        Some(b't' | b'f') => return raw.to_owned(),
        Some(b'n') => return "null".to_owned(),
        _ => return clip(raw),
    };
    format!("{kind} {}", clip(raw))
}

impl<'a> Deserialize<'a> for Fields<'a> {
    fn deserialize<D: Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'a> Visitor<'a> for Object {
            type Value = Fields<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Fields<'a>, A::Error> {
                let mut entries: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    if entries.iter().any(|(n, _)| *n == name) {
                        return Err(serde::de::Error::custom(format!("field '{}' is given twice", clip(&name))));
                    }
                    if entries.len() == JSON_FIELDS_MAX {
                        return Err(serde::de::Error::custom(format!("more than {JSON_FIELDS_MAX} fields")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Fields { entries })
            }
        }
        d.deserialize_map(Object)
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for Name<'a> {
    fn deserialize<D: Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct Str;
        impl<'a> Visitor<'a> for Str {
            type Value = Name<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_borrowed_str<E>(self, s: &'a str) -> Result<Name<'a>, E> {
                Ok(Name(Cow::Borrowed(s)))
            }

            fn visit_str<E>(self, s: &str) -> Result<Name<'a>, E> {
                Ok(Name(Cow::Owned(s.to_owned())))
            }
        }
        d.deserialize_str(Str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(e: &ApiError) -> String {
        e.body()["error"]["message"].as_str().unwrap_or_default().to_owned()
    }

    fn error(body: &[u8]) -> String {
        message(&Fields::parse(body).err().expect("is refused"))
    }

    #[test]
    fn broken_bodies_are_told_where() {
        assert_eq!(error(b"{\"a\": 1,\n \"b\": }"), "The body is not valid JSON: expected value at line 2 column 7.");
        assert!(error(b"{\"a\":1").contains("EOF"), "{}", error(b"{\"a\":1"));
        assert!(error(b"").contains("EOF"));
        assert!(error(b"{} x").contains("trailing characters at line 1 column 4"));
        assert!(error(b"[1]").contains("expected a JSON object"), "{}", error(b"[1]"));
        assert!(error(b"{\"a\":1,\"a\":2}").contains("'a' is given twice"));
        assert!(error(b"{\"a\":\"\xff\"}").contains("not UTF-8: invalid byte at offset 6"));
        assert!(error(b"{\"a\":NaN}").contains("line 1 column 6"), "{}", error(b"{\"a\":NaN}"));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
        let mut fields = Fields::parse(deep.as_bytes()).expect("JSON");
        let e = fields.value("a", usize::MAX).expect_err("is refused");
        assert!(message(&e).contains("recursion limit"), "{}", message(&e));
    }

    #[test]
    fn too_many_fields_are_refused() {
        let body: Vec<_> = (0..=JSON_FIELDS_MAX).map(|i| format!("\"k{i}\":0")).collect();
        assert!(error(format!("{{{}}}", body.join(",")).as_bytes()).contains("more than 256 fields"));
    }

    #[test]
    fn numbers_name_the_field_and_its_bounds() {
        for bad in ["\"hot\"", "-0.1", "2.1", "1e999", "[]", "true", "{}"] {
            let body = format!("{{\"temperature\":{bad}}}");
            let mut f = Fields::parse(body.as_bytes()).expect("JSON");
            let e = f.number("temperature", 0.0..=2.0).expect_err("is refused");
            assert_eq!(e.body()["error"]["param"], "temperature");
            let m = message(&e);
            assert!(m.contains("'temperature'") && m.contains("between 0 and 2"), "{m}");
        }
        let mut f = Fields::parse(br#"{"temperature":2,"n":1e0,"m":3.5,"big":9223372036854775808}"#).expect("JSON");
        assert_eq!(f.number("temperature", 0.0..=2.0), Ok(Some(2.0)));
        assert!(f.integer("m", 1..=16).is_err());
        assert!(f.integer("big", 1..=i64::MAX).is_err());
    }

    #[test]
    fn values_are_bounded_before_they_are_made() {
        assert_eq!(values(r#"{"a,[{\"":"x\\","b":[1,{}]}"#), 6);
        let body = format!("{{\"a\":[{}0]}}", "[],".repeat(JSON_VALUES_MAX / 2));
        let e = Fields::parse(body.as_bytes()).expect("JSON").value("a", usize::MAX).expect_err("is refused");
        assert!(message(&e).contains("values"), "{}", message(&e));
        let text = format!("{{\"a\":\"{}\"}}", "[],".repeat(JSON_VALUES_MAX));
        assert!(Fields::parse(text.as_bytes()).expect("JSON").value("a", usize::MAX).is_ok());
        assert!(Fields::parse(text.as_bytes()).expect("JSON").value("a", 1000).is_err());
    }

    #[test]
    fn null_is_absent_and_the_rest_is_listed() {
        let body = br#"{"stop":null,"\u0061":1,"x":[[[]]],"y":null}"#;
        let mut f = Fields::parse(body).expect("JSON");
        assert_eq!(f.string("stop"), Ok(None));
        assert_eq!(f.integer("a", 0..=9), Ok(Some(1)), "an escaped name is the same name");
        assert_eq!(f.rest(), ["x"]);
    }
}
