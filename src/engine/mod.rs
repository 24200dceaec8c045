//! One engine for each loaded model: a thread that owns its plan, scheduler, caches and sampler.
//!
//! Nobody else touches them. Requests arrive and events leave as plain messages ([`message`]),
//! so that an engine can run in a thread of the daemon or in a GPU worker process.

pub mod message;
