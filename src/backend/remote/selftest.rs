//! The self-test of a device's kernels, from the daemon's side: what a worker says of it, what is kept
//! of it from start to start, and what becomes of a kernel that takes its worker along.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::process::Process;
use super::wire::{FromWorker, NotUsable};
use crate::backend::hip::selftest::Failure;
use crate::base::limits::{SELFTEST_RECORD_BYTES, SELFTEST_TRIES};

/// What came of a test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The device, so that another record of it is replaced: its PCI address.
    pub device: String,
    /// Everything that the result depends on: device, driver, kernels.
    pub key: String,
    /// Kernels that were tested.
    pub kernels: u32,
    /// How long it took.
    pub millis: u64,
    /// Kernels that are not used, and why.
    pub failures: Vec<Failure>,
}

impl Tested {
    /// Names of the kernels that are not used.
    pub fn left_out(&self) -> String {
        self.failures.iter().map(|f| f.kernel.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The file of results. One that cannot be read is as good as none: the test runs again.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    /// Held while the file is replaced.
    writing: Mutex<()>,
}

impl Records {
    /// The records in the file at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, writing: Mutex::new(()) }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The result for `key` in the file at `path`.
    pub fn find(path: &Path, key: &str) -> Option<Tested> {
        read(path).ok()?.into_iter().find(|t| t.key == key)
    }

    /// Keeps a result instead of an older one of the device.
    fn put(&self, tested: &Tested) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = read(&self.path).unwrap_or_default();
        all.retain(|t| t.device != tested.device);
        all.push(tested.clone());
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Whole or not at all: a daemon that dies meanwhile leaves the old file.
        let new = self.path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(&all)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

fn read(path: &Path) -> io::Result<Vec<Tested>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(SELFTEST_RECORD_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// What a worker has said of its test so far.
#[derive(Debug, Default)]
pub struct Watch {
    /// The kernel that is running.
    testing: Option<String>,
    tested: Option<Tested>,
    /// The result is new.
    fresh: bool,
    /// Kernels that took a worker along.
    blamed: Vec<Failure>,
}

impl Watch {
    /// Takes notice of what a worker says.
    pub(super) fn hear(&mut self, message: &FromWorker) {
        match message {
            FromWorker::Testing { kernel } => self.testing = Some(kernel.clone()),
            FromWorker::Tested { result, fresh } => {
                (self.testing, self.fresh) = (None, *fresh);
                let mut tested = result.clone();
                tested.kernels += self.blamed.len() as u32;
                tested.failures.extend(self.blamed.iter().cloned());
                self.tested = Some(tested);
            }
            _ => {}
        }
    }

    /// The kernel that is running.
    pub(super) fn testing(&self) -> Option<&str> {
        self.testing.as_deref()
    }

    /// Blames no kernel for what comes.
    pub(super) fn acquit(&mut self) {
        self.testing = None;
    }

    /// The result, once there is one.
    pub(super) fn tested(&self) -> Option<Tested> {
        self.tested.clone()
    }

    /// Whether a worker failed because of a kernel, which the next one is to leave alone.
    fn blame(&mut self, why: &str) -> bool {
        let Some(kernel) = self.testing.take() else { return false };
        self.blamed.push(Failure { kernel, got: why.to_owned(), ..Failure::default() });
        true
    }
}

/// Starts a worker by `command`. A kernel whose test ends the worker, or never ends, is left out and
/// another one started. A result that is new goes to `records`.
///
/// # Errors
/// Why the device cannot be used.
pub fn start(
    command: &dyn Fn() -> Command,
    on_death: &dyn Fn() -> Box<dyn Fn() + Send + Sync>,
    records: Option<&Records>,
) -> Result<Arc<Process>, NotUsable> {
    let mut watch = Watch::default();
    loop {
        let mut command = command();
        if let Some(records) = records {
            command.arg("--record").arg(records.path());
        }
        for failure in &watch.blamed {
            command.args(["--without", &failure.kernel]);
        }
        match Process::start(command, on_death(), &mut watch) {
            Ok(process) => {
                let keep = process.tested().filter(|_| watch.fresh).zip(records);
                if let Some((tested, records)) = keep
                    && let Err(e) = records.put(tested)
                {
                    tracing::warn!("the self-test will run at the next start again: {}: {e}", records.path().display());
                }
                return Ok(process);
            }
            Err(why) => {
                if !watch.blame(&why.reason) || watch.blamed.len() >= SELFTEST_TRIES {
                    return Err(why);
                }
                tracing::error!("{}; another worker is started and leaves that kernel alone", why.reason);
            }
        }
    }
}

#[cfg(test)]
mod tests;
