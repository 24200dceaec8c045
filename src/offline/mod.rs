//! What `rocmforged` does with a model without serving it: `eval` and `tokenize`.

pub mod device;
pub mod drive;
pub mod eval;
pub mod tokenize;
