//! What chat templates expect of Python: JSON as `json.dumps` writes it, `strftime`, and a few
//! methods and tests that differ from minijinja's.

use jiff::ZonedDateTime;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;
use std::fmt::Write;

/// Deepest nesting of a value that is written as JSON.
const DEPTH: usize = 128;

/// Filter `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`, as transformers defines it.
pub(super) fn tojson(value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let ascii = args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    args.assert_all_used()?;
    let mut writer = Json { out: String::new(), item, key, indent, ascii, sort };
    writer.value(value, 0)?;
    Ok(Value::from_safe_string(writer.out))
}

struct Json {
    out: String,
    item: String,
    key: String,
    indent: Option<usize>,
    ascii: bool,
    sort: bool,
}

impl Json {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let wrong = |what: &str| Error::new(ErrorKind::BadSerialization, format!("{what} is not JSON"));
        if depth > DEPTH {
            return Err(wrong("a value nested this deep"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(number) => self.out.push_str(&float(number)),
                Err(_) => return Err(wrong("a number")),
            },
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut any = false;
                for item in value.try_iter()? {
                    self.separate(&mut any, depth + 1);
                    self.value(&item, depth + 1)?;
                }
                self.close(any, depth, ']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                self.out.push('{');
                let mut any = false;
                for key in keys {
                    self.separate(&mut any, depth + 1);
                    match key.as_str() {
                        Some(text) => self.string(text),
                        None => {
                            let text = key.to_string();
                            self.string(&text);
                        }
                    }
                    self.out.push_str(&self.key);
                    self.value(&value.get_item(&key)?, depth + 1)?;
                }
                self.close(any, depth, '}');
            }
            ValueKind::Undefined => return Err(wrong("an undefined value")),
            _ => return Err(wrong("an object of the template")),
        }
        Ok(())
    }

    fn separate(&mut self, any: &mut bool, depth: usize) {
        if std::mem::replace(any, true) {
            self.out.push_str(&self.item);
        }
        self.line(depth);
    }

    fn close(&mut self, any: bool, depth: usize, bracket: char) {
        if any {
            self.line(depth);
        }
        self.out.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(64) * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                c if u32::from(c) < 32 || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing into a string cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A float as Python's `repr` has it: `1.0`, `0.0001`, `1e-05`, `1e+16`.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(power) if number != 0.0 && !(-4..16).contains(&power) => {
            format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// Filter `from_json`.
pub(super) fn from_json(text: &str) -> Result<Value, Error> {
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, format!("from_json: {e}"));
    serde_json::from_str::<serde_json::Value>(text).map(|json| Value::from(Serde(json))).map_err(wrong)
}

/// Test `iterable`: what `iter()` takes. minijinja says so of none, too.
pub(super) fn iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// Function `strftime_now(format)`, in local time.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    strftime(format, &ZonedDateTime::now())
}

/// `time` by `format`.
pub(super) fn strftime(format: &str, time: &ZonedDateTime) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, time)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
}

/// Methods of Python's strings that minijinja's own collection lacks.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str();
    let first = args.first().and_then(Value::as_str);
    match (text, name, first) {
        (Some(text), "partition" | "rpartition", Some(by)) if !by.is_empty() => {
            let cut = if name == "partition" { text.split_once(by) } else { text.rsplit_once(by) };
            let parts = match cut {
                Some((before, after)) => [before, by, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Value::from(parts.map(Value::from).to_vec()))
        }
        (Some(text), "rsplit", Some(by)) if !by.is_empty() => {
            let most = args.get(1).and_then(|n| usize::try_from(n.clone()).ok()).unwrap_or(usize::MAX - 1);
            let mut parts: Vec<Value> = text.rsplitn(most + 1, by).map(Value::from).collect();
            parts.reverse();
            Ok(Value::from(parts))
        }
        (Some(text), "removeprefix", Some(by)) => Ok(Value::from(text.strip_prefix(by).unwrap_or(text))),
        (Some(text), "removesuffix", Some(by)) => Ok(Value::from(text.strip_suffix(by).unwrap_or(text))),
        _ => unknown_method_callback(state, value, name, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.1 + 0.2, "0.30000000000000004"),
            (0.0, "0.0"),
        ];
        for (number, expected) in cases {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn json_is_pythons() {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", |v: &Value, args: Kwargs| tojson(v, args));
        let render = |source: &str| env.render_str(source, ()).map_err(|e| e.kind());
        let value = r#"{"b": [1, 2.0, none, true], "a": {}, "c": "é\n<'\"\\x01"}"#;
        assert_eq!(
            render(&format!("{{{{ {value}|tojson }}}}")).unwrap(),
            r#"{"b": [1, 2.0, null, true], "a": {}, "c": "é\n<'\"\\x01"}"#
        );
        assert_eq!(render("{{ 'é😀'|tojson(ensure_ascii=true) }}").unwrap(), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(
            render("{{ [1, {'b': 2, 'a': []}]|tojson(indent=2, sort_keys=true) }}").unwrap(),
            "[\n  1,\n  {\n    \"a\": [],\n    \"b\": 2\n  }\n]"
        );
        assert_eq!(render("{{ [1, 2]|tojson(separators=(',', ':')) }}").unwrap(), "[1,2]");
        assert_eq!(render("{{ nothing|tojson }}"), Err(ErrorKind::BadSerialization));
    }
}
