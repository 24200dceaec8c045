//! HIP's error codes, and the last one of each thread.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};

/// Codes with name and description.
macro_rules! table {
    ($($name:ident = $code:literal $hip:literal $text:literal)*) => {
        $(
            #[doc = concat!("`", stringify!($hip), "`")]
            pub const $name: c_int = $code;
        )*

        fn describe(code: c_int) -> (&'static CStr, &'static CStr) {
            match code {
                $($code => ($hip, $text),)*
                _ => (c"hipErrorUnknown", c"unknown error"),
            }
        }
    };
}

table! {
    SUCCESS = 0 c"hipSuccess" c"no error"
    INVALID_VALUE = 1 c"hipErrorInvalidValue" c"invalid argument"
    OUT_OF_MEMORY = 2 c"hipErrorOutOfMemory" c"out of memory"
    INVALID_CONFIGURATION = 9 c"hipErrorInvalidConfiguration" c"invalid configuration argument"
    NO_DEVICE = 100 c"hipErrorNoDevice" c"no ROCm-capable device is detected"
    INVALID_DEVICE = 101 c"hipErrorInvalidDevice" c"invalid device ordinal"
    INVALID_IMAGE = 200 c"hipErrorInvalidImage" c"device kernel image is invalid"
    NO_BINARY = 209 c"hipErrorNoBinaryForGpu" c"no kernel image is available for execution on the device"
    INVALID_HANDLE = 400 c"hipErrorInvalidHandle" c"invalid resource handle"
    ILLEGAL_STATE = 401 c"hipErrorIllegalState" c"the operation cannot be performed in the present state"
    NOT_FOUND = 500 c"hipErrorNotFound" c"named symbol not found"
    NOT_READY = 600 c"hipErrorNotReady" c"device not ready"
    ILLEGAL_ADDRESS = 700 c"hipErrorIllegalAddress" c"an illegal memory access was encountered"
    OUT_OF_RESOURCES = 701 c"hipErrorLaunchOutOfResources" c"out of resources"
    TIMEOUT = 702 c"hipErrorLaunchTimeOut" c"the launch timed out and was terminated"
    ALREADY_REGISTERED = 712 c"hipErrorHostMemoryAlreadyRegistered" c"part of the memory is registered already"
    NOT_REGISTERED = 713 c"hipErrorHostMemoryNotRegistered" c"the memory is not registered"
    LAUNCH_FAILURE = 719 c"hipErrorLaunchFailure" c"unspecified launch failure"
    NOT_SUPPORTED = 801 c"hipErrorNotSupported" c"operation not supported"
    CAPTURE_UNSUPPORTED = 900 c"hipErrorStreamCaptureUnsupported" c"operation not permitted when stream is capturing"
    CAPTURE_INVALIDATED = 901 c"hipErrorStreamCaptureInvalidated" c"operation failed due to a previous error during capture"
    CAPTURE_UNMATCHED = 903 c"hipErrorStreamCaptureUnmatched" c"the capture was not begun on this stream"
    CAPTURE_UNJOINED = 904 c"hipErrorStreamCaptureUnjoined" c"a captured stream was not joined"
}

thread_local! {
    static LAST: Cell<c_int> = const { Cell::new(SUCCESS) };
}

/// Remembers an error for `hipGetLastError`.
pub fn note(code: c_int) -> c_int {
    if code != SUCCESS && code != NOT_READY {
        LAST.set(code);
    }
    code
}

/// The thread's last error; forgets it.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetLastError() -> c_int {
    LAST.replace(SUCCESS)
}

/// The thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn hipPeekAtLastError() -> c_int {
    LAST.get()
}

/// Name of a code.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorName(code: c_int) -> *const c_char {
    describe(code).0.as_ptr()
}

/// Description of a code.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorString(code: c_int) -> *const c_char {
    describe(code).1.as_ptr()
}
