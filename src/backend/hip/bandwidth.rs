//! How fast a device reaches its memory: measured, so that placement can compare it with the CPU.

use std::time::Instant;

use super::device::Device;
use super::memory::Arena;
use super::places::Places;
use super::stream::Stream;
use crate::base::limits::BANDWIDTH_BYTES;

/// Fillings of which the fastest counts: the first one may wait for the memory to be mapped.
const TRIES: usize = 3;

/// Bytes a second at which `device` fills its memory; `None` where it has none to spare.
pub fn measure(device: &Device) -> Option<u64> {
    device.select().ok()?;
    let mut places = Places::default();
    let place = places.add(BANDWIDTH_BYTES as u64);
    let arena = Arena::new(device, &places, "measuring its speed").ok()?;
    let mut stream = Stream::new(device).ok()?;
    let mut fill = || {
        let since = Instant::now();
        stream.clear(arena.region(place)).ok()?;
        stream.synchronize().ok()?;
        Some(since.elapsed())
    };
    let times: Option<Vec<_>> = (0..TRIES).map(|_| fill()).collect();
    let fastest = times?.into_iter().min()?;
    Some((BANDWIDTH_BYTES as f64 / fastest.as_secs_f64().max(1e-9)) as u64)
}
