//! What malloc keeps: memory that a model frees goes back to the system.
//!
//! Guarantees to safe callers: two numbers of malloc's are set, once, before there is another
//! thread; no memory is touched.
//!
//! glibc raises its threshold for mapped blocks each time a large one is freed, so that the next
//! large ones come from heaps that are never given back: after two models were evicted, 60 MiB
//! more than before stayed with the process. Fixed thresholds end that.

use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int, mallopt};

/// Blocks from this size on are mapped, and unmapped when they are freed; so much free memory at
/// a heap's end goes back. glibc's own initial values.
const THRESHOLD: c_int = 128 << 10;

/// Fixes the thresholds. Called at the start of `main`.
pub(super) fn give_back_freed() {
    // SAFETY: mallopt takes two integers and only sets malloc's parameters; it fails (0) for values
    // it does not like, and then malloc works as before.
    unsafe {
        mallopt(M_MMAP_THRESHOLD, THRESHOLD);
        mallopt(M_TRIM_THRESHOLD, THRESHOLD);
    }
}
