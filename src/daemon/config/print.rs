//! `--print-config`: every effective value with where it came from.

use std::fmt::Write;

use super::layers::{Effective, flatten};

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
