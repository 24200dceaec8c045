//! The registry's refusals as answers.

use super::error::ApiError;
use crate::registry::RegistryError;

/// What the registry said to a request for a model, as an answer.
pub fn refusal(error: &RegistryError) -> ApiError {
    let message = error.to_string();
    match error {
        RegistryError::NotFound { name, nearest } => ApiError::model_not_found(name, nearest),
        RegistryError::Memory(refusal) => ApiError::insufficient_memory(message)
            .with("needed_bytes", refusal.need.total())
            .with("budget_bytes", refusal.budget)
            .with("free_bytes", refusal.free),
        RegistryError::Device(_) => ApiError::permanent(message),
        // The model exists and would serve; nothing that this client can send makes it.
        RegistryError::AutoloadOff { .. } => ApiError::not_loaded(message),
        RegistryError::Busy { retry_after_s, .. } => ApiError::queue_full(message, *retry_after_s),
        RegistryError::Failed { retry_after_s: None, .. } | RegistryError::File { .. } => ApiError::permanent(message),
        RegistryError::Failed { retry_after_s: Some(s), .. } => ApiError::failed_for(message, *s),
        RegistryError::Cancelled { .. } => ApiError::unavailable("loading", message, 1),
        RegistryError::Draining => ApiError::unavailable("draining", message, DRAINING_RETRY_AFTER_S),
        // Wishes of admins; no inference request makes them.
        RegistryError::NotLoaded { .. }
        | RegistryError::Conflict(_)
        | RegistryError::Invalid(_)
        | RegistryError::NoRequest { .. } => ApiError::invalid(None, message),
    }
}

/// A restart of the daemon takes about so long; the official clients come back then.
const DRAINING_RETRY_AFTER_S: u64 = 5;
