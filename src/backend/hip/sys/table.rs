//! The functions of libamdhip64 as a table, resolved at run time, with the signatures of `hip-sys`.
//!
//! Guarantees to safe callers: every pointer of a [`Table`] is a function of the library it was
//! made from, which is never unloaded, and has the C signature that `hip-sys` declares (checked by
//! the compiler, see `signatures_match_hip_sys`). Calling one is unsafe, as it is in C.

#![allow(non_snake_case)] // The names of the C functions.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use hip_sys::hiprt;
use libloading::os::unix::Library;

/// `hip-sys` returns its own enum of HIP 5.4's error codes. A newer runtime has codes which that
/// enum lacks, and such a value would be undefined behaviour: the table returns plain numbers.
pub type Code = u32;

macro_rules! table {
    (
        required { $( fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ); )* }
        optional { $( fn $oname:ident ( $($oarg:ident : $oty:ty),* $(,)? ); )* }
        required, unknown to hip-sys { $( fn $uname:ident ( $($uarg:ident : $uty:ty),* $(,)? ); )* }
    ) => {
        /// The functions; those behind an `Option` came with later runtimes or may be left out.
        #[allow(missing_docs)] // The HIP API reference documents them.
        pub struct Table {
            $( pub $name: unsafe extern "C" fn($($arg: $ty),*) -> Code, )*
            $( pub $oname: Option<unsafe extern "C" fn($($oarg: $oty),*) -> Code>, )*
            $( pub $uname: unsafe extern "C" fn($($uarg: $uty),*) -> Code, )*
        }

        impl Table {
            /// Finds all functions in `library`.
            ///
            /// # Errors
            /// The name of the first required function that is not there.
            pub fn resolve(library: &'static Library) -> Result<Self, &'static str> {
                // SAFETY: the symbols are functions with these signatures by the HIP API, and
                // the library stays loaded for good (`'static`), so that the copies stay valid.
                unsafe {
                    Ok(Self {
                        $( $name: *library
                            .get::<unsafe extern "C" fn($($arg: $ty),*) -> Code>(name(concat!(stringify!($name), "\0")))
                            .map_err(|_| stringify!($name))?, )*
                        $( $oname: library.get(name(concat!(stringify!($oname), "\0"))).ok().map(|f| *f), )*
                        $( $uname: *library
                            .get::<unsafe extern "C" fn($($uarg: $uty),*) -> Code>(name(concat!(stringify!($uname), "\0")))
                            .map_err(|_| stringify!($uname))?, )*
                    })
                }
            }
        }

        /// Never called and never linked: it does not compile if a signature differs from that of
        /// `hip-sys` in anything but the result.
        #[allow(dead_code)]
        fn signatures_match_hip_sys() {
            $( let _: unsafe extern "C" fn($($ty),*) -> hiprt::hipError_t = hiprt::$name; )*
            $( let _: unsafe extern "C" fn($($oty),*) -> hiprt::hipError_t = hiprt::$oname; )*
        }
    };
}

/// A symbol's name with its end byte, as dlsym wants it.
fn name(with_end: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(with_end.as_bytes()).unwrap_or_default()
}

table! {
    required {
        fn hipInit(flags: c_uint);
        fn hipRuntimeGetVersion(version: *mut c_int);
        fn hipGetDeviceCount(count: *mut c_int);
        fn hipSetDevice(device: c_int);
        fn hipDeviceGetName(name: *mut c_char, len: c_int, device: hiprt::hipDevice_t);
        fn hipMemGetInfo(free: *mut usize, total: *mut usize);
        fn hipMalloc(ptr: *mut *mut c_void, size: usize);
        fn hipFree(ptr: *mut c_void);
        fn hipHostMalloc(ptr: *mut *mut c_void, size: usize, flags: c_uint);
        fn hipHostFree(ptr: *mut c_void);
        fn hipMemcpyAsync(dst: *mut c_void, src: *const c_void, size: usize, kind: hiprt::hipMemcpyKind, stream: hiprt::hipStream_t);
        fn hipMemsetAsync(dst: *mut c_void, value: c_int, size: usize, stream: hiprt::hipStream_t);
        fn hipStreamCreateWithFlags(stream: *mut hiprt::hipStream_t, flags: c_uint);
        fn hipStreamDestroy(stream: hiprt::hipStream_t);
        fn hipStreamSynchronize(stream: hiprt::hipStream_t);
        fn hipEventCreateWithFlags(event: *mut hiprt::hipEvent_t, flags: c_uint);
        fn hipEventDestroy(event: hiprt::hipEvent_t);
        fn hipEventRecord(event: hiprt::hipEvent_t, stream: hiprt::hipStream_t);
        fn hipEventQuery(event: hiprt::hipEvent_t);
        fn hipModuleLoadData(module: *mut hiprt::hipModule_t, image: *const c_void);
        fn hipModuleUnload(module: hiprt::hipModule_t);
        fn hipModuleGetFunction(function: *mut hiprt::hipFunction_t, module: hiprt::hipModule_t, name: *const c_char);
        fn hipModuleLaunchKernel(
            function: hiprt::hipFunction_t,
            grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
            block_x: c_uint, block_y: c_uint, block_z: c_uint,
            lds: c_uint,
            stream: hiprt::hipStream_t,
            params: *mut *mut c_void,
            extra: *mut *mut c_void,
        );
    }
    optional {
        fn hipDriverGetVersion(version: *mut c_int);
        fn hipDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int);
        fn hipStreamBeginCapture(stream: hiprt::hipStream_t, mode: hiprt::hipStreamCaptureMode);
        fn hipStreamEndCapture(stream: hiprt::hipStream_t, graph: *mut hiprt::hipGraph_t);
        fn hipGraphInstantiate(
            exec: *mut hiprt::hipGraphExec_t,
            graph: hiprt::hipGraph_t,
            error_node: *mut hiprt::hipGraphNode_t,
            log: *mut c_char,
            log_size: usize,
        );
        fn hipGraphLaunch(exec: hiprt::hipGraphExec_t, stream: hiprt::hipStream_t);
        fn hipGraphExecDestroy(exec: hiprt::hipGraphExec_t);
        fn hipGraphDestroy(graph: hiprt::hipGraph_t);
    }
    // Since HIP 6.0. The struct it fills grows from version to version: see `sys::Properties`.
    required, unknown to hip-sys {
        fn hipGetDevicePropertiesR0600(properties: *mut c_void, device: c_int);
    }
}
