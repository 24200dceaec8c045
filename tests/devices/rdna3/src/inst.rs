//! One decoded instruction: what the disassembly says, resolved once so that execution never looks at text.

use crate::exec::Cx;
use crate::wave::Wave;

/// A row of a vector register: the 32 lanes of a wave.
pub type Lanes = [u32; 32];

/// What executes an instruction. The functions are compiled for AVX2 and FMA; [`crate::module::supported`] makes sure
/// of them before any code is decoded.
pub type Exec = unsafe fn(&mut Wave, &Inst, &mut Cx) -> Step;

/// What the scheduler does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on.
    Next,
    /// The wave waits at `s_barrier`.
    Barrier,
    /// The wave has ended.
    End,
    /// [`Cx::fault`] says what happened.
    Fault,
}

/// Where an operand lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Vector register `reg`.
    V,
    /// Scalar register `reg`.
    S,
    /// The constant `lit`.
    Lit,
    /// The scalar condition bit.
    Scc,
    /// `off`, or no operand.
    None,
}

/// Negate a floating-point source.
pub const NEG: u8 = 1;
/// Absolute value of a floating-point source.
pub const ABS: u8 = 2;
/// A 16-bit instruction takes the high half.
pub const HIGH: u8 = 4;

/// An operand.
#[derive(Clone, Copy, Debug)]
pub struct Opd {
    /// Where it lives.
    pub kind: Kind,
    /// [`NEG`], [`ABS`], [`HIGH`].
    pub mods: u8,
    /// First register.
    pub reg: u16,
    /// Number of registers.
    pub n: u16,
    /// Value of a constant; 64 bits for 64-bit instructions, else sign-extended.
    pub lit: u64,
}

/// No operand.
pub const NONE: Opd = Opd { kind: Kind::None, mods: 0, reg: 0, n: 0, lit: 0 };

/// VCC's low half.
pub const VCC: u16 = 106;
/// Reads zero, ignores writes.
pub const NULL: u16 = 124;
/// M0.
pub const M0: u16 = 125;
/// EXEC's low half: all of it in wave32.
pub const EXEC: u16 = 126;
/// Rows after the 256 vector registers, for the interpreter's own use.
pub const TEMP_DPP: u16 = 256;
/// See [`TEMP_DPP`]: the source that the first half of a dual instruction would overwrite.
pub const TEMP_DUAL: u16 = 257;
/// Rows a wave holds.
pub const ROWS: usize = 258;

/// Data parallel primitive: where each lane of the first source comes from.
#[derive(Clone, Debug)]
pub struct Dpp {
    /// Source lane, or 255 where it would lie outside of the row.
    pub from: [u8; 32],
    /// Lanes that the row and bank masks let through.
    pub mask: u32,
    /// An invalid source lane reads zero; otherwise the lane is not written.
    pub bound_zero: bool,
    /// Inactive source lanes may be read.
    pub fetch_inactive: bool,
    /// Source row, as the disassembly names it.
    pub source: u16,
}

/// An instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// First function called: a wrapper (DPP, output modifiers) or the operation.
    pub run: Exec,
    /// What the DPP wrapper calls.
    pub after_dpp: Exec,
    /// What the output-modifier wrapper calls.
    pub plain: Exec,
    /// Destination first, in the disassembly's order.
    pub o: [Opd; 5],
    /// Operands given.
    pub n: u8,
    /// Byte offset of a memory instruction, or the 16-bit immediate of a scalar one.
    pub imm: i32,
    /// `offset1` of two-address LDS instructions.
    pub imm1: i32,
    /// Index of the instruction that a branch goes to.
    pub target: u32,
    /// Packed operands: which half feeds the low result.
    pub op_sel: u8,
    /// Packed operands: which half feeds the high result. `v_fma_mix`: source is f16.
    pub op_sel_hi: u8,
    /// Packed operands: negate for the low result; signedness for integer dots.
    pub neg_lo: u8,
    /// Packed operands: negate for the high result.
    pub neg_hi: u8,
    /// Clamp the result.
    pub clamp: bool,
    /// Output multiplier: 0 none, 1 times 2, 2 times 4, 3 half.
    pub omod: u8,
    /// Result is 16 bits wide and goes to the high half.
    pub dst_high: bool,
    /// Atomic returns the old value.
    pub glc: bool,
    /// Counts as no instruction: second half of a dual, or a copy for it.
    pub hidden: bool,
    /// Memory instructions are numbered; the checker remembers the allocation each one hit last.
    pub slot: u32,
    /// Address in the image.
    pub pc: u64,
    /// Index into the program's mnemonics.
    pub name: u32,
    /// Vector registers that must not be the target of a load in flight.
    pub uses_v: [u64; 4],
    /// The same for scalar registers.
    pub uses_s: u128,
    /// DPP controls.
    pub dpp: Option<Box<Dpp>>,
}
