//! The HIP entry points. One device, one lock; work is queued and runs as late as HIP's rules allow.
//!
//! A stream is a queue. It is worked off when somebody waits for it (synchronize, a blocking copy, a free, an event)
//! and not before, so that a host that reads too early or reuses a buffer too soon gets what a slow card would give
//! it. `RDNA3_LAZY=0` runs everything at once instead.

pub mod device;
pub mod error;
pub mod graph;
pub mod memory;
pub mod module;
pub mod queue;
pub mod state;
pub mod stream;
