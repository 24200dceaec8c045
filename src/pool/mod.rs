//! Memory as numbers: budgets, reservations, slabs. No device is called here.

pub mod budget;
pub mod slab;
