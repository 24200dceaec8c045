//! Why the registry says no.

use thiserror::Error;

use crate::policy::admission::Refusal;

/// A refusal, or a failure that concerns one model. Cheap to clone: many may wait for one load.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    /// No model of that name.
    #[error("no model `{name}`{}", suggest(.nearest))]
    NotFound {
        /// What was asked for.
        name: String,
        /// Up to three names like it.
        nearest: Vec<String>,
    },
    /// No file at that path, or not one that can be read.
    #[error("{path}: {why}")]
    File {
        /// The path.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// It does not fit, whoever goes.
    #[error("{0}")]
    Memory(Box<Refusal>),
    /// No device can take it.
    #[error("{0}")]
    Device(String),
    /// Not loaded, and requests may not load (`models.autoload` is off).
    #[error("`{model}` is not loaded, and models.autoload is off: load it with `forgectl load {model}`")]
    AutoloadOff {
        /// The model.
        model: String,
    },
    /// Too many requests wait for the model, or too many models are wanted.
    #[error("{what}; try again in {retry_after_s} s")]
    Busy {
        /// What is full.
        what: String,
        /// When a retry makes sense.
        retry_after_s: u64,
    },
    /// Its load failed, or it failed while it ran.
    #[error("`{model}` failed: {reason}{}", retry(.retry_after_s))]
    Failed {
        /// The model.
        model: String,
        /// Why.
        reason: String,
        /// When requests will try it again; `None` if only a changed file helps.
        retry_after_s: Option<u64>,
    },
    /// Its load was given up, because somebody evicted it meanwhile.
    #[error("loading `{model}` was cancelled by an eviction")]
    Cancelled {
        /// The model.
        model: String,
    },
    /// There is nothing to evict.
    #[error("`{model}` is not loaded")]
    NotLoaded {
        /// The model.
        model: String,
    },
    /// The wish contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The wish makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// No such request.
    #[error("no request `{id}` is in flight")]
    NoRequest {
        /// The request's id.
        id: String,
    },
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Draining,
}

impl RegistryError {
    /// A word for programs: the admin API's `code`.
    pub fn code(&self) -> &'static str {
        match self {
            RegistryError::NotFound { .. } => "model_not_found",
            RegistryError::File { .. } => "file_not_found",
            RegistryError::Memory(_) => "insufficient_memory",
            RegistryError::Device(_) => "no_device",
            RegistryError::AutoloadOff { .. } => "autoload_off",
            RegistryError::Busy { .. } => "busy",
            RegistryError::Failed { .. } => "model_failed",
            RegistryError::Cancelled { .. } => "cancelled",
            RegistryError::NotLoaded { .. } => "not_loaded",
            RegistryError::Conflict(_) => "conflict",
            RegistryError::Invalid(_) => "invalid_request",
            RegistryError::NoRequest { .. } => "request_not_found",
            RegistryError::Draining => "draining",
        }
    }

    /// When a retry makes sense, in seconds; `None` if nothing changes by waiting.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            RegistryError::Busy { retry_after_s, .. } => Some(*retry_after_s),
            RegistryError::Failed { retry_after_s, .. } => *retry_after_s,
            RegistryError::Draining | RegistryError::Cancelled { .. } => Some(5),
            _ => None,
        }
    }
}

fn suggest(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("; did you mean `{}`?", names.join("`, `")),
    }
}

fn retry(after: &Option<u64>) -> String {
    after.map_or_else(String::new, |s| format!(" (requests may try it again in {s} s)"))
}
