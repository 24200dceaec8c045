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
