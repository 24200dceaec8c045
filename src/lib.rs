//! ROCmForge: GGUF language models on AMD GPUs, and well on the CPU.
//!
//! The modules, what each is for and what each may import: docs/ARCHITECTURE.md.
//! `tests/tidy.rs` enforces the table.

pub mod api;
pub mod backend;
pub mod base;
pub mod chat;
pub mod ctl;
pub mod daemon;
pub mod engine;
pub mod gguf;
pub mod model;
pub mod offline;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod probe;
pub mod proto;
pub mod quant;
pub mod registry;
pub mod simd;
pub mod telemetry;
pub mod tokenizer;
pub mod worker;
