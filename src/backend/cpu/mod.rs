//! The CPU backend.

mod cache;
pub mod ops;
pub mod topology;
pub mod workers;
