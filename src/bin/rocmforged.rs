//! `rocmforged`: the daemon. See docs/INTERFACE.md.

fn main() -> std::process::ExitCode {
    rocmforge::daemon::main(rocmforge::daemon::tenant::build)
}
