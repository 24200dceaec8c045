//! The HIP backend on device "host" (tests/devices/host): whole models, against the CPU backend.
//!
//! Needs a clang with the AMD GPU target, for the kernels in the library and for the device; without
//! one the tests say so aloud and pass.

#[path = "../models/goldens.rs"]
#[allow(dead_code)] // The models' tests use all of it.
mod goldens;

#[path = "../cpu/plan.rs"]
#[allow(dead_code)] // The CPU's tests use all of it.
mod plan;

mod agree;
mod device;
mod faults;
mod memory;
mod selftest;
