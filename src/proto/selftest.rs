//! Bodies of `POST /admin/v1/selftest`.

use serde::{Deserialize, Serialize};

/// What came of the self-test of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// `gpu0`.
    pub device: String,
    /// What it runs on: `gpu gfx1100`.
    pub description: String,
    /// Kernels that were tested.
    pub kernels: u32,
    /// Those that agree with the CPU.
    pub passed: u32,
    /// How long it took.
    pub seconds: f64,
    /// Those that do not; they are not used.
    pub failures: Vec<KernelFailure>,
    /// Why nothing could be tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A kernel that disagrees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFailure {
    /// Its name.
    pub kernel: String,
    /// On what data, and where; empty for one that did not come back.
    pub case: String,
    /// What the CPU computes; empty if there is nothing to compare.
    pub expected: String,
    /// What the kernel computes, or how it failed.
    pub got: String,
    /// How far it may be off.
    pub tolerance: String,
}
