//! systemd's watchdog, from a thread of its own.
//!
//! The pulse comes from a tokio task that has asked the registry and the CPU pool; the thread
//! tells systemd only while the pulse is fresh. One sick model does not stop it: engines have
//! deadlines of their own.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// When the daemon was last seen to answer.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last: AtomicU64,
}

impl Pulse {
    /// A pulse that has just beaten.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), last: AtomicU64::new(0) })
    }

    /// Everything answers.
    pub fn beat(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Since the last beat.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// Starts the thread; it ends when `pulse` is dropped. `timeout` is systemd's.
///
/// # Errors
/// If no thread can be started.
pub fn start(timeout: Duration, pulse: &Arc<Pulse>, tell: impl Fn() + Send + 'static) -> io::Result<()> {
    let pulse = Arc::downgrade(pulse);
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(timeout, &pulse, tell)).map(|_| ())
}

fn watch(timeout: Duration, pulse: &Weak<Pulse>, tell: impl Fn()) {
    let mut silent = false;
    while let Some(pulse) = pulse.upgrade() {
        let age = pulse.age();
        // A pulse is at most a quarter old in health; half leaves systemd's own half as patience.
        if age < timeout / 2 {
            silent = false;
            tell();
        } else if !silent {
            silent = true;
            tracing::error!(age_s = age.as_secs(), "the daemon does not answer; systemd will restart it");
        }
        drop(pulse);
        std::thread::sleep(timeout / 4);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn systemd_hears_only_while_the_pulse_is_fresh() {
        let pulse = Pulse::new();
        let (tell, told) = mpsc::channel();
        let timeout = Duration::from_millis(400);
        start(timeout, &pulse, move || {
            tell.send(()).ok();
        })
        .expect("started");
        assert!(told.recv_timeout(timeout).is_ok());
        // No beat: after half the time-out nothing more is told.
        std::thread::sleep(timeout);
        while told.try_recv().is_ok() {}
        assert!(told.recv_timeout(timeout).is_err());
        pulse.beat();
        assert!(told.recv_timeout(timeout).is_ok());
        drop(pulse);
        std::thread::sleep(timeout);
        while told.try_recv().is_ok() {}
        assert_eq!(told.recv_timeout(timeout), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
