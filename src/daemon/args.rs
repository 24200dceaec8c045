//! The command line of `rocmforged`.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::Parser;

use super::config::{Sources, Surroundings};
use super::offline::Offline;
use crate::backend::hip::objects;

/// What the build holds, for `--version`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let gpu = match objects::ABSENT {
        None => format!("GPU kernels: {} ({})", objects::TARGETS.join(" "), objects::COMPILER),
        Some(why) => format!("GPU kernels: none, this binary runs on the CPU only ({why})"),
    };
    format!("{}\nCPU kernels: scalar avx2 avx512 amx\n{gpu}", env!("CARGO_PKG_VERSION"))
});

/// Runs GGUF language models and serves the OpenAI API.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "rocmforged", version = env!("CARGO_PKG_VERSION"), long_version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Work without a server.
    #[command(subcommand)]
    pub offline: Option<Offline>,
    /// Configuration file [default: /etc/rocmforge/rocmforged.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address to serve on, host:port or unix:/path (repeatable) [default: 127.0.0.1:11535]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Path of the admin socket
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<String>,
    /// Folder with GGUF files (repeatable)
    #[arg(long, value_name = "DIR")]
    pub models_dir: Vec<String>,
    /// Folder for state (nothing is kept there yet)
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// Folder for what can be made again (nothing is kept there yet)
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<String>,
    /// Model to load at start, an id or a path (repeatable)
    #[arg(long, value_name = "MODEL")]
    pub preload: Vec<String>,
    /// Device to run on: auto, gpu or cpu
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Check the configuration and exit (78 if it is bad)
    #[arg(long)]
    pub check_config: bool,
    /// Print every value in force with where it came from, and exit
    #[arg(long)]
    pub print_config: bool,
}

impl Args {
    /// Where the configuration comes from with these flags.
    pub fn sources(self, around: Surroundings) -> Sources {
        let one = |v: Option<String>| v.into_iter().collect::<Vec<_>>();
        // A path of the command line is relative to where it was typed.
        let path = |v: String| std::path::absolute(&v).map_or(v, |p| p.to_string_lossy().into_owned());
        let paths = |v: Vec<String>| v.into_iter().map(path).collect::<Vec<_>>();
        // A preloaded model is an id, or a path if it looks like one.
        let model = |v: String| if v.contains('/') { path(v) } else { v };
        let flags = vec![
            ("http.listen", "--listen", self.listen),
            ("admin.socket", "--admin-socket", paths(one(self.admin_socket))),
            ("models.dirs", "--models-dir", paths(self.models_dir)),
            ("state_dir", "--state-dir", paths(one(self.state_dir))),
            ("cache_dir", "--cache-dir", paths(one(self.cache_dir))),
            ("models.preload", "--preload", self.preload.into_iter().map(model).collect()),
            ("device.use", "--device", one(self.device)),
        ];
        let flags = flags.into_iter().filter(|(_, _, values)| !values.is_empty()).collect();
        Sources { flags, file: self.config, around }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::daemon::config::Origin;

    #[test]
    fn flags_reach_their_keys() {
        Args::command().debug_assert();
        let line = "rocmforged --listen 1.1.1.1:1 --listen unix:/a --admin-socket /s --models-dir rel --state-dir /st \
                    --cache-dir /c --preload x --preload ./y.gguf --device cpu";
        let args = Args::try_parse_from(line.split_whitespace()).expect("parsed");
        let e = args.sources(Surroundings::default()).load().expect("good");
        let c = &e.config;
        assert_eq!(c.http.listen.len(), 2);
        assert_eq!((c.admin.socket.to_str(), c.state_dir.to_str()), (Some("/s"), Some("/st")));
        assert!(c.models.dirs[0].is_absolute() && c.models.dirs[0].ends_with("rel"));
        assert_eq!(c.models.preload[0], "x");
        assert!(c.models.preload[1].starts_with('/') && c.models.preload[1].ends_with("y.gguf"));
        assert_eq!((c.device.kind.as_str(), c.cache_dir.to_str()), ("cpu", Some("/c")));
        for key in
            ["http.listen", "admin.socket", "models.dirs", "state_dir", "cache_dir", "models.preload", "device.use"]
        {
            assert!(matches!(e.origin(key), Origin::Flag(_)), "{key}");
        }
    }
}
