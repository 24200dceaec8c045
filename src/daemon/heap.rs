//! What malloc keeps: memory that a model frees goes back to the system.
//!
//! Guarantees to safe callers: two numbers of malloc's are set, once, before there is another
//! thread, and malloc is asked to return what is free; no memory in use is touched.
//!
//! glibc raises its threshold for mapped blocks each time a large one is freed, so that the next
//! large ones come from heaps that are never given back: after two models were evicted, 60 MiB
//! more than before stayed with the process. Fixed thresholds end that for large blocks. Small ones
//! (a vocabulary is a million of them) leave holes in the heaps of the threads that made them, which
//! only a trim gives back: without one 20 MiB stayed after each load of gemma by another thread.

use nix::libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int, malloc_trim, mallopt};

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

/// Gives the free pages of all heaps back to the system. Some milliseconds; not for an I/O thread.
pub(super) fn trim() {
    // SAFETY: malloc_trim takes malloc's own locks and returns pages that no allocation covers.
    unsafe {
        malloc_trim(0);
    }
}
