//! The way to the node of a directory: this process becomes it, or speaks to the process that is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use net::state::{StateDir, StateError};
use net::transport::Ticket;
use net::{Node, StartError};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::control::client::{Connection, Stream};
use crate::control::protocol::{Reply, Request};
use crate::control::socket_path;
use crate::failure::Failure;
use crate::host::Host;

/// Which node, and how it runs if it is started by this command.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) dir: PathBuf,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) mdns: bool,
    pub(crate) ticket: Option<Ticket>,
}

/// How to reach the node.
pub(crate) enum Access {
    /// This process is it.
    Host(Host),
    /// Another process is.
    Guest { socket: PathBuf },
}

/// How long a process that holds the directory has to answer or to end.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_millis(100);

impl Access {
    /// Becomes the node of the directory, or finds the process that is.
    ///
    /// # Errors
    /// [`Failure`] if the directory cannot be used, or its node neither answers nor ends.
    pub(crate) async fn attach(options: &NodeOptions) -> Result<Self, Failure> {
        let socket = socket_path(&options.dir)?;
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        let mut pause = RETRY_FIRST;
        loop {
            let knew_peers = options.ticket.is_some() || knows_peers(&options.dir);
            match options.start().await {
                Ok(node) => return Host::start(node, socket, options.mdns, knew_peers).await.map(Self::Host),
                Err(StartError::State(StateError::Locked { pid, .. })) => {
                    // Another may have the lock and not yet the socket, or still the lock and the socket no more.
                    if UnixStream::connect(&socket).await.is_ok() {
                        return Ok(Self::Guest { socket });
                    }
                    if Instant::now() >= deadline {
                        let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
                        let message = format!("{who} holds {} and does not answer", options.dir.display());
                        let next = pid.map_or_else(
                            || "stop it".to_owned(),
                            |pid| format!("`kill {pid}`, then the same command again"),
                        );
                        return Err(Failure::new(message).next(next));
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Sends a request; nothing if the node has gone meanwhile.
    pub(crate) async fn open(&self, request: Request) -> Option<Connection> {
        let stream: Box<dyn Stream> = match self {
            Self::Host(host) => Box::new(host.connect()),
            Self::Guest { socket } => Box::new(UnixStream::connect(socket).await.ok()?),
        };
        Connection::open(stream, request).await
    }

    /// Asks for one thing, of whoever is the node.
    ///
    /// # Errors
    /// [`Failure`] as in [`Access::attach`], or what the node refuses.
    pub(crate) async fn ask(&mut self, options: &NodeOptions, request: Request) -> Result<Reply, Failure> {
        for _ in 0..ASK_AGAIN_MAX {
            if let Some(mut connection) = self.open(request.clone()).await
                && let Some(reply) = connection.next().await?
            {
                return Ok(reply);
            }
            if self.is_host() {
                break;
            }
            // The node has ended between two of our steps.
            *self = Self::attach(options).await?;
        }
        Err(Failure::new("the node of this directory ended").next("the same command again"))
    }

    pub(crate) fn is_host(&self) -> bool {
        matches!(self, Self::Host(_))
    }

    /// Drains the node if it is this process.
    pub(crate) async fn close(self) {
        if let Self::Host(host) = self {
            host.close().await;
        }
    }
}

const ASK_AGAIN_MAX: usize = 16;

impl NodeOptions {
    async fn start(&self) -> Result<Node, StartError> {
        let mut builder = Node::builder().dir(&self.dir).mdns(self.mdns);
        for address in &self.listen {
            builder = builder.listen(*address);
        }
        if let Some(ticket) = &self.ticket {
            builder = builder.ticket(ticket.clone());
        }
        builder.start().await
    }
}

fn knows_peers(dir: &Path) -> bool {
    // What is wrong with the directory shows when the node starts.
    dir.is_dir() && StateDir::open(dir).and_then(|dir| dir.peers()).is_ok_and(|peers| !peers.is_empty())
}
