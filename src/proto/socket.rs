//! Where the admin socket is, and who is at its other end: shared by daemon and CLI.

use std::path::{Path, PathBuf};

/// The service's socket.
pub const SYSTEM: &str = "/run/rocmforge/admin.sock";

/// A plain user's socket; `runtime_dir` is `$XDG_RUNTIME_DIR`.
pub fn of_user(runtime_dir: Option<&str>, uid: u32) -> PathBuf {
    match runtime_dir.filter(|d| d.starts_with('/')) {
        Some(dir) => Path::new(dir).join("rocmforge/admin.sock"),
        // Where no session manager sets the variable, its usual value.
        None => PathBuf::from(format!("/run/user/{uid}/rocmforge/admin.sock")),
    }
}

/// The process at the other end of a connection to the admin socket, by the kernel's account.
/// The daemon puts it into the extensions of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; 0 if it is in another namespace.
    pub pid: i32,
}
