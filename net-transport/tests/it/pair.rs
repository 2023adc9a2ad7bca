//! Two quinn endpoints in one place and in virtual time: no socket, no clock, no thread.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use net_transport::crypto::{
    self, ConnectionIds, Entropy, LinkIdentity, client_config, reset_key, server_config, token_key,
};
use net_transport::{
    Admission, AdvertId, Aead, Header, Mesh, MeshId, NodeId, NodeKeys, OpenAdmission, Psk, Refusal, Seed, StaticBinding,
};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionId, DatagramEvent, Dir, Endpoint,
    EndpointConfig, Event, Incoming, ServerConfig, StreamId, TransportConfig,
};

pub(crate) const MESH: MeshId = MeshId([7; 32]);

pub(crate) fn mesh(generation: u8) -> Mesh {
    Mesh::new(MESH, generation, psk(generation))
}

pub(crate) fn psk(generation: u8) -> Psk {
    Psk::new([generation ^ 0x5a; 32])
}

/// Admits nobody.
pub(crate) struct Refuse;

impl Admission for Refuse {
    fn member(&self, _: &NodeId, _: &[u8]) -> Result<(), Refusal> {
        Err(Refusal("banned"))
    }

    fn check(&self, _: &Header, _: &NodeId) -> Result<(), Refusal> {
        Err(Refusal("banned"))
    }

    fn advert(&self, _: &[u8]) -> Result<AdvertId, Refusal> {
        Err(Refusal("banned"))
    }
}

/// Everything that makes a node, to be changed before it is started.
pub(crate) struct Node {
    pub(crate) keys: NodeKeys,
    pub(crate) mesh: Mesh,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) credential: Bytes,
    pub(crate) entropy_seed: [u8; 32],
    pub(crate) retry: bool,
    pub(crate) versions: Vec<u32>,
    /// The cipher it prefers.
    pub(crate) aead: Aead,
}

impl Node {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            keys: NodeKeys::from_seed(&Seed::new([seed; 32])),
            mesh: mesh(1),
            admission: Arc::new(OpenAdmission),
            credential: Bytes::new(),
            entropy_seed: [seed ^ 0xff; 32],
            retry: false,
            versions: crypto::versions(),
            aead: Aead::ChaCha20Poly1305,
        }
    }

    /// What its sessions are made of.
    pub(crate) fn parts(self) -> (Arc<LinkIdentity>, Arc<dyn Admission>, Entropy) {
        let identity = Arc::new(LinkIdentity::preferring(self.aead, self.keys, self.mesh));
        identity.set_credential(self.credential).unwrap();
        (identity, self.admission, Entropy::seeded(self.entropy_seed))
    }

    pub(crate) fn start(self) -> End {
        let (retry, versions) = (self.retry, self.versions.clone());
        let (identity, admission, entropy) = self.parts();
        let mut endpoint = EndpointConfig::new(reset_key(identity.keys()));
        let (ids, keys) = (entropy.clone(), identity.keys().clone());
        endpoint.cid_generator(move || Box::new(ConnectionIds::new(&keys, ids.clone()))).supported_versions(versions);
        let server = server_config(identity.clone(), admission, entropy.clone());
        let server = ServerConfig::new(server, token_key(identity.keys()));
        let seed = identity.keys().derive("net test quinn seed");
        End {
            endpoint: Endpoint::new(Arc::new(endpoint), Some(Arc::new(server)), true, Some(seed)),
            identity,
            entropy,
            retry,
            connections: Vec::new(),
            inbox: VecDeque::new(),
            answers: Vec::new(),
        }
    }
}

/// A started node.
pub(crate) struct End {
    endpoint: Endpoint,
    pub(crate) identity: Arc<LinkIdentity>,
    entropy: Entropy,
    retry: bool,
    pub(crate) connections: Vec<Link>,
    inbox: VecDeque<Vec<u8>>,
    /// What the endpoint itself wants to send.
    answers: Vec<Vec<u8>>,
}

/// One connection of a node, with what it reported.
pub(crate) struct Link {
    handle: ConnectionHandle,
    pub(crate) quic: Connection,
    pub(crate) connected: bool,
    pub(crate) lost: Option<ConnectionError>,
    pub(crate) received: Vec<u8>,
    sends: Option<StreamId>,
    receives: Option<StreamId>,
}

impl Link {
    fn new(handle: ConnectionHandle, quic: Connection) -> Self {
        Self { handle, quic, connected: false, lost: None, received: Vec::new(), sends: None, receives: None }
    }

    /// Writes to the one stream of this end, as much as it takes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> usize {
        let stream = *self.sends.get_or_insert_with(|| self.quic.streams().open(Dir::Uni).expect("a stream is free"));
        self.quic.send_stream(stream).write(bytes).unwrap_or(0)
    }

    fn poll(&mut self) {
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
        while let Some(id) = self.quic.streams().accept(Dir::Uni) {
            self.receives = Some(id);
        }
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToResponder,
    ToInitiator,
}

/// Looks at or changes a datagram on its way; `false` drops it.
pub(crate) type Tap<'a> = dyn FnMut(Way, &mut Vec<u8>) -> bool + 'a;

pub(crate) struct Pair {
    pub(crate) initiator: End,
    pub(crate) responder: End,
    pub(crate) now: Instant,
    /// Every datagram that was sent.
    pub(crate) wire: Vec<(Way, Vec<u8>)>,
}

fn address(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

const INITIATOR_PORT: u16 = 1;
const RESPONDER_PORT: u16 = 2;

impl Pair {
    pub(crate) fn new(initiator: Node, responder: Node) -> Self {
        Self { initiator: initiator.start(), responder: responder.start(), now: Instant::now(), wire: Vec::new() }
    }

    /// Two nodes of one mesh.
    pub(crate) fn plain() -> Self {
        Self::new(Node::new(1), Node::new(2))
    }

    /// The initiator dials the node that it takes to be at the other end.
    pub(crate) fn dial(&mut self) {
        let remote = *self.responder.identity.keys().binding();
        self.dial_as(remote);
    }

    pub(crate) fn dial_as(&mut self, remote: StaticBinding) {
        let generation = self.initiator.identity.mesh().current().0;
        let config = self.client_config(remote, generation);
        let (handle, quic) =
            self.initiator.endpoint.connect(self.now, config, address(RESPONDER_PORT), "ignored").expect("dials");
        self.initiator.connections.push(Link::new(handle, quic));
    }

    pub(crate) fn client_config(&self, remote: StaticBinding, generation: u8) -> ClientConfig {
        let entropy = self.initiator.entropy.clone();
        let mut config = ClientConfig::new(client_config(self.initiator.identity.clone(), remote, entropy.clone()));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(Duration::from_secs(10).try_into().unwrap()));
        config.version(crypto::version(generation)).transport_config(Arc::new(transport));
        config.initial_dst_cid_provider(Arc::new(move || {
            let mut id = [0; 16];
            entropy.fill(&mut id).unwrap();
            ConnectionId::new(&id)
        }));
        config
    }

    pub(crate) fn run(&mut self) {
        self.run_with(&mut |_, _| true);
    }

    /// Carries datagrams, letting time pass when none is on its way, until nothing moves and every connection is either
    /// connected or lost.
    pub(crate) fn run_with(&mut self, tap: &mut Tap<'_>) {
        self.run_until(tap, |pair| {
            let settled = |end: &End| end.connections.iter().all(|link| link.connected || link.lost.is_some());
            settled(&pair.initiator) && settled(&pair.responder)
        });
    }

    /// Carries datagrams and lets time pass until nothing moves and the condition holds.
    pub(crate) fn run_until(&mut self, tap: &mut Tap<'_>, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..100_000 {
            if self.carry(tap) {
                continue;
            }
            if done(self) {
                return;
            }
            assert!(self.pass_time(), "nothing moves, no timer runs, and the end is not reached");
        }
        panic!("the two ends never come to rest");
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        [&self.initiator, &self.responder].into_iter()
    }

    /// One exchange of whatever is ready, both ways. Tells whether anything was.
    pub(crate) fn carry(&mut self, tap: &mut Tap<'_>) -> bool {
        let mut moved = false;
        for way in [Way::ToResponder, Way::ToInitiator] {
            let (from, to) = match way {
                Way::ToResponder => (&mut self.initiator, &mut self.responder),
                Way::ToInitiator => (&mut self.responder, &mut self.initiator),
            };
            for mut datagram in from.drive(self.now) {
                moved = true;
                self.wire.push((way, datagram.clone()));
                if tap(way, &mut datagram) {
                    to.inbox.push_back(datagram);
                }
            }
        }
        self.initiator.receive(self.now, address(RESPONDER_PORT));
        self.responder.receive(self.now, address(INITIATOR_PORT));
        moved || self.ends().any(|end| !end.answers.is_empty())
    }

    /// Jumps to the next timer. Tells whether there was one.
    pub(crate) fn pass_time(&mut self) -> bool {
        let links = self.initiator.connections.iter_mut().chain(&mut self.responder.connections);
        let Some(next) = links.filter_map(|link| link.quic.poll_timeout()).min() else {
            return false;
        };
        self.advance(next.saturating_duration_since(self.now));
        true
    }

    /// Lets this much time pass at once.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        for link in self.initiator.connections.iter_mut().chain(&mut self.responder.connections) {
            if link.quic.poll_timeout().is_some_and(|at| at <= self.now) {
                link.quic.handle_timeout(self.now);
            }
        }
    }

    /// Puts a datagram before an end as if it came from the other.
    pub(crate) fn inject(&mut self, way: Way, datagram: Vec<u8>) {
        match way {
            Way::ToResponder => self.responder.inbox.push_back(datagram),
            Way::ToInitiator => self.initiator.inbox.push_back(datagram),
        }
    }

    pub(crate) fn dialled(&mut self) -> &mut Link {
        self.initiator.connections.last_mut().expect("a link was dialled")
    }

    pub(crate) fn accepted(&mut self) -> &mut Link {
        self.responder.connections.last_mut().expect("a link was accepted")
    }

    pub(crate) fn answers(&self) -> usize {
        self.wire.iter().filter(|(way, _)| *way == Way::ToInitiator).count()
    }
}

impl End {
    /// Everything this end wants to send.
    fn drive(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = std::mem::take(&mut self.answers);
        for link in &mut self.connections {
            loop {
                link.poll();
                let mut buf = Vec::new();
                while let Some(transmit) = link.quic.poll_transmit(now, 1, &mut buf) {
                    out.push(buf[..transmit.size].to_vec());
                    buf.clear();
                }
                let mut again = false;
                while let Some(event) = link.quic.poll_endpoint_events() {
                    again = true;
                    if let Some(event) = self.endpoint.handle_event(link.handle, event) {
                        link.quic.handle_event(event);
                    }
                }
                if !again {
                    break;
                }
            }
            link.read();
        }
        out
    }

    /// Takes what has arrived.
    fn receive(&mut self, now: Instant, peer: SocketAddr) {
        while let Some(datagram) = self.inbox.pop_front() {
            let mut buf = Vec::new();
            match self.endpoint.handle(now, peer, None, None, BytesMut::from(&datagram[..]), &mut buf) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    if let Some(link) = self.connections.iter_mut().find(|link| link.handle == handle) {
                        link.quic.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let answer = self.accept(now, incoming);
                    self.answers.extend(answer);
                }
                Some(DatagramEvent::Response(transmit)) => self.answers.push(buf[..transmit.size].to_vec()),
                None => {}
            }
        }
    }

    fn accept(&mut self, now: Instant, incoming: Incoming) -> Option<Vec<u8>> {
        let mut buf = Vec::new();
        if self.retry && incoming.may_retry() {
            let transmit = self.endpoint.retry(incoming, &mut buf).expect("a retry was allowed");
            return Some(buf[..transmit.size].to_vec());
        }
        match self.endpoint.accept(incoming, now, &mut buf, None) {
            Ok((handle, quic)) => {
                self.connections.push(Link::new(handle, quic));
                None
            }
            Err(error) => error.response.map(|transmit| buf[..transmit.size].to_vec()),
        }
    }
}

impl Link {
    fn read(&mut self) {
        self.poll();
        let Some(stream) = self.receives else { return };
        let mut stream = self.quic.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.received.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
    }
}
