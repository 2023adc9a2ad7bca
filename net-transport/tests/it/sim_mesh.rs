//! Endpoints on a simulated network: a mesh that forms by introduction, and keeps what it promises.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use net_transport::sim::{self, Faults, LinkConfig, SimNet};
use net_transport::{
    Endpoint, EndpointConfig, Event, Header, Inbox, Kind, NodeId, NodeKeys, OpenAdmission, Pair, Peer, Seed, Sockets,
};

use crate::pair::mesh;

const MS: Duration = Duration::from_millis(1);
const NODES: usize = 5;
const FRAMES: u64 = 200;
const PAIR: Pair = Pair { channel: [3; 32], origin: [4; 32] };
/// The node that serves the pair; another one introduces.
const ORIGIN: usize = 1;

/// What a node got.
#[derive(Default)]
struct Got {
    frames: Vec<(NodeId, u64)>,
    joined: bool,
}

struct Node {
    endpoint: Endpoint,
    got: Arc<Mutex<Got>>,
}

struct World {
    net: SimNet,
    nodes: Vec<Node>,
}

fn address(node: usize) -> SocketAddr {
    ([10, 0, 0, u8::try_from(node + 1).unwrap()], 4433).into()
}

fn keys(net: &SimNet, node: usize) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new(net.derive(&format!("keys {node}"))))
}

fn introducer(net: &SimNet) -> Peer {
    Peer { binding: *keys(net, 0).binding(), addresses: vec![address(0)] }
}

async fn start(net: &SimNet, node: usize) -> Node {
    let at = address(node);
    let mut config = EndpointConfig::default();
    config.sockets = Some(Sockets { runtime: net.runtime_of(at.ip()), sockets: vec![net.socket(at).unwrap()] });
    // Another life of the node gets another seed, or it would repeat its keys.
    config.seed = Some(net.derive(&format!("endpoint {node} {:?}", net.elapsed())));
    config.clock = Some(net.time_source());
    config.mdns = false;
    if node != 0 {
        config.known = vec![introducer(net)];
    }
    let (endpoint, inbox) = Endpoint::bind(keys(net, node), mesh(1), Arc::new(OpenAdmission), config).await.unwrap();
    if node == ORIGIN {
        endpoint.serve(PAIR);
    } else {
        endpoint.join(PAIR, keys(net, ORIGIN).id());
    }
    let got = Arc::new(Mutex::new(Got::default()));
    net.spawn_on(at.ip(), read(inbox, got.clone()));
    Node { endpoint, got }
}

async fn read(inbox: Inbox, got: Arc<Mutex<Got>>) {
    let Inbox { mut frames, mut events } = inbox;
    loop {
        tokio::select! {
            biased;
            frame = frames.recv() => match frame {
                Some(frame) => got.lock().unwrap().frames.push((frame.from, frame.header().seq())),
                None => return,
            },
            event = events.recv() => match event {
                Some(Event::Joined { .. }) => got.lock().unwrap().joined = true,
                Some(Event::Unjoined { .. }) => got.lock().unwrap().joined = false,
                Some(_) => {}
                None => return,
            },
        }
    }
}

fn frame(seq: u64) -> Bytes {
    let payload = [7; 500];
    let (channel, origin) = PAIR.prefix();
    let mut header = Header::new(Kind::Batch);
    header.set_channel(channel);
    header.set_origin(origin);
    header.set_seq(seq);
    header.set_payload_len(u32::try_from(payload.len()).unwrap());
    [header.as_bytes(), &payload[..]].concat().into()
}

impl World {
    async fn start(net: SimNet) -> Self {
        let mut nodes = Vec::new();
        for node in 0..NODES {
            nodes.push(start(&net, node).await);
        }
        Self { net, nodes }
    }

    fn is_whole(&self) -> bool {
        let ids: Vec<_> = self.nodes.iter().map(|node| node.endpoint.id()).collect();
        let linked = |node: &Node| ids.iter().all(|id| *id == node.endpoint.id() || node.endpoint.is_linked(id));
        let joined = |node: usize| node == ORIGIN || self.nodes[node].got.lock().unwrap().joined;
        self.nodes.iter().all(linked) && (0..NODES).all(joined)
    }

    /// Waits until each is a neighbour of each and all have joined; gives how long that took.
    async fn whole(&self) -> Duration {
        let began = self.net.elapsed();
        while !self.is_whole() {
            let took = self.net.elapsed() - began;
            let peers: Vec<_> = self.nodes.iter().map(|node| node.endpoint.peers()).collect();
            assert!(took < 60_000 * MS, "no full mesh: {peers:?}");
            tokio::time::sleep(10 * MS).await;
        }
        self.net.elapsed() - began
    }

    /// Frames that are published now reach all that have joined, once and in order.
    async fn frames_arrive(&self) {
        for node in &self.nodes {
            node.got.lock().unwrap().frames.clear();
        }
        let origin = &self.nodes[ORIGIN].endpoint;
        for seq in 0..FRAMES {
            origin.room(&PAIR).await;
            let fanout = origin.publish(&PAIR, frame(seq));
            assert_eq!((fanout.links as usize, fanout.skipped), (NODES - 1, 0));
            tokio::time::sleep(MS).await;
        }
        let expected: Vec<_> = (0..FRAMES).map(|seq| (origin.id(), seq)).collect();
        let began = self.net.elapsed();
        let complete = |node: usize| self.nodes[node].got.lock().unwrap().frames.len() >= expected.len();
        while !(0..NODES).all(|node| node == ORIGIN || complete(node)) {
            assert!(self.net.elapsed() - began < 60_000 * MS, "frames are missing");
            tokio::time::sleep(10 * MS).await;
        }
        for (i, node) in self.nodes.iter().enumerate().filter(|(i, _)| *i != ORIGIN) {
            assert_eq!(node.got.lock().unwrap().frames, expected, "node {i}");
        }
    }
}

async fn scenario(net: SimNet) -> (u64, Faults, [Duration; 3]) {
    let mut rng = net.rng("mesh");
    net.set_default(LinkConfig {
        latency: 2 * MS + rng.up_to(30 * MS),
        jitter: rng.up_to(20 * MS),
        loss: 0.02,
        reorder: 0.05,
        reorder_delay: 20 * MS,
        duplicate: 0.05,
        corrupt: 0.002,
        ..LinkConfig::default()
    });
    let mut world = World::start(net.clone()).await;
    let formed = world.whole().await;
    world.frames_arrive().await;

    // Long enough for links to be given up.
    net.partition(&[&[address(3).ip(), address(4).ip()]]);
    tokio::time::sleep(15_000 * MS).await;
    assert!(!world.is_whole());
    net.heal();
    let healed = world.whole().await;
    world.frames_arrive().await;

    let ip = address(2).ip();
    net.crash(ip);
    world.nodes.remove(2);
    tokio::time::sleep(500 * MS).await;
    net.restart(ip);
    world.nodes.insert(2, start(&net, 2).await);
    let restarted = world.whole().await;
    world.frames_arrive().await;
    (net.trace_hash(), net.faults(), [formed, healed, restarted])
}

#[test]
fn sim_five_endpoints_introduced_by_one_form_a_full_mesh_and_heal() {
    for seed in sim::seeds(3) {
        let first = sim::run(seed, scenario);
        let second = sim::run(seed, scenario);
        let (trace, faults, [formed, healed, restarted]) = first;
        println!(
            "seed {seed}: formed in {formed:?}, healed in {healed:?}, whole after a restart in {restarted:?}, \
             trace {trace:016x}, {faults}"
        );
        assert_eq!(first, second, "NET_SIM_SEED={seed}");
        let injected = [faults.dropped_loss, faults.reordered, faults.duplicated, faults.dropped_partition];
        assert!(injected.iter().all(|count| *count > 0), "{faults}");
    }
}
