//! What the daemon runs: the routers, and the few things it asks of what is behind them.

use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use tokio::sync::{mpsc, oneshot};

use super::config::Config;
use crate::probe::Machine;

/// A future of a [`Tenant`].
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is behind the routers.
pub trait Tenant: Send + Sync {
    /// Takes over what can change while models are loaded; `listen` are the addresses in force.
    fn reload<'a>(
        &'a self,
        config: &'a Config,
        listen: Vec<String>,
        uid: Option<u32>,
    ) -> Answer<'a, Result<(), String>>;

    /// Refuses new work, and ends when the last request has; what still runs at the deadline is
    /// cancelled.
    fn drain(&self, deadline: Duration) -> Answer<'_, ()>;

    /// One line for `systemctl status`, if everything that must answer does.
    fn pulse(&self) -> Answer<'_, Option<String>>;
}

/// Everything that is served.
pub struct House {
    /// Routes of the public addresses.
    pub public: Router,
    /// Routes of the admin socket (which serves the public ones too).
    pub admin: Router,
    /// What is behind them.
    pub tenant: Box<dyn Tenant>,
}

/// What a house is built from.
pub struct Site {
    /// The configuration.
    pub config: Config,
    /// The public addresses, as bound.
    pub listen: Vec<String>,
    /// This machine.
    pub machine: Machine,
    /// The daemon's own verbs.
    pub control: Control,
}

/// What the admin API may ask of the daemon itself.
#[derive(Clone, Debug)]
pub struct Control(mpsc::Sender<Ask>);

/// A wish to the daemon.
#[derive(Debug)]
pub(super) enum Ask {
    Reload(Option<u32>, oneshot::Sender<Result<Vec<String>, String>>),
    Drain(Option<u32>),
}

impl Control {
    pub(super) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (send, receive) = mpsc::channel(16);
        (Self(send), receive)
    }

    /// Reads the configuration again. What changed but needs a restart comes back, as keys.
    ///
    /// # Errors
    /// What is wrong with the configuration; the one before stays in force.
    pub async fn reload(&self, uid: Option<u32>) -> Result<Vec<String>, String> {
        let (reply, answer) = oneshot::channel();
        let gone = || "the daemon is stopping".to_owned();
        self.0.send(Ask::Reload(uid, reply)).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Finishes what runs, then stops the daemon.
    pub async fn drain(&self, uid: Option<u32>) {
        // A daemon that is stopping already does just that.
        self.0.send(Ask::Drain(uid)).await.ok();
    }
}
