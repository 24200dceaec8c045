//! The command line of `forgectl`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

/// Drives rocmforged over its admin socket.
///
/// Results go to stdout, progress and notes to stderr. Exit status: 0 done, 1 failed, 2 usage,
/// 3 daemon unreachable, 4 permission, 5 not found, 124 timeout.
#[derive(Clone, Debug, Parser)]
#[command(name = "forgectl", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Admin socket [default: this user's if it is there, else /run/rocmforge/admin.sock]
    #[arg(long, global = true, env = "FORGECTL_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Give up after so long (30s, 5m) with exit status 124
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// A verb.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// What the daemon is doing: device, memory, loaded models
    Status,
    /// Load a model, by name or file
    Load(Load),
    /// Unload a model and say how much memory came back
    #[command(visible_alias = "unload")]
    Evict {
        /// Model
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        model: String,
        /// Abort its running requests instead of waiting for them
        #[arg(long)]
        now: bool,
    },
    /// What loading models, one after the other, would do: device, bytes, who would have to go
    Plan {
        /// Models, in the order of their loads
        #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
        models: Vec<String>,
    },
    /// Models that are loaded
    Ps,
    /// Models that there are
    Ls,
    /// Everything about one model
    Show {
        /// Model
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        model: String,
    },
    /// Speed and queues of loaded models
    Stats {
        /// Only this model
        model: Option<String>,
    },
    /// Never unload a model to make room
    Pin {
        /// Model
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        model: String,
    },
    /// Allow a model to be unloaded again
    Unpin {
        /// Model
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        model: String,
    },
    /// Devices, what they hold, and why they are used or not
    Devices,
    /// Decisions the daemon took
    Events {
        /// Go on as they are taken
        #[arg(short, long)]
        follow: bool,
    },
    /// Requests in flight
    Requests,
    /// Cancel a request
    Cancel {
        /// Its id, as `requests` and `x-request-id` show it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
    },
    /// Why things are as they are: decisions, of one model or all
    Why {
        /// Only about this model
        model: Option<String>,
    },
    /// Read the configuration again; loaded models stay
    Reload,
    /// Finish running requests, then stop the daemon
    Drain,
    /// Measure prefill and decode speed
    Bench(Bench),
    /// Test each kernel of each GPU against the CPU; status 1 if one is wrong
    Selftest,
    /// Ask a model; without a prompt, a conversation
    Run(Run),
    /// What keeps models from the GPUs, and how to mend it; works without the daemon
    Doctor {
        /// Look at the machine whose files lie below this folder
        #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
        root: PathBuf,
    },
}

/// `load`
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Name, or path of a GGUF file (the first part of a split one)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub model: String,
    /// Give it another name
    #[arg(long)]
    pub name: Option<String>,
    /// Largest context of a request, in tokens
    #[arg(long, value_name = "N")]
    pub ctx: Option<u32>,
    /// Type of the KV cache: f16, f32 or q8_0
    #[arg(long, value_name = "TYPE")]
    pub kv_type: Option<String>,
    /// Where it runs: auto, gpu or cpu
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Layers on the GPU
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<u32>,
    /// Never unload it to make room
    #[arg(long)]
    pub pin: bool,
    /// Unload it after so long without a request (10m)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// Do not wait until it is loaded
    #[arg(long)]
    pub no_wait: bool,
}

/// `bench`
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Model (loaded if needed)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub model: String,
    /// Prompt tokens of the prefill run; 0 leaves it out
    #[arg(short = 'p', long, default_value_t = 512, value_name = "N")]
    pub n_prompt: u32,
    /// Tokens of the decode run; 0 leaves it out
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N")]
    pub n_gen: u32,
    /// Tokens in the context before each run
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    pub depth: u32,
    /// Sequences at once
    #[arg(short, long, default_value_t = 1, value_name = "N")]
    pub batch: u32,
    /// Repetitions
    #[arg(short, long, default_value_t = 3, value_name = "N")]
    pub repetitions: u32,
}

/// `run`
#[derive(Clone, Debug, Default, Args)]
pub struct Run {
    /// Model (loaded if needed)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub model: String,
    /// Prompt; `-` or none reads it from stdin, unless that is a terminal
    pub prompt: Option<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens to generate
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u32>,
    /// Randomness; 0 takes the likeliest token
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Sample from the likeliest tokens that have this probability together
    #[arg(long, value_name = "X")]
    pub top_p: Option<f32>,
    /// Same seed, same text
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Continue the prompt as plain text
    #[arg(long, conflicts_with = "chat")]
    pub raw: bool,
    /// Use a chat template even if the model has none of its own
    #[arg(long)]
    pub chat: bool,
    /// No statistics at the end
    #[arg(short, long)]
    pub quiet: bool,
}

/// A duration: `90`, `30s`, `5m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|e| e.to_string());
    parsed.and_then(|d| Duration::try_from(d).map_err(|_| "a time is not negative".to_owned()))
}

/// What the daemon shall load: a name as it is, a path as an absolute one.
pub fn model(given: &str, here: &Path) -> String {
    let looks_like_a_path = given.contains('/') || given.to_ascii_lowercase().ends_with(".gguf");
    if looks_like_a_path || here.join(given).is_file() {
        let path = here.join(given);
        // The daemon does not know this folder, and must not be led by a link that changes.
        return path.canonicalize().unwrap_or(path).to_string_lossy().into_owned();
    }
    given.to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn verbs_and_options_parse() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let c = parse("forgectl load m --ctx 4096 --ttl 10m --pin --json --timeout 5s").expect("good");
        assert!(c.json);
        assert_eq!(c.timeout, Some(Duration::from_secs(5)));
        let Verb::Load(l) = c.verb else { panic!("load") };
        assert_eq!((l.ctx, l.ttl, l.pin), (Some(4096), Some(Duration::from_secs(600)), true));
        assert!(matches!(parse("forgectl unload m --now").expect("alias").verb, Verb::Evict { now: true, .. }));
        assert_eq!(parse("forgectl frobnicate").expect_err("unknown").exit_code(), 2);
        assert!(parse("forgectl run m hi --raw --chat").is_err());
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert!(duration("-5s").is_err() && duration("soon").is_err());
    }

    #[test]
    fn files_become_absolute_and_names_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let here = dir.path().canonicalize().expect("real");
        std::fs::write(here.join("m.gguf"), "x").expect("written");
        std::fs::write(here.join("plain"), "x").expect("written");
        let absolute = |name: &str| here.join(name).to_string_lossy().into_owned();
        assert_eq!(model("m.gguf", &here), absolute("m.gguf"));
        assert_eq!(model("./m.gguf", &here), absolute("m.gguf"));
        assert_eq!(model("plain", &here), absolute("plain"));
        assert_eq!(model("gone.gguf", &here), absolute("gone.gguf"));
        assert_eq!(model("Qwen2.5-1.5B", &here), "Qwen2.5-1.5B");
        assert_eq!(model("name:tag", &here), "name:tag");
    }
}
