//! The HIP entry points as a host calls them. One process has one device, so this is one test after another.

mod common;

use amdhip64::hip::error::*;
use amdhip64::hip::{device::*, graph::*, memory::*, module::*, stream::*};
use common::compile;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

const SOURCE: &str = r#"
KERNEL void add(float* x, float by, u32 n) { u32 i = bid() * 64 + tid(); if (i < n) x[i] += by; }
KERNEL void copy(const float* x, float* y, u32 n) { u32 i = bid() * 64 + tid(); if (i < n) y[i] = x[i]; }
"#;

type Handle = *mut c_void;

fn ok(code: i32) {
    // SAFETY: a static string.
    let name = unsafe { CStr::from_ptr(hipGetErrorString(code)) };
    assert_eq!(code, SUCCESS, "{name:?}");
}

fn made(f: impl FnOnce(*mut Handle) -> i32) -> Handle {
    let mut h = null_mut();
    ok(f(&mut h));
    assert!(!h.is_null());
    h
}

/// Launches `add` on 100 elements.
unsafe fn add(f: Handle, x: Handle, by: f32, stream: Handle) -> i32 {
    let (mut x, mut by, mut n) = (x, by, 100u32);
    let mut params: [*mut c_void; 3] = [(&raw mut x).cast(), (&raw mut by).cast(), (&raw mut n).cast()];
    hipModuleLaunchKernel(f, 2, 1, 1, 64, 1, 1, 0, stream, params.as_mut_ptr(), null_mut())
}

unsafe fn floats<'a>(p: Handle) -> &'a [f32] {
    std::slice::from_raw_parts(p.cast(), 100)
}

#[test]
fn a_host_from_start_to_end() {
    // SAFETY: every pointer given is to memory of the size that HIP's contract asks for.
    unsafe {
        ok(hipInit(0));
        let mut n = 0;
        ok(hipGetDeviceCount(&mut n));
        assert_eq!((n, hipSetDevice(0), hipSetDevice(1)), (1, SUCCESS, INVALID_DEVICE));
        assert_eq!(
            (hipPeekAtLastError(), hipGetLastError(), hipGetLastError()),
            (INVALID_DEVICE, INVALID_DEVICE, SUCCESS)
        );
        properties();
        let image = compile(SOURCE);
        let module = made(|m| hipModuleLoadData(m, image.as_ptr().cast()));
        let f = made(|f| hipModuleGetFunction(f, module, c"add".as_ptr()));
        let mut none = null_mut();
        assert_eq!(hipModuleGetFunction(&mut none, module, c"nothing".as_ptr()), NOT_FOUND);
        refused_images(&image);
        memory_and_copies();
        late_execution(f);
        events(f);
        graphs(f);
        refused_launches(f);
        ok(hipModuleUnload(module));
        assert_eq!(add(f, null_mut(), 1.0, null_mut()), INVALID_HANDLE, "its module is gone");
    }
}

unsafe fn properties() {
    let mut p = [0u8; 1472];
    ok(hipGetDevicePropertiesR0600(p.as_mut_ptr().cast(), 0));
    let word = |at: usize| i32::from_le_bytes(p[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(CStr::from_bytes_until_nul(&p[1160..]), Ok(c"gfx1100"));
    assert_eq!((word(308), word(612), word(616)), (32, 384, 6 << 20));
    let mut v = 0;
    ok(hipDeviceGetAttribute(&mut v, 87, 0));
    assert_eq!((v, word(388)), (32, 48));
    let mut id = [0i8; 8];
    ok(hipDeviceGetPCIBusId(id.as_mut_ptr(), 8, 0));
    assert_eq!(CStr::from_ptr(id.as_ptr()), c"0000:03", "cut to the room given");
}

unsafe fn refused_images(image: &[u8]) {
    let mut none = null_mut();
    let mut other = image.to_vec();
    other[48] = 0x36;
    assert_eq!(hipModuleLoadData(&mut none, other.as_ptr().cast()), NO_BINARY);
    other[18] = 0;
    assert_eq!(hipModuleLoadData(&mut none, other.as_ptr().cast()), INVALID_IMAGE);
}

unsafe fn memory_and_copies() {
    let (mut free, mut total) = (0, 0);
    ok(hipMemGetInfo(&mut free, &mut total));
    let d = made(|p| hipMalloc(p, 400));
    let mut after = 0;
    ok(hipMemGetInfo(&mut after, &mut total));
    assert_eq!(free - after, 400);
    let mut huge = 1 as Handle;
    assert_eq!(hipMalloc(&mut huge, total), OUT_OF_MEMORY);
    assert!(huge.is_null());
    ok(hipMemsetD32(d, 1f32.to_bits() as i32, 100));
    let mut host = [0f32; 100];
    ok(hipMemcpy(host.as_mut_ptr().cast(), d, 400, 2));
    assert_eq!(host, [1.0; 100]);
    assert_eq!(hipMemcpy(host.as_mut_ptr().cast(), d, 404, 2), INVALID_VALUE, "four bytes too many");
    assert_eq!(hipMemset(d, 0, 401), INVALID_VALUE);
    ok(hipFree(d));
    assert_eq!(hipFree(d), INVALID_VALUE, "twice");
    ok(hipFree(null_mut()));
}

/// Nothing runs before somebody waits: pinned memory shows when.
unsafe fn late_execution(f: Handle) {
    let stream = made(|s| hipStreamCreateWithFlags(s, 1));
    let (pinned, d) = (made(|p| hipHostMalloc(p, 400, 0)), made(|p| hipMalloc(p, 400)));
    let host: &mut [f32] = std::slice::from_raw_parts_mut(pinned.cast(), 100);
    host.fill(1.0);
    ok(hipMemcpyAsync(d, pinned, 400, 1, stream));
    ok(add(f, d, 2.0, stream));
    ok(hipMemcpyAsync(pinned, d, 400, 2, stream));
    assert_eq!(floats(pinned), [1.0; 100], "not yet");
    // A change of the source before the copy has run shows, as it may on a card.
    host.fill(5.0);
    assert_eq!((hipStreamQuery(stream), hipStreamQuery(stream)), (NOT_READY, SUCCESS));
    assert_eq!(floats(pinned), [7.0; 100]);
    // From pageable memory the bytes are taken at the call.
    let mut pageable = [3f32; 100];
    ok(hipMemcpyAsync(d, pageable.as_ptr().cast(), 400, 1, stream));
    pageable.fill(0.0);
    ok(hipMemcpyAsync(pageable.as_mut_ptr().cast(), d, 400, 2, stream));
    assert_eq!(pageable, [3.0; 100]);
    // Kernels reach pinned and registered memory.
    ok(add(f, pinned, 1.0, stream));
    ok(hipHostRegister(pageable.as_mut_ptr().cast(), 400, 0));
    assert_eq!(hipHostRegister(pageable.as_mut_ptr().cast(), 400, 0), ALREADY_REGISTERED);
    ok(add(f, pageable.as_mut_ptr().cast(), 1.0, stream));
    ok(hipStreamSynchronize(stream));
    assert_eq!((floats(pinned)[99], pageable[99]), (8.0, 4.0));
    ok(hipHostUnregister(pageable.as_mut_ptr().cast()));
    ok(hipStreamDestroy(stream));
    assert_eq!(hipStreamSynchronize(stream), INVALID_HANDLE);
    ok(hipHostFree(pinned));
    ok(hipFree(d));
}

unsafe fn events(f: Handle) {
    let (a, b) = (made(|s| hipStreamCreateWithFlags(s, 1)), made(|s| hipStreamCreateWithFlags(s, 1)));
    let (e, end) = (made(|e| hipEventCreateWithFlags(e, 0)), made(|e| hipEventCreate(e)));
    let p = made(|p| hipHostMalloc(p, 400, 0));
    std::slice::from_raw_parts_mut(p.cast::<f32>(), 100).fill(0.0);
    ok(add(f, p, 1.0, a));
    ok(hipEventRecord(e, a));
    ok(add(f, p, 10.0, a));
    ok(hipStreamWaitEvent(b, e, 0));
    ok(add(f, p, 100.0, b));
    ok(hipEventRecord(end, b));
    ok(hipStreamSynchronize(b));
    assert_eq!(floats(p)[0], 101.0, "a ran up to its event and no further");
    assert_eq!((hipEventQuery(e), hipEventQuery(end)), (SUCCESS, SUCCESS));
    ok(hipEventRecord(end, a));
    assert_eq!(hipEventQuery(end), NOT_READY);
    ok(hipEventSynchronize(end));
    assert_eq!(floats(p)[0], 111.0);
    let mut ms = -1.0;
    ok(hipEventElapsedTime(&mut ms, e, end));
    assert!(ms >= 0.0);
    // The default stream waits for blocking streams.
    let blocking = made(|s| hipStreamCreate(s));
    ok(add(f, p, 1000.0, blocking));
    ok(add(f, p, 0.0, null_mut()));
    assert_eq!(floats(p)[0], 1111.0);
    ok(hipDeviceSynchronize());
    for h in [a, b, blocking] {
        ok(hipStreamDestroy(h));
    }
    ok(hipEventDestroy(e));
    ok(hipHostFree(p));
}

unsafe fn graphs(f: Handle) {
    let (s, side) = (made(|s| hipStreamCreateWithFlags(s, 1)), made(|s| hipStreamCreateWithFlags(s, 1)));
    let (fork, join) = (made(|e| hipEventCreate(e)), made(|e| hipEventCreate(e)));
    let p = made(|p| hipHostMalloc(p, 400, 0));
    std::slice::from_raw_parts_mut(p.cast::<f32>(), 100).fill(0.0);
    ok(hipStreamBeginCapture(s, 2));
    ok(add(f, p, 1.0, s));
    ok(hipEventRecord(fork, s));
    ok(hipStreamWaitEvent(side, fork, 0));
    ok(add(f, p, 2.0, side));
    ok(hipEventRecord(join, side));
    ok(hipStreamWaitEvent(s, join, 0));
    ok(hipMemsetAsync(p.byte_add(396), 0, 4, s));
    let graph = made(|g| hipStreamEndCapture(s, g));
    let exec = made(|e| hipGraphInstantiate(e, graph, null_mut(), null_mut(), 0));
    ok(hipGraphDestroy(graph));
    ok(hipDeviceSynchronize());
    assert_eq!(floats(p)[0], 0.0, "captured, not run");
    for k in 1..4 {
        ok(hipGraphLaunch(exec, s));
        ok(hipStreamSynchronize(s));
        assert_eq!((floats(p)[0], floats(p)[99]), (3.0 * k as f32, 0.0));
    }
    ok(hipGraphExecDestroy(exec));
    assert_eq!(hipGraphLaunch(exec, s), INVALID_HANDLE);
    // To wait within a capture is an error, and breaks it.
    ok(hipStreamBeginCapture(s, 2));
    ok(add(f, p, 1.0, s));
    assert_eq!(hipStreamSynchronize(s), CAPTURE_UNSUPPORTED);
    let mut none = null_mut();
    assert_eq!(hipStreamEndCapture(s, &mut none), CAPTURE_INVALIDATED);
    assert_eq!(hipStreamEndCapture(s, &mut none), CAPTURE_UNMATCHED);
    ok(hipHostFree(p));
}

unsafe fn refused_launches(f: Handle) {
    let d = made(|p| hipMalloc(p, 400));
    ok(hipMemset(d, 0, 400));
    let launch = |grid: u32, block: u32, lds: u32, extra: *mut *mut c_void| {
        hipModuleLaunchKernel(f, grid, 1, 1, block, 1, 1, lds, null_mut(), null_mut(), extra)
    };
    // The arguments as a packed block.
    let mut block = Vec::from((d as u64).to_le_bytes());
    block.extend(4f32.to_le_bytes());
    block.extend(100u32.to_le_bytes());
    let mut size = block.len();
    let mut extra: [*mut c_void; 5] =
        [1 as Handle, block.as_mut_ptr().cast(), 2 as Handle, (&raw mut size).cast(), 3 as Handle];
    assert_eq!(launch(2, 64, 0, null_mut()), INVALID_VALUE, "no arguments");
    assert_eq!(launch(0, 64, 0, extra.as_mut_ptr()), INVALID_CONFIGURATION);
    assert_eq!(launch(1, 2048, 0, extra.as_mut_ptr()), INVALID_CONFIGURATION);
    assert_eq!(launch(1, 64, 70_000, extra.as_mut_ptr()), OUT_OF_RESOURCES);
    ok(launch(2, 64, 0, extra.as_mut_ptr()));
    let mut host = [0f32; 100];
    ok(hipMemcpy(host.as_mut_ptr().cast(), d, 400, 2));
    assert_eq!(host, [4.0; 100]);
    size = 12;
    extra[3] = (&raw mut size).cast();
    assert_eq!(launch(2, 64, 0, extra.as_mut_ptr()), INVALID_VALUE, "a block that is too short");
    ok(hipFree(d));
}
