//! HIP's error codes as numbers with names, and what they mean for a backend.

use std::fmt;

use super::table::Code;
use crate::backend::BackendError;

/// A HIP call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HipError {
    /// Its code.
    pub code: Code,
    /// The function.
    pub call: &'static str,
}

/// `hipErrorOutOfMemory`.
pub const OUT_OF_MEMORY: Code = 2;
/// `hipErrorNoDevice`.
pub const NO_DEVICE: Code = 100;
/// `hipErrorNotReady`: no error, but the answer of a query.
pub const NOT_READY: Code = 600;
/// A function that the runtime does not have, as if it had said so itself: `hipErrorNotSupported`.
pub const NOT_SUPPORTED: Code = 801;

/// The result of a HIP call.
pub type Result<T> = std::result::Result<T, HipError>;

/// The names of codes, from the HIP API reference (5.4 to 7.0).
const NAMES: &[(Code, &str)] = &[
    (1, "invalid value"),
    (2, "out of memory"),
    (3, "not initialized"),
    (4, "deinitialized"),
    (9, "invalid configuration"),
    (13, "invalid symbol"),
    (17, "invalid device pointer"),
    (21, "invalid copy direction"),
    (35, "driver too old for the runtime"),
    (52, "missing configuration"),
    (53, "prior launch failure"),
    (98, "invalid device function"),
    (100, "no ROCm-capable device"),
    (101, "invalid device"),
    (200, "invalid kernel image"),
    (201, "invalid context"),
    (205, "map failed"),
    (206, "unmap failed"),
    (209, "no kernel image for this device"),
    (214, "uncorrectable ECC error"),
    (215, "unsupported limit"),
    (216, "context in use"),
    (218, "invalid kernel file"),
    (300, "invalid source"),
    (301, "file not found"),
    (302, "symbol of a shared object not found"),
    (303, "shared object initialization failed"),
    (304, "operating system error"),
    (400, "invalid handle"),
    (401, "illegal state"),
    (500, "not found"),
    (600, "not ready"),
    (700, "illegal memory access"),
    (701, "out of resources for a launch"),
    (702, "launch timed out"),
    (709, "context is destroyed"),
    (710, "device-side assertion"),
    (719, "launch failure"),
    (720, "cooperative launch too large"),
    (801, "not supported"),
    (900, "stream capture unsupported"),
    (901, "stream capture invalidated"),
    (902, "stream capture merge"),
    (903, "stream capture unmatched"),
    (904, "stream capture unjoined"),
    (905, "stream capture isolation"),
    (906, "stream capture implicit"),
    (907, "captured event"),
    (908, "stream capture in the wrong thread"),
    (910, "graph update failure"),
    (999, "unknown error"),
    (1052, "HSA memory error"),
    (1053, "HSA runtime error"),
];

impl HipError {
    /// What the code is called.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(code, _)| *code == self.code).map_or("an error this program does not know", |n| n.1)
    }

    /// Whether it says that a step cannot be recorded, which is no reason not to run it.
    pub fn is_of_recording(self) -> bool {
        matches!(self.code, OUT_OF_MEMORY | 801 | 900..=910)
    }

    /// As a backend says it. Asking for what does not exist is a mistake of ours or a build that
    /// does not fit the device; after anything else the device's state is unknown: it counts as
    /// lost.
    pub fn into_backend(self, device: &str, bytes: u64, what: &str) -> BackendError {
        match self.code {
            OUT_OF_MEMORY => BackendError::OutOfMemory { device: device.to_owned(), bytes, what: what.to_owned() },
            1 | 9 | 13 | 98 | 200 | 209 | 218 | 500 | 801 => BackendError::Unsupported(format!("{what}: {self}")),
            _ => BackendError::Lost(format!("{device}: {what}: {self}")),
        }
    }
}

impl fmt::Display for HipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: HIP error {} ({})", self.call, self.code, self.name())
    }
}

impl std::error::Error for HipError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_newer_runtime_are_numbers_too() {
        let error = HipError { code: 4711, call: "hipMalloc" };
        assert_eq!(error.to_string(), "hipMalloc: HIP error 4711 (an error this program does not know)");
        assert!(matches!(error.into_backend("gpu", 1, "a slab"), BackendError::Lost(why) if why.contains("4711")));
    }

    #[test]
    fn memory_and_mistakes_do_not_cost_the_device() {
        let error = |code| HipError { code, call: "hipMalloc" }.into_backend("gpu gfx1100", 77, "a slab");
        assert!(matches!(error(2), BackendError::OutOfMemory { bytes: 77, .. }));
        assert!(matches!(error(209), BackendError::Unsupported(_)));
        assert!(matches!(error(700), BackendError::Lost(_)));
        let recording = |code| HipError { code, call: "hipStreamEndCapture" }.is_of_recording();
        assert!(recording(801) && recording(901) && !recording(719));
    }
}
