//! Streams and events.

use super::error::{CAPTURE_UNSUPPORTED, INVALID_HANDLE, INVALID_VALUE, NOT_READY};
use super::queue::{Callback, Event, Op, Stream};
use super::state::{Outcome, State, always, api};
use std::ffi::{c_int, c_uint, c_void};

/// `hipStreamNonBlocking`
const NON_BLOCKING: c_uint = 1;

/// Makes a stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreateWithFlags(to: *mut *mut c_void, flags: c_uint) -> c_int {
    api(|s| {
        let h = s.handle();
        s.streams.insert(h, Stream { non_blocking: flags & NON_BLOCKING != 0, ..Stream::default() });
        *to = h as *mut c_void;
        Ok(())
    })
}

/// Makes a blocking stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreate(to: *mut *mut c_void) -> c_int {
    hipStreamCreateWithFlags(to, 0)
}

/// Makes a stream; all have the same priority.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamCreateWithPriority(to: *mut *mut c_void, flags: c_uint, _priority: c_int) -> c_int {
    hipStreamCreateWithFlags(to, flags)
}

/// Ends a stream after its work is done.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamDestroy(stream: *mut c_void) -> c_int {
    always(|s| {
        let h = s.stream(stream)?;
        if h == 0 {
            return Err(INVALID_HANDLE);
        }
        let outcome = if s.lost.is_some() { Ok(()) } else { s.drain(h) };
        s.streams.remove(&h);
        outcome
    })
}

fn idle(s: &mut State, stream: *mut c_void) -> Outcome<u64> {
    let h = s.stream(stream)?;
    let capture = s.streams.get(&h).and_then(|s| s.capture);
    if let Some(c) = capture.and_then(|c| s.captures.get_mut(&c)) {
        c.broken = true;
        return Err(CAPTURE_UNSUPPORTED);
    }
    Ok(h)
}

/// Waits for a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamSynchronize(stream: *mut c_void) -> c_int {
    api(|s| {
        let h = idle(s, stream)?;
        s.drain(h)
    })
}

/// Whether a stream has no work left. The first answer while there is some is no; asking again lets it run.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamQuery(stream: *mut c_void) -> c_int {
    api(|s| {
        let h = idle(s, stream)?;
        let Some(q) = s.streams.get_mut(&h) else { return Err(INVALID_HANDLE) };
        if !q.ops.is_empty() && !std::mem::replace(&mut q.asked, true) {
            return Err(NOT_READY);
        }
        s.drain(h)
    })
}

/// Later work of the stream waits for the event's last recording.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        let e = s.events.get(&(event as u64)).ok_or(INVALID_HANDLE)?;
        let (recorded, capture) = (e.recorded, e.capture);
        if capture.is_some_and(|c| s.captures.contains_key(&c)) {
            // The stream joins the capture. What is recorded is in one order, so there is nothing to wait for.
            if let Some(q) = s.streams.get_mut(&h) {
                q.capture = capture;
            }
            return Ok(());
        }
        if recorded == 0 { Ok(()) } else { s.enqueue(h, Op::Wait(event as u64, recorded)) }
    })
}

/// Queues a host function.
#[unsafe(no_mangle)]
pub extern "C" fn hipLaunchHostFunc(stream: *mut c_void, f: Option<Callback>, argument: *mut c_void) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        s.enqueue(h, Op::Call(f.ok_or(INVALID_VALUE)?, argument as u64))
    })
}

/// Makes an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventCreateWithFlags(to: *mut *mut c_void, _flags: c_uint) -> c_int {
    api(|s| {
        let h = s.handle();
        s.events.insert(h, Event::default());
        *to = h as *mut c_void;
        Ok(())
    })
}

/// Makes an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventCreate(to: *mut *mut c_void) -> c_int {
    hipEventCreateWithFlags(to, 0)
}

/// Ends an event.
#[unsafe(no_mangle)]
pub extern "C" fn hipEventDestroy(event: *mut c_void) -> c_int {
    always(|s| s.events.remove(&(event as u64)).map(|_| ()).ok_or(INVALID_HANDLE))
}

/// Records an event in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipEventRecord(event: *mut c_void, stream: *mut c_void) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        let capture = s.streams.get(&h).and_then(|q| q.capture);
        let e = s.events.get_mut(&(event as u64)).ok_or(INVALID_HANDLE)?;
        e.capture = capture;
        if capture.is_some() {
            return Ok(());
        }
        e.recorded += 1;
        (e.stream, e.asked) = (h, false);
        let recording = e.recorded;
        s.enqueue(h, Op::Record(event as u64, recording))
    })
}

/// Whether an event's last recording is complete. The first answer before it is no; asking again lets it run.
#[unsafe(no_mangle)]
pub extern "C" fn hipEventQuery(event: *mut c_void) -> c_int {
    api(|s| {
        let e = s.events.get_mut(&(event as u64)).ok_or(INVALID_HANDLE)?;
        if e.capture.is_some() {
            return Err(CAPTURE_UNSUPPORTED);
        }
        if e.done < e.recorded && !std::mem::replace(&mut e.asked, true) {
            return Err(NOT_READY);
        }
        let recorded = e.recorded;
        s.reach(event as u64, recorded)
    })
}

/// Waits for an event's last recording.
#[unsafe(no_mangle)]
pub extern "C" fn hipEventSynchronize(event: *mut c_void) -> c_int {
    api(|s| {
        let e = s.events.get(&(event as u64)).ok_or(INVALID_HANDLE)?;
        if e.capture.is_some() {
            return Err(CAPTURE_UNSUPPORTED);
        }
        let recorded = e.recorded;
        s.reach(event as u64, recorded)
    })
}

/// Milliseconds between two completed recordings, of this interpreter and not of a card.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipEventElapsedTime(ms: *mut f32, start: *mut c_void, end: *mut c_void) -> c_int {
    api(|s| {
        let at = |e: *mut c_void| {
            let e = s.events.get(&(e as u64)).ok_or(INVALID_HANDLE)?;
            if e.recorded == 0 {
                return Err(INVALID_HANDLE);
            }
            if e.done < e.recorded { Err(NOT_READY) } else { e.at.ok_or(INVALID_HANDLE) }
        };
        let (a, b) = (at(start)?, at(end)?);
        let sign = if b >= a { 1.0 } else { -1.0 };
        *ms = sign * (b.max(a) - b.min(a)).as_secs_f32() * 1e3;
        Ok(())
    })
}
