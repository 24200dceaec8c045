//! What went wrong, in one line that says what to do, and the exit status for it.

use std::io;
use std::path::Path;

use hyper::StatusCode;
use serde_json::Value;
use thiserror::Error;

/// Why a verb failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    #[error("{0}")]
    Unreachable(String),
    /// Not allowed.
    #[error("{0}")]
    Permission(String),
    /// No such model or request.
    #[error("{0}")]
    NotFound(String),
    /// The daemon refused or failed; its message.
    #[error("{0}")]
    Refused(String),
    /// The connection broke in the middle.
    #[error("the connection to the daemon broke: {0}; `journalctl -u rocmforged` may say why")]
    Broken(String),
    /// The answer is not what this version understands.
    #[error("the daemon's answer is not understood: {0}; do forgectl and rocmforged have the same version?")]
    Answer(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// `--timeout`.
    #[error("no answer within {0} s (--timeout)")]
    Timeout(u64),
}

impl Failure {
    /// `forgectl`'s exit status; docs/INTERFACE.md has the table.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Refused(_) | Failure::Broken(_) | Failure::Answer(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::Permission(_) => 4,
            Failure::NotFound(_) => 5,
            Failure::Timeout(_) => 124,
        }
    }

    pub(super) fn unreachable(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        Failure::Unreachable(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "rocmforged is not running: there is no socket {path}; start it with `systemctl start rocmforged`, \
                 or name another socket with --socket"
            ),
            io::ErrorKind::ConnectionRefused => format!(
                "rocmforged does not answer on {path}; start it with `systemctl start rocmforged`, or look at \
                 `journalctl -u rocmforged`"
            ),
            _ => format!("cannot reach rocmforged on {path}: {error}"),
        })
    }

    pub(super) fn socket_permission(path: &Path) -> Self {
        Failure::Permission(format!(
            "no permission for {}: join its group with `sudo usermod -aG rocmforge $USER` and log in again",
            path.display()
        ))
    }

    pub(super) fn broken(error: hyper::Error) -> Self {
        let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
        Failure::Broken(format!("{error}{cause}"))
    }

    /// From an answer of 400 and up.
    pub(super) fn refused(status: StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = match value["error"]["message"].as_str() {
            Some(m) => m.to_owned(),
            None => format!("the daemon answered {status}"),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Permission(message),
            StatusCode::NOT_FOUND => Failure::NotFound(message),
            _ => Failure::Refused(message),
        }
    }

    /// From an error inside a stream; `code` is the API's.
    pub(super) fn streamed(code: &str, message: String) -> Self {
        match code {
            "model_not_found" | "file_not_found" | "request_not_found" => Failure::NotFound(message),
            _ => Failure::Refused(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_exit_codes() {
        let body = br#"{"error":{"code":"x","message":"say so"}}"#;
        for (status, code) in [(400, 1), (401, 4), (403, 4), (404, 5), (409, 1), (500, 1), (503, 1), (507, 1)] {
            let f = Failure::refused(StatusCode::from_u16(status).expect("a status"), body);
            assert_eq!((f.exit_code(), f.to_string().as_str()), (code, "say so"), "{status}");
        }
        let f = Failure::refused(StatusCode::BAD_GATEWAY, b"<html>");
        assert!(f.to_string().contains("502"));
        assert_eq!(Failure::Timeout(3).exit_code(), 124);
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::streamed("model_not_found", String::new()).exit_code(), 5);
        assert_eq!(Failure::streamed("insufficient_memory", String::new()).exit_code(), 1);
    }
}
