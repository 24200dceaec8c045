//! What the daemon answers: OpenAI's HTTP API, and the admin socket.

pub mod http;
