//! What the device says of itself: a 7900 XTX.

use super::error::{INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, SUCCESS, note};
use super::state::{always, api};
use crate::options::number;
use std::ffi::{c_char, c_int, c_uint, c_void};

const NAME: &str = "rdna3 interpreter";
const ARCH: &str = "gfx1100";
const BUS: &str = "0000:03:00.0";
/// HIP counts pairs of compute units.
const PROCESSORS: i32 = 48;
const CLOCK_KHZ: i32 = 2_482_000;
const MEMORY_CLOCK_KHZ: i32 = 1_249_000;
const BUS_WIDTH: i32 = 384;
const L2_BYTES: i32 = 6 << 20;
const LDS_BYTES: i32 = 64 << 10;
const VERSION: c_int = 70_125_424;

fn count() -> c_int {
    number("RDNA3_DEVICES").unwrap_or(1).min(1) as c_int
}

fn text(to: *mut c_char, len: c_int, s: &str) {
    if to.is_null() || len <= 0 {
        return;
    }
    let n = s.len().min(len as usize - 1);
    // SAFETY: HIP's contract: `to` has room for `len` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(s.as_ptr(), to.cast(), n);
        *to.add(n) = 0;
    }
}

fn of(device: c_int) -> c_int {
    note(if (0..count()).contains(&device) { SUCCESS } else { INVALID_DEVICE })
}

/// Starts HIP.
#[unsafe(no_mangle)]
pub extern "C" fn hipInit(flags: c_uint) -> c_int {
    note(match (count(), flags) {
        (0, _) => NO_DEVICE,
        (_, 0) => SUCCESS,
        _ => INVALID_VALUE,
    })
}

/// Devices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDeviceCount(n: *mut c_int) -> c_int {
    *n = count();
    note(if count() > 0 { SUCCESS } else { NO_DEVICE })
}

/// Device of an ordinal.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    *device = ordinal;
    of(ordinal)
}

/// Chooses the thread's device: there is one.
#[unsafe(no_mangle)]
pub extern "C" fn hipSetDevice(device: c_int) -> c_int {
    of(device)
}

/// The thread's device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevice(device: *mut c_int) -> c_int {
    *device = 0;
    SUCCESS
}

/// Runtime version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipRuntimeGetVersion(v: *mut c_int) -> c_int {
    *v = VERSION;
    SUCCESS
}

/// Driver version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDriverGetVersion(v: *mut c_int) -> c_int {
    *v = VERSION;
    SUCCESS
}

/// Name.
#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceGetName(to: *mut c_char, len: c_int, device: c_int) -> c_int {
    text(to, len, NAME);
    of(device)
}

/// PCI address.
#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceGetPCIBusId(to: *mut c_char, len: c_int, device: c_int) -> c_int {
    text(to, len, BUS);
    of(device)
}

/// Size of the memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceTotalMem(bytes: *mut usize, device: c_int) -> c_int {
    let mut total = 0;
    always(|s| {
        total = s.memory.info().1;
        Ok(())
    });
    *bytes = total as usize;
    of(device)
}

/// Free and total memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemGetInfo(free: *mut usize, total: *mut usize) -> c_int {
    api(|s| {
        let (f, t) = s.memory.info();
        (*free, *total) = (f as usize, t as usize);
        Ok(())
    })
}

/// `hipDeviceProp_t` as HIP 6 and later lay it out: 1472 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGetDevicePropertiesR0600(to: *mut c_void, device: c_int) -> c_int {
    let mut p = [0u8; 1472];
    let mut total = 0;
    always(|s| {
        total = s.memory.info().1;
        Ok(())
    });
    let mut put = |at: usize, bytes: &[u8]| p[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, NAME.as_bytes());
    put(288, &total.to_le_bytes());
    put(296, &(LDS_BYTES as u64).to_le_bytes());
    for (at, v) in [
        (304, 65536),
        (308, 32),
        (320, 1024),
        (324, 1024),
        (328, 1024),
        (332, 1024),
        (336, i32::MAX),
        (340, 65536),
        (344, 65536),
        (348, CLOCK_KHZ),
        (360, 11),
        (364, 0),
        (388, PROCESSORS),
        (400, 1),
        (576, 1),
        (584, 3),
        (600, 1),
        (604, 1),
        (608, MEMORY_CLOCK_KHZ),
        (612, BUS_WIDTH),
        (616, L2_BYTES),
        (624, 2048),
    ] {
        put(at, &v.to_le_bytes());
    }
    put(1160, ARCH.as_bytes());
    std::ptr::copy_nonoverlapping(p.as_ptr(), to.cast(), p.len());
    of(device)
}

/// One attribute, by its number in `hipDeviceAttribute_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceGetAttribute(to: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    *to = match attribute {
        2 | 3 | 8 | 85 => 1,
        5 => CLOCK_KHZ,
        19 => L2_BYTES,
        23 => 11,
        26..=28 | 56 => 1024,
        29 => i32::MAX,
        30 | 31 => 65536,
        57 => 2048,
        59 => BUS_WIDTH,
        60 => MEMORY_CLOCK_KHZ,
        63 | 10015 => PROCESSORS,
        67 => 3,
        71 | 72 => 65536,
        74 | 76 | 10002 => LDS_BYTES,
        87 => 32,
        10017 => 100_000,
        // Everything else is a feature that is not there.
        0..=89 | 10001..=10016 => 0,
        _ => return note(INVALID_VALUE),
    };
    of(device)
}

/// Waits for all streams.
#[unsafe(no_mangle)]
pub extern "C" fn hipDeviceSynchronize() -> c_int {
    api(|s| {
        s.no_capture()?;
        s.drain_all()
    })
}
