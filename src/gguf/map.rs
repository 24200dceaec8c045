//! A file mapped read-only, whose bytes can be read whatever happens to the file.
//!
//! What this file guarantees to safe callers:
//! - [`Map::bytes`] is valid memory of the file's length at opening, as long as the value lives.
//!   If the file is truncated in place, or its disk fails, reading does not end the process: the
//!   SIGBUS handler puts zero pages there and marks this map [`Map::poisoned`], no other.
//! - Bytes may change under the reader if somebody writes to the file; nothing here or in the
//!   kernels depends on reading the same byte twice. Everything that decides an offset or a
//!   length is copied out of the map once, by the parser.
//!
//! The handler is async-signal-safe: it reads a fixed table of atomics and makes one system call.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Advice, Mmap, MmapOptions};
use nix::libc;
use thiserror::Error;

use crate::base::limits::{MAPS_MAX, POPULATE_CHUNK};
use crate::base::storage::Storage;

/// Why a file cannot be mapped, or its pages not read.
#[derive(Debug, Error)]
pub enum MapError {
    /// Not a regular file.
    #[error("not a regular file")]
    NotAFile,
    /// No bytes.
    #[error("the file is empty; fetch it again")]
    Empty,
    /// The table of maps is full.
    #[error("{MAPS_MAX} files are mapped already; evict a model first")]
    TooMany,
    /// The caller stopped reading ahead.
    #[error("reading was stopped")]
    Stopped,
    /// The file became shorter than it was, or its disk fails.
    #[error("the file became shorter while it was mapped, or its disk fails")]
    Shrank,
    /// The system refuses.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> MapError {
    move |source| MapError::System { action, source }
}

/// Which file it is, whatever its name is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
    /// Bytes when it was opened.
    pub size: u64,
}

/// A mapped file. It stays the same file if another is renamed over its name.
#[derive(Debug)]
pub struct Map {
    // Declared before `pages`, so that the region is forgotten before its pages are unmapped.
    region: Region,
    pages: Mmap,
    file: File,
    identity: Identity,
}

impl Map {
    /// Maps all of an opened file.
    ///
    /// # Errors
    /// [`MapError`] if it is no regular file, is empty, or the system refuses.
    pub fn new(file: File) -> Result<Self, MapError> {
        install_handler().map_err(|source| MapError::System { action: "handle SIGBUS", source })?;
        let stat = file.metadata().map_err(system("read the file's size"))?;
        if !stat.is_file() {
            return Err(MapError::NotAFile);
        }
        let identity = Identity { dev: stat.dev(), inode: stat.ino(), size: stat.len() };
        let len =
            usize::try_from(identity.size).map_err(|_| system("map the file")(io::ErrorKind::FileTooLarge.into()))?;
        if len == 0 {
            return Err(MapError::Empty);
        }
        // SAFETY: the pages are mapped read-only and never written through. That the file may
        // change or shrink under us is what the module's guarantees are about: the handler that
        // was installed above keeps reads defined when it shrinks, and bytes are plain numbers.
        let pages = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(system("map the file"))?;
        let region = Region::claim(pages.as_ptr() as usize, len).ok_or(MapError::TooMany)?;
        Ok(Self { region, pages, file, identity })
    }

    /// Which file it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The opened file, to map it again when its name has gone.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Never: an empty file is not mapped.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Whether the file is shorter now than when it was opened; costs one system call.
    pub fn shrank(&self) -> bool {
        nix::sys::stat::fstat(self.file.as_fd()).is_ok_and(|s| (s.st_size as u64) < self.identity.size)
    }

    /// Tells the kernel that pages will be read at random places: no read-ahead on a fault.
    ///
    /// # Errors
    /// The system's, if it refuses.
    pub fn advise_random(&self) -> io::Result<()> {
        self.pages.advise(Advice::Random)
    }

    /// Asks for huge pages, where the file system has them. A refusal does no harm.
    ///
    /// # Errors
    /// The system's, if it refuses.
    pub fn advise_huge(&self) -> io::Result<()> {
        self.pages.advise(Advice::HugePage)
    }

    /// Where in the file `bytes` lie, if they are some of its own.
    pub fn range_of(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let start = (bytes.as_ptr() as usize).checked_sub(self.pages.as_ptr() as usize)?;
        let end = start.checked_add(bytes.len()).filter(|end| *end <= self.pages.len())?;
        Some(start..end)
    }

    /// Reads a part of the file into the page cache and maps its pages, so that no later read there
    /// faults. `progress` hears the bytes done after each chunk and may stop.
    ///
    /// # Errors
    /// [`MapError::Stopped`] if `progress` said so, [`MapError::Shrank`] if the file did.
    pub fn populate(
        &self,
        range: Range<usize>,
        mut progress: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), MapError> {
        // Whole pages.
        let (begin, end) = (range.start / page_size() * page_size(), range.end.min(self.pages.len()));
        let mut populate = true;
        for start in (begin..end).step_by(POPULATE_CHUNK) {
            let len = POPULATE_CHUNK.min(end - start);
            if populate {
                match self.pages.advise_range(Advice::PopulateRead, start, len) {
                    Ok(()) => {}
                    // A fault there would have been a SIGBUS.
                    Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {
                        self.region.poison();
                        return Err(MapError::Shrank);
                    }
                    // Linux before 5.14, or a sandbox: fall back for this and all further chunks.
                    Err(_) => populate = false,
                }
            }
            if !populate {
                self.touch(start, len);
            }
            if self.poisoned() {
                return Err(MapError::Shrank);
            }
            if progress((start + len).saturating_sub(range.start) as u64).is_break() {
                return Err(MapError::Stopped);
            }
        }
        Ok(())
    }

    /// Reads a byte of each page.
    fn touch(&self, start: usize, len: usize) {
        // Only advice: without it the loop below waits for each page by itself.
        self.pages.advise_range(Advice::WillNeed, start, len).ok();
        for byte in self.pages[start..start + len].iter().step_by(page_size()) {
            std::hint::black_box(*byte);
        }
    }

    /// Bytes of the file that are in memory now, by the kernel's account.
    ///
    /// # Errors
    /// The system's, if it refuses.
    pub fn resident(&self) -> io::Result<u64> {
        let page = page_size();
        let mut states = vec![0u8; self.pages.len().div_ceil(page)];
        // SAFETY: the range is this live mapping, page-aligned at its start, and `states` has one
        // byte for each of its pages.
        let rc = unsafe { libc::mincore(self.pages.as_ptr() as *mut _, self.pages.len(), states.as_mut_ptr()) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        let pages = states.iter().filter(|s| **s & 1 == 1).count() as u64;
        Ok((pages * page as u64).min(self.pages.len() as u64))
    }
}

impl Storage for Map {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.pages
    }

    fn poisoned(&self) -> bool {
        self.region.slot().poisoned.load(Ordering::Acquire)
    }
}

/// Addresses of one map, for the handler. `start` is 0 in a free slot and [`CLAIMED`] in one that
/// is being filled; any other value is an address and says that the rest of the slot is valid.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    poisoned: AtomicBool,
}

const CLAIMED: usize = usize::MAX;

static SLOTS: [Slot; MAPS_MAX] =
    [const { Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), poisoned: AtomicBool::new(false) } };
        MAPS_MAX];

/// A claimed slot; dropping it frees the slot.
#[derive(Debug)]
struct Region(usize);

impl Region {
    fn claim(start: usize, len: usize) -> Option<Self> {
        let end = (start + len).next_multiple_of(page_size());
        let i = SLOTS
            .iter()
            .position(|s| s.start.compare_exchange(0, CLAIMED, Ordering::Acquire, Ordering::Relaxed).is_ok())?;
        let slot = &SLOTS[i];
        slot.poisoned.store(false, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
        Some(Self(i))
    }

    fn slot(&self) -> &'static Slot {
        &SLOTS[self.0]
    }

    fn poison(&self) {
        self.slot().poisoned.store(true, Ordering::Release);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.slot().start.store(0, Ordering::Release);
    }
}

static PAGE: OnceLock<usize> = OnceLock::new();
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();

fn page_size() -> usize {
    *PAGE.get_or_init(|| {
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        size.map_or(4096, |s| s as usize)
    })
}

/// Installs the handler once for the process.
fn install_handler() -> io::Result<()> {
    // The handler may not run an initialiser, so the page size is known before it can run.
    page_size();
    INSTALLED.get_or_init(install).map_err(io::Error::from_raw_os_error)
}

fn install() -> Result<(), i32> {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    // SAFETY: sigaction is plain data for which all zeros is a value.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only reads the present action into `previous`.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) } != 0 {
        return Err(errno());
    }
    // Set before the handler can run. Rust's own handler, which reports stack overflows, is the
    // usual previous one.
    PREVIOUS.get_or_init(|| previous);
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `action` is complete (its mask is empty), and `on_sigbus` has the signature that
    // SA_SIGINFO asks for and does only what a signal handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) } != 0 {
        return Err(errno());
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo to a handler installed with SA_SIGINFO, and si_addr
    // is the field that SIGBUS fills.
    let address = unsafe { (*info).si_addr() } as usize;
    if !mend(address) {
        pass_on(signal, info, context);
    }
}

/// Puts zero pages from `address` to the end of the map it lies in; false if it lies in none.
fn mend(address: usize) -> bool {
    let Some(page) = PAGE.get() else { return false };
    for slot in &SLOTS {
        let start = slot.start.load(Ordering::Acquire);
        let end = slot.end.load(Ordering::Relaxed);
        if start == 0 || start == CLAIMED || !(start..end).contains(&address) {
            continue;
        }
        let from = address & !(page - 1);
        // SAFETY: [from, end) are whole pages of one live map of ours (its owner is the reader
        // that faulted, so it cannot be unmapped meanwhile), replaced by readable zero pages at
        // the same addresses. __errno_location is a plain thread-local address; mmap changes it.
        let mapped = unsafe {
            let errno = *libc::__errno_location();
            let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let at = libc::mmap(from as *mut _, end - from, libc::PROT_READ, flags, -1, 0);
            *libc::__errno_location() = errno;
            at
        };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        slot.poisoned.store(true, Ordering::Release);
        return true;
    }
    false
}

/// Does with the signal what was done before this handler was installed.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let action = PREVIOUS.get().filter(|p| p.sa_sigaction != libc::SIG_DFL && p.sa_sigaction != libc::SIG_IGN);
    let Some(action) = action else {
        // SAFETY: resetting a signal to its default is async-signal-safe. The faulting access is
        // then repeated and ends the process as it would have without us.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    if action.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: an action with SA_SIGINFO holds a function of three arguments.
        let f = unsafe {
            std::mem::transmute::<usize, extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)>(
                action.sa_sigaction,
            )
        };
        f(signal, info, context);
    } else {
        // SAFETY: an action without SA_SIGINFO holds a function of one argument.
        let f = unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(action.sa_sigaction) };
        f(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const PAGES: usize = 64;

    fn file(fill: u8) -> (tempfile::NamedTempFile, Map) {
        let mut f = tempfile::NamedTempFile::new().expect("a file");
        f.write_all(&vec![fill; PAGES * page_size()]).expect("written");
        let map = Map::new(f.reopen().expect("opened")).expect("mapped");
        (f, map)
    }

    #[test]
    fn a_file_truncated_while_mapped_reads_as_zeros_and_poisons_that_map_alone() {
        let page = page_size();
        let (f, map) = file(7);
        let (_g, other) = file(9);
        assert_eq!(map.bytes()[40 * page], 7);
        f.as_file().set_len(2 * page as u64 + 10).expect("truncated");
        assert!(map.shrank() && !map.poisoned());
        // Several threads meet the missing pages at once.
        std::thread::scope(|s| {
            for t in 0..4 {
                let map = &map;
                s.spawn(move || assert_eq!(map.bytes()[(10 + t) * page + 5], 0));
            }
        });
        assert!(map.poisoned());
        assert_eq!((map.bytes()[page], map.bytes()[2 * page + 9], map.bytes()[2 * page + 10]), (7, 7, 0));
        assert!(map.bytes()[3 * page..].iter().all(|b| *b == 0));
        assert_eq!(other.bytes()[60 * page], 9);
        assert!(!other.poisoned() && !other.shrank());
        // Its slot serves the next map, clean.
        drop(map);
        let (_h, next) = file(3);
        assert!(!next.poisoned());
        assert_eq!(next.bytes()[63 * page], 3);
    }

    #[test]
    fn reading_ahead_reports_progress_stops_and_sees_a_truncation() {
        let (f, map) = file(1);
        let total = map.len() as u64;
        let mut seen = Vec::new();
        map.populate(0..map.len(), |done| {
            seen.push(done);
            ControlFlow::Continue(())
        })
        .expect("populated");
        assert_eq!(seen.last(), Some(&total));
        let part = map.range_of(&map.bytes()[5..map.len() - 1]).expect("its own");
        assert_eq!(part, 5..map.len() - 1);
        assert_eq!(map.range_of(&[1, 2, 3]), None);
        map.populate(part, |_| ControlFlow::Continue(())).expect("populated");
        assert_eq!(map.resident().expect("counted"), total);
        map.touch(0, map.len());
        assert!(matches!(map.populate(0..map.len(), |_| ControlFlow::Break(())), Err(MapError::Stopped)));
        f.as_file().set_len(page_size() as u64).expect("truncated");
        assert!(matches!(map.populate(0..map.len(), |_| ControlFlow::Continue(())), Err(MapError::Shrank)));
        assert!(map.poisoned());
    }

    #[test]
    fn only_files_with_bytes_are_mapped_and_a_map_outlives_its_name() {
        let empty = tempfile::NamedTempFile::new().expect("a file");
        assert!(matches!(Map::new(empty.reopen().expect("opened")), Err(MapError::Empty)));
        let dir = tempfile::tempdir().expect("a folder");
        assert!(matches!(Map::new(File::open(dir.path()).expect("opened")), Err(MapError::NotAFile)));
        let (f, map) = file(5);
        let (g, other) = file(6);
        assert_ne!(map.identity(), other.identity());
        std::fs::rename(g.path(), f.path()).expect("renamed over");
        assert_eq!(map.bytes()[0], 5);
        assert!(!map.shrank());
    }

    #[test]
    fn a_fault_outside_of_all_maps_is_not_ours() {
        assert!(!mend(0x10));
        assert!(!mend(usize::MAX));
    }
}
