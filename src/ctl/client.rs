//! HTTP over the admin socket: one connection a request.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::failure::Failure;
use crate::base::limits;
use crate::proto::socket;

/// How long a daemon that is just restarting is waited for.
const RETRY: Duration = Duration::from_secs(2);

/// Where the daemon is reached.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

/// The socket to use: the one given, else this user's if it is there, else the service's.
pub fn find(given: Option<PathBuf>, runtime_dir: Option<&str>, uid: u32) -> PathBuf {
    given.unwrap_or_else(|| {
        let own = socket::of_user(runtime_dir, uid);
        if own.exists() { own } else { PathBuf::from(socket::SYSTEM) }
    })
}

impl Client {
    /// A client of the socket at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn connect(&self) -> Result<UnixStream, Failure> {
        let end = Instant::now() + RETRY;
        loop {
            let error = match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                Err(e) => e,
            };
            match error.kind() {
                io::ErrorKind::PermissionDenied => return Err(Failure::socket_permission(&self.path)),
                // The file is there and nobody listens: a restart, or a daemon that was killed.
                io::ErrorKind::ConnectionRefused if Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                _ => return Err(Failure::unreachable(&self.path, &error)),
            }
        }
    }

    /// Sends a request; an answer of 400 and up becomes a [`Failure`].
    ///
    /// # Errors
    /// If the daemon is not reached or refuses.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, Failure> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        let bytes = match body {
            None => Bytes::new(),
            Some(v) => {
                request = request.header("content-type", "application/json");
                v.to_string().into()
            }
        };
        let request = request.body(Full::new(bytes)).map_err(|e| Failure::Usage(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(Failure::broken)?;
        if response.status() < StatusCode::BAD_REQUEST {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response).await?;
        Err(Failure::refused(status, &body))
    }

    /// Sends a request and reads the JSON that it answers; null for an empty answer.
    ///
    /// # Errors
    /// As [`Client::send`], or if the answer is no JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let bytes = whole(self.send(method, path, body).await?).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| Failure::Answer(e.to_string()))
    }

    /// Sends a request whose answer comes line by line.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn lines(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Lines, Failure> {
        let response = self.send(method, path, body).await?;
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), seen: 0 })
    }
}

/// A request's body.
///
/// # Errors
/// Never for the types of `proto`.
pub fn body(of: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(of).map_err(|e| Failure::Usage(e.to_string()))
}

/// An answer as its type.
///
/// # Errors
/// If it is not of that type: another version of the daemon.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|e| Failure::Answer(e.to_string()))
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for b in name.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let limited = http_body_util::Limited::new(response.into_body(), limits::CTL_ANSWER_MAX);
    limited.collect().await.map(|c| c.to_bytes()).map_err(|e| Failure::Answer(e.to_string()))
}

/// The lines of an answer.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of the buffer that have no line end.
    seen: usize,
}

impl Lines {
    /// The next line without its end; `None` at the end of the answer.
    ///
    /// # Errors
    /// If the connection breaks, or a line is endless.
    pub async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.seen..]) {
                let rest = self.buffer.split_off(self.seen + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.seen = 0;
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            self.seen = self.buffer.len();
            if self.seen > limits::CTL_ANSWER_MAX {
                return Err(Failure::Answer("a line has no end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(Failure::broken(e)),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.buffer);
                    self.seen = 0;
                    return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(segment("Qwen3-8B_x.y~z"), "Qwen3-8B_x.y~z");
        assert_eq!(segment("a/b c#?%\u{e9}"), "a%2Fb%20c%23%3F%25%C3%A9");
    }

    #[test]
    fn the_users_socket_is_taken_only_if_it_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().to_str();
        assert_eq!(find(None, run, 5), Path::new("/run/rocmforge/admin.sock"));
        std::fs::create_dir(dir.path().join("rocmforge")).expect("made");
        std::fs::write(dir.path().join("rocmforge/admin.sock"), "").expect("made");
        assert_eq!(find(None, run, 5), dir.path().join("rocmforge/admin.sock"));
        assert_eq!(find(Some("/x".into()), run, 5), Path::new("/x"));
    }
}
