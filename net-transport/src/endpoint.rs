//! The endpoint: one node of a mesh, with its sockets, its neighbours and what they tell it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::config::{EndpointConfig, Limits};
use crate::crypto::{Entropy, LinkIdentity};
use crate::dialer::Dialer;
use crate::directory::{AdvertError, Directory};
use crate::group::GroupRuntime;
use crate::inbox::{Events, FrameQueue};
use crate::joins::Joins;
use crate::link::{CloseCode, OpenCount};
use crate::metrics::Counters;
use crate::outbox::RoomSignal;
use crate::quic::{self, Quic};
use crate::socket::{GuardedSocket, KnownAddresses, canonical};
use crate::sync::{lock, read};
use crate::udp::TokioSocket;
use crate::{Admission, Inbox, Mesh, MeshId, Metrics, NodeId, NodeKeys, Pair, Peer, Ticket};

mod info;
mod protocols;
mod publish;
mod shared;
mod tasks;

pub use info::{PeerInfo, PeerState};
pub(crate) use protocols::Offer;
pub use protocols::{Acceptor, IncomingStream, OpenError, ProtocolTaken};
pub use publish::{DatagramError, Fanout};
pub(crate) use shared::Shared;
use shared::State;

/// Events that wait in the channel to the layer above; more wait behind it.
const EVENT_CHANNEL: usize = 256;
/// How long closing waits for what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long closing waits for what is left to end.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Peers in a ticket beside this node.
const TICKET_NEIGHBOURS: usize = 3;

/// A node of a mesh. A cheap handle: clones are the same endpoint, and it closes when the last one is dropped.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
    _close: Arc<CloseOnDrop>,
}

/// Why an endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// An address cannot be listened on.
    #[error("cannot listen on {addresses:?}: choose another address or port, or none")]
    Listen {
        /// What was asked for.
        addresses: Vec<SocketAddr>,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// More addresses than an endpoint listens on.
    #[error("{0} addresses to listen on, at most {max} are allowed", max = EndpointConfig::LISTEN_MAX)]
    TooManyAddresses(usize),
    /// No socket was handed in.
    #[error("no socket: hand in at least one, or none at all to use the operating system's")]
    NoSocket,
    /// The socket cannot be used.
    #[error("the socket cannot be used")]
    Socket(#[source] std::io::Error),
    /// The credential is longer than the handshake can carry.
    #[error(transparent)]
    Credential(#[from] crate::crypto::CredentialTooLong),
    /// The operating system gives no random bytes.
    #[error(transparent)]
    Entropy(#[from] crate::crypto::NoEntropy),
}

impl Endpoint {
    /// Starts a node: binds its sockets, dials the peers it knows, answers others. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] says what about the configuration or the machine is in the way.
    #[expect(clippy::unused_async, reason = "what it starts needs a runtime, and later it may have to wait for one")]
    pub async fn bind(
        keys: NodeKeys,
        mesh: Mesh,
        admission: Arc<dyn Admission>,
        config: EndpointConfig,
    ) -> Result<(Self, Inbox), BindError> {
        let entropy = config.seed.map_or_else(Entropy::system, Entropy::seeded);
        let mut boot = [0; 8];
        entropy.fill(&mut boot)?;
        let identity = Arc::new(LinkIdentity::new(keys.clone(), mesh));
        identity.set_credential(config.credential.clone())?;
        let quic = Quic::new(identity.clone(), entropy.clone());

        let runtime = config.sockets.as_ref().map_or_else(tokio_runtime, |sockets| sockets.runtime.clone());
        let sockets = open_sockets(&config)?;
        let (counters, known_addresses) = (Arc::new(Counters::default()), Arc::new(KnownAddresses::default()));
        #[cfg(feature = "weather")]
        let (sockets, admission) = match &config.weather {
            Some(weather) => weather.over(sockets, admission, &runtime, &counters),
            None => (sockets, admission),
        };
        let sockets_open = Arc::new(OpenCount::default());
        let mut endpoints = Vec::new();
        let mut bound = Vec::new();
        for socket in sockets {
            bound.push(canonical(socket.local_addr().map_err(BindError::Socket)?));
            let (known, counters, open) = (known_addresses.clone(), counters.clone(), sockets_open.open());
            let guarded = GuardedSocket::new(socket, known, runtime.clone(), counters, open);
            let server = quic.server_config(admission.clone(), &config);
            let endpoint = quinn::Endpoint::new_with_abstract_socket(
                quic.endpoint_config(&config),
                Some(server),
                Arc::new(guarded),
                Arc::new(GroupRuntime(runtime.clone())),
            );
            endpoints.push(endpoint.map_err(BindError::Socket)?);
        }

        let room = Arc::new(RoomSignal::default());
        let inbox_bytes = config.limits.inbox_bytes.max(Limits::INBOX_BYTES_MIN);
        let (frames, receiver) = FrameQueue::new(inbox_bytes, room.clone());
        let (event_sender, events) = mpsc::channel(EVENT_CHANNEL);
        let me = keys.id();
        let mesh_id = identity.mesh().id();
        let directory = Directory::new(
            Instant::now(),
            shared::unix_ms(&config),
            keys,
            mesh_id,
            boot,
            config.subnet,
            config.limits.clone(),
        );
        let shared = Arc::new(Shared {
            me,
            mesh: mesh_id,
            boot,
            identity,
            quic,
            admission,
            runtime,
            endpoints: Mutex::new(endpoints),
            sockets_open,
            bound,
            known_addresses,
            counters,
            state: Mutex::new(State {
                dialer: Dialer::new(me),
                directory,
                neighbours: BTreeMap::new(),
                observed: BTreeMap::new(),
            }),
            joins: RwLock::new(Joins::new(me, config.limits.joins_per_link)),
            room,
            frames,
            events: Events::new(config.limits.events),
            protocols: Mutex::default(),
            closing: Default::default(),
            closed: Default::default(),
            tasks: Default::default(),
            timer: Default::default(),
            addresses_changed: Default::default(),
            entropy,
            link_ids: Default::default(),
            handshakes: Default::default(),
            config,
        });
        shared.start(event_sender);
        let close = Arc::new(CloseOnDrop(shared.clone()));
        Ok((Self { shared, _close: close }, Inbox { frames: receiver, events }))
    }

    /// Who this node is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.shared.me
    }

    /// The mesh it is in.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.shared.mesh
    }

    /// Where others may dial this node, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.addresses()
    }

    /// What another node needs to join the mesh by this one: a secret. It names this node and a few of its neighbours.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        let mesh = self.shared.identity.mesh();
        let (generation, psk) = mesh.current();
        let own = Peer { binding: *self.shared.identity.keys().binding(), addresses: self.addresses() };
        let neighbours: Vec<Peer> = lock(&self.shared.state).directory.neighbours().take(TICKET_NEIGHBOURS).collect();
        Ticket {
            mesh: mesh.id(),
            generation,
            psk: psk.clone(),
            policy: None,
            peers: [vec![own], neighbours].concat(),
            capability: Vec::new(),
        }
    }

    /// Dials a peer now, and again whenever it is not linked: after 100 ms, doubling to 30 s.
    ///
    /// More than 4,096 are not kept; a warning is logged.
    pub fn add_peer(&self, peer: Peer) {
        self.shared.keep(peer);
    }

    /// Neighbours, and nodes that this one tries to reach.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        info::peers(&self.shared)
    }

    /// Peers worth remembering for the next start: those that were added, and neighbours.
    #[must_use]
    pub fn known_peers(&self) -> Vec<Peer> {
        lock(&self.shared.state).dialer.known()
    }

    /// Is the node a neighbour now?
    #[must_use]
    pub fn is_linked(&self, node: &NodeId) -> bool {
        lock(&self.shared.state).neighbours.contains_key(node)
    }

    /// Tells all neighbours, and through them others, one of this node's own adverts, at most 1,024 bytes. Another one
    /// with the same key takes its place.
    ///
    /// # Errors
    /// [`AdvertError`] if it is too large or there are too many.
    pub fn advertise(&self, key: [u8; 32], bytes: Bytes) -> Result<(), AdvertError> {
        self.shared.advertise(key, bytes)
    }

    /// This node is the origin's node of the pair from now on: joins of it are answered.
    pub fn serve(&self, pair: Pair) {
        self.shared.with_joins(|joins, _, out| joins.serve(pair, out));
    }

    /// This node is the origin's node of the pair no longer; those who have joined it are told.
    pub fn unserve(&self, pair: &Pair) {
        self.shared.with_joins(|joins, _, out| joins.unserve(pair, out));
    }

    /// Asks a neighbour, which the origin's advert names, for the frames of a pair. Said once: it is asked again each
    /// time the node is linked, until [`Endpoint::unjoin`].
    ///
    /// `Event::Joined` tells when it is live, `Event::Unjoined` when it is not. After a refusal, join again when there is
    /// reason to. Another `node` than before takes the place of that one. This node's own id is fine for its own pairs.
    pub fn join(&self, pair: Pair, node: NodeId) {
        self.shared.with_joins(|joins, counters, out| joins.join(pair, node, counters, out));
    }

    /// Wants the frames of a pair no longer.
    pub fn unjoin(&self, pair: &Pair) {
        self.shared.with_joins(|joins, _, out| joins.unjoin(pair, out));
    }

    /// Tells the upstream of a joined pair that this node can take no more of it for now, or can again.
    pub fn set_full(&self, pair: &Pair, full: bool) {
        self.shared.with_joins(|joins, _, out| joins.set_full(pair, full, out));
    }

    /// How many take the frames of a served pair.
    #[must_use]
    pub fn joiners(&self, pair: &Pair) -> usize {
        let joins = read(&self.shared.joins);
        joins.served(pair).map_or(0, |served| served.takers.len() + usize::from(served.local))
    }

    /// What this endpoint has done since it was bound.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.shared.counters.snapshot()
    }

    /// Dials with another psk generation from now on, and accepts what the mesh accepts. Links that stand keep standing.
    pub fn set_mesh(&self, mesh: Mesh) {
        self.shared.identity.set_mesh(mesh);
    }

    /// Shows another credential to those that are dialled from now on.
    ///
    /// # Errors
    /// [`CredentialTooLong`](crate::crypto::CredentialTooLong); the one before stays.
    pub fn set_credential(&self, credential: Bytes) -> Result<(), crate::crypto::CredentialTooLong> {
        self.shared.identity.set_credential(credential)
    }

    /// Sends what is queued, for at most 5 s, and leaves: neighbours are told, nothing is accepted any more, and the
    /// sockets are closed (unless a stream is still held somewhere).
    ///
    /// # Cancel safety
    /// If it is cancelled the endpoint is closing; dropping it does the rest.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.closing.cancel();
        let _ = timeout(CLOSE_TIMEOUT, shared.flush()).await;
        let endpoints = shared.close_now();
        let gone = async {
            // Neighbours hear that this node leaves, and its ports are free again.
            for endpoint in endpoints {
                endpoint.wait_idle().await;
            }
            shared.tasks.close();
            shared.tasks.wait().await;
            shared.sockets_open.zero().await;
        };
        let _ = timeout(LEAVE_TIMEOUT, gone).await;
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.shared.me).finish_non_exhaustive()
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close_now();
    }
}

fn tokio_runtime() -> Arc<dyn quinn::Runtime> {
    Arc::new(quinn::TokioRuntime)
}

fn open_sockets(config: &EndpointConfig) -> Result<Vec<Arc<dyn quinn::AsyncUdpSocket>>, BindError> {
    let wanted = config.sockets.as_ref().map_or(config.listen.len(), |sockets| sockets.sockets.len());
    if wanted > EndpointConfig::LISTEN_MAX {
        return Err(BindError::TooManyAddresses(wanted));
    }
    match &config.sockets {
        Some(sockets) if sockets.sockets.is_empty() => Err(BindError::NoSocket),
        Some(sockets) => Ok(sockets.sockets.clone()),
        None => {
            let listen = |source| BindError::Listen { addresses: config.listen.clone(), source };
            let sockets = quic::bind(&config.listen).map_err(listen)?;
            let wrapped = sockets.into_iter().map(|socket| Ok(Arc::new(TokioSocket::new(socket)?) as _));
            wrapped.collect::<Result<_, _>>().map_err(listen)
        }
    }
}

impl Shared {
    /// Waits until all that is queued has been acknowledged by the neighbours.
    async fn flush(&self) {
        loop {
            let changed = self.room.waiting();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.neighbours().iter().all(|neighbour| neighbour.outbox.queued_bytes() == 0) {
                break;
            }
            changed.await;
        }
        for neighbour in self.neighbours() {
            for link in neighbour.links() {
                link.drain.cancel();
                link.lanes_out.zero().await;
            }
        }
    }

    fn close_now(&self) -> Vec<quinn::Endpoint> {
        self.closing.cancel();
        let endpoints = std::mem::take(&mut *lock(&self.endpoints));
        for endpoint in &endpoints {
            // Without it quinn answers strangers that it is closing.
            endpoint.set_server_config(None);
            endpoint.close(CloseCode::CLOSED.var(), b"the node has left");
        }
        self.frames.close();
        lock(&self.protocols).clear();
        self.closed.cancel();
        endpoints
    }
}
