//! AMX tiles: whether the CPU has them and the kernel lets this process use them.
//!
//! Guarantees to safe callers: [`usable`] is true only if tile instructions of bf16 and int8
//! will not fault in any thread of this process (Linux grants the permission per process and
//! never takes it back). No kernel is written for AMX yet: its tier runs the AVX-512 ones.

/// Asks CPUID for amx-tile, amx-bf16 and amx-int8, then Linux for the tile state
/// (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`, which may be refused).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) fn usable() -> bool {
    use nix::libc;
    use std::arch::x86_64::{__cpuid, __cpuid_count};

    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // CPUID 7.0 EDX
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ALL: u32 = AMX_BF16 | AMX_TILE | AMX_INT8;

    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & ALL != ALL {
        return false;
    }
    // SAFETY: this arch_prctl takes two integers and changes only which state components the
    // kernel saves for this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// No AMX elsewhere.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn usable() -> bool {
    false
}
