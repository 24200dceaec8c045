//! `--print-config`: every effective value with where it came from.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::layers::{Effective, flatten};

/// The configuration in force, for whoever asks while the daemon runs.
#[derive(Debug)]
pub struct InForce(Mutex<Value>);

impl InForce {
    /// That of the start.
    pub fn new(effective: &Effective) -> Self {
        Self(Mutex::new(as_json(effective)))
    }

    /// After a reload.
    pub fn set(&self, effective: &Effective) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = as_json(effective);
    }

    /// `{"http.listen": {"value": [...], "origin": "default"}, ...}`
    pub fn json(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn as_json(effective: &Effective) -> Value {
    let entry = |(key, value): (String, Value)| {
        let origin = effective.origin(&key).to_string();
        (key, json!({ "value": value, "origin": origin }))
    };
    Value::Object(flatten(&effective.config).into_iter().map(entry).collect::<Map<_, _>>())
}

/// The configuration as TOML that could be read again, each line with its origin as a comment.
pub(super) fn print(effective: &Effective) -> String {
    let lines: Vec<(String, String)> = flatten(&effective.config)
        .into_iter()
        // JSON's strings, numbers, booleans and lists of strings are TOML's too.
        .map(|(key, value)| (format!("{key} = {}", value.to_string().replace("\",\"", "\", \"")), key))
        .collect();
    let width = lines.iter().map(|(l, _)| l.chars().count()).max().unwrap_or(0).min(72);
    let mut out = String::new();
    for (line, key) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{line:width$}  # {}", effective.origin(&key));
    }
    out
}
