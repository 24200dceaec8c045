//! Flushing of denormal numbers while a job runs.
//!
//! Guarantees to safe callers: only the two flush bits of this thread's MXCSR change, and they
//! are put back.

/// While it lives, this thread's vector unit reads and writes denormal numbers as zero: they
/// cost a hundred cycles each and mean nothing in activations.
pub(super) struct FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    before: u32,
}

#[cfg(target_arch = "x86_64")]
impl FlushDenormals {
    const FTZ_DAZ: u32 = 1 << 15 | 1 << 6;

    pub(super) fn new() -> Self {
        let mut before = 0_u32;
        // SAFETY: stores MXCSR to `before`.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut before, options(nostack, preserves_flags)) };
        Self::set(before | Self::FTZ_DAZ);
        Self { before }
    }

    fn set(mxcsr: u32) {
        // SAFETY: loads MXCSR with a value it had, but for the two flush bits: rounding and
        // exception masks stay as Rust expects them.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack, readonly, preserves_flags)) };
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for FlushDenormals {
    fn drop(&mut self) {
        Self::set(self.before);
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl FlushDenormals {
    pub(super) fn new() -> Self {
        Self {}
    }
}
