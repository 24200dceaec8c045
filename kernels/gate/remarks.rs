//! What clang says of the resources of kernels (`-Rpass-analysis=kernel-resource-usage`).

/// A kernel and what it takes.
#[derive(Default)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Vector registers, with the accumulators of CDNA.
    pub vgprs: u32,
    /// Scalar registers.
    pub sgprs: u32,
    /// Bytes of scratch memory of a lane.
    pub scratch: u32,
    /// Registers kept elsewhere for want of others.
    pub spills: u32,
    /// Bytes of LDS of a block.
    pub lds: u32,
    /// Waves that fit on a SIMD.
    pub occupancy: u32,
    /// Which of the instructions that it should have it has; nothing without a disassembler.
    pub instructions: Option<String>,
}

/// Reads them from clang's standard error.
pub fn read(said: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in said.lines().filter_map(|l| l.split("remark:").nth(1)) {
        let line = line.split(" [-Rpass").next().unwrap_or(line);
        let Some((key, value)) = line.rsplit_once(": ") else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key == "Function Name" {
            kernels.push(Kernel { name: value.to_owned(), ..Kernel::default() });
            continue;
        }
        let (Some(kernel), Ok(n)) = (kernels.last_mut(), value.parse::<u32>()) else { continue };
        match key {
            "VGPRs" | "AGPRs" => kernel.vgprs += n,
            "SGPRs" | "TotalSGPRs" => kernel.sgprs = n,
            "ScratchSize [bytes/lane]" => kernel.scratch = n,
            "SGPRs Spill" | "VGPRs Spill" => kernel.spills += n,
            "LDS Size [bytes/block]" => kernel.lds = n,
            "Occupancy [waves/SIMD]" => kernel.occupancy = n,
            _ => {}
        }
    }
    kernels
}
