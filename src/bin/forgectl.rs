//! `forgectl`: drives the daemon over its admin socket. See docs/INTERFACE.md.

fn main() -> std::process::ExitCode {
    rocmforge::ctl::main()
}
