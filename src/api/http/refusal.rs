//! The registry's refusals as answers.

use super::error::ApiError;
use crate::registry::RegistryError;

/// What the registry said, as an answer.
pub fn refusal(error: &RegistryError) -> ApiError {
    match error {
        RegistryError::NotFound { name, nearest } => ApiError::model_not_found(name, nearest),
        RegistryError::Memory(m) => ApiError::insufficient_memory(m.clone()),
        RegistryError::Failed(m) => ApiError::permanent(m.clone()),
        RegistryError::Draining => ApiError::unavailable("draining", error.to_string(), 5),
    }
}
