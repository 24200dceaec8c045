//! Vector loads, stores and sums on arrays, for functions with the tier's features.
//!
//! Guarantees to safe callers: every load and store covers exactly the array it is given, so
//! none can leave its bounds; prefetches never fault, whatever the address.

use std::arch::x86_64::*;

/// Asks for the cache line `offset` bytes past the start of `data` (which may lie outside it).
#[inline(always)]
pub fn prefetch<T>(data: &T, offset: usize) {
    let address = std::ptr::from_ref(data).cast::<i8>().wrapping_add(offset);
    // SAFETY: prefetching never faults and changes no state but the caches.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
}
