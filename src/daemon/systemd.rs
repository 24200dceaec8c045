//! systemd's side: readiness, status, watchdog, inherited sockets.
//!
//! What this file guarantees to safe callers: the process's environment is changed only in
//! [`Systemd::take`], and only while there is no other thread; an inherited descriptor is owned once.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

/// What systemd passed to the process.
#[derive(Debug, Default)]
pub struct Systemd {
    /// Sockets, with the names that their unit gives them.
    pub sockets: Vec<(OwnedFd, String)>,
    /// How often the watchdog wants to hear from us, if it does.
    pub watchdog: Option<Duration>,
}

impl Systemd {
    /// Takes what systemd passed, and removes it from the environment, so that no child takes it
    /// for its own. `NOTIFY_SOCKET` stays: each message is sent by its address. To be called first
    /// of all; once there is a second thread, nothing is taken.
    pub fn take() -> Self {
        if threads() != Some(1) {
            return Self::default();
        }
        // SAFETY: the environment is changed, and no other thread runs that could read it.
        let watchdog = unsafe { sd_notify::watchdog_enabled_and_unset_env() };
        // SAFETY: as above.
        let sockets = match unsafe { sd_notify::listen_fds_with_names_and_unset_env() } {
            Ok(fds) => fds
                // SAFETY: systemd opened these descriptors for this process (LISTEN_PID was
                // checked), and nobody else takes them: their variables are gone now.
                .map(|(fd, name)| (unsafe { OwnedFd::from_raw_fd(fd) }, name))
                .collect(),
            // Not started by systemd, or without sockets.
            Err(_) => Vec::new(),
        };
        Self { sockets, watchdog }
    }
}

/// Threads of this process.
fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

fn send(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell; with it, a lost message is seen by its own timers.
    if let Err(e) = sd_notify::notify(state) {
        tracing::debug!(error = %e, "systemd was not notified");
    }
}

/// The sockets accept.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(e) => tracing::debug!(error = %e, "no monotonic clock"),
    }
}

/// The stop begins.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Still alive.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// A stop needs so much longer.
pub fn extend_timeout(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// Name that `rocmforged-admin.socket` gives the admin socket.
pub const ADMIN_SOCKET_NAME: &str = "admin";

/// Whether a descriptor is a Unix socket that listens.
pub fn is_unix_listener(fd: &OwnedFd) -> bool {
    use nix::sys::socket::{getsockname, getsockopt, sockopt::AcceptConn};
    use std::os::fd::AsRawFd;
    getsockopt(fd, AcceptConn).unwrap_or(false) && getsockname::<nix::sys::socket::UnixAddr>(fd.as_raw_fd()).is_ok()
}

/// The result of [`is_unix_listener`] as an error for the log.
pub fn not_a_listener(name: &str) -> io::Error {
    io::Error::other(format!("the socket `{name}` that systemd passed is no listening Unix socket"))
}
