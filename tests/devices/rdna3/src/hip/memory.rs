//! Memory, copies and fills.

use super::error::{ALREADY_REGISTERED, INVALID_VALUE, NOT_REGISTERED, OUT_OF_MEMORY, SUCCESS, note};
use super::queue::Op;
use super::state::{Outcome, State, always, api};
use crate::memory::{Range, Use};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

/// Allocates on the device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMalloc(to: *mut *mut c_void, n: usize) -> c_int {
    allocate(to, n, Use::Device)
}

/// Allocates pinned host memory, which kernels may access.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostMalloc(to: *mut *mut c_void, n: usize, _flags: c_uint) -> c_int {
    allocate(to, n, Use::Host)
}

unsafe fn allocate(to: *mut *mut c_void, n: usize, of: Use) -> c_int {
    api(|s| {
        *to = std::ptr::null_mut();
        if n > 0 {
            *to = s.memory.allocate(n as u64, of).ok_or(OUT_OF_MEMORY)? as *mut c_void;
        }
        Ok(())
    })
}

/// Frees device memory, after all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn hipFree(p: *mut c_void) -> c_int {
    release(p, Use::Device)
}

/// Frees pinned host memory, after all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn hipHostFree(p: *mut c_void) -> c_int {
    release(p, Use::Host)
}

fn release(p: *mut c_void, of: Use) -> c_int {
    always(|s| {
        if p.is_null() {
            return Ok(());
        }
        if s.lost.is_none() {
            s.drain_all()?;
        }
        if s.memory.free(p as u64, of) { Ok(()) } else { Err(INVALID_VALUE) }
    })
}

/// Makes the host's own memory accessible to kernels.
#[unsafe(no_mangle)]
pub extern "C" fn hipHostRegister(p: *mut c_void, n: usize, _flags: c_uint) -> c_int {
    api(|s| {
        let (start, end) = (p as u64, p as u64 + n as u64);
        if n == 0 || p.is_null() {
            return Err(INVALID_VALUE);
        }
        if s.memory.find(start, 1).is_some() || s.memory.find(end - 1, 1).is_some() {
            return Err(ALREADY_REGISTERED);
        }
        s.memory.add(Range { start, end, of: Use::Host });
        Ok(())
    })
}

/// Takes that back.
#[unsafe(no_mangle)]
pub extern "C" fn hipHostUnregister(p: *mut c_void) -> c_int {
    always(|s| {
        if s.lost.is_none() {
            s.drain_all()?;
        }
        s.memory.remove(p as u64, Use::Host).map(|_| ()).ok_or(NOT_REGISTERED)
    })
}

/// Device address of pinned host memory: the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipHostGetDevicePointer(to: *mut *mut c_void, p: *mut c_void, _flags: c_uint) -> c_int {
    api(|s| {
        s.memory.find(p as u64, 1).filter(|r| r.of == Use::Host).ok_or(INVALID_VALUE)?;
        *to = p;
        Ok(())
    })
}

/// Checks one side of a copy. Pageable host memory cannot be checked, and says so by `false`.
fn known(s: &State, at: u64, n: u64, device: bool) -> Outcome<bool> {
    match s.memory.find(at, n) {
        Some(r) => Ok(!device || r.of == Use::Device || r.of == Use::Host)
            .and_then(|ok| if ok { Ok(true) } else { Err(INVALID_VALUE) }),
        None if device || s.memory.find(at, 1).is_some() => {
            eprintln!("rdna3: a copy or fill of {n} bytes at {at:#x} leaves its allocation, or there is none");
            Err(INVALID_VALUE)
        }
        None => Ok(false),
    }
}

/// Queues a copy. From pageable memory the bytes are taken now, as HIP stages them; to pageable memory the copy is
/// done before the call returns.
unsafe fn copy(s: &mut State, to: u64, from: u64, n: u64, kind: c_int, stream: u64) -> Outcome {
    if n == 0 {
        return Ok(());
    }
    // hipMemcpyKind: 0 host to host, 1 host to device, 2 device to host, 3 device to device, 4 by address.
    let (to_device, from_device) = match kind {
        0 | 4 => (false, false),
        1 => (true, false),
        2 => (false, true),
        3 => (true, true),
        _ => return Err(INVALID_VALUE),
    };
    let (pinned_to, pinned_from) = (known(s, to, n, to_device)?, known(s, from, n, from_device)?);
    let captured = s.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    if pinned_from || captured {
        s.enqueue(stream, Op::Copy { to, from, n })?;
    } else {
        let data = Arc::new(std::slice::from_raw_parts(from as *const u8, n as usize).to_vec());
        s.enqueue(stream, Op::Write { to, data })?;
    }
    if pinned_to || captured { Ok(()) } else { s.drain(stream) }
}

/// Copies and waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpy(to: *mut c_void, from: *const c_void, n: usize, kind: c_int) -> c_int {
    api(|s| {
        s.no_capture()?;
        copy(s, to as u64, from as u64, n as u64, kind, 0)?;
        s.drain(0)
    })
}

/// Copies from host to device and waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyHtoD(to: *mut c_void, from: *const c_void, n: usize) -> c_int {
    hipMemcpy(to, from, n, 1)
}

/// Copies from device to host and waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyDtoH(to: *mut c_void, from: *const c_void, n: usize) -> c_int {
    hipMemcpy(to, from, n, 2)
}

/// Copies in a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyAsync(
    to: *mut c_void,
    from: *const c_void,
    n: usize,
    kind: c_int,
    stream: *mut c_void,
) -> c_int {
    api(|s| {
        let stream = s.stream(stream)?;
        copy(s, to as u64, from as u64, n as u64, kind, stream)
    })
}

/// Copies in a stream and waits for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipMemcpyWithStream(
    to: *mut c_void,
    from: *const c_void,
    n: usize,
    kind: c_int,
    stream: *mut c_void,
) -> c_int {
    api(|s| {
        let stream = s.stream(stream)?;
        copy(s, to as u64, from as u64, n as u64, kind, stream)?;
        s.drain(stream)
    })
}

fn fill(to: *mut c_void, pattern: &[u8], count: usize, stream: *mut c_void, wait: bool) -> c_int {
    api(|s| {
        let stream = s.stream(stream)?;
        if wait {
            s.no_capture()?;
        }
        let (to, n) = (to as u64, (count * pattern.len()) as u64);
        if n == 0 {
            return Ok(());
        }
        known(s, to, n, true)?;
        s.enqueue(stream, Op::Fill { to, pattern: pattern.to_vec(), count: count as u64 })?;
        if wait { s.drain(stream) } else { Ok(()) }
    })
}

/// Fills bytes.
#[unsafe(no_mangle)]
pub extern "C" fn hipMemset(to: *mut c_void, value: c_int, n: usize) -> c_int {
    fill(to, &[value as u8], n, std::ptr::null_mut(), true)
}

/// Fills bytes in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipMemsetAsync(to: *mut c_void, value: c_int, n: usize, stream: *mut c_void) -> c_int {
    fill(to, &[value as u8], n, stream, false)
}

/// Fills words in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipMemsetD32Async(to: *mut c_void, value: c_int, count: usize, stream: *mut c_void) -> c_int {
    fill(to, &value.to_le_bytes(), count, stream, false)
}

/// Fills words.
#[unsafe(no_mangle)]
pub extern "C" fn hipMemsetD32(to: *mut c_void, value: c_int, count: usize) -> c_int {
    fill(to, &value.to_le_bytes(), count, std::ptr::null_mut(), true)
}

/// Whether one device reaches another's memory: there is one device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipDeviceCanAccessPeer(can: *mut c_int, _device: c_int, _peer: c_int) -> c_int {
    *can = 0;
    note(SUCCESS)
}
