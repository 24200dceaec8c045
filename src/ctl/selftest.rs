//! `selftest`: each kernel of each GPU against the CPU, now.

use hyper::Method;
use serde_json::{Value, json};

use super::client::{Client, typed};
use super::failure::Failure;
use super::human::{clean, seconds};
use super::output::Output;
use crate::proto::selftest::{KernelFailure, SelfTest};

/// Runs the verb.
///
/// # Errors
/// If a kernel of a device failed, or a device could not be tested.
pub async fn run(client: &Client, out: &mut Output) -> Result<(), Failure> {
    let answer: Value = client.json(Method::POST, "/admin/v1/selftest", Some(&json!({}))).await?;
    let devices: Vec<SelfTest> = typed(answer.clone())?;
    if out.json {
        out.line(&serde_json::to_string_pretty(&answer).unwrap_or_default());
    } else {
        out.text(&devices.iter().map(text).collect::<String>());
    }
    if devices.is_empty() {
        out.note("no GPU is used; `forgectl devices` says why");
    }
    let wrong: usize = devices.iter().map(|d| d.failures.len()).sum();
    let untested = devices.iter().filter(|d| d.error.is_some()).count();
    match (wrong, untested) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failure::Refused(format!("{n} of {} devices could not be tested", devices.len()))),
        (n, _) => {
            let what = if n == 1 { "1 kernel".to_owned() } else { format!("{n} kernels") };
            Err(Failure::Refused(format!("{what} failed; workers that start from now on leave them out")))
        }
    }
}

fn text(d: &SelfTest) -> String {
    let head = format!("{} ({}): ", clean(&d.device), clean(&d.description));
    if let Some(why) = &d.error {
        return format!("{head}not tested: {}\n", clean(why));
    }
    let failures: String = d.failures.iter().map(failure).collect();
    format!("{head}{} kernels tested, {} passed, {}\n{failures}", d.kernels, d.passed, seconds(d.seconds))
}

fn failure(f: &KernelFailure) -> String {
    let [kernel, case, expected, got, tolerance] =
        [&f.kernel, &f.case, &f.expected, &f.got, &f.tolerance].map(|text| clean(text));
    let head = if f.case.is_empty() { format!("  {kernel}: ") } else { format!("  {kernel}: {case}: ") };
    match f.expected.is_empty() {
        true => format!("{head}{got}\n"),
        false => format!("{head}expected {expected}, got {got}, tolerance {tolerance}\n"),
    }
}
