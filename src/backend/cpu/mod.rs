//! The CPU backend.

pub mod ops;
pub mod topology;
pub mod workers;
