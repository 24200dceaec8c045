//! Common ground: limits and storage. Imports nothing of the crate.

pub mod limits;
pub mod storage;
