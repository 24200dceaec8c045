//! The CPU backend.

pub mod topology;
pub mod workers;
