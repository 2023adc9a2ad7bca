//! How an endpoint is set up.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::Peer;

/// How an [`Endpoint`](crate::Endpoint) is set up. The default is right for a node that is started by hand.
#[derive(Clone)]
#[non_exhaustive]
pub struct EndpointConfig {
    /// Where to listen, at most [`EndpointConfig::LISTEN_MAX`] addresses. Empty: one dual-stack UDP socket on a free
    /// port.
    pub listen: Vec<SocketAddr>,
    /// Find other nodes of the mesh on the local network, and be found there. On by default; without the feature `mdns`
    /// it does nothing.
    pub mdns: bool,
    /// How many neighbours this node has at most.
    pub links_max: usize,
    /// Shown to the nodes that are dialled: empty, or a MEMBER capability.
    pub credential: Bytes,
    /// Peers that are dialled at once and kept.
    pub known: Vec<Peer>,
    /// This node's place, one byte a level; zero is the root.
    pub subnet: [u8; 4],
    /// Sizes of queues and tables.
    pub limits: Limits,
    /// Sockets other than the operating system's: for simulations.
    pub sockets: Option<Sockets>,
    /// Makes every random choice of the endpoint follow from this seed: for simulations only, since whoever knows it
    /// reads every link.
    pub seed: Option<[u8; 32]>,
    /// The wall clock that node records are numbered by; the system's if none is given.
    pub clock: Option<Arc<dyn quinn::TimeSource>>,
    /// Faults that are added to the sockets: for tests.
    #[cfg(feature = "weather")]
    pub weather: Option<crate::Weather>,
}

impl EndpointConfig {
    /// Sockets of one endpoint at most.
    pub const LISTEN_MAX: usize = 8;
    /// `links_max` by default.
    pub const LINKS_MAX_DEFAULT: usize = 64;

    /// An endpoint that listens here and nowhere else, and does not look around on the local network: for tests and for
    /// several nodes on one machine.
    #[must_use]
    pub fn listen_on(address: SocketAddr) -> Self {
        Self { listen: vec![address], mdns: false, ..Self::default() }
    }
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            mdns: true,
            links_max: Self::LINKS_MAX_DEFAULT,
            credential: Bytes::new(),
            known: Vec::new(),
            subnet: [0; 4],
            limits: Limits::default(),
            sockets: None,
            seed: None,
            clock: None,
            #[cfg(feature = "weather")]
            weather: None,
        }
    }
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("listen", &self.listen)
            .field("mdns", &self.mdns)
            .field("links_max", &self.links_max)
            .field("known", &self.known)
            .field("subnet", &self.subnet)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Sizes of queues and tables, and how often links are renewed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of frames queued for one link and priority; a frame is taken while less is queued. Those who ask for room
    /// see it full at three quarters. A link takes four times as much memory, and at most 8 MiB for what the other end
    /// has not acknowledged.
    pub queue_bytes: usize,
    /// Bytes of received frames that the layer above has not released, at least [`Limits::INBOX_BYTES_MIN`], of which one
    /// neighbour may take half; and a quarter of that for frames of this node's own pairs.
    pub inbox_bytes: usize,
    /// Events waiting for the layer above before control streams are no longer read.
    pub events: usize,
    /// Accepted streams of one protocol that wait for `Acceptor::next`.
    pub accept_queue: usize,
    /// After this time a link's connection is replaced by a fresh one, with fresh keys.
    pub renew_after: Duration,
    /// After this many bytes a link's connection is replaced by a fresh one.
    pub renew_bytes: u64,
    /// Adverts of one node.
    pub adverts_per_node: usize,
    /// Adverts of all nodes.
    pub adverts: usize,
    /// Nodes in the directory.
    pub nodes: usize,
    /// Pairs that one neighbour may join here.
    pub joins_per_link: usize,
}

impl Limits {
    /// The least room of an inbox: a few of the largest frames.
    pub const INBOX_BYTES_MIN: usize = 4 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_bytes: 4 << 20,
            inbox_bytes: 16 << 20,
            events: 4096,
            accept_queue: 64,
            renew_after: Duration::from_secs(3600),
            renew_bytes: 64 << 30,
            adverts_per_node: 16_384,
            adverts: 131_072,
            nodes: 4096,
            joins_per_link: 65_536,
        }
    }
}

/// Sockets and time that are not the operating system's.
#[derive(Clone)]
pub struct Sockets {
    /// Timers, tasks and the clock of connections. Its tasks must be polled within a tokio runtime.
    pub runtime: Arc<dyn quinn::Runtime>,
    /// The sockets to use, 1 to [`EndpointConfig::LISTEN_MAX`]; their local addresses are what others are told.
    pub sockets: Vec<Arc<dyn quinn::AsyncUdpSocket>>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}
