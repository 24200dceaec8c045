//! The daemon: configuration, startup and shutdown order, systemd.
//!
//! Start: configuration, log, limits, listeners (bound, not yet accepting), the house behind them,
//! accepting, READY. Stop: listeners close, requests finish until the deadline, connections end,
//! the house goes, exit 0. A second signal skips the waiting.

mod args;
pub mod config;
mod devices;
mod heap;
pub mod house;
mod listen;
mod log;
mod offline;
mod run;
mod selftest;
mod serve;
mod signals;
mod systemd;
pub mod tenant;
mod watchdog;

use std::process::ExitCode;

use clap::Parser;

pub use args::Args;
use config::Surroundings;
use house::{House, Site};

/// Exit status for a bad configuration (`EX_CONFIG`); the unit does not restart on it.
const EXIT_CONFIG: u8 = 78;

/// `rocmforged`, from its command line to its exit status. `build` makes what is served.
pub fn main(build: impl FnOnce(Site) -> anyhow::Result<House>) -> ExitCode {
    heap::give_back_freed();
    let systemd = systemd::Systemd::take();
    let mut args = Args::parse();
    if let Some(offline) = args.offline.take() {
        return offline.run();
    }
    let (check, print) = (args.check_config, args.print_config);
    let around = Surroundings::of_process();
    let journal = around.var("JOURNAL_STREAM").is_some();
    let sources = args.sources(around);
    let effective = match sources.load() {
        Ok(e) => e,
        Err(e) => {
            say(&format!("rocmforged: bad configuration\n{e}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if check || print {
        for w in &effective.warnings {
            say(&format!("warning: {w}"));
        }
        if print {
            // A reader that has gone wants no more.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), effective.print().as_bytes());
        }
        return ExitCode::SUCCESS;
    }
    let level = log::start(&effective.config.log, journal);
    match run::run(sources, effective, systemd, level, build) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line to stderr. `eprintln!` would panic where stderr is a full disk.
fn say(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
