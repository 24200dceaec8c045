//! Engines on a fake backend whose logits depend on all that a sequence may see.

mod blocks;
pub(super) mod fake;
mod generate;
mod life;
mod memory;
