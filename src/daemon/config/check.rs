//! Values that parse but make no sense, key by key.

use super::Config;
use crate::base::limits;

/// (key, what is wrong) of each value that cannot be used.
pub(super) fn check(c: &Config) -> Vec<(&'static str, String)> {
    let mut bad = Vec::new();
    one_of(&mut bad, "device.use", &c.device.kind, &["auto", "gpu", "cpu"]);
    one_of(&mut bad, "cpu.simd", &c.cpu.simd, &["auto", "scalar", "avx2", "avx512", "amx"]);
    one_of(&mut bad, "log.format", &c.log.format, &["auto", "text", "json", "journald"]);
    match c.engine.kv_type.as_str() {
        "f16" | "f32" | "q8_0" => {}
        t @ ("bf16" | "q4_0") => {
            bad.push(("engine.kv_type", format!("`{t}` is not in this build yet; use f16, f32 or q8_0")));
        }
        t => bad.push(("engine.kv_type", format!("`{t}` is none of f16, f32, q8_0"))),
    }
    within(&mut bad, "cpu.threads", c.cpu.threads as u64, 0, limits::CPU_THREADS_MAX as u64);
    within(&mut bad, "engine.max_batch", c.engine.max_batch as u64, 1, limits::MAX_BATCH_CAP as u64);
    within(&mut bad, "engine.queue", c.engine.queue as u64, 1, limits::ENGINE_QUEUE_CAP as u64);
    within(&mut bad, "engine.cache_min", c.engine.cache_min.into(), 1, limits::CONTEXT_MAX.into());
    within(&mut bad, "http.max_body", c.http.max_body.0, 1024, 1 << 30);
    within(&mut bad, "http.drain_secs", c.http.drain_secs, 0, 3600);
    if c.http.listen.is_empty() {
        bad.push(("http.listen", "no address to serve on".to_owned()));
    }
    if let Err(why) = level(&c.log.level) {
        bad.push(("log.level", format!("`{}`: {why}; use error, warn, info, debug or trace", c.log.level)));
    }
    let folders = [("state_dir", &c.state_dir), ("cache_dir", &c.cache_dir), ("admin.socket", &c.admin.socket)];
    for (key, path) in folders.into_iter().chain(c.models.dirs.iter().map(|d| ("models.dirs", d))) {
        if !path.is_absolute() {
            bad.push((key, format!("`{}` is not an absolute path", path.display())));
        }
    }
    bad
}

/// A filter as tracing reads it, but for one thing: it takes a misspelt level for a module's name.
fn level(filter: &str) -> Result<(), String> {
    for word in filter.split(',').map(str::trim) {
        if !word.contains(['=', '[']) && word.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
            return Err(format!("`{word}` is no level"));
        }
    }
    tracing_subscriber::EnvFilter::try_new(filter).map(|_| ()).map_err(|e| e.to_string())
}

fn one_of(bad: &mut Vec<(&'static str, String)>, key: &'static str, value: &str, known: &[&str]) {
    if !known.contains(&value) {
        bad.push((key, format!("`{value}` is none of {}", known.join(", "))));
    }
}

fn within(bad: &mut Vec<(&'static str, String)>, key: &'static str, value: u64, min: u64, max: u64) {
    if !(min..=max).contains(&value) {
        bad.push((key, format!("{value} is not within {min} to {max}")));
    }
}
