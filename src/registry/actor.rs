//! The actor: one task that owns the state of all models, and the threads that work for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_blocking;

use super::catalog;
use super::command::{Command, Done, Effect};
use super::core::Core;
use super::loader::{Job, LoadError, Loader, Prepared, Reporter, Resident};
use super::memory;
use super::nothing_evicted;
use super::outcome::look;
use crate::base::limits::{CANCEL_WAIT, REGISTRY_QUEUE, STOP_WAIT};
use crate::pool::budget::Budget;
use crate::proto::admin::{Evicted, Phase};

/// Runs until every handle is gone.
pub(super) async fn run<M: Resident>(
    mut core: Core<M>,
    loader: Arc<dyn Loader<M>>,
    bell: Arc<Notify>,
    mut commands: mpsc::Receiver<Command<M>>,
) {
    let (results, mut done) = mpsc::channel(REGISTRY_QUEUE);
    loop {
        let wake = core.step(Instant::now());
        for effect in std::mem::take(&mut core.effects) {
            execute(effect, &loader, &results);
        }
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => core.command(command, Instant::now()),
                None => return,
            },
            Some(result) = done.recv() => core.done(result, Instant::now()),
            () = bell.notified() => {}
            () = timer => {}
        }
        // What came meanwhile is taken along, so that one look around serves all of it.
        while let Ok(result) = done.try_recv() {
            core.done(result, Instant::now());
        }
    }
}

fn execute<M: Resident>(effect: Effect<M>, loader: &Arc<dyn Loader<M>>, results: &mpsc::Sender<Done<M>>) {
    let (loader, results) = (Arc::clone(loader), results.clone());
    match effect {
        Effect::Scan { dirs, files } => on_thread(results, move || {
            let files = files.into_iter().map(|(id, path)| (id, catalog::look(&path).ok())).collect();
            Done::Scanned { scan: catalog::scan(&dirs), files }
        }),
        Effect::Inspect { number, job, reporter } => on_thread(results, move || {
            reporter.phase(Phase::Map);
            let found = look(&job.source);
            let result = inspect(&*loader, &job, &reporter);
            Done::Inspected { id: job.id, number, found, result }
        }),
        Effect::Describe { job } => on_thread(results, move || {
            let found = look(&job.source);
            let result = inspect(&*loader, &job, &Reporter::new()).map(|p| (p.facts(), p.needs()));
            Done::Described { id: job.id, found, result }
        }),
        Effect::Start { id, number, prepared, grant, reporter } => on_thread(results, move || {
            let result = caught(|| prepared.start(grant, &reporter));
            Done::Started { id, number, result }
        }),
        Effect::Abort { model } => {
            tokio::spawn(async move { model.stop(false).await });
        }
        Effect::Stop { id, model, budgets, trim } => {
            tokio::spawn(async move {
                let before = spawn_blocking(memory::private);
                let before = before.await.unwrap_or(memory::UNKNOWN);
                let held = held_by(&budgets, &id);
                // Nobody has a lease, or those who have were told to go and did not.
                if tokio::time::timeout(STOP_WAIT, model.stop(false)).await.is_ok() {
                    on_thread(results, move || tear_down(id, model, &budgets, trim, (held, before)));
                } else {
                    // Its thread hangs in a step. Its memory is in use, and stays in the ledger,
                    // until that ends; the daemon goes on without it.
                    tracing::error!(model = id, "the engine does not stop; it is left alone with its memory");
                    tokio::spawn(async move { quarantine(model).await });
                    let evicted = Evicted { private_before: before, private_after: before, ..nothing_evicted(&id) };
                    results.send(Done::Gone { id, evicted }).await.ok();
                }
            });
        }
    }
}

/// Has `work` done by a blocking thread. A closed channel means that the actor has ended: nobody
/// wants the result then.
fn on_thread<M: Resident>(results: mpsc::Sender<Done<M>>, work: impl FnOnce() -> Done<M> + Send + 'static) {
    spawn_blocking(move || results.blocking_send(work()).ok());
}

async fn quarantine<M: Resident>(model: Arc<M>) {
    model.stop(false).await;
    spawn_blocking(move || drop(model));
}

/// Drops the model (unmapping a large file takes a while) and measures what came of it.
/// `held` and `private_before` are the bytes in the ledgers and of the process before.
fn tear_down<M: Resident>(
    id: String,
    model: Arc<M>,
    budgets: &[Arc<Budget>],
    trim: fn(),
    (held, private_before): (u64, u64),
) -> Done<M> {
    let device_freed = model.device_freed();
    let mut model = Some(model);
    // Somebody may look at it this moment (a list, a cancel); a lease that was not let go of in
    // time keeps it, and its bytes stay in the ledger as long.
    let until = Instant::now() + CANCEL_WAIT;
    while let Some(shared) = model.take() {
        if let Err(shared) = Arc::try_unwrap(shared).map(drop)
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
            model = Some(shared);
        }
    }
    let ledger_freed = held.saturating_sub(held_by(budgets, &id));
    trim();
    let private_after = memory::private();
    let evicted = Evicted { id: id.clone(), private_before, private_after, device_freed, ledger_freed };
    Done::Gone { id, evicted }
}

fn held_by(budgets: &[Arc<Budget>], id: &str) -> u64 {
    budgets.iter().map(|b| b.held_by(id)).sum()
}

fn inspect<M: Resident>(
    loader: &dyn Loader<M>,
    job: &Job,
    reporter: &Reporter,
) -> Result<Box<dyn Prepared<M>>, LoadError> {
    caught(|| loader.inspect(job, reporter))
}

/// A loader's panic fails its model and nothing else.
fn caught<T>(work: impl FnOnce() -> Result<T, LoadError>) -> Result<T, LoadError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(LoadError::Device(format!("loading panicked: {}", text.unwrap_or("no message"))))
    })
}
