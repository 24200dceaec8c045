//! Joining flag, environment, file and default, with the place of each value for errors.
//!
//! figment merges the layers and reads the result; its own providers guess types (an address
//! `8080` becomes a number) and know no lines, so these are ours: see [`Layer`] and [`File`].

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::Value as Json;
use toml::de::{DeTable, DeValue};

use super::{Config, DEFAULT_FILE, Surroundings, check, print};
use crate::base::limits;
use crate::base::name::nearest;

/// Lists whose items are separated by `:`, as in `$PATH`; all others are separated by `,`.
const PATH_LISTS: &[&str] = &["models.dirs"];
/// Variables with the prefix that are no keys.
const OTHER_VARIABLES: &[&str] = &["ROCMFORGE_CONFIG", "ROCMFORGE_HIP_LIBRARY"];
const PREFIX: &str = "ROCMFORGE_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, with the line (from 1).
    File(PathBuf, usize),
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What is wrong with the configuration, a line each: place, key, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// The configuration in force, and how it came about.
#[derive(Clone, Debug)]
pub struct Effective {
    /// All values.
    pub config: Config,
    /// What deserves a warning in the log.
    pub warnings: Vec<String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    origins: BTreeMap<String, Origin>,
}

impl Effective {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The text of `--print-config`.
    pub fn print(&self) -> String {
        print::print(self)
    }

    /// Keys whose values differ from `other`'s.
    pub fn changed(&self, other: &Config) -> Vec<String> {
        let (new, old) = (flatten(&self.config), flatten(other));
        new.into_iter().filter(|(k, v)| old.iter().any(|(o, w)| o == k && w != v)).map(|(k, _)| k).collect()
    }
}

/// Everything that the configuration is made from; reading it again makes it anew (SIGHUP).
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// (key, flag, values) of each flag that was given.
    pub flags: Vec<(&'static str, &'static str, Vec<String>)>,
    /// `--config`.
    pub file: Option<PathBuf>,
    /// User and environment.
    pub around: Surroundings,
}

impl Sources {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with a line for each mistake.
    pub fn load(&self) -> Result<Effective, ConfigError> {
        let defaults = Config::defaults(&self.around);
        let keys = flatten(&defaults);
        let mut origins = BTreeMap::new();
        let file = self.file(&keys)?;
        for (key, line) in &file.lines {
            origins.insert(key.clone(), Origin::File(file.path.clone(), *line));
        }
        let (env, warnings) = self.environment(&keys, &mut origins)?;
        let flags = self.given(&keys, &mut origins)?;
        let figment =
            Figment::from(figment::providers::Serialized::defaults(&defaults)).merge(&file).merge(env).merge(flags);
        let place = |key: &str| match origins.get(key).unwrap_or(&Origin::Default) {
            Origin::Default => key.to_owned(),
            origin => format!("{origin}: {key}"),
        };
        let config: Config = figment.extract().map_err(|e| {
            ConfigError(
                e.into_iter()
                    .map(|e| {
                        let path: Vec<&str> = e.path.iter().map(String::as_str).collect();
                        let key = known_prefix(&path, &keys);
                        format!("{}: {}", place(&key), e.kind)
                    })
                    .collect(),
            )
        })?;
        let bad = check::check(&config);
        if !bad.is_empty() {
            return Err(ConfigError(bad.into_iter().map(|(key, why)| format!("{}: {why}", place(key))).collect()));
        }
        let path = file.read.then_some(file.path);
        Ok(Effective { config, warnings, file: path, origins })
    }

    fn file(&self, keys: &[(String, Json)]) -> Result<File, ConfigError> {
        let named = self.file.clone().or_else(|| self.around.var("ROCMFORGE_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let fail = |why: String| ConfigError(vec![format!("{}: {why}", path.display())]);
        match read(&path) {
            Ok(text) => File::parse(path, &text, keys),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(File::absent(path)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(fail("there is no such file; --config and ROCMFORGE_CONFIG must name one that exists".to_owned()))
            }
            Err(e) => Err(fail(format!("cannot be read: {e}"))),
        }
    }

    /// The layer of the environment, and warnings about variables that are no keys.
    fn environment(
        &self,
        keys: &[(String, Json)],
        origins: &mut BTreeMap<String, Origin>,
    ) -> Result<(Layer, Vec<String>), ConfigError> {
        let variables: Vec<String> = keys.iter().map(|(k, _)| variable(k)).collect();
        let (mut layer, mut bad, mut warnings) = (Layer::new("environment"), Vec::new(), Vec::new());
        for (name, value) in self.around.env.iter().filter(|(n, _)| n.starts_with(PREFIX)) {
            let Some(i) = variables.iter().position(|v| v == name) else {
                if !OTHER_VARIABLES.contains(&name.as_str()) && !name.starts_with("ROCMFORGE_TEST_") {
                    let near = nearest(name, variables.iter().map(String::as_str));
                    let hint = near.first().map_or(String::new(), |n| format!("; did you mean {n}?"));
                    warnings.push(format!("the environment variable {name} is not known and has no effect{hint}"));
                }
                continue;
            };
            let (key, default) = &keys[i];
            match scalar(key, default, value) {
                Ok(v) => {
                    layer.set(key, v);
                    origins.insert(key.clone(), Origin::Env(name.clone()));
                }
                Err(why) => bad.push(format!("environment {name}: {key}: {why}")),
            }
        }
        if bad.is_empty() { Ok((layer, warnings)) } else { Err(ConfigError(bad)) }
    }

    fn given(&self, keys: &[(String, Json)], origins: &mut BTreeMap<String, Origin>) -> Result<Layer, ConfigError> {
        let mut layer = Layer::new("flags");
        for (key, flag, values) in &self.flags {
            let list = keys.iter().any(|(k, default)| k == key && default.is_array());
            let value = match values.first() {
                Some(one) if !list => Value::from(one.as_str()),
                _ => Value::from(values.iter().map(|v| Value::from(v.as_str())).collect::<Vec<_>>()),
            };
            layer.set(key, value);
            origins.insert((*key).to_owned(), Origin::Flag(flag));
        }
        Ok(layer)
    }
}

/// The environment variable of a key: `http.max_body` is `ROCMFORGE_HTTP_MAX_BODY`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// All keys of a configuration with their values, in order.
pub(super) fn flatten(config: &Config) -> Vec<(String, Json)> {
    fn walk(prefix: &str, value: Json, out: &mut Vec<(String, Json)>) {
        match value {
            Json::Object(map) => {
                for (k, v) in map {
                    walk(&if prefix.is_empty() { k } else { format!("{prefix}.{k}") }, v, out);
                }
            }
            v => out.push((prefix.to_owned(), v)),
        }
    }
    let mut out = Vec::new();
    // A path that is not UTF-8 is the one thing that cannot be serialized; it has no key to show.
    walk("", serde_json::to_value(config).unwrap_or_default(), &mut out);
    out
}

/// The longest beginning of `path` that is a key (an error may point into a list).
fn known_prefix(path: &[&str], keys: &[(String, Json)]) -> String {
    (1..=path.len())
        .map(|n| path[..n].join("."))
        .find(|p| keys.iter().any(|(k, _)| k == p))
        .unwrap_or_else(|| path.join("."))
}

/// A variable's text as the type that the key's default has.
fn scalar(key: &str, default: &Json, text: &str) -> Result<Value, String> {
    Ok(match default {
        Json::Bool(_) => match text {
            "true" | "1" | "yes" | "on" => Value::from(true),
            "false" | "0" | "no" | "off" => Value::from(false),
            _ => return Err(format!("`{text}` is neither true nor false")),
        },
        Json::Number(_) => Value::from(text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no whole number"))?),
        Json::Array(_) => {
            let separator = if PATH_LISTS.contains(&key) { ':' } else { ',' };
            let items = text.split(separator).map(str::trim).filter(|s| !s.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
        _ => Value::from(text),
    })
}

/// Values by key, as a provider for figment.
struct Layer {
    name: &'static str,
    dict: Dict,
}

impl Layer {
    fn new(name: &'static str) -> Self {
        Self { name, dict: Dict::new() }
    }

    fn set(&mut self, key: &str, value: Value) {
        let Some((table, leaf)) = key.split_once('.') else {
            self.dict.insert(key.to_owned(), value);
            return;
        };
        let entry = self.dict.entry(table.to_owned()).or_insert_with(|| Value::from(Dict::new()));
        if let Value::Dict(_, dict) = entry {
            dict.insert(leaf.to_owned(), value);
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// The file: its values, and the line of each key.
struct File {
    path: PathBuf,
    read: bool,
    dict: Dict,
    lines: Vec<(String, usize)>,
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(limits::CONFIG_FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limits::CONFIG_FILE_MAX {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

impl File {
    fn absent(path: PathBuf) -> Self {
        Self { path, read: false, dict: Dict::new(), lines: Vec::new() }
    }

    fn parse(path: PathBuf, text: &str, keys: &[(String, Json)]) -> Result<Self, ConfigError> {
        let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        let syntax = |e: toml::de::Error| {
            let at = e.span().map_or(String::new(), |s| format!(":{}", line(s.start)));
            ConfigError(vec![format!("{}{at}: {}", path.display(), e.message())])
        };
        let tree = DeTable::parse(text).map_err(syntax)?;
        let (mut lines, mut unknown) = (Vec::new(), Vec::new());
        walk("", tree.get_ref(), keys, &mut |key, at, known| match known {
            true => lines.push((key, line(at))),
            false => {
                let near = nearest(&key, keys.iter().map(|(k, _)| k.as_str()));
                let hint = near.first().map_or(String::new(), |n| format!("; did you mean {n}?"));
                unknown.push(format!("{}:{}: {key}: there is no such key{hint}", path.display(), line(at)));
            }
        });
        if !unknown.is_empty() {
            return Err(ConfigError(unknown));
        }
        let table: toml::Table = toml::from_str(text).map_err(syntax)?;
        let dict = match Value::serialize(&table) {
            Ok(Value::Dict(_, dict)) => dict,
            _ => return Err(ConfigError(vec![format!("{}: is no table", path.display())])),
        };
        Ok(Self { path, read: true, dict, lines })
    }
}

/// Calls `found(key, offset, known)` for each key of the file that is one, or that is none.
fn walk(prefix: &str, table: &DeTable<'_>, keys: &[(String, Json)], found: &mut dyn FnMut(String, usize, bool)) {
    for (name, value) in table.iter() {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        let inside = format!("{key}.");
        match value.get_ref() {
            _ if keys.iter().any(|(k, _)| *k == key) => found(key, name.span().start, true),
            DeValue::Table(t) if keys.iter().any(|(k, _)| k.starts_with(&inside)) => walk(&key, t, keys, found),
            _ => found(key, name.span().start, false),
        }
    }
}

impl Provider for &File {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", figment::Source::Custom(self.path.display().to_string()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}
