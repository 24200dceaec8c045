//! What the daemon says about itself: metrics, and the log of its decisions.
//!
//! Numbers flow up to here as plain data; nothing here asks another module for anything.

pub mod events;
pub mod metrics;
