//! Keys and values on the device: slabs, and the addresses of their blocks.

use super::device::Device;
use super::memory::Arena;
use super::places::Places;
use super::stream::Stream;
use crate::backend::BackendError;
use crate::plan::cache::CacheGroup;

/// One cache group's memory.
pub struct Cache {
    group: CacheGroup,
    /// Slab `i` holds blocks `i * slab_blocks ..`: its memory and its address.
    slabs: Vec<Option<(Arena, u64)>>,
    slab_blocks: usize,
    block_bytes: u64,
}

impl Cache {
    /// An empty cache.
    pub fn new(group: CacheGroup) -> Self {
        let (slab_blocks, block_bytes) = (group.slab_blocks(), group.block_bytes());
        Self { group, slabs: Vec::new(), slab_blocks, block_bytes }
    }

    /// Adds a slab of zeros; returns its first block. `device` must be this thread's.
    ///
    /// # Errors
    /// [`BackendError`] if the device does not give it.
    pub fn add_slab(&mut self, device: &Device, stream: &mut Stream) -> Result<u32, BackendError> {
        let what = format!("a slab of the {} cache", self.group.name);
        let mut places = Places::default();
        let place = places.add(self.group.slab_bytes());
        let slab = Arena::new(device, &places, &what)?;
        let region = slab.region(place);
        // Memory of others may hold NaN, which a weight of zero does not hide.
        stream.clear(region).map_err(|e| device.error(e, region.bytes(), &what))?;
        let index = match self.slabs.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.slabs.push(None);
                self.slabs.len() - 1
            }
        };
        self.slabs[index] = Some((slab, region.address()));
        Ok((index * self.slab_blocks) as u32)
    }

    /// Gives a slab back to the device.
    pub fn remove_slab(&mut self, first: u32) {
        if let Some(slab) = self.slabs.get_mut(first as usize / self.slab_blocks) {
            *slab = None;
        }
    }

    /// Whether `block` lies in a slab.
    pub fn has(&self, block: u32) -> bool {
        self.slabs.get(block as usize / self.slab_blocks).is_some_and(Option::is_some)
    }

    /// The address of `block`; 0 for one that is in no slab (it lies before the window).
    pub fn address(&self, block: u32) -> u64 {
        let (slab, at) = (block as usize / self.slab_blocks, block as usize % self.slab_blocks);
        match self.slabs.get(slab) {
            Some(Some((_, start))) => start + at as u64 * self.block_bytes,
            _ => 0,
        }
    }
}
