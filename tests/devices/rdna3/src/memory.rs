//! Live allocations, and whether an access lies within one.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `hipMalloc`.
    Device,
    /// `hipHostMalloc` and registered host memory.
    Host,
    /// A loaded code object: kernels may read it.
    Image,
    /// Arguments of the launch: kernels may read them.
    Arguments,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is.
    pub of: Use,
}

/// What a launch may touch: a snapshot, sorted by address.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// Live ranges.
    pub live: Vec<Range>,
    /// Ranges freed not long ago, for better words.
    pub freed: Vec<Range>,
}

impl Map {
    /// The map with one more range.
    pub fn with(&self, extra: &[Range]) -> Map {
        let mut map = self.clone();
        map.live.extend(extra);
        map.live.sort_by_key(|r| r.start);
        map
    }

    /// The range that holds `n` bytes at `at`, if the kernel may access them so.
    pub fn find(&self, at: u64, n: u64, write: bool) -> Option<Range> {
        let i = self.live.partition_point(|r| r.start <= at);
        let r = *self.live.get(i.checked_sub(1)?)?;
        let inside = at.checked_add(n)? <= r.end;
        (inside && !(write && matches!(r.of, Use::Image | Use::Arguments))).then_some(r)
    }

    /// Says why an access is refused.
    pub fn explain(&self, at: u64, n: u64, write: bool) -> String {
        let verb = if write { "writes" } else { "reads" };
        let head = format!("{verb} {n} bytes");
        if let Some(r) = self.find(at, n, false) {
            let what = if r.of == Use::Image { "the code object" } else { "the kernel's arguments" };
            return format!("{head} of {what}, which is read-only");
        }
        if let Some(r) = self.freed.iter().rev().find(|r| at >= r.start && at < r.end) {
            return format!(
                "{head} at byte {} of an allocation of {} bytes that was freed",
                at - r.start,
                r.end - r.start
            );
        }
        let i = self.live.partition_point(|r| r.start <= at);
        let before = i.checked_sub(1).map(|i| self.live[i]);
        let after = self.live.get(i).copied();
        let past = before.map(|r| (at.saturating_add(n).saturating_sub(r.end), r));
        let short = after.map(|r| (r.start - at, r));
        let near = |(d, r): (u64, Range), side: &str| {
            format!("{d} bytes {side} of an allocation of {} bytes at {:#x}", r.end - r.start, r.start)
        };
        let nearest = match (past, short) {
            (Some(p), Some(s)) if s.0 < p.0 => near(s, "before the start"),
            (Some(p), _) => near(p, "past the end"),
            (None, Some(s)) => near(s, "before the start"),
            (None, None) => "there is none".to_string(),
        };
        format!("{head} outside any allocation at {at:#x}: {nearest}")
    }
}

/// Freed memory kept back so that its addresses are not given out again at once.
const QUARANTINE: u64 = 256 << 20;
/// Unowned bytes around each allocation.
const MARGIN: usize = 256;
/// Every allocation's alignment, as on the card.
const ALIGN: usize = 256;

/// Memory of the device.
pub struct Memory {
    map: Map,
    shared: Option<Arc<Map>>,
    held: VecDeque<Range>,
    total: u64,
    used: u64,
}

impl Memory {
    /// A device with `total` bytes.
    pub fn new(total: u64) -> Memory {
        Memory { map: Map::default(), shared: None, held: VecDeque::new(), total, used: 0 }
    }

    fn layout(size: u64) -> Option<Layout> {
        Layout::from_size_align(usize::try_from(size).ok()?.checked_add(2 * MARGIN)?, ALIGN).ok()
    }

    /// Allocates poisoned memory; `None` when the device or the host has no more.
    pub fn allocate(&mut self, size: u64, of: Use) -> Option<u64> {
        if of == Use::Device && size > self.total - self.used {
            return None;
        }
        let layout = Self::layout(size)?;
        // SAFETY: the layout is never of size zero.
        let p = unsafe { alloc(layout) };
        if p.is_null() {
            return None;
        }
        // SAFETY: the whole block was just allocated. All ones are NaNs in every format.
        unsafe { p.write_bytes(0xff, layout.size()) };
        let start = p as u64 + MARGIN as u64;
        if of == Use::Device {
            self.used += size;
        }
        self.add(Range { start, end: start + size, of });
        Some(start)
    }

    /// Adds a range that somebody else owns.
    pub fn add(&mut self, r: Range) {
        self.shared = None;
        self.map.freed.retain(|f| f.end <= r.start || f.start >= r.end);
        let i = self.map.live.partition_point(|x| x.start <= r.start);
        self.map.live.insert(i, r);
    }

    /// Takes away the range that starts at `start`.
    pub fn remove(&mut self, start: u64, of: Use) -> Option<Range> {
        let i = self.map.live.iter().position(|r| r.start == start && r.of == of)?;
        self.shared = None;
        Some(self.map.live.remove(i))
    }

    /// Frees what [`allocate`](Memory::allocate) gave; false when it is no live allocation of that use.
    pub fn free(&mut self, start: u64, of: Use) -> bool {
        let Some(r) = self.remove(start, of) else { return false };
        if of == Use::Device {
            self.used -= r.end - r.start;
        }
        // SAFETY: the block is ours until it leaves the quarantine; late readers see NaNs.
        unsafe { (start as *mut u8).write_bytes(0xff, (r.end - r.start) as usize) };
        self.map.freed.push(r);
        self.held.push_back(r);
        let mut bytes: u64 = self.held.iter().map(|r| r.end - r.start).sum();
        while bytes > QUARANTINE {
            let Some(old) = self.held.pop_front() else { break };
            bytes -= old.end - old.start;
            self.map.freed.retain(|f| f.start != old.start);
            if let Some(layout) = Self::layout(old.end - old.start) {
                // SAFETY: allocated with the same layout, removed from every list.
                unsafe { dealloc((old.start as usize - MARGIN) as *mut u8, layout) };
            }
        }
        true
    }

    /// The live range that holds `n` bytes at `at`.
    pub fn find(&self, at: u64, n: u64) -> Option<Range> {
        self.map.find(at, n, false)
    }

    /// Free and total bytes.
    pub fn info(&self) -> (u64, u64) {
        (self.total - self.used, self.total)
    }

    /// The snapshot for launches.
    pub fn map(&mut self) -> Arc<Map> {
        let map = &self.map;
        self.shared.get_or_insert_with(|| Arc::new(map.clone())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_judged_to_the_byte() {
        let mut m = Memory::new(1 << 20);
        let a = m.allocate(100, Use::Device).unwrap();
        assert_eq!(a % 256, 0);
        let map = m.map();
        assert!(
            map.find(a, 100, true).is_some()
                && map.find(a + 97, 4, false).is_none()
                && map.find(a - 1, 1, false).is_none()
        );
        assert!(map.explain(a + 100, 4, true).contains("writes 4 bytes outside any allocation"));
        assert!(map.explain(a + 100, 4, true).contains("4 bytes past the end of an allocation of 100 bytes"));
        assert!(m.allocate(1 << 20, Use::Device).is_none(), "no more memory");
        assert!(m.free(a, Use::Device) && !m.free(a, Use::Device));
        assert!(m.map().explain(a + 8, 4, false).contains("that was freed"));
        assert_eq!(m.info(), (1 << 20, 1 << 20));
    }
}
