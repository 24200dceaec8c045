//! `rocmforged`: the daemon. See docs/INTERFACE.md.

fn main() -> std::process::ExitCode {
    rocmforge::daemon::main(|_site| anyhow::bail!("the registry and the API are not joined yet"))
}
