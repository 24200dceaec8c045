//! The daemon: configuration, startup and shutdown order, systemd.

pub mod config;
