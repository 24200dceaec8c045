//! Read-only bytes that somebody keeps alive: a mapped file, or a buffer made at load.

use std::sync::Arc;

/// Bytes that stay where they are while the value lives.
///
/// `gguf::map::Map` is one (bytes of a file); a `Vec<u8>` is another (weights made at load).
pub trait Storage: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];
    /// Whether the bytes became unreadable (the file was truncated in place): what was read
    /// since may be zeros, and the model must fail.
    fn poisoned(&self) -> bool {
        false
    }
}

impl Storage for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A range of a [`Storage`], cheap to clone.
#[derive(Clone)]
pub struct Slice {
    storage: Arc<dyn Storage>,
    start: usize,
    len: usize,
}

impl Slice {
    /// The `len` bytes from `start`.
    ///
    /// # Panics
    /// If the range is not inside the storage: whoever makes one has checked it.
    pub fn new(storage: Arc<dyn Storage>, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= storage.bytes().len()));
        Self { storage, start, len }
    }

    /// The `len` bytes from `start` of this range, e.g. some rows of a matrix.
    ///
    /// # Panics
    /// If they are not inside this range.
    pub fn part(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len));
        Self { storage: Arc::clone(&self.storage), start: self.start + start, len }
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.start..self.start + self.len]
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the range has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// See [`Storage::poisoned`].
    pub fn poisoned(&self) -> bool {
        self.storage.poisoned()
    }
}

impl std::fmt::Debug for Slice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slice({}+{})", self.start, self.len)
    }
}
