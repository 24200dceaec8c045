//! The accept loop: hyper on every connection, and a stop that loses no request.
//!
//! `axum::serve` lost requests on restart; this stops accepting, closes the listeners, gives
//! requests that were on their way [`limits::DRAIN_LINGER`], then lets each connection finish its
//! present request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listen::{Listener, SocketFile};
use crate::base::limits;
use crate::proto::socket::Peer;

/// Listeners that serve one router.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    kill: CancellationToken,
    accepting: JoinSet<()>,
    graceful: Arc<GracefulShutdown>,
}

/// What each accept loop needs.
struct Door {
    router: Router,
    slots: Arc<Semaphore>,
    graceful: Arc<GracefulShutdown>,
    stop: CancellationToken,
    kill: CancellationToken,
    header_timeout: Duration,
}

impl Server {
    /// Serves `router` on `listeners`, at most `connections` at once; further ones wait in the
    /// kernel's backlog. On Unix sockets each request carries its [`Peer`].
    ///
    /// # Errors
    /// If a listener cannot be handed to tokio.
    pub fn start(listeners: Vec<Listener>, router: &Router, connections: usize) -> io::Result<Self> {
        Self::with_timeout(listeners, router, connections, limits::HTTP_HEADER_TIMEOUT)
    }

    fn with_timeout(
        listeners: Vec<Listener>,
        router: &Router,
        connections: usize,
        header_timeout: Duration,
    ) -> io::Result<Self> {
        let (stop, kill, graceful) =
            (CancellationToken::new(), CancellationToken::new(), Arc::new(GracefulShutdown::new()));
        let slots = Arc::new(Semaphore::new(connections));
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let door = Door {
                router: router.clone(),
                slots: Arc::clone(&slots),
                graceful: Arc::clone(&graceful),
                stop: stop.clone(),
                kill: kill.clone(),
                header_timeout,
            };
            match listener {
                Listener::Tcp(l) => {
                    accepting.spawn(tcp(TcpListener::from_std(l)?, door));
                }
                Listener::Unix(l, file) => {
                    accepting.spawn(unix(UnixListener::from_std(l)?, file, door));
                }
            }
        }
        Ok(Self { stop, kill, accepting, graceful })
    }

    /// Stops accepting and closes the listeners; what is connected goes on.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// Closes the listeners and waits until every connection has finished its request. Dropping
    /// the future in the middle is safe; [`Server::cut`] ends what is left.
    pub async fn drain(mut self) {
        self.close();
        while self.accepting.join_next().await.is_some() {}
        tokio::time::sleep(limits::DRAIN_LINGER).await;
        // The loops have ended, so this is the last one who holds it.
        if let Some(graceful) = Arc::into_inner(self.graceful) {
            graceful.shutdown().await;
        }
    }

    /// A switch that closes every connection at once.
    pub fn cut(&self) -> CancellationToken {
        self.kill.clone()
    }
}

async fn tcp(listener: TcpListener, door: Door) {
    while let Some((slot, stream)) = door.next(|| listener.accept()).await {
        // Tokens are small writes that must not wait for each other.
        stream.set_nodelay(true).ok();
        door.serve(stream, door.router.clone(), slot);
    }
}

async fn unix(listener: UnixListener, file: Option<SocketFile>, door: Door) {
    while let Some((slot, stream)) = door.next(|| listener.accept()).await {
        let router = match stream.peer_cred() {
            Ok(c) => {
                let peer = Peer { uid: c.uid(), gid: c.gid(), pid: c.pid().unwrap_or(0) };
                door.router.clone().layer(Extension(peer))
            }
            Err(_) => door.router.clone(),
        };
        door.serve(stream, router, slot);
    }
    // The listener closes first: a client that still finds the file is refused, not kept waiting.
    drop(listener);
    drop(file);
}

impl Door {
    /// The next connection and its slot; `None` when the server stops.
    async fn next<S, A, F>(&self, accept: impl Fn() -> F) -> Option<(OwnedSemaphorePermit, S)>
    where
        F: Future<Output = io::Result<(S, A)>>,
    {
        // The slot first: without one nothing is accepted.
        let slot = tokio::select! {
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok()?,
            () = self.stop.cancelled() => return None,
        };
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, _)) => return Some((slot, stream)),
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
                Err(e) => {
                    tracing::error!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(limits::ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn serve<S>(&self, stream: S, router: Router, slot: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            // A client that shuts its write side counts as gone: see docs/API.md.
            .half_close(false)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let watched = self.graceful.watch(connection);
        let kill = self.kill.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = watched => if let Err(e) = ended {
                    tracing::debug!(error = %e, "a connection ended");
                },
                () = kill.cancelled() => {}
            }
            drop(slot);
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::daemon::config::Listen;
    use crate::daemon::listen;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    fn open() -> (Vec<Listener>, String) {
        let l = listen::public(&Listen::Tcp("127.0.0.1:0".into())).expect("opened");
        let address = l[0].address();
        (l, address)
    }

    async fn read(stream: &mut TcpStream) -> String {
        let mut out = Vec::new();
        stream.read_to_end(&mut out).await.expect("read");
        String::from_utf8_lossy(&out).into_owned()
    }

    #[tokio::test]
    async fn a_drain_lets_running_and_arriving_requests_finish_and_closes_the_port() {
        let (l, address) = open();
        let slow = Router::new().route(
            "/",
            get(async || {
                tokio::time::sleep(Duration::from_millis(400)).await;
                "done"
            }),
        );
        let server = Server::start(l, &slow, 10).expect("started");
        let mut running = TcpStream::connect(&address).await.expect("connected");
        running.write_all(GET).await.expect("sent");
        let mut arriving = TcpStream::connect(&address).await.expect("connected");
        let mut idle = TcpStream::connect(&address).await.expect("connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let drain = tokio::spawn(server.drain());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(&address).await.is_err(), "the port is closed");
        arriving.write_all(GET).await.expect("sent");
        assert!(read(&mut running).await.ends_with("done"));
        assert!(read(&mut arriving).await.ends_with("done"));
        assert_eq!(read(&mut idle).await, "");
        drain.await.expect("drained");
    }

    #[tokio::test]
    async fn a_cut_ends_what_does_not_finish() {
        let (l, address) = open();
        let never = Router::new().route("/", get(async || std::future::pending::<()>().await));
        let server = Server::start(l, &never, 10).expect("started");
        let mut c = TcpStream::connect(&address).await.expect("connected");
        c.write_all(GET).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let cut = server.cut();
        let drain = server.drain();
        assert!(tokio::time::timeout(Duration::from_millis(500), drain).await.is_err());
        cut.cancel();
        assert_eq!(read(&mut c).await, "");
    }

    #[tokio::test]
    async fn connections_above_the_limit_wait_and_slow_headers_are_ended() {
        let (l, address) = open();
        let quick = Router::new().route("/", get(async || "hello"));
        let timeout = Duration::from_millis(300);
        let _server = Server::with_timeout(l, &quick, 1, timeout).expect("started");
        let mut slow = TcpStream::connect(&address).await.expect("connected");
        slow.write_all(b"GET / HT").await.expect("sent");
        let mut second = TcpStream::connect(&address).await.expect("in the backlog");
        second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut byte = [0];
        let early = tokio::time::timeout(timeout / 3, second.read(&mut byte)).await;
        assert!(early.is_err(), "served beside a connection that holds the only slot");
        // The first is ended for its slowness, and the second gets its slot.
        let served =
            tokio::time::timeout(timeout * 10, read(&mut second)).await.expect("the slow one is ended in time");
        assert!(served.ends_with("hello"));
    }

    #[tokio::test]
    async fn unix_requests_carry_their_peer() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.sock");
        let l = listen::admin(&path, Vec::new()).expect("opened");
        let who = Router::new().route("/", get(async |Extension(p): Extension<Peer>| format!("{} {}", p.uid, p.pid)));
        let server = Server::start(vec![l], &who, 10).expect("started");
        let mut c = tokio::net::UnixStream::connect(&path).await.expect("connected");
        c.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
        let mut out = String::new();
        c.read_to_string(&mut out).await.expect("read");
        assert!(out.ends_with(&format!("{} {}", nix::unistd::getuid(), std::process::id())), "{out}");
        server.drain().await;
        assert!(!path.exists());
    }
}
