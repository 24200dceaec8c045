//! `load`: the request, and its progress on stderr.

use std::io::IsTerminal;

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::args::{self, Load};
use super::client::{Client, body};
use super::failure::Failure;
use super::human::{bytes, clean, seconds};
use super::output::Output;
use crate::proto::admin::{LoadEvent, LoadRequest, Model, Phase};

/// What `load` sends.
pub fn request(l: &Load) -> LoadRequest {
    let here = std::env::current_dir().unwrap_or_default();
    LoadRequest {
        model: args::model(&l.model, &here),
        name: l.name.clone(),
        ctx: l.ctx,
        kv_type: l.kv_type.clone(),
        device: l.device.clone(),
        gpu_layers: l.gpu_layers,
        pin: l.pin,
        ttl_s: l.ttl.map(|t| t.as_secs()),
    }
}

/// Loads a model and shows how it goes; the model once it is ready, `None` if nobody waits.
///
/// # Errors
/// If the daemon refuses or the load fails.
pub async fn load(
    client: &Client,
    request: &LoadRequest,
    wait: bool,
    out: &mut Output,
) -> Result<Option<Model>, Failure> {
    let mut lines = client.lines(Method::POST, "/admin/v1/models/load", Some(&body(request)?)).await?;
    let mut shown = Shown::new(std::io::stderr().is_terminal() && !out.json);
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).map_err(|e| Failure::Answer(e.to_string()))?;
        if out.json {
            out.line(&line);
        }
        // An event of a newer daemon is passed over.
        let Ok(event) = serde_json::from_value(value) else { continue };
        match event {
            LoadEvent::Phase { phase } => shown.phase(phase, out),
            LoadEvent::Progress { phase, done, total, rate, eta_s } => shown.progress(phase, done, total, rate, eta_s),
            LoadEvent::Ready { model } => {
                shown.clear();
                return Ok(Some(*model));
            }
            LoadEvent::Error { error } => {
                shown.clear();
                return Err(Failure::streamed(&error.code, error.message));
            }
        }
        if !wait {
            return Ok(None);
        }
    }
    shown.clear();
    Err(Failure::Answer("the load's last event is missing".to_owned()))
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Map => "checking the file",
        Phase::Plan => "placing",
        Phase::Evict => "making room",
        Phase::Read => "reading",
        Phase::Upload => "uploading",
        Phase::Warmup => "warming up",
    }
}

/// The bar on a terminal; plain lines for phases elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    phase: Option<Phase>,
    terminal: bool,
}

impl Shown {
    fn new(terminal: bool) -> Self {
        Self { bar: None, phase: None, terminal }
    }

    fn phase(&mut self, phase: Phase, out: &mut Output) {
        if self.phase.replace(phase) == Some(phase) {
            return;
        }
        if self.terminal {
            let bar = self.bar(false);
            bar.set_message(name(phase));
        } else if !out.json {
            out.note(name(phase));
        }
    }

    fn progress(&mut self, phase: Phase, done: u64, total: u64, rate: f64, eta_s: f64) {
        if !self.terminal {
            return;
        }
        self.phase = Some(phase);
        let message = progress(phase, done, total, rate, eta_s);
        let bar = self.bar(true);
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message);
    }

    /// A bar only where there is something to measure: an empty total would draw a full one.
    fn bar(&mut self, measured: bool) -> &ProgressBar {
        let template = if measured { "{spinner} [{bar:30}] {msg}" } else { "{spinner} {msg}" };
        let bar = self.bar.get_or_insert_with(|| ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Bytes, rate and time left, as they stand beside the bar.
fn progress(phase: Phase, done: u64, total: u64, rate: f64, eta_s: f64) -> String {
    let (done, total, rate) = (bytes(done), bytes(total), bytes(rate.max(0.0) as u64));
    format!("{} {done} of {total}, {rate}/s, {} left", name(phase), seconds(eta_s))
}

/// What stands on stdout after a load.
pub fn loaded(m: &Model) -> String {
    let place = m.device.as_ref().map(|d| format!(" on {d}")).unwrap_or_default();
    let memory = m.bytes.map(|b| bytes(b.weights + b.cache + b.activations + b.tables));
    let memory = memory.map(|b| format!(", {b}")).unwrap_or_default();
    let context = m.context.map(|c| format!(", context {c}")).unwrap_or_default();
    format!("{} is ready{place}{memory}{context}\n", clean(&m.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_bytes_rate_and_time_left() {
        let text = progress(Phase::Read, 1 << 30, 2 << 30, 512.0 * 1024.0 * 1024.0, 2.0);
        assert_eq!(text, "reading 1.0 GiB of 2.0 GiB, 512 MiB/s, 2.0 s left");
    }
}
