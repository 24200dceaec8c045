//! `forgectl`: parse, ask, print. No logic that the daemon could have.

mod args;
mod client;
mod doctor;
mod failure;
mod human;
mod load;
mod output;
mod render;
mod run;
mod selftest;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use args::Cli;
use args::Verb;
use client::{Client, body, segment, typed};
pub use failure::Failure;
use output::Output;

use crate::probe::doctor::Build;
use crate::proto::admin::{
    BenchRequest, Decision, EvictRequest, Model, ModelDetail, ModelStats, PlanRequest, Planned, Reloaded,
};

/// `forgectl`, from its command line to its exit status; `build` is what this binary has for GPUs.
pub fn main(build: Build) -> ExitCode {
    let mut cli = Cli::parse();
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    let uid = nix::unistd::geteuid().as_raw();
    let client = Client::new(client::find(cli.socket.take(), runtime_dir.as_deref(), uid));
    let mut out = Output::new(cli.json);
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(within(&cli, &client, build, &mut out)),
        Err(e) => Err(Failure::Refused(format!("cannot start: {e}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            out.note(&format!("forgectl: {}", human::clean(&e.to_string())));
            ExitCode::from(e.exit_code())
        }
    }
}

/// Does the verb, within `--timeout` if there is one.
async fn within(cli: &Cli, client: &Client, build: Build, out: &mut Output) -> Result<(), Failure> {
    let verb = verb(&cli.verb, client, build, out);
    match cli.timeout {
        None => verb.await,
        Some(t) => tokio::time::timeout(t, verb).await.unwrap_or(Err(Failure::Timeout(t.as_secs()))),
    }
}

async fn verb(verb: &Verb, client: &Client, build: Build, out: &mut Output) -> Result<(), Failure> {
    let (get, post) = (Method::GET, Method::POST);
    let of = |model: &str, verb: &str| format!("/admin/v1/models/{}{verb}", segment(model));
    match verb {
        Verb::Status => {
            let answer = client.json(get, "/admin/v1/status", None).await?;
            print(out, answer, |s| render::status(&s, now()))
        }
        Verb::Ls => {
            let answer = client.json(get, "/admin/v1/models", None).await?;
            print::<Vec<Model>>(out, answer, |m| render::ls(&m))
        }
        Verb::Plan { models } => {
            let request = body(&PlanRequest { models: models.clone() })?;
            let answer = client.json(post, "/admin/v1/plan", Some(&request)).await?;
            print::<Vec<Planned>>(out, answer, |p| render::plan(&p))
        }
        // What is or should be in memory; a file that merely cannot be run is `ls`'s matter.
        Verb::Ps => {
            let mut answer = client.json(get, "/admin/v1/status", None).await?;
            print::<Vec<Model>>(out, answer["models"].take(), |m| render::ps(&m, now()))
        }
        Verb::Show { model } => {
            let answer = client.json(get, &of(model, ""), None).await?;
            print(out, answer, |d| render::show(&d))
        }
        Verb::Stats { model } => {
            let mut answer = client.json(get, "/admin/v1/stats", None).await?;
            if let (Some(name), Some(list)) = (model, answer.as_array_mut()) {
                list.retain(|s| s["id"].as_str() == Some(name));
                if list.is_empty() {
                    return Err(Failure::NotFound(format!("no model `{name}` is loaded; `forgectl ps` lists them")));
                }
            }
            print::<Vec<ModelStats>>(out, answer, |s| render::stats(&s))
        }
        Verb::Devices => {
            let answer = client.json(get, "/admin/v1/devices", None).await?;
            print::<Vec<_>>(out, answer, |d| render::devices(&d))
        }
        Verb::Requests => {
            let answer = client.json(get, "/admin/v1/requests", None).await?;
            print::<Vec<_>>(out, answer, |r| render::requests(&r))
        }
        Verb::Cancel { id } => {
            let answer = client.json(Method::DELETE, &format!("/admin/v1/requests/{}", segment(id)), None).await?;
            print::<Value>(out, answer, |_| format!("{} was cancelled\n", human::clean(id)))
        }
        Verb::Pin { model } => {
            let answer = client.json(post, &of(model, "/pin"), Some(&json!({}))).await?;
            print::<Model>(out, answer, |m| format!("{} stays loaded\n", human::clean(&m.id)))
        }
        Verb::Unpin { model } => {
            let answer = client.json(post, &of(model, "/unpin"), Some(&json!({}))).await?;
            print::<Model>(out, answer, |m| format!("{} may be unloaded\n", human::clean(&m.id)))
        }
        Verb::Evict { model, now } => {
            let request = body(&EvictRequest { now: *now })?;
            let answer = client.json(post, &of(model, "/evict"), Some(&request)).await?;
            print(out, answer, |e| render::evicted(&e))
        }
        Verb::Events { follow } => {
            let path = if *follow { "/admin/v1/events?follow=1" } else { "/admin/v1/events" };
            decisions(client, path, out).await
        }
        Verb::Why { model } => {
            let query = model.as_ref().map(|m| format!("?model={}", segment(m))).unwrap_or_default();
            let answer = client.json(get, &format!("/admin/v1/why{query}"), None).await?;
            print::<Vec<Decision>>(out, answer, |all| match &all[..] {
                [] => "no decision is remembered\n".to_owned(),
                all => all.iter().map(render::decision).collect(),
            })
        }
        Verb::Reload => {
            let answer = client.json(post, "/admin/v1/reload", Some(&json!({}))).await?;
            print::<Reloaded>(out, answer, |r| match &r.needs_restart[..] {
                [] => "configuration read again\n".to_owned(),
                keys => format!("configuration read again; these need a restart: {}\n", keys.join(", ")),
            })
        }
        Verb::Drain => {
            let answer = client.json(post, "/admin/v1/drain", Some(&json!({}))).await?;
            print::<Value>(out, answer, |_| "running requests are finished, then the daemon stops\n".to_owned())
        }
        Verb::Load(l) => {
            let request = load::request(l);
            match load::load(client, &request, !l.no_wait, out).await? {
                // The events are on stdout already.
                _ if out.json => {}
                Some(model) => {
                    out.text(&load::loaded(&model));
                    let detail: ModelDetail = typed(client.json(get, &of(&model.id, ""), None).await?)?;
                    detail.notes.iter().for_each(|n| out.note(&format!("note: {}", human::clean(n))));
                }
                None => out.line(&format!("{} is being loaded; `forgectl ps` shows how far", human::clean(&l.model))),
            }
            Ok(())
        }
        Verb::Selftest => selftest::run(client, out).await,
        Verb::Bench(b) => {
            let request = body(&BenchRequest {
                model: b.model.clone(),
                n_prompt: b.n_prompt,
                n_gen: b.n_gen,
                depth: b.depth,
                batch: b.batch,
                repetitions: b.repetitions,
            })?;
            out.note("measuring; other requests disturb it");
            let answer = client.json(post, "/admin/v1/bench", Some(&request)).await?;
            print(out, answer, |b| render::bench(&b))
        }
        Verb::Run(r) => run::run(client, r, out).await,
        Verb::Doctor { root } => doctor::run(client, build, root, out).await,
    }
}

/// Prints an answer: as it came with `--json`, else as `text` says.
fn print<T: DeserializeOwned>(out: &mut Output, answer: Value, text: impl FnOnce(T) -> String) -> Result<(), Failure> {
    if out.json {
        // Plain JSON values can always be written.
        out.line(&serde_json::to_string_pretty(&answer).unwrap_or_default());
        return Ok(());
    }
    let typed = typed(answer)?;
    out.text(&text(typed));
    Ok(())
}

/// Prints decisions as they come, one a line.
async fn decisions(client: &Client, path: &str, out: &mut Output) -> Result<(), Failure> {
    let mut lines = client.lines(Method::GET, path, None).await?;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        if out.json {
            out.line(&line);
            continue;
        }
        let decision: Decision = serde_json::from_str(&line).map_err(|e| Failure::Answer(e.to_string()))?;
        out.text(&render::decision(&decision));
    }
    Ok(())
}

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests;
