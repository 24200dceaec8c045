//! The admin API's types, shared by the daemon and `forgectl`: see docs/INTERFACE.md.

pub mod admin;
pub mod selftest;
pub mod socket;
