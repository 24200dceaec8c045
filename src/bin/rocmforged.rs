//! `rocmforged`: the daemon. See docs/INTERFACE.md.

fn main() {}
