//! AMX tiles: whether the CPU has them and the kernel lets this process use them.
//!
//! Guarantees to safe callers: [`usable`] is true only if tile instructions of bf16 and int8
//! will not fault in any thread of this process (Linux grants the permission per process and
//! never takes it back). A [`Tiles`] exists only on a thread whose tiles are configured as its
//! products need them, and every product reads and writes whole [`Tile`]s of slices whose lengths
//! it has checked. The intrinsics are not stable, so the instructions are written out; no tile
//! register is live between two statements.

use std::marker::PhantomData;

use super::tiers::Amx;

/// Rows of a tile of sums, and its columns.
pub const SIDE: usize = 16;
/// Values of a row that one product sums over.
pub const DEPTH: usize = 32;

/// 1 KiB of bf16 as a tile register takes it: of weights, [`SIDE`] rows of [`DEPTH`] values; of
/// activations, `DEPTH / 2` rows of [`SIDE`] pairs of neighbouring values.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Tile(pub [[u16; 32]; 16]);

impl Tile {
    /// All zero.
    pub const ZERO: Self = Self([[0; 32]; 16]);
}

/// 1 KiB of sums: [`SIDE`] rows of weights by [`SIDE`] columns of activations.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Sums(pub [[f32; SIDE]; SIDE]);

impl Sums {
    /// All zero.
    pub const ZERO: Self = Self([[0.0; SIDE]; SIDE]);
}

/// This thread's tile registers, configured; they are released when it is dropped, so that no
/// other code pays for saving them.
#[derive(Debug)]
pub struct Tiles {
    /// The configuration is the thread's.
    _here: PhantomData<*const ()>,
}

/// The operand of `ldtilecfg` (Intel SDM, "TILECFG").
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl Tiles {
    /// Configures the eight tiles of this thread as 16 rows of 64 bytes.
    pub fn new(_proof: Amx) -> Self {
        let of_eight = |i: usize, full: u8| if i < 8 { full } else { 0 };
        let config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: std::array::from_fn(|i| u16::from(of_eight(i, 64))),
            rows: std::array::from_fn(|i| of_eight(i, 16)),
        };
        // SAFETY: the proof says that the CPU and Linux let this process use tiles; the operand
        // is a valid configuration of 64 bytes.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self { _here: PhantomData }
    }

    /// `sums[i][j] += weights[i] * activations[j]`, summed over all tiles of the four slices, in
    /// their order.
    ///
    /// # Panics
    /// If the slices differ in length, or are empty.
    pub fn product(&self, weights: [&[Tile]; 2], activations: [&[Tile]; 2], sums: &mut [[Sums; 2]; 2]) {
        let n = weights[0].len();
        assert!(n > 0 && weights[1].len() == n && activations.iter().all(|a| a.len() == n));
        // SAFETY: `self` proves that this thread's tiles are configured. Each round reads one
        // tile of each slice, of which there are `n`; the sums are read and written as the four
        // tiles that they are. All tile registers used are declared as clobbered.
        unsafe {
            std::arch::asm!(
                "tileloadd tmm0, [{c} + {line}]",
                "tileloadd tmm1, [{c} + {line} + 1024]",
                "tileloadd tmm2, [{c} + {line} + 2048]",
                "tileloadd tmm3, [{c} + {line} + 3072]",
                "2:",
                "tileloadd tmm4, [{w0} + {line}]",
                "tileloadd tmm6, [{a0} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{a1} + {line}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{w1} + {line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "add {a0}, 1024",
                "add {a1}, 1024",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {line}], tmm0",
                "tilestored [{c} + {line} + 1024], tmm1",
                "tilestored [{c} + {line} + 2048], tmm2",
                "tilestored [{c} + {line} + 3072], tmm3",
                c = in(reg) sums.as_mut_ptr(),
                line = in(reg) 64_usize,
                w0 = inout(reg) weights[0].as_ptr() => _,
                w1 = inout(reg) weights[1].as_ptr() => _,
                a0 = inout(reg) activations[0].as_ptr() => _,
                a1 = inout(reg) activations[1].as_ptr() => _,
                n = inout(reg) n => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: tiles may be used (there is a `Tiles`), and nobody uses them any more.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Tiles {
    /// Never: no proof exists elsewhere.
    pub fn new(proof: Amx) -> Self {
        proof.avx512().impossible()
    }

    /// Never called: no `Tiles` exists elsewhere.
    pub fn product(&self, _: [&[Tile]; 2], _: [&[Tile]; 2], _: &mut [[Sums; 2]; 2]) {}
}

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
