//! Answers as text for people.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};

use super::human::{ago, bytes, clean, count, seconds};
use crate::proto::admin::{
    BenchResult, Decision, Device, Evicted, Model, ModelBytes, ModelDetail, ModelState, ModelStats, Outcome, Planned,
    PlannedShare, RequestInfo, Status,
};

/// A table without lines; columns whose title begins with `>` are aligned to the right.
fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut t = Table::new();
    t.load_style(NOTHING);
    t.set_header(titles.iter().map(|h| h.trim_start_matches('>')).collect::<Vec<_>>());
    for row in rows {
        t.add_row(row.iter().zip(titles).map(|(text, title)| {
            let side = if title.starts_with('>') { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(clean(text)).set_alignment(side)
        }));
    }
    for (column, title) in t.column_iter_mut().zip(titles) {
        column.set_padding((0, 2));
        if title.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = t.trim_fmt();
    out.push('\n');
    out
}

fn state(m: &Model) -> String {
    let name = match m.state {
        ModelState::Absent => "-",
        ModelState::Queued => "queued",
        ModelState::Loading => "loading",
        ModelState::Ready => "ready",
        ModelState::Draining => "draining",
        ModelState::Failed => "failed",
    };
    if m.pinned { format!("{name} (pinned)") } else { name.to_owned() }
}

fn or_dash(v: Option<impl ToString>) -> String {
    v.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn held(m: &Model) -> u64 {
    m.bytes.map_or(0, |b| b.weights + b.cache + b.activations + b.tables)
}

fn failures<'a>(models: impl Iterator<Item = &'a Model>) -> String {
    models.filter_map(|m| Some(format!("{}: {}\n", clean(&m.id), clean(m.reason.as_deref()?)))).collect()
}

/// `ls`
pub fn ls(models: &[Model]) -> String {
    if models.is_empty() {
        return "no models; put GGUF files into a folder of models.dirs, or load one by its path\n".to_owned();
    }
    let rows = models.iter().map(|m| {
        let name = [std::slice::from_ref(&m.id), &m.aliases[..]].concat().join(", ");
        vec![
            name,
            bytes(m.file_bytes),
            or_dash(m.architecture.as_ref()),
            or_dash(m.n_params.map(count)),
            or_dash(m.quantization.as_ref()),
            or_dash(m.n_ctx_train),
            state(m),
        ]
    });
    let titles = ["NAME", ">SIZE", "ARCHITECTURE", ">PARAMETERS", "TYPE", ">CONTEXT", "STATE"];
    table(&titles, rows) + &failures(models.iter())
}

/// `ps`; `now` is the Unix time in seconds.
pub fn ps(models: &[Model], now: f64) -> String {
    let loaded: Vec<&Model> = models.iter().filter(|m| m.state != ModelState::Absent).collect();
    if loaded.is_empty() {
        return "no model is loaded\n".to_owned();
    }
    let rows = loaded.iter().map(|m| {
        vec![
            m.id.clone(),
            state(m),
            or_dash(m.device.as_ref()),
            or_dash(m.bytes.map(|_| bytes(held(m)))),
            or_dash(m.bytes.map(|b| bytes(b.cache))),
            or_dash(m.context),
            m.leases.to_string(),
            m.last_use.map_or("never".to_owned(), |t| ago(now - t)),
        ]
    });
    let titles = ["NAME", "STATE", "DEVICE", ">MEMORY", ">CACHE", ">CONTEXT", ">REQUESTS", "LAST USE"];
    table(&titles, rows) + &failures(loaded.into_iter())
}

/// `plan`
pub fn plan(all: &[Planned]) -> String {
    let rows = all.iter().flat_map(|p| {
        let outcome = match p.outcome {
            Outcome::Ready => "is loaded".to_owned(),
            Outcome::Fits => "fits".to_owned(),
            Outcome::Evicts => format!("evicts {}", p.evicts.iter().map(|id| clean(id)).collect::<Vec<_>>().join(", ")),
            Outcome::Refused => "refused".to_owned(),
        };
        let row = |device: String, numbers: Vec<String>, first: bool| {
            let only = |text: String| if first { text } else { String::new() };
            let mut row = vec![only(p.id.clone()), device];
            row.extend(numbers);
            row.extend([only(seconds(p.load_s)), only(outcome.clone())]);
            row
        };
        let share = |(i, s): (usize, &PlannedShare)| {
            let b = s.bytes;
            let free = if p.outcome == Outcome::Ready { "-".to_owned() } else { bytes(s.free) };
            let rest = b.activations + b.tables;
            let numbers = [b.weights, b.cache, rest, b.weights + b.cache + rest].map(bytes).into_iter().chain([free]);
            row(s.device.clone(), numbers.collect(), i == 0)
        };
        match p.shares.is_empty() {
            true => vec![row("-".to_owned(), vec!["-".to_owned(); 5], true)],
            false => p.shares.iter().enumerate().map(share).collect(),
        }
    });
    let titles = ["NAME", "DEVICE", ">WEIGHTS", ">CACHE", ">OTHER", ">TOTAL", ">FREE BEFORE", ">LOAD", "OUTCOME"];
    let on = |p: &Planned| p.device.as_ref().map_or(String::new(), |d| format!("{}: ", clean(d)));
    let reasons = all.iter().map(|p| format!("{}: {}{}\n", clean(&p.id), on(p), clean(&p.reason)));
    table(&titles, rows) + &reasons.collect::<String>()
}

/// `status`
pub fn status(s: &Status, now: f64) -> String {
    let mut out = format!(
        "rocmforged {} ({}), pid {}, up {}\nserving on {}\ndevice: {}\nprivate memory: {}\n",
        s.version,
        s.state,
        s.pid,
        seconds(s.uptime_s),
        s.listen.join(", "),
        clean(&s.device),
        bytes(s.private_bytes),
    );
    for d in &s.devices {
        out += &format!("{}: {} of {} reserved\n", d.id, bytes(d.used), bytes(d.budget));
    }
    out + "\n" + &ps(&s.models, now)
}

/// `weights 1.0 GiB, cache 64.0 MiB`
fn kinds(b: &ModelBytes) -> String {
    let kinds = [("weights", b.weights), ("cache", b.cache), ("activations", b.activations), ("tables", b.tables)];
    let kinds = kinds.iter().filter(|(_, n)| *n > 0).map(|(k, n)| format!("{k} {}", bytes(*n)));
    kinds.collect::<Vec<_>>().join(", ")
}

/// `show`
pub fn show(d: &ModelDetail) -> String {
    let m = &d.model;
    let mut facts = vec![
        ("name", m.id.clone()),
        ("aliases", m.aliases.join(", ")),
        ("file", m.path.clone()),
        ("size", format!("{} ({} bytes)", bytes(m.file_bytes), m.file_bytes)),
        ("state", state(m)),
        ("reason", m.reason.clone().unwrap_or_default()),
        ("device", m.device.clone().unwrap_or_default()),
        ("why there", m.device_reason.clone().unwrap_or_default()),
        ("architecture", m.architecture.clone().unwrap_or_default()),
        ("parameters", m.n_params.map(count).unwrap_or_default()),
        ("type", m.quantization.clone().unwrap_or_default()),
        ("trained context", m.n_ctx_train.map(|n| n.to_string()).unwrap_or_default()),
        ("context", m.context.map(|n| n.to_string()).unwrap_or_default()),
        ("tokenizer", d.tokenizer.clone()),
        ("chat template", d.chat_template.clone()),
    ];
    facts.extend(m.shares.iter().map(|s| ("memory", format!("{}: {}", s.device, kinds(&s.bytes)))));
    if let Some(p) = d.plan.as_ref().filter(|p| p.outcome != Outcome::Ready) {
        let verdict = match p.outcome {
            Outcome::Refused => "would be refused".to_owned(),
            _ => format!("would run on {} in {}", p.device.as_deref().unwrap_or("-"), seconds(p.load_s)),
        };
        facts.push(("if loaded", format!("{verdict}: {}", p.reason)));
        facts.extend(p.shares.iter().map(|s| ("would take", format!("{}: {}", s.device, kinds(&s.bytes)))));
        if !p.evicts.is_empty() {
            facts.push(("would evict", p.evicts.join(", ")));
        }
    }
    // Some of the hyperparameters stand above already.
    let new = d.hparams.iter().filter(|(k, _)| !["architecture", "parameters", "context"].contains(&k.as_str()));
    facts.extend(new.map(|(k, v)| (k.as_str(), v.clone())));
    let types = d.tensor_types.iter().map(|(t, n, b)| format!("{t}: {n} tensors, {}", bytes(*b)));
    facts.extend(types.map(|t| ("tensors", t)));
    facts.extend(d.ignored_tensors.iter().map(|t| ("ignored tensor", t.clone())));
    facts.extend(d.notes.iter().map(|n| ("note", n.clone())));
    let width = facts.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let lines = facts.iter().filter(|(_, v)| !v.is_empty());
    lines.map(|(k, v)| format!("{:width$}  {}\n", clean(k), clean(v))).collect()
}

/// `stats`
pub fn stats(all: &[ModelStats]) -> String {
    if all.is_empty() {
        return "no model is loaded\n".to_owned();
    }
    let rows = all.iter().map(|s| {
        vec![
            s.id.clone(),
            s.running.to_string(),
            s.waiting.to_string(),
            s.requests.to_string(),
            s.failed.to_string(),
            s.cancelled.to_string(),
            format!("{:.1}", s.prefill_rate),
            format!("{:.1}", s.decode_rate),
            s.prefill_tokens.to_string(),
            s.cached_tokens.to_string(),
            s.decode_tokens.to_string(),
            format!("{}/{}", s.kv_blocks_used, s.kv_blocks_total),
        ]
    });
    let titles = [
        "NAME",
        ">RUNNING",
        ">WAITING",
        ">DONE",
        ">FAILED",
        ">CANCELLED",
        ">PREFILL/S",
        ">DECODE/S",
        ">PROMPT",
        ">CACHED",
        ">GENERATED",
        ">KV BLOCKS",
    ];
    table(&titles, rows)
}

/// `devices`
pub fn devices(all: &[Device]) -> String {
    let mut out = String::new();
    for d in all {
        out += &format!("{}: {}\n  {}\n", d.id, clean(&d.description), clean(&d.reason));
        match d.usable {
            true => out += &format!("  {} of {} reserved\n", bytes(d.used), bytes(d.budget)),
            false => out += "  not used\n",
        }
        for l in &d.ledger {
            out += &format!("    {}  {} {}\n", bytes(l.bytes), clean(&l.owner), l.kind);
        }
    }
    out
}

/// `requests`
pub fn requests(all: &[RequestInfo]) -> String {
    if all.is_empty() {
        return "no request is in flight\n".to_owned();
    }
    let rows = all.iter().map(|r| {
        let (prompt, text) = (r.prompt_tokens.to_string(), r.completion_tokens.to_string());
        vec![r.id.clone(), r.model.clone(), r.state.clone(), prompt, text, seconds(r.age_s)]
    });
    table(&["ID", "MODEL", "STATE", ">PROMPT", ">GENERATED", "AGE"], rows)
}

/// A line of `events` and `why`.
pub fn decision(d: &Decision) -> String {
    let time = jiff::Timestamp::from_millisecond((d.time * 1000.0) as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let who = d.uid.map(|u| format!(" (uid {u})")).unwrap_or_default();
    let model = d.model.as_ref().filter(|m| !d.message.contains(*m)).map(|m| format!("{m}: ")).unwrap_or_default();
    format!("{}  {:<7} {}{}{who}\n", time.strftime("%Y-%m-%d %H:%M:%SZ"), d.kind, clean(&model), clean(&d.message))
}

/// `evict`
pub fn evicted(e: &Evicted) -> String {
    // Nothing was measured where nothing was in memory: a process has private memory.
    if e.private_before == 0 {
        return format!("{}: its load was cancelled\n", clean(&e.id));
    }
    let device = match e.device_freed {
        0 => String::new(),
        n => format!("; {} given back on the device", bytes(n)),
    };
    format!(
        "{} unloaded: {} given back in the ledger{device}; private memory {} before, {} now\n",
        clean(&e.id),
        bytes(e.ledger_freed),
        bytes(e.private_before),
        bytes(e.private_after),
    )
}

/// `bench`
pub fn bench(b: &BenchResult) -> String {
    let head = format!("{} on {}, {} threads, rocmforged {}\n", clean(&b.model), b.device, b.threads, b.version);
    let rows = b.runs.iter().map(|r| {
        let n = r.rates.len().max(1) as f64;
        let mean = r.rates.iter().sum::<f64>() / n;
        let variance = r.rates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        vec![r.test.clone(), format!("{mean:.2}"), format!("± {:.2}", variance.sqrt()), r.rates.len().to_string()]
    });
    head + &table(&["TEST", ">TOKENS/S", ">", ">RUNS"], rows)
}
