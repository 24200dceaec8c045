//! Capture of streams, and graphs: a list of operations in the order they were made.

use super::error::{CAPTURE_INVALIDATED, CAPTURE_UNMATCHED, CAPTURE_UNSUPPORTED, INVALID_HANDLE, INVALID_VALUE};
use super::state::{Capture, always, api};
use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

/// Begins to record a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipStreamBeginCapture(stream: *mut c_void, _mode: c_int) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        let id = s.handle();
        let q = s.streams.get_mut(&h).ok_or(INVALID_HANDLE)?;
        if h == 0 || q.capture.is_some() {
            return Err(CAPTURE_UNSUPPORTED);
        }
        q.capture = Some(id);
        s.captures.insert(id, Capture { origin: h, ..Capture::default() });
        Ok(())
    })
}

/// Ends a recording; all streams that joined it leave it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) -> c_int {
    api(|s| {
        *graph = std::ptr::null_mut();
        let h = s.stream(stream)?;
        let id = s.streams.get(&h).and_then(|q| q.capture).ok_or(CAPTURE_UNMATCHED)?;
        if s.captures.get(&id).is_none_or(|c| c.origin != h) {
            return Err(CAPTURE_UNMATCHED);
        }
        let capture = s.captures.remove(&id).ok_or(CAPTURE_UNMATCHED)?;
        s.streams.values_mut().filter(|q| q.capture == Some(id)).for_each(|q| q.capture = None);
        s.events.values_mut().filter(|e| e.capture == Some(id)).for_each(|e| e.capture = None);
        if capture.broken {
            return Err(CAPTURE_INVALIDATED);
        }
        let g = s.handle();
        s.graphs.insert(g, capture.ops);
        *graph = g as *mut c_void;
        Ok(())
    })
}

/// Whether a stream is recorded: 0 no, 1 yes, 2 the recording is broken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipStreamIsCapturing(stream: *mut c_void, status: *mut c_int) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        let capture = s.streams.get(&h).and_then(|q| q.capture).and_then(|c| s.captures.get(&c));
        *status = capture.map_or(0, |c| if c.broken { 2 } else { 1 });
        Ok(())
    })
}

/// Number of a graph's nodes; listing them is not supported.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphGetNodes(graph: *mut c_void, nodes: *mut *mut c_void, n: *mut usize) -> c_int {
    api(|s| {
        let ops = s.graphs.get(&(graph as u64)).ok_or(INVALID_HANDLE)?;
        if !nodes.is_null() {
            return Err(INVALID_VALUE);
        }
        *n = ops.len();
        Ok(())
    })
}

/// Makes a graph executable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphInstantiate(
    to: *mut *mut c_void,
    graph: *mut c_void,
    _error_node: *mut *mut c_void,
    _log: *mut c_char,
    _log_bytes: usize,
) -> c_int {
    hipGraphInstantiateWithFlags(to, graph, 0)
}

/// Makes a graph executable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphInstantiateWithFlags(
    to: *mut *mut c_void,
    graph: *mut c_void,
    _flags: c_ulonglong,
) -> c_int {
    api(|s| {
        let ops = s.graphs.get(&(graph as u64)).ok_or(INVALID_HANDLE)?.clone();
        let h = s.handle();
        s.executables.insert(h, ops);
        *to = h as *mut c_void;
        Ok(())
    })
}

/// Nothing to upload.
#[unsafe(no_mangle)]
pub extern "C" fn hipGraphUpload(exec: *mut c_void, _stream: *mut c_void) -> c_int {
    api(|s| s.executables.get(&(exec as u64)).map(|_| ()).ok_or(INVALID_HANDLE))
}

/// Replays a graph in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn hipGraphLaunch(exec: *mut c_void, stream: *mut c_void) -> c_int {
    api(|s| {
        let h = s.stream(stream)?;
        let ops = s.executables.get(&(exec as u64)).ok_or(INVALID_HANDLE)?.clone();
        ops.into_iter().try_for_each(|op| s.enqueue(h, op))
    })
}

/// Replaces an executable graph by another; always the whole of it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hipGraphExecUpdate(
    exec: *mut c_void,
    graph: *mut c_void,
    _error_node: *mut *mut c_void,
    result: *mut c_uint,
) -> c_int {
    api(|s| {
        let ops = s.graphs.get(&(graph as u64)).ok_or(INVALID_HANDLE)?.clone();
        *s.executables.get_mut(&(exec as u64)).ok_or(INVALID_HANDLE)? = ops;
        *result = 0;
        Ok(())
    })
}

/// Ends a graph.
#[unsafe(no_mangle)]
pub extern "C" fn hipGraphDestroy(graph: *mut c_void) -> c_int {
    always(|s| s.graphs.remove(&(graph as u64)).map(|_| ()).ok_or(INVALID_HANDLE))
}

/// Ends an executable graph; what was launched of it still runs.
#[unsafe(no_mangle)]
pub extern "C" fn hipGraphExecDestroy(exec: *mut c_void) -> c_int {
    always(|s| s.executables.remove(&(exec as u64)).map(|_| ()).ok_or(INVALID_HANDLE))
}
