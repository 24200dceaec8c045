//! The HIP runtime: found and opened at run time, or the reason why there is none.
//!
//! Guarantees to safe callers: a [`Hip`] is an initialized runtime that stays loaded until the
//! process ends (runtimes keep threads of their own and do not survive being unloaded), and the
//! queries here only read what the runtime writes within the buffers it was given.

pub mod error;
pub mod table;

use std::env;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use thiserror::Error;

pub use self::error::{HipError, Result};
use self::table::{Code, Table};
use crate::probe::{VISIBILITY, library};

/// Why HIP cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WhyNot {
    /// No file of any of its names could be opened.
    #[error("libamdhip64 not found, the HIP runtime (tried {}): {install}", tried.join("; "))]
    NoLibrary {
        /// What was tried, each with the reason if the file was there.
        tried: Vec<String>,
        /// How to install one.
        install: String,
    },
    /// The library lacks a function.
    #[error("{path} has no function {symbol}: older than HIP 6, or no HIP runtime")]
    MissingSymbol {
        /// The library.
        path: String,
        /// The function.
        symbol: String,
    },
    /// The runtime did not start.
    #[error("{path} did not start: {error}")]
    Init {
        /// The library.
        path: String,
        /// What it said.
        error: HipError,
    },
    /// The runtime is there and sees no device.
    #[error("{path} sees no GPU{}", hidden.as_deref().map(|h| format!(" ({h})")).unwrap_or_default())]
    NoDevice {
        /// The library.
        path: String,
        /// Environment variables that may hide it.
        hidden: Option<String>,
    },
}

/// An initialized runtime.
pub struct Hip {
    /// Its functions.
    pub(super) table: Table,
    path: String,
}

impl Hip {
    /// Finds, opens and initializes the runtime; it must see a device.
    ///
    /// # Errors
    /// [`WhyNot`].
    pub fn find() -> std::result::Result<&'static Self, WhyNot> {
        Self::first_of(&library::candidates(|name| env::var_os(name), &library::installed(Path::new("/opt"))))
    }

    /// Opens and initializes the runtime at `path`; it must see a device.
    ///
    /// # Errors
    /// [`WhyNot`].
    pub fn open(path: &Path) -> std::result::Result<&'static Self, WhyNot> {
        Self::first_of(&[path.as_os_str().to_owned()])
    }

    fn first_of(names: &[OsString]) -> std::result::Result<&'static Self, WhyNot> {
        let (mut tried, mut incomplete) = (Vec::new(), None);
        for name in names {
            // SAFETY: opening a library runs its initializers. It is the system's HIP runtime, or
            // a file that the user named to be run as one.
            let library = match unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) } {
                Ok(library) => library,
                Err(error) => {
                    tried.push(format!("{}{}", name.display(), reason(name, &error)));
                    continue;
                }
            };
            let path = name.display().to_string();
            // Never unloaded: see the top of this file.
            let library: &'static Library = Box::leak(Box::new(library));
            let table = match Table::resolve(library) {
                Ok(table) => table,
                Err(symbol) => {
                    // An old runtime in the system's folders must not hide a new one elsewhere.
                    incomplete.get_or_insert(WhyNot::MissingSymbol { path, symbol: symbol.to_owned() });
                    continue;
                }
            };
            let hip: &'static Self = Box::leak(Box::new(Self { table, path }));
            return match hip.start() {
                Ok(0) => Err(WhyNot::NoDevice { path: hip.path.clone(), hidden: visibility() }),
                Err(e) if e.code == error::NO_DEVICE => {
                    Err(WhyNot::NoDevice { path: hip.path.clone(), hidden: visibility() })
                }
                Err(error) => Err(WhyNot::Init { path: hip.path.clone(), error }),
                Ok(_) => Ok(hip),
            };
        }
        let install = library::install(Path::new("/"));
        Err(incomplete.unwrap_or(WhyNot::NoLibrary { tried, install }))
    }

    fn start(&self) -> Result<u32> {
        // SAFETY: takes no pointer.
        check("hipInit", unsafe { (self.table.hipInit)(0) })?;
        self.device_count()
    }

    /// The library it was opened from.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Devices that the runtime lets this process see.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn device_count(&self) -> Result<u32> {
        let mut count: c_int = 0;
        // SAFETY: writes one integer.
        check("hipGetDeviceCount", unsafe { (self.table.hipGetDeviceCount)(&mut count) })?;
        Ok(count.max(0) as u32)
    }

    /// Version of the runtime and, if it tells, of the driver, as HIP packs them.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn versions(&self) -> Result<(i32, Option<i32>)> {
        let (mut runtime, mut driver) = (0, 0);
        // SAFETY: writes one integer.
        check("hipRuntimeGetVersion", unsafe { (self.table.hipRuntimeGetVersion)(&mut runtime) })?;
        // SAFETY: writes one integer.
        let told = self.table.hipDriverGetVersion.map(|f| unsafe { f(&mut driver) });
        Ok((runtime, (told == Some(0)).then_some(driver)))
    }

    /// Makes `device` the one that this thread's calls go to.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn set_device(&self, device: u32) -> Result<()> {
        // SAFETY: takes no pointer; a number that is none of a device's is refused.
        check("hipSetDevice", unsafe { (self.table.hipSetDevice)(device as c_int) })
    }

    /// Free and total memory of this thread's device, bytes.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        check("hipMemGetInfo", unsafe { (self.table.hipMemGetInfo)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// A device's marketing name.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn device_name(&self, device: u32) -> Result<String> {
        let mut name = [0 as c_char; 256];
        // SAFETY: writes at most `len` bytes, and leaves the last for the end byte.
        let code =
            unsafe { (self.table.hipDeviceGetName)(name.as_mut_ptr(), name.len() as c_int - 1, device as c_int) };
        check("hipDeviceGetName", code)?;
        Ok(text(&name.map(|c| c as u8)))
    }

    /// A device's PCI address (`0000:03:00.0`), if the runtime tells it.
    pub fn pci_id(&self, device: u32) -> Option<String> {
        let mut id = [0 as c_char; 64];
        let f = self.table.hipDeviceGetPCIBusId?;
        // SAFETY: writes at most `len` bytes, and leaves the last for the end byte.
        let code = unsafe { f(id.as_mut_ptr(), id.len() as c_int - 1, device as c_int) };
        (code == 0).then(|| text(&id.map(|c| c as u8)).to_lowercase())
    }

    /// A device's properties.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn properties(&self, device: u32) -> Result<Properties> {
        let mut buffer = Box::new(PropertyBuffer([0; PROPERTY_BYTES]));
        // SAFETY: R0600 writes 1472 bytes, of which later runtimes use reserved ones; the buffer
        // has that and more, aligned as the struct is.
        let code = unsafe { (self.table.hipGetDevicePropertiesR0600)((&raw mut *buffer).cast(), device as c_int) };
        check("hipGetDevicePropertiesR0600", code)?;
        Ok(Properties::read(&buffer.0))
    }
}

impl std::fmt::Debug for Hip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hip({})", self.path)
    }
}

/// A code as a result.
pub(super) fn check(call: &'static str, code: Code) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(HipError { code, call }) }
}

/// Environment variables that hide or renumber devices, as they are set.
pub fn visibility() -> Option<String> {
    let set = VISIBILITY.iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?)));
    let set: Vec<String> = set.collect();
    (!set.is_empty()).then(|| set.join(", "))
}

/// Why a file that is there could not be opened; nothing for one that is not.
fn reason(name: &OsStr, error: &libloading::Error) -> String {
    if !Path::new(name).is_file() {
        return String::new();
    }
    // The crate's own text is only "dlopen failed".
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    format!(" ({cause})")
}

/// Text up to its end byte.
fn text(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map(CStr::to_bytes).unwrap_or(bytes);
    String::from_utf8_lossy(text).into_owned()
}

/// Room for the struct of R0600, which had 1472 bytes from HIP 6.0 to 7.1, and as much again.
const PROPERTY_BYTES: usize = 4096;

#[repr(C, align(16))]
struct PropertyBuffer([u8; PROPERTY_BYTES]);

/// What is read of `hipDeviceProp_tR0600`. `hip-sys` has HIP 5.4's struct, whose fields lie
/// elsewhere, so that the offsets are written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Bytes of its memory.
    pub memory: u64,
    /// Lanes of a wave.
    pub warp_size: u32,
    /// Compute units; work-group processors on RDNA.
    pub compute_units: u32,
    /// Whether its memory is the machine's.
    pub integrated: bool,
    /// kHz.
    pub memory_clock: u32,
    /// Bits.
    pub memory_bus: u32,
    /// Bytes of the last cache before memory that HIP knows.
    pub l2_bytes: u32,
    /// `gfx90a:sramecc+:xnack-`.
    pub arch: String,
}

impl Properties {
    fn read(bytes: &[u8; PROPERTY_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            memory: u64::from(word(288)) | u64::from(word(292)) << 32,
            warp_size: word(308),
            compute_units: word(388),
            integrated: word(396) != 0,
            memory_clock: word(608),
            memory_bus: word(612),
            l2_bytes: word(616),
            arch: text(&bytes[1160..1160 + 256]),
        }
    }
}

#[cfg(test)]
mod tests;
