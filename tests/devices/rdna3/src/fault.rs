//! What goes wrong in a kernel, in words that name kernel, program counter and lane.

use std::fmt;

/// Kind of a fault; decides the HIP error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An access outside of live memory, or a write to memory that is read-only.
    Address,
    /// LDS access outside of the group's segment.
    LdsBounds,
    /// Two waves touch the same LDS word, one of them writing, with no barrier between.
    LdsRace,
    /// A register is used while a load into it may still be in flight.
    Wait,
    /// Barriers that waves or lanes of a block do not reach together.
    Barrier,
    /// A lane reads from a lane that is not active.
    Lane,
    /// A matrix instruction whose operands the hardware does not define.
    Matrix,
    /// No end in sight.
    Timeout,
    /// Jump to an address without an instruction, or past the end.
    Jump,
}

/// A fault; the launch that meets it fails and the device is lost.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Kind.
    pub cause: Cause,
    /// Kernel.
    pub kernel: String,
    /// Mnemonic.
    pub op: String,
    /// Address of the instruction in the image.
    pub pc: u64,
    /// Block of the grid.
    pub block: [u32; 3],
    /// Wave of the block.
    pub wave: u32,
    /// Lane, where one is to blame.
    pub lane: Option<u32>,
    /// The rest of the sentence after the mnemonic.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{}: pc {:#x}", self.kernel, self.pc)?;
        if let Some(lane) = self.lane {
            write!(f, " lane {lane}")?;
        }
        write!(f, ": {} {} (block {x},{y},{z} wave {})", self.op, self.what, self.wave)
    }
}
