//! Where output goes: stdout and stderr, or memory in tests.

use std::io::{self, Write};

/// Results and notes. A reader that has gone (`forgectl ls | head -1`) is no error.
pub struct Output {
    /// Print JSON.
    pub json: bool,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// The last result does not end its line yet.
    open: bool,
}

impl Output {
    /// To stdout and stderr.
    pub fn new(json: bool) -> Self {
        Self { json, out: Box::new(io::stdout()), err: Box::new(io::stderr()), open: false }
    }

    #[cfg(test)]
    pub(super) fn to(json: bool, out: impl Write + 'static, err: impl Write + 'static) -> Self {
        Self { json, out: Box::new(out), err: Box::new(err), open: false }
    }

    /// Results, as they are.
    pub fn text(&mut self, text: &str) {
        if let Some(last) = text.chars().last() {
            self.open = last != '\n';
        }
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// A line of results.
    pub fn line(&mut self, line: &str) {
        self.text(&format!("{line}\n"));
    }

    /// A line for the person in front. A line of results that is not finished is ended first.
    pub fn note(&mut self, line: &str) {
        if self.open {
            self.text("\n");
        }
        let _ = self.err.write_all(format!("{line}\n").as_bytes());
    }

    /// Text on stderr without a line's end.
    pub fn prompt(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}
