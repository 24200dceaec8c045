//! A model on two devices: one backend for its first layers, another for the rest.
//!
//! Both parts come of one plan ([`crate::plan::split`]); a step runs the first, and hands what it
//! came to over to the second. The engine sees one backend with the cache groups of both.

use std::time::Duration;

use super::{Backend, BackendError, Output};
use crate::plan::Plan;
use crate::plan::batch::Batch;
use crate::plan::op::CacheId;

/// Runs both parts of a plan.
pub struct SplitBackend {
    /// The CPU's: its steps are done when they are submitted.
    first: Box<dyn Backend>,
    second: Box<dyn Backend>,
    /// For each cache group, whether the second part has it.
    in_second: Vec<bool>,
    device: String,
}

impl SplitBackend {
    /// A backend of two: `first` runs `parts[0]` and computes while a step is submitted, `second`
    /// runs `parts[1]`.
    pub fn new(first: Box<dyn Backend>, second: Box<dyn Backend>, parts: &[Plan; 2]) -> Self {
        let [a, b] = parts.each_ref().map(|p| p.layers.len());
        let device = format!("{} {b}/{} + {}", second.device(), a + b, first.device());
        Self { first, second, in_second: parts[0].caches.iter().map(|c| c.part == 1).collect(), device }
    }

    fn of(&mut self, group: CacheId) -> &mut dyn Backend {
        if self.in_second[group.0 as usize] { &mut *self.second } else { &mut *self.first }
    }
}

impl Backend for SplitBackend {
    fn device(&self) -> String {
        self.device.clone()
    }

    fn add_slab(&mut self, group: CacheId) -> Result<u32, BackendError> {
        self.of(group).add_slab(group)
    }

    fn remove_slab(&mut self, group: CacheId, first: u32) {
        self.of(group).remove_slab(group, first);
    }

    fn submit(&mut self, batch: &Batch, input: &[f32]) -> Result<(), BackendError> {
        self.first.submit(batch, input)?;
        match self.first.poll(Duration::ZERO)? {
            Some(output) => self.second.submit(batch, output.rows),
            None => Err(BackendError::Unsupported("the first part of a model has not computed in time".to_owned())),
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<Output<'_>>, BackendError> {
        self.second.poll(wait)
    }
}
