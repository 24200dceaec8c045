//! What a kernel may take and must contain. A kernel that spills or misses its instruction still
//! computes the right numbers, so that no other test would notice.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::remarks::Kernel;

/// Columns of the manifest.
pub const HEADER: &str = "target\tfile\tkernel\tvgprs\tsgprs\tscratch\tspills\tlds\toccupancy\tinstructions";

/// Limits of the kernels whose names begin alike; the longest such row counts.
struct Limit {
    kernels: &'static str,
    /// Vector registers on RDNA and on CDNA (which has twice as many a lane).
    vgprs: (u32, u32),
    /// Bytes of LDS of a block.
    lds: u32,
    /// Beginnings of chips' names, and of an instruction that the kernel must contain there.
    must: &'static [(&'static [&'static str], &'static str)],
}

const DOT4: &[(&[&str], &str)] = &[(&["gfx"], "v_dot4")];
const MATRIX: &[(&[&str], &str)] = &[
    (&["gfx11", "gfx12"], "v_wmma_f32_16x16x16_f16"),
    (&["gfx908", "gfx90a", "gfx942"], "v_mfma_f32_16x16x16"),
    (&["gfx906", "gfx10"], "v_dot2"),
];

const LIMITS: &[Limit] = &[
    Limit { kernels: "", vgprs: (64, 64), lds: 1024, must: &[] },
    Limit { kernels: "attend_split_", vgprs: (256, 288), lds: 31 << 10, must: &[] },
    Limit { kernels: "attend_tile_", vgprs: (176, 256), lds: 20 << 10, must: &[] },
    Limit { kernels: "attend_mma_", vgprs: (248, 256), lds: 48 << 10, must: MATRIX },
    Limit { kernels: "embed_", vgprs: (128, 128), lds: 0, must: &[] },
    Limit { kernels: "gemv_", vgprs: (192, 256), lds: 16 << 10, must: &[] },
    Limit { kernels: "gemv_q", vgprs: (192, 256), lds: 16 << 10, must: DOT4 },
    Limit { kernels: "gemv_glu_q", vgprs: (192, 256), lds: 16 << 10, must: DOT4 },
    Limit { kernels: "gemm_", vgprs: (256, 512), lds: 64 << 10, must: MATRIX },
];

fn limit(kernel: &str) -> &'static Limit {
    LIMITS.iter().filter(|l| kernel.starts_with(l.kernels)).max_by_key(|l| l.kernels.len()).unwrap_or(&LIMITS[0])
}

fn musts(kernel: &str, target: &str) -> impl Iterator<Item = &'static str> {
    let applies = move |chips: &[&str]| chips.iter().any(|c| target.starts_with(c));
    let must = limit(kernel).must.iter().filter(move |(chips, _)| applies(chips)).map(|(_, i)| *i);
    must.collect::<Vec<_>>().into_iter()
}

/// Changes with the instructions that are looked for.
pub fn fingerprint() -> u64 {
    let mut hash = DefaultHasher::new();
    for l in LIMITS {
        (l.kernels, l.must).hash(&mut hash);
    }
    hash.finish()
}

/// Notes in `kernels` which of the instructions they should have are in the disassembly.
pub fn find_instructions(disassembly: &str, target: &str, kernels: &mut [Kernel]) {
    for kernel in kernels {
        let head = format!("<{}>:\n", kernel.name);
        let code = disassembly.split(&head).nth(1).unwrap_or("");
        let code = code.split(">:\n").next().unwrap_or("");
        let found = musts(&kernel.name, target).filter(|i| code.contains(i));
        kernel.instructions = Some(found.collect::<Vec<_>>().join(" "));
    }
}

/// A line of the manifest.
pub fn line(target: &str, file: &str, k: &Kernel) -> String {
    let instructions = k.instructions.as_deref().unwrap_or("?");
    format!(
        "{target}\t{file}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{instructions}\n",
        k.name, k.vgprs, k.sgprs, k.scratch, k.spills, k.lds, k.occupancy
    )
}

/// Checks a manifest.
///
/// # Errors
/// All kernels that take too much, spill, or miss an instruction.
pub fn check(manifest: &str) -> Result<(), String> {
    let mut offences = Vec::new();
    for line in manifest.lines().skip(1) {
        let [target, _, kernel, vgprs, _, scratch, spills, lds, _, instructions] =
            line.split('\t').collect::<Vec<_>>()[..]
        else {
            return Err(format!("a line of the manifest is broken: {line}"));
        };
        let l = limit(kernel);
        let most = if target.starts_with("gfx9") { l.vgprs.1 } else { l.vgprs.0 };
        for (what, value, most) in [
            ("VGPRs", vgprs, most),
            ("bytes of scratch", scratch, 0),
            ("spills", spills, 0),
            ("bytes of LDS", lds, l.lds),
        ] {
            if value.parse::<u32>().map_or(true, |v| v > most) {
                offences.push(format!("{kernel} for {target}: {value} {what}, {most} are allowed"));
            }
        }
        if instructions != "?" {
            let missing = musts(kernel, target).filter(|i| !instructions.split(' ').any(|f| f == *i));
            offences.extend(missing.map(|i| format!("{kernel} for {target}: no {i}")));
        }
    }
    if offences.is_empty() { Ok(()) } else { Err(offences.join("\n")) }
}
