//! Memory of a device, and memory of the host that the device can copy from and to.
//!
//! Guarantees to safe callers: an [`Arena`] frees its chunks once, when it is dropped; a
//! [`Region`] lies inside a chunk; a [`Pinned`] buffer cannot be read or written by the host while
//! a copy from or to it is on its way. A region that outlives its arena, or a kernel that is given
//! wrong arguments, reaches wrong device memory, but never this process's.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use super::device::Device;
use super::places::{Place, Places};
use super::stream::Done;
use super::sys::check;
use crate::backend::BackendError;

/// Memory of a device, allocated and freed in chunks.
pub struct Arena {
    device: Device,
    chunks: Vec<(NonNull<c_void>, u64)>,
}

// SAFETY: device addresses mean the same in every thread.
unsafe impl Send for Arena {}

/// A piece of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    address: u64,
    bytes: u64,
}

impl Region {
    /// Its device address.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Its length in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The `bytes` bytes from `offset`.
    ///
    /// # Panics
    /// If they are not inside the region.
    pub fn part(self, offset: u64, bytes: u64) -> Self {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "a part outside of its region");
        Self { address: self.address + offset, bytes }
    }
}

impl Arena {
    /// Allocates all chunks of `places` on `device`, which must be this thread's.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] for `what`; nothing stays allocated then.
    pub fn new(device: &Device, places: &Places, what: &str) -> Result<Self, BackendError> {
        let mut arena = Self { device: device.clone(), chunks: Vec::with_capacity(places.chunks().len()) };
        for &bytes in places.chunks() {
            let mut chunk = ptr::null_mut();
            // SAFETY: writes one pointer.
            let code = unsafe { (device.hip().table.hipMalloc)(&mut chunk, bytes as usize) };
            check("hipMalloc", code).map_err(|e| device.error(e, bytes, what))?;
            let chunk = NonNull::new(chunk).ok_or_else(|| BackendError::OutOfMemory {
                device: device.label(),
                bytes,
                what: what.to_owned(),
            })?;
            arena.chunks.push((chunk, bytes));
        }
        Ok(arena)
    }

    /// The region of a place of the [`Places`] that the arena was made of.
    ///
    /// # Panics
    /// If it is a place of others.
    pub fn region(&self, place: Place) -> Region {
        let (chunk, bytes) = self.chunks[place.chunk];
        Region { address: chunk.as_ptr() as u64, bytes }.part(place.offset, place.bytes)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // A device that is lost refuses both; its memory goes with the process then.
        let _ = self.device.select();
        for (chunk, _) in &self.chunks {
            // SAFETY: it came from hipMalloc and is freed here only. hipFree waits for kernels
            // that may still use it.
            let _ = unsafe { (self.device.hip().table.hipFree)(chunk.as_ptr()) };
        }
    }
}

/// Host memory that stays in place, so that the device copies by itself.
pub struct Pinned {
    device: Device,
    start: NonNull<u8>,
    len: usize,
    /// Which stream's which copy uses it.
    lent: Option<(u64, u64)>,
}

// SAFETY: it owns its memory, as a boxed slice does.
unsafe impl Send for Pinned {}

impl Pinned {
    /// A buffer of zeros; `device` must be this thread's.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] for `what`.
    pub fn new(device: &Device, len: usize, what: &str) -> Result<Self, BackendError> {
        let len = len.max(1);
        let mut start = ptr::null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (device.hip().table.hipHostMalloc)(&mut start, len, 0) };
        check("hipHostMalloc", code).map_err(|e| device.error(e, len as u64, what))?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(BackendError::OutOfMemory { device: device.label(), bytes: len as u64, what: what.to_owned() });
        };
        // SAFETY: the runtime gave `len` bytes there, and nobody else has them.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { device: device.clone(), start, len, lent: None })
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its bytes.
    ///
    /// # Panics
    /// While a copy is on its way.
    pub fn bytes(&self) -> &[u8] {
        assert!(self.lent.is_none(), "a buffer was read during a copy");
        // SAFETY: initialized, owned, and no copy writes there.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Its bytes, for writing.
    ///
    /// # Panics
    /// While a copy is on its way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.lent.is_none(), "a buffer was written during a copy");
        // SAFETY: initialized, owned, and no copy reads or writes there.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// The first `n` numbers in it.
    ///
    /// # Panics
    /// While a copy is on its way, or if it does not hold so many.
    pub fn floats(&self, n: usize) -> &[f32] {
        assert!(self.lent.is_none() && n <= self.len / size_of::<f32>(), "a buffer was read during a copy, or too far");
        // SAFETY: as in `bytes`; pinned memory is aligned to pages, and any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<f32>(), n) }
    }

    /// The same, for writing.
    ///
    /// # Panics
    /// As [`Pinned::floats`].
    pub fn floats_mut(&mut self, n: usize) -> &mut [f32] {
        assert!(self.lent.is_none() && n <= self.len / size_of::<f32>(), "a buffer written during a copy, or too far");
        // SAFETY: as in `bytes_mut` and `floats`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast::<f32>(), n) }
    }

    /// Its start, for copy `copy` of stream `stream`: the host must not look until it is done.
    pub(super) fn lend(&mut self, stream: u64, copy: u64) -> *mut c_void {
        self.lent = Some((stream, copy));
        self.start.as_ptr().cast()
    }

    /// Whether a copy may be on its way.
    pub fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Takes the buffer back if what is `done` includes its copy.
    pub fn take_back(&mut self, done: Done) {
        if self.lent.is_some_and(|(stream, copy)| done.includes(stream, copy)) {
            self.lent = None;
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.lent.is_some() {
            // A copy may still be on its way (a step failed): leaking is better than a device
            // that writes into memory of others. The process of a lost device ends soon.
            return;
        }
        let _ = self.device.select();
        // SAFETY: it came from hipHostMalloc and is freed here only; no copy uses it.
        let _ = unsafe { (self.device.hip().table.hipHostFree)(self.start.as_ptr().cast()) };
    }
}
