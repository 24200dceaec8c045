//! The log: tracing to stderr as text, JSON, or text with journald's priorities.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::config::Log;

/// Changes the level while the daemon runs.
#[derive(Clone, Debug)]
pub struct LevelSwitch(reload::Handle<EnvFilter, Registry>);

impl LevelSwitch {
    /// Sets the level; a filter that cannot be read changes nothing (the configuration has
    /// checked it).
    pub fn set(&self, level: &str) {
        match EnvFilter::try_new(level) {
            Ok(filter) => {
                if let Err(e) = self.0.reload(filter) {
                    tracing::error!(error = %e, "the log level was not changed");
                }
            }
            Err(e) => tracing::error!(error = %e, level, "the log level was not changed"),
        }
    }
}

/// Starts the log; `journal` says whether stderr is the journal (`$JOURNAL_STREAM` is set).
pub fn start(log: &Log, journal: bool) -> LevelSwitch {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    // Never an error of its own to stderr: on a full disk that would panic, and the daemon must
    // go on serving without its log.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let layer = match log.format.as_str() {
        "json" => lines.json().flatten_event(true).boxed(),
        "journald" => lines.with_ansi(false).event_format(Journal::new()).boxed(),
        "auto" if journal => lines.with_ansi(false).event_format(Journal::new()).boxed(),
        _ => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    // A test may have set its own subscriber.
    tracing_subscriber::registry().with(filter).with(layer).try_init().ok();
    LevelSwitch(handle)
}

/// Lines as systemd reads them from stderr: `<N>` with syslog's number of the level, and no time
/// (the journal has its own).
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false))
    }
}

fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(w, "<{}>", priority(event.metadata().level()))?;
        self.0.format_event(ctx, w, event)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("alone").extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_begin_with_their_priority() {
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Journal::new());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(model = "m", "slow");
            tracing::info!("fine");
        });
        let text = String::from_utf8(sink.0.lock().expect("alone").clone()).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("<4>") && lines[0].contains("slow") && lines[0].contains("m"), "{text}");
        assert!(lines[1].starts_with("<6>"), "{text}");
    }
}
