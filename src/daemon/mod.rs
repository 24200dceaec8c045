//! The daemon: configuration, startup and shutdown order, systemd.

pub mod config;
pub mod listen;
pub mod log;
pub mod serve;
pub mod systemd;
