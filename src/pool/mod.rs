//! Memory as numbers: budgets, reservations, slabs. No device is called here.

pub mod budget;
