//! A device's queue: copies, launches, events, and recorded steps.
//!
//! Guarantees to safe callers: handles are used while they live and destroyed once; copies stay
//! within the region and the buffer they were given, and the buffer is lent until the copy is
//! known to be done ([`Done`]). A launch hands the kernel exactly the bytes it was given; what the
//! kernel does with them it does in device memory.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use hip_sys::hiprt;

use super::device::Device;
use super::memory::{Pinned, Region};
use super::module::Function;
use super::sys::error::{NOT_READY, NOT_SUPPORTED};
use super::sys::{HipError, Result, check};

/// Marks in the `extra` list of a launch: the arguments' address, their size, the end.
const LAUNCH_POINTER: usize = 1;
const LAUNCH_SIZE: usize = 2;
const LAUNCH_END: usize = 3;

/// All that was put into a stream before it was asked is done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    stream: u64,
    copies: u64,
}

impl Done {
    /// Whether copy `copy` of stream `stream` is among it.
    pub(super) fn includes(self, stream: u64, copy: u64) -> bool {
        self.stream == stream && copy <= self.copies
    }
}

/// A queue of a device.
pub struct Stream {
    device: Device,
    raw: hiprt::hipStream_t,
    id: u64,
    /// Copies put into it so far.
    copies: u64,
}

// SAFETY: HIP's handles may be used by any thread, by one at a time here.
unsafe impl Send for Stream {}

impl Stream {
    /// A queue that waits for no other; `device` must be this thread's.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn new(device: &Device) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut raw = ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (device.hip().table.hipStreamCreateWithFlags)(&mut raw, hiprt::hipStreamNonBlocking) };
        check("hipStreamCreateWithFlags", code)?;
        Ok(Self { device: device.clone(), raw, id: NEXT.fetch_add(1, Ordering::Relaxed), copies: 0 })
    }

    /// Copies the first `bytes` bytes of `from` to `to`.
    ///
    /// # Errors
    /// [`HipError`]; the buffer stays lent then.
    ///
    /// # Panics
    /// If one of them is smaller, or `from` is lent.
    pub fn upload(&mut self, to: Region, from: &mut Pinned, bytes: usize) -> Result<()> {
        let bytes = from.bytes()[..bytes].len();
        let to = to.part(0, bytes as u64).address() as *mut c_void;
        self.copies += 1;
        let from = from.lend(self.id, self.copies);
        // SAFETY: both have so many bytes, and the host does not touch `from` until it is done.
        let code = unsafe {
            let copy = self.device.hip().table.hipMemcpyAsync;
            copy(to, from, bytes, hiprt::hipMemcpyKind::hipMemcpyHostToDevice, self.raw)
        };
        check("hipMemcpyAsync", code)
    }

    /// Copies the first `bytes` bytes of `from` to `to`.
    ///
    /// # Errors
    /// [`HipError`]; the buffer stays lent then.
    ///
    /// # Panics
    /// If one of them is smaller, or `to` is lent.
    pub fn download(&mut self, to: &mut Pinned, from: Region, bytes: usize) -> Result<()> {
        let bytes = to.bytes()[..bytes].len();
        let from = from.part(0, bytes as u64).address() as *const c_void;
        self.copies += 1;
        let to = to.lend(self.id, self.copies);
        // SAFETY: both have so many bytes, and the host does not touch `to` until it is done.
        let code = unsafe {
            let copy = self.device.hip().table.hipMemcpyAsync;
            copy(to, from, bytes, hiprt::hipMemcpyKind::hipMemcpyDeviceToHost, self.raw)
        };
        check("hipMemcpyAsync", code)
    }

    /// Fills a region with zeros.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn clear(&mut self, region: Region) -> Result<()> {
        // SAFETY: the region has so many bytes.
        let code = unsafe {
            let fill = self.device.hip().table.hipMemsetAsync;
            fill(region.address() as *mut c_void, 0, region.bytes() as usize, self.raw)
        };
        check("hipMemsetAsync", code)
    }

    /// Starts `function` on `grid` blocks of `block` threads; `kernarg` are its arguments as its
    /// metadata lays them out.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn launch(&self, function: &Function, grid: [u32; 3], block: u32, kernarg: &[u8]) -> Result<()> {
        let mut size = kernarg.len();
        let mut extra: [*mut c_void; 5] = [
            LAUNCH_POINTER as *mut c_void,
            kernarg.as_ptr().cast_mut().cast(),
            LAUNCH_SIZE as *mut c_void,
            (&raw mut size).cast(),
            LAUNCH_END as *mut c_void,
        ];
        // SAFETY: the list is as HIP wants it; the runtime copies the arguments before it returns
        // and does not write there.
        let code = unsafe {
            (self.device.hip().table.hipModuleLaunchKernel)(
                function.raw(),
                grid[0],
                grid[1],
                grid[2],
                block,
                1,
                1,
                0,
                self.raw,
                ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        check("hipModuleLaunchKernel", code)
    }

    /// Waits for all that was put into the queue.
    ///
    /// # Errors
    /// [`HipError`]: also of a kernel that failed.
    pub fn synchronize(&mut self) -> Result<Done> {
        // SAFETY: a live handle.
        check("hipStreamSynchronize", unsafe { (self.device.hip().table.hipStreamSynchronize)(self.raw) })?;
        Ok(Done { stream: self.id, copies: self.copies })
    }

    /// Puts `event` after all that is in the queue.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn record(&mut self, event: &mut Event) -> Result<()> {
        // SAFETY: live handles of one device.
        check("hipEventRecord", unsafe { (self.device.hip().table.hipEventRecord)(event.raw, self.raw) })?;
        event.done = Done { stream: self.id, copies: self.copies };
        Ok(())
    }

    /// Records what `put` puts into the queue, without running it. `put` may only launch.
    ///
    /// # Errors
    /// [`HipError`]: of `put`, or because the runtime cannot.
    pub fn capture(&mut self, put: impl FnOnce(&mut Self) -> Result<()>) -> Result<Graph> {
        const MISSING: HipError = HipError { code: NOT_SUPPORTED, call: "hipStreamBeginCapture" };
        let t = &self.device.hip().table;
        let (Some(begin), Some(end), Some(instantiate)) =
            (t.hipStreamBeginCapture, t.hipStreamEndCapture, t.hipGraphInstantiate)
        else {
            return Err(MISSING);
        };
        if t.hipGraphLaunch.is_none() || t.hipGraphDestroy.is_none() || t.hipGraphExecDestroy.is_none() {
            return Err(MISSING);
        }
        let mode = hiprt::hipStreamCaptureMode::hipStreamCaptureModeThreadLocal;
        // SAFETY: a live handle.
        check("hipStreamBeginCapture", unsafe { begin(self.raw, mode) })?;
        let put = put(self);
        let mut graph = ptr::null_mut();
        // SAFETY: writes one handle.
        let ended = check("hipStreamEndCapture", unsafe { end(self.raw, &mut graph) });
        let mut recorded = Graph { device: self.device.clone(), graph, exec: ptr::null_mut() };
        put?;
        ended?;
        let (log, size): (*mut c_char, usize) = (ptr::null_mut(), 0);
        // SAFETY: writes one handle; no log is wanted.
        let code = unsafe { instantiate(&mut recorded.exec, graph, ptr::null_mut(), log, size) };
        check("hipGraphInstantiate", code)?;
        Ok(recorded)
    }

    /// Puts a recorded step into the queue.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn replay(&mut self, graph: &Graph) -> Result<()> {
        let Some(launch) = self.device.hip().table.hipGraphLaunch else {
            return Err(HipError { code: NOT_SUPPORTED, call: "hipGraphLaunch" });
        };
        // SAFETY: live handles of one device.
        check("hipGraphLaunch", unsafe { launch(graph.exec, self.raw) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.device.select();
        // SAFETY: destroyed here only. What is still in the queue runs to its end.
        let _ = unsafe { (self.device.hip().table.hipStreamDestroy)(self.raw) };
    }
}

/// A mark in a queue.
pub struct Event {
    device: Device,
    raw: hiprt::hipEvent_t,
    done: Done,
}

// SAFETY: as for `Stream`.
unsafe impl Send for Event {}

impl Event {
    /// A mark that is in no queue yet; `device` must be this thread's.
    ///
    /// # Errors
    /// [`HipError`].
    pub fn new(device: &Device) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (device.hip().table.hipEventCreateWithFlags)(&mut raw, hiprt::hipEventDisableTiming) };
        check("hipEventCreateWithFlags", code)?;
        Ok(Self { device: device.clone(), raw, done: Done { stream: u64::MAX, copies: 0 } })
    }

    /// What is done, if the queue has passed the mark.
    ///
    /// # Errors
    /// [`HipError`]: also of a kernel that failed.
    pub fn query(&self) -> Result<Option<Done>> {
        // SAFETY: a live handle.
        match unsafe { (self.device.hip().table.hipEventQuery)(self.raw) } {
            NOT_READY => Ok(None),
            code => check("hipEventQuery", code).map(|()| Some(self.done)),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.select();
        // SAFETY: destroyed here only.
        let _ = unsafe { (self.device.hip().table.hipEventDestroy)(self.raw) };
    }
}

/// A recorded sequence of launches.
pub struct Graph {
    device: Device,
    graph: hiprt::hipGraph_t,
    exec: hiprt::hipGraphExec_t,
}

// SAFETY: as for `Stream`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.select();
        let table = &self.device.hip().table;
        if let Some(destroy) = table.hipGraphExecDestroy.filter(|_| !self.exec.is_null()) {
            // SAFETY: destroyed here only; a replay on its way keeps what it needs.
            let _ = unsafe { destroy(self.exec) };
        }
        if let Some(destroy) = table.hipGraphDestroy.filter(|_| !self.graph.is_null()) {
            // SAFETY: destroyed here only.
            let _ = unsafe { destroy(self.graph) };
        }
    }
}
