//! Test device B: a `libamdhip64.so` that executes gfx1100 code objects, instruction by instruction, on the CPU.
//!
//! An image's text is disassembled once at load (`llvm-objdump-19`, or `$ROCMFORGE_LLVM_OBJDUMP`) and decoded into
//! [`inst::Inst`]: a function pointer, resolved operands, and the registers it touches. Execution is then a loop of
//! indirect calls over rows of 32 lanes. Everything a card would let pass silently is an error here: see
//! [`fault::Fault`] for the list, README.md for the environment variables.
//!
//! Safety: this crate executes arbitrary machine code against host memory. Device pointers are host pointers; each
//! access is checked against the live allocations before it is made. Plain accesses of blocks that run in parallel
//! may race where the kernel races, as on the card.

pub mod block;
pub mod decode;
pub mod elf;
pub mod exec;
pub mod fault;
pub mod float;
pub mod hip;
pub mod inst;
pub mod launch;
pub mod lds;
pub mod memory;
pub mod module;
pub mod note;
pub mod options;
pub mod stats;
pub mod wait;
pub mod wave;
