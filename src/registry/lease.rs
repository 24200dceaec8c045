//! Leases: who uses a model now. Counting them is what keeps a model from being unloaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Notify, oneshot, watch};

use super::error::RegistryError;
use super::loaded::Loaded;
use super::loader::{Progress, Resident};

/// The count of a model's leases. Only the actor adds; dropping a lease subtracts and rings, so
/// that no channel can be full when a request ends.
#[derive(Debug)]
pub(super) struct Seat {
    leases: AtomicU32,
    bell: Arc<Notify>,
}

impl Seat {
    /// Nobody's, as yet; `bell` wakes the actor.
    pub fn new(bell: &Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { leases: AtomicU32::new(0), bell: Arc::clone(bell) })
    }

    /// Leases now.
    pub fn count(&self) -> u32 {
        self.leases.load(Ordering::Acquire)
    }
}

/// The right to use a model; it stays loaded meanwhile.
#[derive(Debug)]
pub struct Lease<M = Loaded> {
    /// The model. Declared before the seat, so that it is let go of before the count says so.
    pub model: Arc<M>,
    _taken: Taken,
}

impl<M> Lease<M> {
    pub(super) fn new(model: &Arc<M>, seat: &Arc<Seat>) -> Self {
        seat.leases.fetch_add(1, Ordering::AcqRel);
        Self { model: Arc::clone(model), _taken: Taken(Arc::clone(seat)) }
    }
}

#[derive(Debug)]
struct Taken(Arc<Seat>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.leases.fetch_sub(1, Ordering::AcqRel);
        self.0.bell.notify_one();
    }
}

/// What asking for a model gives.
#[derive(Debug)]
pub enum Acquired<M = Loaded> {
    /// It is there.
    Ready(Lease<M>),
    /// It is being loaded, and there will be room for it.
    Loading(Pending<M>),
}

/// A place among those who wait for a load. Dropping it does not stop the load.
#[derive(Debug)]
pub struct Pending<M = Loaded> {
    /// Where it will run; what it was placed on.
    pub device: String,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) outcome: oneshot::Receiver<Result<Lease<M>, RegistryError>>,
}

impl<M: Resident> Pending<M> {
    /// How far the load is, now and as it changes.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until it is loaded; the lease is this waiter's own, taken before anybody could evict
    /// the model again.
    ///
    /// # Errors
    /// Why the load failed.
    pub async fn ready(self) -> Result<Lease<M>, RegistryError> {
        self.outcome.await.unwrap_or(Err(RegistryError::Draining))
    }
}
