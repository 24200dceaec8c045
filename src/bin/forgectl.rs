//! `forgectl`: drives the daemon over its admin socket. See docs/INTERFACE.md.

use rocmforge::backend::hip::objects;
use rocmforge::probe::doctor::Build;

fn main() -> std::process::ExitCode {
    // `ctl` sees no backend; what the build has for GPUs is passed on here.
    rocmforge::ctl::main(Build { targets: objects::TARGETS, absent: objects::ABSENT })
}
