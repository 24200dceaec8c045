//! Where output goes: stdout and stderr, or memory in tests.

use std::io::{self, Write};

/// Results and notes. A reader that has gone (`forgectl ls | head -1`) is no error.
pub struct Output {
    /// Print JSON.
    pub json: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
}

impl Output {
    /// To stdout and stderr.
    pub fn new(json: bool) -> Self {
        Self { json, out: Box::new(io::stdout()), err: Box::new(io::stderr()) }
    }

    #[cfg(test)]
    pub(super) fn to(json: bool, out: impl Write + 'static, err: impl Write + 'static) -> Self {
        Self { json, out: Box::new(out), err: Box::new(err) }
    }

    /// Results, as they are.
    pub fn text(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// A line of results.
    pub fn line(&mut self, line: &str) {
        self.text(&format!("{line}\n"));
    }

    /// A line for the person in front.
    pub fn note(&mut self, line: &str) {
        let _ = self.err.write_all(format!("{line}\n").as_bytes());
    }

    /// Text on stderr without a line's end.
    pub fn prompt(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}
