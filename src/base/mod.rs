//! Common ground: limits, names and storage. Imports nothing of the crate.

pub mod limits;
pub mod name;
pub mod storage;
