//! What the daemon answers: OpenAI's HTTP API, and the admin socket.

pub mod admin;
pub mod http;
