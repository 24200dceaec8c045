//! Precedence, origins and errors of the configuration.

use std::fs;

use super::layers::{flatten, variable};
use super::*;

fn sources(
    file: Option<&str>,
    env: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &[&str])],
) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("rocmforged.toml");
    if let Some(text) = file {
        fs::write(&path, text).expect("written");
    }
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let flags = flags.iter().map(|(k, f, v)| (*k, *f, v.iter().map(|s| (*s).to_owned()).collect())).collect();
    let around = Surroundings { uid: 0, env };
    (dir, Sources { flags, file: file.map(|_| path), around })
}

fn load(file: Option<&str>, env: &[(&str, &str)], flags: &[(&'static str, &'static str, &[&str])]) -> Effective {
    let (_dir, s) = sources(file, env, flags);
    s.load().expect("good")
}

fn refuse(file: Option<&str>, env: &[(&str, &str)]) -> String {
    let (_dir, s) = sources(file, env, &[]);
    s.load().expect_err("bad").to_string()
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for w in words {
        assert!(text.contains(w), "`{w}` is not in: {text}");
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[http]\nlisten = [\"1.1.1.1:1\"]\nmax_body = \"1MiB\"\ndrain_secs = 5\n\n[log]\nlevel = \"warn\"\n";
    let env = [("ROCMFORGE_HTTP_LISTEN", "2.2.2.2:2,unix:/s"), ("ROCMFORGE_HTTP_DRAIN_SECS", "7")];
    let e = load(Some(file), &env, &[("http.listen", "--listen", &["3.3.3.3:3", "4.4.4.4:4"])]);
    let listen: Vec<String> = e.config.http.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["3.3.3.3:3", "4.4.4.4:4"]);
    assert_eq!((e.config.http.drain_secs, e.config.http.max_body), (7, Size(1 << 20)));
    assert_eq!((e.config.log.level.as_str(), e.config.engine.max_batch), ("warn", 32));
    assert_eq!(e.origin("http.listen"), Origin::Flag("--listen"));
    assert_eq!(e.origin("http.drain_secs"), Origin::Env("ROCMFORGE_HTTP_DRAIN_SECS".into()));
    assert!(matches!(e.origin("http.max_body"), Origin::File(_, 3)));
    assert!(matches!(e.origin("log.level"), Origin::File(_, 7)));
    assert_eq!(e.origin("engine.max_batch"), Origin::Default);
    let e = load(Some(file), &env, &[]);
    assert_eq!(e.config.http.listen[1], Listen::Unix("/s".into()));
}

#[test]
fn variables_keep_text_as_text_and_lists_as_lists() {
    let env = [
        ("ROCMFORGE_STATE_DIR", "/8080"),
        ("ROCMFORGE_LOG_LEVEL", "error"),
        ("ROCMFORGE_MODELS_DIRS", "/a:/b,c"),
        ("ROCMFORGE_MODELS_PRELOAD", "x:latest, y"),
        ("ROCMFORGE_MODELS_AUTOLOAD", "false"),
        ("ROCMFORGE_ENGINE_CONTEXT", "4096"),
        ("ROCMFORGE_MEMORY_RAM_BUDGET", "50%"),
    ];
    let c = load(None, &env, &[]).config;
    assert_eq!(c.state_dir, Path::new("/8080"));
    assert_eq!(c.models.dirs, [Path::new("/a"), Path::new("/b,c")]);
    assert_eq!(c.models.preload, ["x:latest", "y"]);
    assert!(!c.models.autoload);
    assert_eq!((c.engine.context, c.memory.ram_budget), (Context::Tokens(4096), Amount::Percent(50)));
}

#[test]
fn unknown_variables_warn_with_the_nearest_and_unknown_keys_are_errors() {
    let env = [("ROCMFORGE_HTTP_LISTN", "x"), ("ROCMFORGE_TEST_X", "1"), ("ROCMFORGE_HIP_LIBRARY", "y")];
    let warnings = load(None, &env, &[]).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    says(&warnings[0], &["ROCMFORGE_HTTP_LISTN", "ROCMFORGE_HTTP_LISTEN"]);
    let text = refuse(Some("state_dir = \"/x\"\n[http]\nlisten = []\nlissten = []\n[loging]\nlevel = 1\n"), &[]);
    says(&text, &["rocmforged.toml:4: http.lissten", "did you mean http.listen", "rocmforged.toml:5: loging"]);
}

#[test]
fn errors_name_file_line_and_key() {
    says(&refuse(Some("\n[http]\n\nlisten = 5\n"), &[]), &["rocmforged.toml:4: http.listen: invalid type"]);
    says(&refuse(Some("[http]\nlisten = [\"x\"]\n"), &[]), &["rocmforged.toml:2: http.listen", "no address"]);
    says(&refuse(Some("[http]\nlisten = []\n"), &[]), &["rocmforged.toml:2: http.listen: no address to serve on"]);
    says(&refuse(Some("[http]\nlisten = [\n"), &[]), &["rocmforged.toml:"]);
    says(&refuse(Some("[http]\nmax_body = \"much\"\n"), &[]), &["rocmforged.toml:2: http.max_body", "no size"]);
    says(&refuse(Some("[engine]\nkv_type = \"q4_0\"\n"), &[]), &[":2: engine.kv_type", "q4_0", "not in this build"]);
    says(&refuse(Some("[engine]\nmax_batch = 0\n"), &[]), &[":2: engine.max_batch", "1 to 256"]);
    says(&refuse(Some("http = 5\n"), &[]), &["rocmforged.toml:1: http"]);
    says(&refuse(None, &[("ROCMFORGE_ENGINE_QUEUE", "many")]), &["environment ROCMFORGE_ENGINE_QUEUE", "engine.queue"]);
    says(&refuse(None, &[("ROCMFORGE_DEVICE_USE", "tpu")]), &["ROCMFORGE_DEVICE_USE: device.use", "auto, gpu, cpu"]);
    says(&refuse(None, &[("ROCMFORGE_CONFIG", "/none/x.toml")]), &["/none/x.toml", "no such file"]);
    says(&refuse(None, &[("ROCMFORGE_LOG_LEVEL", "=,=")]), &["log.level"]);
    says(&refuse(None, &[("ROCMFORGE_LOG_LEVEL", "inof")]), &["log.level", "`inof` is no level"]);
    assert_eq!(load(None, &[("ROCMFORGE_LOG_LEVEL", "warn,rocmforge::api=debug")], &[]).warnings.len(), 0);
}

#[test]
fn a_context_may_be_a_number_in_the_file() {
    assert_eq!(load(Some("[engine]\ncontext = 4096\n"), &[], &[]).config.engine.context, Context::Tokens(4096));
}

#[test]
fn printing_shows_every_key_and_can_be_read_again() {
    let e = load(Some("[http]\nlisten = [\"1.1.1.1:1\", \"unix:/a\"]\n"), &[], &[]);
    let text = e.print();
    says(&text, &["listen = [\"1.1.1.1:1\", \"unix:/a\"]", "rocmforged.toml:2", "# default"]);
    assert_eq!(text.lines().count(), flatten(&e.config).len());
    assert_eq!(load(Some(&text), &[], &[]).config, e.config);
}

#[test]
fn the_file_that_is_installed_lists_every_key_at_its_default() {
    let text = include_str!("../../../etc/rocmforge/rocmforged.toml");
    assert_eq!(load(Some(text), &[], &[]).config, load(None, &[], &[]).config);
    let active: String = text
        .lines()
        .map(|l| if l.starts_with('#') && !l.starts_with("# ") { &l[1..] } else { l })
        .flat_map(|l| [l, "\n"])
        .collect();
    let e = load(Some(&active), &[], &[]);
    assert_eq!(e.config, Config::defaults(&Surroundings::default()));
    for (key, _) in flatten(&e.config) {
        assert!(matches!(e.origin(&key), Origin::File(..)), "{key} is not in the file");
    }
}

#[test]
fn every_variable_is_distinct() {
    let mut names: Vec<String> =
        flatten(&Config::defaults(&Surroundings::default())).iter().map(|(k, _)| variable(k)).collect();
    assert!(names.contains(&"ROCMFORGE_STATE_DIR".to_owned()));
    let n = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), n);
}

#[test]
fn defaults_follow_the_user() {
    let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let user = Surroundings { uid: 1000, env: env(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")]) };
    let c = Config::defaults(&user);
    assert_eq!(c.admin.socket, Path::new("/run/user/1000/rocmforge/admin.sock"));
    assert_eq!(c.models.dirs, [Path::new("/home/u/.local/share/rocmforge/models")]);
    assert_eq!(c.cache_dir, Path::new("/home/u/.cache/rocmforge"));
    let service = Surroundings { uid: 990, env: env(&[("STATE_DIRECTORY", "/var/lib/rocmforge")]) };
    let c = Config::defaults(&service);
    assert_eq!(c.admin.socket, Path::new("/run/rocmforge/admin.sock"));
    assert_eq!(c.models.dirs, [Path::new("/var/lib/rocmforge/models")]);
}

#[test]
fn changes_are_named_by_key() {
    let old = load(None, &[], &[]).config;
    let new = load(None, &[("ROCMFORGE_LOG_LEVEL", "debug"), ("ROCMFORGE_HTTP_LISTEN", "1.1.1.1:1")], &[]);
    assert_eq!(new.changed(&old), ["http.listen", "log.level"]);
}
