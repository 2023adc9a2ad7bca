//! One member of a mesh.

use std::sync::Arc;
use std::time::Duration;

use net_channel::{Bus, ChannelBuilder, ChannelInfo, NodeEvents, SubscribeBuilder};
use net_transport::{Endpoint, NodeId, Peer, PeerInfo, Ticket};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::Builder;
use crate::state::StateLock;

/// One member of a mesh: links, publish and subscribe, and the directory with its keys. A cheap handle.
///
/// [`Node::close`] drains it. When the last handle is dropped without that, the node is closed in the background.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    bus: Bus,
    notes: Vec<StartNote>,
    memory: Arc<Mutex<Memory>>,
    /// Dropped or set to true, it ends the task that remembers peers.
    closing: watch::Sender<bool>,
}

/// What is written to the state directory while the node runs.
#[derive(Debug)]
struct Memory {
    lock: Option<StateLock>,
    written: Vec<Peer>,
}

/// Something that was not as asked for when the node started, and that it can live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartNote {
    /// The port of last time is taken: tickets with the old address reach this node through other peers only.
    OtherPort {
        /// The port of last time.
        wanted: u16,
        /// The port that is bound now.
        got: u16,
    },
}

impl std::fmt::Display for StartNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherPort { wanted, got } => {
                write!(f, "port {wanted} of last time is taken, listening on {got}: old tickets do not lead here")
            }
        }
    }
}

/// How often new peers are looked for to be remembered. Whoever is killed sooner after a link has come up waits for the
/// other end to come back; looking costs a lock and a comparison.
const REMEMBER_EVERY: Duration = Duration::from_millis(500);

impl Node {
    /// Settings to start with; without any, a node of the mesh `default` on this machine.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(endpoint: Endpoint, bus: Bus, lock: Option<StateLock>, notes: Vec<StartNote>) -> Self {
        let written = lock.as_ref().and_then(|lock| lock.dir().peers().ok()).unwrap_or_default();
        let has_memory = lock.is_some();
        let memory = Arc::new(Mutex::new(Memory { lock, written }));
        let (closing, closed) = watch::channel(false);
        if has_memory {
            tokio::spawn(remember(endpoint.clone(), memory.clone(), closed));
        }
        Self { inner: Arc::new(Inner { endpoint, bus, notes, memory, closing }) }
    }

    /// A channel to publish on: `node.channel("quakes/ak").open().await?`.
    pub fn channel(&self, name: &str) -> ChannelBuilder {
        self.inner.bus.channel(name)
    }

    /// A subscription to every channel that matches: `node.subscribe("quakes/*").await?`.
    pub fn subscribe(&self, pattern: &str) -> SubscribeBuilder {
        self.inner.bus.subscribe(pattern)
    }

    /// Keeps every channel that matches in this node's directory: `node.keep("quakes/*", LogConfig::default()).await?`.
    ///
    /// # Errors
    /// [`net_channel::KeepError`].
    #[cfg(feature = "log")]
    pub async fn keep(
        &self,
        pattern: &str,
        config: net_redex::LogConfig,
    ) -> Result<net_channel::Keeper, net_channel::KeepError> {
        self.inner.bus.keep(pattern, config).await
    }

    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.endpoint.id()
    }

    /// What another node needs to join the mesh here. It holds the secret of the mesh.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.inner.endpoint.ticket()
    }

    /// The links of this node.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.endpoint.peers()
    }

    /// The producers that this node knows of, its own among them.
    pub async fn channels(&self) -> Vec<ChannelInfo> {
        self.inner.bus.channels().await
    }

    /// What happens on this node from now on: peers, producers, joins, gaps, refusals.
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        self.inner.bus.events()
    }

    /// The links below.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Publish and subscribe below, with its counters.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    /// What was not as asked for when the node started.
    #[must_use]
    pub fn notes(&self) -> &[StartNote] {
        &self.inner.notes
    }

    /// Seals and sends what was published, tells the peers, remembers them, and lets go of the state directory. Other
    /// handles of the node are closed too; closing twice does nothing.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        close(&self.inner.endpoint, &self.inner.bus, &self.inner.memory).await;
    }
}

async fn close(endpoint: &Endpoint, bus: &Bus, memory: &Mutex<Memory>) {
    let mut memory = memory.lock().await;
    bus.close().await;
    memory.write(&endpoint.known_peers());
    endpoint.close().await;
    // From here on another process may be the node.
    memory.lock = None;
}

/// Keeps the file of peers up to date, so that a node that is killed finds its mesh again.
async fn remember(endpoint: Endpoint, memory: Arc<Mutex<Memory>>, mut closing: watch::Receiver<bool>) {
    loop {
        let at = Instant::now() + REMEMBER_EVERY;
        tokio::select! {
            biased;
            // An error means that the node is gone.
            _ = closing.changed() => return,
            () = tokio::time::sleep_until(at) => {}
        }
        memory.lock().await.write(&endpoint.known_peers());
    }
}

impl Memory {
    fn write(&mut self, peers: &[Peer]) {
        let Some(lock) = &self.lock else { return };
        // A node that knows nobody at the moment is not made to forget whom it knew.
        if peers.is_empty() || peers == self.written {
            return;
        }
        match lock.set_peers(peers) {
            Ok(()) => self.written = peers.to_vec(),
            Err(error) => tracing::warn!(%error, "the peers are not remembered"),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.closing.borrow() {
            return;
        }
        self.closing.send_replace(true);
        // The lock goes along: the directory is free for others only when the node has ended.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (endpoint, bus, memory) = (self.endpoint.clone(), self.bus.clone(), self.memory.clone());
            runtime.spawn(async move { close(&endpoint, &bus, &memory).await });
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id()).finish_non_exhaustive()
    }
}
