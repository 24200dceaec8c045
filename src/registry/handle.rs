//! How the rest of the daemon reaches the registry. Everything waits for an answer, nothing for a
//! step or a load, except where it says so.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use super::command::{Command, Reload, Reply};
use super::error::RegistryError;
use super::lease::{Acquired, Lease};
use super::loaded::Loaded;
use super::loader::{Progress, Resident, Source};
use super::{catalog, memory};
use crate::base::limits::LOAD_EVENT_INTERVAL;
use crate::proto::admin::{
    AdminError, Device, Evicted, LoadEvent, LoadRequest, Model, ModelDetail, ModelStats, Planned, RequestInfo, Status,
};
use crate::telemetry::events::DecisionLog;

/// The registry. Cheap to clone; the actor ends with the last one.
pub struct Handle<M: Resident = Loaded> {
    pub(super) commands: mpsc::Sender<Command<M>>,
    pub(super) log: Arc<DecisionLog>,
}

impl<M: Resident> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), log: Arc::clone(&self.log) }
    }
}

impl<M: Resident> fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("registry::Handle")
    }
}

impl<M: Resident> Handle<M> {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command<M>) -> Result<T, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| RegistryError::Draining)?;
        answer.await.unwrap_or(Err(RegistryError::Draining))
    }

    /// A lease of the model called `name`, or a place among those who wait for its load. Comes
    /// back when it is known that the model can be had: once its file was checked at the latest.
    ///
    /// # Errors
    /// Every refusal: unknown, no room, failed lately, not to be loaded by requests, too many wait.
    pub async fn acquire(&self, name: &str) -> Result<Acquired<M>, RegistryError> {
        let name = name.to_owned();
        self.ask(|reply| Command::Acquire { name, reply }).await
    }

    /// A lease, however long the load takes.
    ///
    /// # Errors
    /// As [`Handle::acquire`], and why the load failed.
    pub async fn lease(&self, name: &str) -> Result<Lease<M>, RegistryError> {
        match self.acquire(name).await? {
            Acquired::Ready(lease) => Ok(lease),
            Acquired::Loading(pending) => pending.ready().await,
        }
    }

    /// Loads a model by a name or an absolute path; one that is being loaded is joined. The load
    /// goes on when the result is dropped.
    ///
    /// # Errors
    /// What is known to be wrong at once; the rest comes as [`LoadEvent::Error`].
    pub async fn load(&self, request: LoadRequest, uid: Option<u32>) -> Result<Loading, RegistryError> {
        let source = if request.model.starts_with('/') { Some(look(&request.model).await?) } else { None };
        self.load_from(request, source, uid).await
    }

    /// Loads a model from descriptors that a client passed; they are kept for later loads.
    ///
    /// # Errors
    /// As [`Handle::load`].
    pub async fn load_files(
        &self,
        request: LoadRequest,
        files: Vec<(std::fs::File, String)>,
        uid: Option<u32>,
    ) -> Result<Loading, RegistryError> {
        let found = catalog::passed(&files).map_err(|e| RegistryError::Invalid(e.to_string()))?;
        self.load_from(request, Some((Source::Files(Arc::new(files)), found)), uid).await
    }

    async fn load_from(
        &self,
        request: LoadRequest,
        source: Option<(Source, catalog::Found)>,
        uid: Option<u32>,
    ) -> Result<Loading, RegistryError> {
        let (progress, outcome) = self.ask(|reply| Command::Load { request, source, uid, reply }).await?;
        Ok(Loading { progress, outcome: Some(outcome), told: 0, last: None })
    }

    /// Unloads a model: when its requests are done, or with `now` after cancelling them. Comes
    /// back when its memory is free, with what was measured.
    ///
    /// # Errors
    /// Unknown, or not loaded.
    pub async fn evict(&self, name: &str, now: bool, uid: Option<u32>) -> Result<Evicted, RegistryError> {
        let name = name.to_owned();
        self.ask(|reply| Command::Evict { name, now, uid, reply }).await
    }

    /// Pins a model (it is never evicted to make room), or unpins it.
    ///
    /// # Errors
    /// Unknown.
    pub async fn pin(&self, name: &str, pinned: bool, uid: Option<u32>) -> Result<Model, RegistryError> {
        let name = name.to_owned();
        self.ask(|reply| Command::Pin { name, pinned, uid, reply }).await
    }

    /// All models of the catalog and all that are loaded, by id.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn list(&self) -> Result<Vec<Model>, RegistryError> {
        self.ask(|reply| Command::List { reply }).await
    }

    /// All there is to know of a model; its file is looked into if that has not happened yet.
    ///
    /// # Errors
    /// Unknown.
    pub async fn show(&self, name: &str) -> Result<ModelDetail, RegistryError> {
        let name = name.to_owned();
        self.ask(|reply| Command::Show { name, reply }).await
    }

    /// The daemon's state; measures its private memory.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn status(&self) -> Result<Status, RegistryError> {
        let private = spawn_blocking(memory::private);
        let mut status = self.ask(|reply| Command::Status { reply }).await?;
        status.private_bytes = private.await.unwrap_or(memory::UNKNOWN);
        Ok(status)
    }

    /// Devices and their ledgers.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn devices(&self) -> Result<Vec<Device>, RegistryError> {
        self.ask(|reply| Command::Devices { reply }).await
    }

    /// Speed and queue of every loaded model.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn stats(&self) -> Result<Vec<ModelStats>, RegistryError> {
        self.ask(|reply| Command::Stats { reply }).await
    }

    /// Requests in flight, of all models.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn requests(&self) -> Result<Vec<RequestInfo>, RegistryError> {
        self.ask(|reply| Command::Requests { reply }).await
    }

    /// Cancels a request.
    ///
    /// # Errors
    /// There is none of that id.
    pub async fn cancel(&self, id: &str, uid: Option<u32>) -> Result<(), RegistryError> {
        let id = id.to_owned();
        self.ask(|reply| Command::Cancel { id, uid, reply }).await
    }

    /// The id of the model that `name` means now; `None` if no model does.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn name_of(&self, name: &str) -> Result<Option<String>, RegistryError> {
        let name = name.to_owned();
        self.ask(|reply| Command::NameOf { name, reply }).await
    }

    /// Models whose step is past its deadline, with the reason, for `/health`. An answer at all
    /// proves that the registry makes progress.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn late(&self) -> Result<Vec<String>, RegistryError> {
        self.ask(|reply| Command::Late { reply }).await
    }

    /// What loading these models, one after the other, would do.
    ///
    /// # Errors
    /// A name that is not known.
    pub async fn plan(&self, names: Vec<String>) -> Result<Vec<Planned>, RegistryError> {
        for name in &names {
            // Waits for a scan if the name is not known, and until the file was looked at.
            self.show(name).await?;
        }
        self.ask(|reply| Command::Plan { names, reply }).await
    }

    /// What of the preload set has not been ready yet, with the reason, for `/ready`.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn unready(&self) -> Result<Vec<String>, RegistryError> {
        self.ask(|reply| Command::Unready { reply }).await
    }

    /// Takes other options without touching loaded models.
    ///
    /// # Errors
    /// An unknown device.
    pub async fn reload(&self, changes: Reload, uid: Option<u32>) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Reload { changes, uid, reply }).await
    }

    /// Shuts down: nothing new is admitted, requests may finish for `within`, then they are
    /// cancelled. Comes back when all models are unloaded.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn drain(&self, within: Duration, uid: Option<u32>) -> Result<(), RegistryError> {
        self.ask(|reply| Command::Drain { deadline: within, uid, reply }).await
    }

    /// The decision log.
    pub fn log(&self) -> &Arc<DecisionLog> {
        &self.log
    }
}

async fn look(path: &str) -> Result<(Source, catalog::Found), RegistryError> {
    let path = path.to_owned();
    let error = |path: String, why: String| RegistryError::File { path, why };
    let looked = spawn_blocking(move || {
        catalog::look(Path::new(&path))
            .map(|f| (Source::Path(f.path.clone()), f))
            .map_err(|e| error(path, e.to_string()))
    });
    looked.await.map_err(|e| RegistryError::Invalid(e.to_string()))?
}

/// A load that is watched.
#[derive(Debug)]
pub struct Loading {
    progress: watch::Receiver<Progress>,
    outcome: Option<oneshot::Receiver<Result<Model, RegistryError>>>,
    /// Phases told so far.
    told: usize,
    last: Option<tokio::time::Instant>,
}

impl Loading {
    /// The next event: every phase, progress a few times a second, then `Ready` or `Error`, then
    /// `None`.
    pub async fn next(&mut self) -> Option<LoadEvent> {
        loop {
            let outcome = self.outcome.as_mut()?;
            let progress = self.progress.borrow_and_update().clone();
            if let Some(phase) = progress.phases.get(self.told) {
                self.told += 1;
                return Some(LoadEvent::Phase { phase: *phase });
            }
            let pause = async {
                if let Some(last) = self.last {
                    tokio::time::sleep_until(last + LOAD_EVENT_INTERVAL).await;
                }
                // A sender that is gone has nothing more to say; the outcome has.
                if self.progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let done = tokio::select! {
                biased;
                outcome = outcome => Some(outcome.unwrap_or(Err(RegistryError::Draining))),
                () = pause => None,
            };
            if let Some(done) = done {
                // Phases that went by unseen are told first.
                let progress = self.progress.borrow().clone();
                if let Some(phase) = progress.phases.get(self.told) {
                    self.told += 1;
                    let (again, outcome) = oneshot::channel();
                    again.send(done).ok();
                    self.outcome = Some(outcome);
                    return Some(LoadEvent::Phase { phase: *phase });
                }
                self.outcome = None;
                return Some(match done {
                    Ok(model) => LoadEvent::Ready { model: Box::new(model) },
                    Err(e) => LoadEvent::Error { error: admin_error(&e) },
                });
            }
            let now = self.progress.borrow().clone();
            if let (Some(phase), true) = (now.phases.last(), now.total > 0 && now.phases.len() == self.told) {
                self.last = Some(tokio::time::Instant::now());
                let Progress { done, total, rate, eta_s, .. } = now;
                return Some(LoadEvent::Progress { phase: *phase, done, total, rate, eta_s });
            }
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Why the load failed.
    pub async fn ready(self) -> Result<Model, RegistryError> {
        match self.outcome {
            Some(outcome) => outcome.await.unwrap_or(Err(RegistryError::Draining)),
            None => Err(RegistryError::Draining),
        }
    }
}

/// A refusal as the admin API says it: code, message, and the numbers.
pub fn admin_error(error: &RegistryError) -> AdminError {
    use serde_json::{Value, json};
    let detail = match error {
        RegistryError::NotFound { name, nearest } => json!({ "name": name, "nearest": nearest }),
        RegistryError::Memory(r) => json!({
            "model": r.model,
            "device": r.device,
            "needed": r.need.total(),
            "need": {
                "weights": r.need.weights,
                "cache": r.need.cache,
                "activations": r.need.activations,
                "tables": r.need.tables,
            },
            "budget": r.budget,
            "free": r.free,
            "holders": r.holders.iter().map(|h| json!({
                "id": h.id, "bytes": h.bytes, "pinned": h.pinned, "leases": h.leases, "loading": h.loading,
            })).collect::<Vec<_>>(),
            "suggestion": r.suggestion,
        }),
        e => e.retry_after_s().map_or(Value::Null, |s| json!({ "retry_after_s": s })),
    };
    AdminError { code: error.code().to_owned(), message: error.to_string(), detail }
}
