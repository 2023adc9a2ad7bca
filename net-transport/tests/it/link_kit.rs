//! Nodes on loopback for the tests of links, and a peer that speaks the protocol by hand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use net_transport::crypto::{self, ConnectionIds, Entropy, LinkIdentity};
use net_transport::{
    Admission, AdvertId, Endpoint, EndpointConfig, Event, FrameReceiver, Header, Kind, Mesh, MeshId, Metrics, NodeId,
    NodeKeys, Pair, Peer, PeerState, Priority, Psk, Refusal, Seed, StaticBinding,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Whatever is waited for comes within this time, or the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Takes every member and frame; an advert is `node ‖ key ‖ seq u64 ‖ anything`, and nobody signs it.
pub(crate) struct TestAdmission;

impl Admission for TestAdmission {
    fn member(&self, _: &NodeId, _: &[u8]) -> Result<(), Refusal> {
        Ok(())
    }

    fn check(&self, header: &Header, _: &NodeId) -> Result<(), Refusal> {
        if header.cap() == [0xff; 4] { Err(Refusal("a test says so")) } else { Ok(()) }
    }

    fn advert(&self, bytes: &[u8]) -> Result<AdvertId, Refusal> {
        let part = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk::<32>().copied());
        let seq = bytes.get(64..).and_then(|rest| rest.first_chunk().copied());
        let (Some(node), Some(key), Some(seq)) = (part(0), part(32), seq) else { return Err(Refusal("no advert")) };
        Ok(AdvertId { node: NodeId::from_bytes(node), key, seq: u64::from_le_bytes(seq) })
    }
}

pub(crate) fn advert(node: NodeId, key: u8, seq: u64) -> Bytes {
    [&node.as_bytes()[..], &[key; 32], &seq.to_le_bytes(), b"text"].concat().into()
}

pub(crate) fn keys(n: u8) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new([n; 32]))
}

pub(crate) fn mesh() -> Mesh {
    Mesh::new(MeshId([7; 32]), 1, Psk::new([8; 32]))
}

pub(crate) fn loopback() -> EndpointConfig {
    EndpointConfig::listen_on(SocketAddr::from(([127, 0, 0, 1], 0)))
}

pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) frames: FrameReceiver,
    events: mpsc::Receiver<Event>,
    /// Events that were passed over while another was waited for.
    passed: VecDeque<Event>,
}

impl Node {
    pub(crate) async fn start(n: u8) -> Self {
        Self::with(n, loopback()).await
    }

    pub(crate) async fn with(n: u8, config: EndpointConfig) -> Self {
        Self::of(keys(n), mesh(), config).await
    }

    pub(crate) async fn of(keys: NodeKeys, mesh: Mesh, config: EndpointConfig) -> Self {
        let bound = Endpoint::bind(keys, mesh, Arc::new(TestAdmission), config).await;
        let (endpoint, inbox) = bound.expect("loopback can be bound");
        Self { endpoint, frames: inbox.frames, events: inbox.events, passed: VecDeque::new() }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.endpoint.id()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.addresses()[0]
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.endpoint.metrics()
    }

    /// How another node would dial this one.
    pub(crate) fn peer(&self) -> Peer {
        self.endpoint.ticket().peers.swap_remove(0)
    }

    pub(crate) fn dial(&self, other: &Self) {
        self.endpoint.add_peer(other.peer());
    }

    /// The first event, already passed over or to come, for which `pick` says something.
    pub(crate) async fn event<T>(&mut self, what: &str, pick: impl Fn(&Event) -> Option<T>) -> T {
        if let Some((at, found)) = self.passed.iter().enumerate().find_map(|(at, e)| Some((at, pick(e)?))) {
            self.passed.remove(at);
            return found;
        }
        loop {
            let event = timeout(DEADLINE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("{what} does not come; passed over: {:?}", self.passed));
            let event = event.unwrap_or_else(|| panic!("the endpoint closed while {what} was waited for"));
            match pick(&event) {
                Some(found) => return found,
                None => self.passed.push_back(event),
            }
        }
    }

    /// Events that were passed over, without those to come.
    pub(crate) fn passed(&mut self, pick: impl Fn(&Event) -> bool) -> usize {
        while let Ok(event) = self.events.try_recv() {
            self.passed.push_back(event);
        }
        self.passed.iter().filter(|event| pick(event)).count()
    }

    pub(crate) async fn link_up(&mut self, node: NodeId) -> [u8; 8] {
        self.event("link up", |event| match event {
            Event::LinkUp { node: up, boot } if *up == node => Some(*boot),
            _ => None,
        })
        .await
    }

    pub(crate) async fn link_down(&mut self, node: NodeId) {
        self.event("link down", |event| matches!(event, Event::LinkDown { node: down } if *down == node).then_some(()))
            .await;
    }

    pub(crate) async fn joined(&mut self, pair: Pair) {
        self.event("joined", |event| matches!(event, Event::Joined { pair: p, .. } if *p == pair).then_some(())).await;
    }

    pub(crate) async fn joiners(&mut self, pair: Pair, count: usize) {
        self.event("joiners", |event| {
            matches!(event, Event::Joiners { pair: p, takers } if *p == pair && *takers == count).then_some(())
        })
        .await;
    }

    pub(crate) async fn slow(&mut self, pair: Pair, node: NodeId) {
        self.event("a slow taker", |event| {
            matches!(event, Event::Slow { pair: p, node: n } if *p == pair && *n == node).then_some(())
        })
        .await;
    }

    pub(crate) async fn frame(&mut self) -> net_transport::Frame {
        timeout(DEADLINE, self.frames.recv()).await.expect("a frame comes").expect("the endpoint is open")
    }

    /// How many neighbours it has, and connections that are being drained.
    pub(crate) fn links(&self) -> (usize, usize) {
        let linked = self.endpoint.peers().into_iter().filter_map(|peer| match peer.state {
            PeerState::Linked { draining, .. } => Some(draining),
            _ => None,
        });
        linked.fold((0, 0), |(links, all), draining| (links + 1, all + draining))
    }
}

/// Links two nodes, the second dialled by the first.
pub(crate) async fn linked(a: u8, b: u8) -> (Node, Node) {
    let (mut a, mut b) = (Node::start(a).await, Node::start(b).await);
    a.dial(&b);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    (a, b)
}

/// Waits until something holds that no event tells of.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what} never holds"));
}

pub(crate) fn pair(n: u8) -> Pair {
    Pair { channel: [n; 32], origin: [n ^ 0x55; 32] }
}

pub(crate) fn frame(pair: Pair, seq: u64, len: usize) -> Bytes {
    frame_with(pair, seq, len, |_| {})
}

pub(crate) fn frame_with(pair: Pair, seq: u64, len: usize, change: impl FnOnce(&mut Header)) -> Bytes {
    let mut header = Header::new(Kind::Batch);
    let (channel, origin) = pair.prefix();
    header.set_channel(channel);
    header.set_origin(origin);
    header.set_seq(seq);
    header.set_payload_len(u32::try_from(len).expect("small"));
    change(&mut header);
    [&header.as_bytes()[..], &vec![seq.to_le_bytes()[0]; len]].concat().into()
}

pub(crate) fn normal_lane(pair: Pair) -> u8 {
    Priority::Normal as u8 * 8 + pair.channel[0] % 8
}

/// A member that speaks the protocol by hand, to say what no endpoint would.
pub(crate) struct RawPeer {
    pub(crate) id: NodeId,
    pub(crate) connection: quinn::Connection,
    pub(crate) control: (quinn::SendStream, quinn::RecvStream),
    endpoint: quinn::Endpoint,
}

pub(crate) fn raw_endpoint(n: u8, mesh: Mesh) -> (quinn::Endpoint, Arc<LinkIdentity>) {
    let keys = keys(n);
    let mut config = quinn::EndpointConfig::new(crypto::reset_key(&keys));
    config.supported_versions(crypto::versions());
    let ids = keys.clone();
    config.cid_generator(move || Box::new(ConnectionIds::new(&ids, Entropy::system())));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = quinn::Endpoint::new(config, None, socket, runtime).expect("a fresh socket");
    (endpoint, Arc::new(LinkIdentity::new(keys, mesh)))
}

pub(crate) fn raw_client(identity: &Arc<LinkIdentity>, to: StaticBinding) -> quinn::ClientConfig {
    let session = crypto::client_config(identity.clone(), to, Entropy::system());
    let mut config = quinn::ClientConfig::new(session);
    config.version(crypto::version(identity.mesh().current().0));
    config
}

impl RawPeer {
    /// A connection on which nothing has been said.
    pub(crate) async fn connect(n: u8, to: &Node) -> (quinn::Connection, quinn::Endpoint, NodeId) {
        let (endpoint, identity) = raw_endpoint(n, mesh());
        let client = raw_client(&identity, to.peer().binding);
        let connecting = endpoint.connect_with(client, to.address(), "net").expect("an address");
        let connection = timeout(DEADLINE, connecting).await.expect("an answer").expect("a member is welcome");
        (connection, endpoint, identity.keys().id())
    }

    /// A neighbour of `to` that has said hello.
    pub(crate) async fn link(n: u8, to: &mut Node) -> Self {
        let (connection, endpoint, id) = Self::connect(n, to).await;
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&hello(1)).await.expect("written");
        let mut len = [0; 2];
        recv.read_exact(&mut len).await.expect("a hello");
        let mut answer = vec![0; usize::from(u16::from_le_bytes(len))];
        recv.read_exact(&mut answer).await.expect("a hello");
        to.link_up(id).await;
        Self { id, connection, control: (send, recv), endpoint }
    }

    /// Another connection beside the one that stands, by another dial, whose hello says that there is one; with its
    /// control stream.
    pub(crate) async fn another(
        &self,
        n: u8,
        dial: u8,
        to: &Node,
    ) -> (quinn::Connection, quinn::SendStream, quinn::RecvStream) {
        let client = raw_client(&Arc::new(LinkIdentity::new(keys(n), mesh())), to.peer().binding);
        let connecting = self.endpoint.connect_with(client, to.address(), "net").expect("an address");
        let connection = timeout(DEADLINE, connecting).await.expect("an answer").expect("a member is welcome");
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        let mut bytes = hello(dial);
        bytes[HELLO_LINKED] = 1;
        send.write_all(&bytes).await.expect("written");
        let mut len = [0; 2];
        recv.read_exact(&mut len).await.expect("a hello");
        (connection, send, recv)
    }

    /// Says something on the control stream: the body of a message.
    pub(crate) async fn say(&mut self, body: &[u8]) {
        let len = u16::try_from(body.len()).expect("short");
        self.control.0.write_all(&[&len.to_le_bytes(), body].concat()).await.expect("written");
    }

    /// Opens a lane, its prelude said.
    pub(crate) async fn lane(&self, lane: u8, sent: u64) -> quinn::SendStream {
        let mut send = self.connection.open_uni().await.expect("a stream");
        send.write_all(&[&[2, lane], &sent.to_le_bytes()[..]].concat()).await.expect("written");
        send
    }

    /// With which code the other end has closed the connection.
    pub(crate) async fn closed(&self) -> u64 {
        match timeout(DEADLINE, self.connection.closed()).await.expect("it is closed") {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("closed without a code: {other}"),
        }
    }
}

/// Where a hello says whether there is another connection.
const HELLO_LINKED: usize = 15;

/// The first bytes of a control stream.
pub(crate) fn hello(dial: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend([9; 8]);
    body.extend([dial, dial, 0]);
    body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 1, 1]);
    let len = u16::try_from(body.len()).expect("short");
    [&[0], &len.to_le_bytes()[..], &body].concat()
}

/// The body of a `Join` (3), `Unjoin` (5), `Full` (7) or `Room` (8).
pub(crate) fn about(kind: u8, pair: Pair) -> Vec<u8> {
    [&[kind][..], &pair.channel, &pair.origin].concat()
}
