//! `doctor`: what stands in the way of the GPUs, looked at here, and what the daemon says of it.

use std::path::Path;
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde_json::Value;

use super::client::{Client, body, typed};
use super::failure::Failure;
use super::human::clean;
use super::output::Output;
use crate::probe::doctor::{self, Build, Finding, Severity};
use crate::probe::{GpuNode, Machine};
use crate::proto::admin::Device;

/// How long the daemon may take to answer; without it the rest is still said.
const WAIT: Duration = Duration::from_secs(5);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing is a problem.
    ok: bool,
    /// Version of forgectl.
    version: &'static str,
    /// Chips that this build has kernels for.
    targets: &'static [&'static str],
    /// GPUs that the compute driver shows.
    gpus: Vec<GpuNode>,
    /// Devices of the daemon, if it was reached.
    devices: Option<Vec<Device>>,
    /// What was found, in the order it was looked at.
    findings: Vec<Finding>,
}

/// Runs the verb on the machine below `root`.
///
/// # Errors
/// If something is a problem.
pub async fn run(client: &Client, build: Build, root: &Path, out: &mut Output) -> Result<(), Failure> {
    let machine = Machine::probe(root);
    let mut findings = doctor::examine(&machine, build);
    let devices = match tokio::time::timeout(WAIT, ask(client)).await {
        Ok(Ok(daemon)) => {
            findings.extend(compare(&machine, build, &daemon, &findings));
            Some(daemon.devices)
        }
        Ok(Err(e)) => {
            findings.push(unreached(e));
            None
        }
        Err(_) => {
            let what = format!("rocmforged did not answer within {} s", WAIT.as_secs());
            findings.push(Finding::new("daemon", Severity::Warning, what).fix("sudo journalctl -u rocmforged -n 50"));
            None
        }
    };
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
    if out.json {
        let report = Report {
            ok: problems == 0,
            version: env!("CARGO_PKG_VERSION"),
            targets: build.targets,
            gpus: machine.gpu.nodes,
            devices,
            findings,
        };
        out.line(&serde_json::to_string_pretty(&body(&report)?).unwrap_or_default());
    } else {
        out.text(&text(&findings));
    }
    match problems {
        0 if warnings == 0 => out.note("no problem found"),
        0 => out.note(&format!("no problem found, {}", counted(warnings, "warning"))),
        n => return Err(Failure::Refused(format!("{} found", counted(n, "problem")))),
    }
    Ok(())
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Findings for people; the fix under what it is for.
fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let line = |f: &Finding| {
        let severity = match f.severity {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "WARNING",
            Severity::Problem => "PROBLEM",
        };
        let fix = f.fix.iter().map(|fix| format!("{:9}{:width$}  -> {}\n", "", "", clean(fix)));
        format!("{severity:7}  {:width$}  {}\n{}", f.check, clean(&f.what), fix.collect::<String>())
    };
    findings.iter().map(line).collect()
}

/// What the daemon says.
struct Daemon {
    devices: Vec<Device>,
    /// `device.use`
    wanted: String,
}

async fn ask(client: &Client) -> Result<Daemon, Failure> {
    let devices = typed(client.json(Method::GET, "/admin/v1/devices", None).await?)?;
    let config: Value = client.json(Method::GET, "/admin/v1/config", None).await?;
    Ok(Daemon { devices, wanted: config["device.use"]["value"].as_str().unwrap_or("auto").to_owned() })
}

/// A daemon that is not there is no problem of the GPUs.
fn unreached(failure: Failure) -> Finding {
    match failure {
        Failure::Unreachable(_) => {
            Finding::new("daemon", Severity::Note, "rocmforged is not running").fix("sudo systemctl start rocmforged")
        }
        Failure::Permission(_) => Finding::new("daemon", Severity::Note, "rocmforged may not be asked by this user")
            .fix("sudo usermod -aG rocmforge $USER and log in again, or run forgectl with sudo"),
        other => Finding::new("daemon", Severity::Warning, format!("rocmforged was not asked: {other}")),
    }
}

/// What the daemon makes of the GPUs that are here.
fn compare(machine: &Machine, build: Build, daemon: &Daemon, before: &[Finding]) -> Vec<Finding> {
    let known = before.iter().any(|f| f.severity == Severity::Problem);
    let unused = |node: &GpuNode, why: &str| {
        let what = format!("the daemon does not use {}: {why}", node.label());
        if daemon.wanted == "cpu" {
            let fix =
                "[device] use = \"auto\" in /etc/rocmforge/rocmforged.toml, then sudo systemctl restart rocmforged";
            return Finding::new("daemon", Severity::Note, what).fix(fix);
        }
        if machine.gpu.set_aside(node, build.targets).is_some() {
            return Finding::new("daemon", Severity::Note, what);
        }
        let restart = "sudo systemctl restart rocmforged";
        Finding::new("daemon", Severity::Problem, what).fix(match known {
            true => format!("mend the problems above, then {restart}"),
            false => format!("{restart}, and if that does not help: sudo journalctl -u rocmforged -n 50"),
        })
    };
    let mut found: Vec<Finding> = Vec::new();
    for node in &machine.gpu.nodes {
        let device = daemon.devices.iter().find(|d| d.pci.is_some() && d.pci.as_deref() == node.pci());
        found.push(match device {
            Some(d) if d.usable => {
                Finding::new("daemon", Severity::Ok, format!("{} is {} of the daemon", node.label(), d.id))
            }
            Some(d) => unused(node, &d.reason),
            None => {
                // One that is not listed is among those whose reason the CPU's entry gives.
                let gpu = daemon.devices.iter().find(|d| d.id.starts_with("gpu") && !d.usable && d.pci.is_none());
                let all = gpu.or_else(|| daemon.devices.iter().find(|d| d.id == "cpu"));
                unused(node, all.map_or("it does not list it", |d| d.reason.as_str()))
            }
        });
    }
    if found.is_empty() {
        let ids: Vec<&str> = daemon.devices.iter().filter(|d| d.usable).map(|d| d.id.as_str()).collect();
        found.push(Finding::new("daemon", Severity::Ok, format!("rocmforged runs models on: {}", ids.join(", "))));
    }
    found
}
