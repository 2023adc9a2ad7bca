//! This process as the node of its directory, serving the control socket.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use net::Node;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::server::{self, Served};
use crate::failure::Failure;

/// The most commands that are served at once; further ones wait.
const CONNECTIONS_MAX: usize = 256;
/// How long the node has to drain when it stops.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const PIPE_LEN: usize = 256 << 10;
/// How long accepting pauses when the system gives no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The node of a directory, and its control socket.
pub(crate) struct Host {
    served: Arc<Served>,
    socket: PathBuf,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Host {
    /// Serves a node that holds the lock of its directory.
    ///
    /// # Errors
    /// [`Failure`] if there can be no socket.
    pub(crate) async fn start(node: Node, socket: PathBuf, mdns: bool, knew_peers: bool) -> Result<Self, Failure> {
        let listener = match listen(&socket) {
            Ok(listener) => listener,
            Err(error) => {
                node.close().await;
                return Err(Failure::new(format!("cannot open the control socket {}: {error}", socket.display()))
                    .next("`net doctor` looks at the directory"));
            }
        };
        let served = Arc::new(Served::new(node, mdns, knew_peers));
        let host = Self { served, socket, cancel: CancellationToken::new(), tasks: TaskTracker::new() };
        host.tasks.spawn(accept(listener, host.served.clone(), host.cancel.clone(), host.tasks.clone()));
        Ok(host)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.served.node
    }

    /// A connection from within this process.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE_LEN);
        self.tasks.spawn(server::serve(self.served.clone(), theirs, self.cancel.clone()));
        ours
    }

    /// Lets the commands that are attached go, then drains the node.
    pub(crate) async fn close(self) {
        // The socket goes first: whoever comes now waits for the lock instead.
        let _ = std::fs::remove_file(&self.socket);
        self.cancel.cancel();
        self.tasks.close();
        let closed = async {
            self.tasks.wait().await;
            self.served.node.close().await;
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::warn!("the node did not drain in time");
        }
    }
}

fn listen(socket: &PathBuf) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Left behind by a node that was killed: this process holds the lock, so nobody answers there.
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // Until here the mode of the directory protects it.
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(listener: UnixListener, served: Arc<Served>, cancel: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = cancel.run_until_cancelled(async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        });
        match accepted.await {
            None => return,
            Some((Ok(permit), Ok((stream, _)))) => {
                let (served, cancel) = (served.clone(), cancel.clone());
                tasks.spawn(async move {
                    server::serve(served, stream, cancel).await;
                    drop(permit);
                });
            }
            Some(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the process themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
