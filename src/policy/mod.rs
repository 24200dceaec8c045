//! Policy: what goes where, what fits, who has to go and when. Pure functions of numbers.
//!
//! Nothing here knows an engine, a clock or a file: the registry gathers the numbers, asks, and
//! acts. So every rule is tested with random inputs and without a device.

pub mod admission;
pub mod evict;
pub mod placement;
pub mod swap;

/// `21.4 GiB`: bytes as people read them, in every message of a decision.
pub fn human(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}
