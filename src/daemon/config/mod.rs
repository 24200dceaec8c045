//! The configuration: every key with its default, read from flag, environment, file and default,
//! in this order of precedence. docs/INTERFACE.md has the same table.
//!
//! The table of keys is the serialized default: a new key is a field here and a line in
//! `etc/rocmforge/rocmforged.toml`; its variable's name follows from its own.

mod check;
mod layers;
mod print;
pub mod values;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::limits;
use crate::proto::socket;
pub use layers::{ConfigError, Effective, Origin, Sources};
pub use print::InForce;
pub use values::{Amount, Context, Listen, Reserve, Size};

/// The file that is read if none is named.
pub const DEFAULT_FILE: &str = "/etc/rocmforge/rocmforged.toml";

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where state lives.
    pub state_dir: PathBuf,
    /// Where what can be made again lives.
    pub cache_dir: PathBuf,
    /// The public side.
    pub http: Http,
    /// The admin socket.
    pub admin: Admin,
    /// Where models are, and which are loaded at start.
    pub models: Models,
    /// Which device.
    pub device: Device,
    /// The processor.
    pub cpu: Cpu,
    /// Budgets of memory.
    pub memory: Memory,
    /// Engines.
    pub engine: Engine,
    /// The log.
    pub log: Log,
}

/// `http.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Addresses to serve on.
    pub listen: Vec<Listen>,
    /// Largest body of a request.
    pub max_body: Size,
    /// Seconds that a stop waits for running requests.
    pub drain_secs: u64,
}

/// `admin.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admin {
    /// Path of the admin socket.
    pub socket: PathBuf,
}

/// `models.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// Folders with models.
    pub dirs: Vec<PathBuf>,
    /// Models loaded at start: ids or paths.
    pub preload: Vec<String>,
    /// Load a model of the catalog when a request names it.
    pub autoload: bool,
}

/// `device.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `auto`, `gpu` or `cpu`.
    #[serde(rename = "use")]
    pub kind: String,
    /// Use a GPU that shares the processor's memory.
    pub allow_igpu: bool,
}

/// `cpu.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Worker threads; 0 = physical cores.
    pub threads: usize,
    /// Vector instructions: `auto`, `scalar`, `avx2`, `avx512` or `amx`.
    pub simd: String,
}

/// `memory.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory of the host that models may take.
    pub ram_budget: Amount,
    /// Memory of each GPU that models may take.
    pub gpu_budget: Amount,
    /// Memory of each GPU that is left to others.
    pub gpu_reserve: Reserve,
}

/// `engine.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Sequences decoded together.
    pub max_batch: usize,
    /// Requests that may wait for a model.
    pub queue: usize,
    /// Largest context of a request.
    pub context: Context,
    /// Tokens of cache reserved at load.
    pub cache_min: u32,
    /// Type of the KV cache's elements.
    pub kv_type: String,
}

/// `log.*`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// `error` to `trace`, or a filter as tracing's `EnvFilter` reads it.
    pub level: String,
    /// `auto`, `text`, `json` or `journald`.
    pub format: String,
}

/// Where the process runs, for the defaults that depend on it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Effective user id.
    pub uid: u32,
    /// Environment, as (name, value).
    pub env: Vec<(String, String)>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect();
        Self { uid: nix::unistd::geteuid().as_raw(), env }
    }

    /// A variable that is set and not empty.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Root, or a service of systemd with a state folder of its own.
    pub fn system(&self) -> bool {
        self.uid == 0 || self.var("STATE_DIRECTORY").is_some()
    }

    fn home(&self, xdg: &str, fallback: &str) -> PathBuf {
        match self.var(xdg).filter(|d| d.starts_with('/')) {
            Some(dir) => Path::new(dir).join("rocmforge"),
            None => Path::new(self.var("HOME").unwrap_or("/")).join(fallback).join("rocmforge"),
        }
    }
}

impl Config {
    /// The defaults for a process in `around`.
    pub fn defaults(around: &Surroundings) -> Self {
        let (state_dir, cache_dir, models, admin) = if around.system() {
            let dir = |var, path: &str| PathBuf::from(around.var(var).unwrap_or(path));
            let state = dir("STATE_DIRECTORY", "/var/lib/rocmforge");
            let models = state.join("models");
            (state, dir("CACHE_DIRECTORY", "/var/cache/rocmforge"), models, socket::SYSTEM.into())
        } else {
            let state = around.home("XDG_STATE_HOME", ".local/state");
            let models = around.home("XDG_DATA_HOME", ".local/share").join("models");
            let run = socket::of_user(around.var("XDG_RUNTIME_DIR"), around.uid);
            (state, around.home("XDG_CACHE_HOME", ".cache"), models, run)
        };
        Self {
            state_dir,
            cache_dir,
            http: Http {
                listen: vec![Listen::Tcp("127.0.0.1:11535".to_owned())],
                max_body: Size(limits::HTTP_BODY_MAX),
                drain_secs: limits::DRAIN_SECS,
            },
            admin: Admin { socket: admin },
            models: Models { dirs: vec![models], preload: Vec::new(), autoload: true },
            device: Device { kind: "auto".to_owned(), allow_igpu: false },
            cpu: Cpu { threads: 0, simd: "auto".to_owned() },
            memory: Memory { ram_budget: Amount::Auto, gpu_budget: Amount::Auto, gpu_reserve: Reserve::Auto },
            engine: Engine {
                max_batch: limits::MAX_BATCH,
                queue: limits::ENGINE_QUEUE,
                context: Context::Auto,
                cache_min: limits::CACHE_MIN_TOKENS,
                kv_type: "f16".to_owned(),
            },
            log: Log { level: "info".to_owned(), format: "auto".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests;
