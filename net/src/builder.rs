//! How a node is made.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use net_channel::{Bus, BusConfig, OpenGate};
use net_identity::Signer;
use net_transport::{BindError, Endpoint, EndpointConfig, Inbox, Mesh, MeshId, NodeKeys, Peer, Psk, Seed, Ticket};

use crate::node::{Node, StartNote};
use crate::state::{StateDir, StateError, StateLock};

/// The name of the directory that is used when none is named.
const DEFAULT_NAME: &str = "default";

/// Settings of a [`Node`]. Made by [`Node::builder`]; [`Builder::start`] starts it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start` is awaited"]
pub struct Builder {
    place: Place,
    ticket: Option<Ticket>,
    listen: Vec<SocketAddr>,
    mdns: bool,
    signer: Option<SignerOption>,
    #[cfg(feature = "weather")]
    weather: Option<net_transport::Weather>,
}

#[derive(Clone, Debug)]
enum Place {
    Named(String),
    Dir(PathBuf),
    Ephemeral,
}

#[derive(Clone)]
struct SignerOption(Arc<dyn Signer>);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be used, or another process is its node.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ticket is of another mesh than the one that the directory belongs to.
    #[error("the ticket is of another mesh than the one in {path}: choose another directory for it", path = .path.display())]
    OtherMesh {
        /// The directory.
        path: PathBuf,
    },
    /// No socket could be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Publish and subscribe did not start.
    #[error(transparent)]
    Bus(#[from] net_channel::StartError),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Random(#[source] io::Error),
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            place: Place::Named(DEFAULT_NAME.to_owned()),
            ticket: None,
            listen: Vec::new(),
            mdns: true,
            signer: None,
            #[cfg(feature = "weather")]
            weather: None,
        }
    }
}

impl Builder {
    /// Keeps the node's state in the directory of this name on this machine; a mesh with a random secret is made for it
    /// if it has none. The default is `default`.
    ///
    /// Two machines that use one name are not in one mesh: a [`Ticket`] brings them together.
    pub fn mesh(mut self, name: impl Into<String>) -> Self {
        self.place = Place::Named(name.into());
        self
    }

    /// Keeps the node's state in this directory. Another directory is another node.
    pub fn dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.place = Place::Dir(path.into());
        self
    }

    /// Keeps nothing on disk: a new key, and a new mesh unless a ticket says which. For tests and tools.
    pub fn ephemeral(mut self) -> Self {
        self.place = Place::Ephemeral;
        self
    }

    /// Joins the mesh of this ticket and dials its peers.
    pub fn ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    /// Listens on this address; may be called several times. The default is one socket for IPv4 and IPv6 on the port
    /// of last time, or any.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen.push(address);
        self
    }

    /// Whether nodes of the mesh are looked for on the local network; they are by default.
    pub fn mdns(mut self, on: bool) -> Self {
        self.mdns = on;
        self
    }

    /// The key that signs what this node publishes, if it is not the node's own. One process at one place holds it.
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(SignerOption(signer));
        self
    }

    /// Adds faults to the node's sockets: for tests.
    #[cfg(feature = "weather")]
    pub fn weather(mut self, weather: net_transport::Weather) -> Self {
        self.weather = Some(weather);
        self
    }

    /// Starts the node: it listens, looks for its peers and can be published and subscribed on. It does not wait for
    /// links: what is subscribed or published before they are up is carried out when they are.
    ///
    /// # Errors
    /// [`StartError`]; with [`StateError::Locked`] another process is the node of the directory.
    pub async fn start(self) -> Result<Node, StartError> {
        match self.place.clone() {
            Place::Named(name) => self.start_in(StateDir::path_of(&name)?).await,
            Place::Dir(path) => self.start_in(path).await,
            Place::Ephemeral => {
                let keys = NodeKeys::from_seed(&Seed::new(random()?));
                let mesh = match &self.ticket {
                    Some(ticket) => mesh_of(ticket),
                    None => Mesh::new(MeshId(random()?), 0, Psk::new(random()?)),
                };
                let known = self.ticket.iter().flat_map(|t| t.peers.clone()).collect();
                let config = self.endpoint_config(self.listen.clone(), known);
                let gate = Arc::new(OpenGate::new(mesh.id()));
                let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await?;
                self.run(keys, endpoint, inbox, None, Vec::new()).await
            }
        }
    }

    async fn start_in(self, path: PathBuf) -> Result<Node, StartError> {
        let lock = StateDir::open(path)?.lock()?;
        let keys = lock.keys_or_new()?;
        let mesh = match (&self.ticket, lock.dir().mesh()?) {
            (Some(ticket), Some(mesh)) if mesh.id() != ticket.mesh => {
                return Err(StartError::OtherMesh { path: lock.dir().path().to_owned() });
            }
            // A ticket of the same mesh may bring a newer psk.
            (Some(ticket), Some(mesh)) if mesh.current().0 >= ticket.generation => mesh,
            (Some(ticket), _) => {
                let mesh = mesh_of(ticket);
                lock.set_mesh(&mesh)?;
                mesh
            }
            (None, Some(mesh)) => mesh,
            (None, None) => lock.mesh_or_new()?,
        };
        if let Some(ticket) = &self.ticket {
            lock.add_peers(&ticket.peers)?;
        }
        let (bound, note) = self.bind(&lock, &keys, &mesh).await?;
        self.run(keys, bound.0, bound.1, Some(lock), note.into_iter().collect()).await
    }

    /// Binds the port of last time, so that tickets and the peers' memories of this node stay good, or else another.
    async fn bind(
        &self,
        lock: &StateLock,
        keys: &NodeKeys,
        mesh: &Mesh,
    ) -> Result<((Endpoint, Inbox), Option<StartNote>), StartError> {
        let known = lock.dir().peers()?;
        let gate = Arc::new(OpenGate::new(mesh.id()));
        let remembered = lock.dir().port();
        if let Some((listen, port)) = remembered.and_then(|port| Some((with_port(&self.listen, port)?, port))) {
            let config = self.endpoint_config(listen, known.clone());
            match Endpoint::bind(keys.clone(), mesh.clone(), gate.clone(), config).await {
                Ok(bound) => return Ok((bound, None)),
                Err(error) => tracing::debug!(%error, port, "the port of last time cannot be bound"),
            }
        }
        let config = self.endpoint_config(self.listen.clone(), known);
        let bound = Endpoint::bind(keys.clone(), mesh.clone(), gate, config).await?;
        let got = bound.0.addresses().first().map(SocketAddr::port);
        let note = match (remembered, got) {
            (Some(wanted), Some(got)) if wanted != got && with_port(&self.listen, wanted).is_some() => {
                Some(StartNote::OtherPort { wanted, got })
            }
            _ => None,
        };
        if let Some(got) = got {
            lock.set_port(got)?;
        }
        Ok((bound, note))
    }

    fn endpoint_config(&self, listen: Vec<SocketAddr>, known: Vec<Peer>) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        config.listen = listen;
        config.mdns = self.mdns;
        config.known = known;
        #[cfg(feature = "weather")]
        {
            config.weather = self.weather;
        }
        config
    }

    async fn run(
        self,
        keys: NodeKeys,
        endpoint: Endpoint,
        inbox: Inbox,
        lock: Option<StateLock>,
        notes: Vec<StartNote>,
    ) -> Result<Node, StartError> {
        #[cfg(feature = "log")]
        let logs_secret = crate::logs::ring_secret(&keys);
        let signer = self.signer.map_or_else(|| Arc::new(keys) as Arc<dyn Signer>, |s| s.0);
        let mut config = BusConfig::new(signer);
        config.floor = lock.as_ref().map(|lock| lock.dir().file("floor"));
        config.cursors = lock.as_ref().map(|lock| lock.dir().path().to_owned());
        #[cfg(feature = "log")]
        {
            config.logs = lock.as_ref().map(|lock| crate::logs::root(lock.dir()));
            config.logs_secret = Some(zeroize::Zeroizing::new(logs_secret));
        }
        match Bus::start(endpoint.clone(), inbox, config).await {
            Ok(bus) => Ok(Node::new(endpoint, bus, lock, notes)),
            Err(error) => {
                endpoint.close().await;
                Err(error.into())
            }
        }
    }
}

fn mesh_of(ticket: &Ticket) -> Mesh {
    Mesh::new(ticket.mesh, ticket.generation, ticket.psk.clone())
}

/// Where to listen if the port of last time is to be tried: only where no port was asked for.
fn with_port(listen: &[SocketAddr], port: u16) -> Option<Vec<SocketAddr>> {
    match listen {
        [] => Some(vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)]),
        [address] if address.port() == 0 => Some(vec![SocketAddr::new(address.ip(), port)]),
        _ => None,
    }
}

fn random() -> Result<[u8; 32], StartError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| StartError::Random(io::Error::other(error)))?;
    Ok(bytes)
}

impl std::fmt::Debug for SignerOption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.0.id()).finish()
    }
}
