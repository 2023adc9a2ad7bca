//! Whole nodes (bus, links, QUIC) on a simulated network: loss, reordering, duplicates, a partition, a slow link, a NAT and
//! a producer that is killed. What an event says of the events that its publisher had read is checked by every reader.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net_channel::{Bus, BusConfig, Channel, Environment, From, Item, OpenGate, Subscription};
use net_identity::EntityId;
use net_transport::sim::{self, Faults, LinkConfig, NatKind, SimNet, Subnet};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Peer, Psk, Seed, Sockets};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const PRODUCERS: usize = 3;
const NODES: usize = 5;
const EVENTS: u64 = 150;
/// The producer that is killed.
const MORTAL: usize = 2;
/// Behind a NAT, and behind a slow link.
const HIDDEN: usize = 3;
const SLOW: usize = 4;

/// Whose event, of which life, which one; and the newest that its publisher had read of every life.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    from: (usize, u32),
    number: u64,
    read: BTreeMap<(usize, u32), u64>,
}

/// What one application has read.
#[derive(Default)]
struct Reader {
    read: BTreeMap<(usize, u32), u64>,
    /// Origins whose events others were delivered without, because they could not be reached in time; that was said.
    named: BTreeSet<EntityId>,
    gaps: u64,
    restarts: u64,
    /// The beginning of a life that is over is not kept any more; that was said.
    is_cut: bool,
    error: Option<String>,
}

impl Reader {
    fn take(&mut self, origins: &[EntityId], item: &Item) -> Result<(), String> {
        let event = match item {
            Item::Event(event) => event,
            Item::Gap(gap) if gap.before.is_some() => {
                self.gaps += 1;
                self.named.insert(gap.source.origin);
                return Ok(());
            }
            Item::Restart(_) => {
                self.restarts += 1;
                return Ok(());
            }
            // What of a life that is over had not come before it ended, nobody keeps any more.
            Item::Trimmed(trimmed) if trimmed.source.origin == origins[MORTAL] => {
                self.restarts += 1;
                self.is_cut = true;
                return Ok(());
            }
            other => return Err(format!("{other}")),
        };
        let note: Note = postcard::from_bytes(event.payload()).map_err(|error| error.to_string())?;
        let before = self.read.insert(note.from, note.number);
        let begins_late = before.is_none() && note.from == (MORTAL, 0) && self.is_cut;
        if before.map_or(0, |n| n + 1) != note.number && !begins_late {
            return Err(format!("{:?} came after {before:?}", (note.from, note.number)));
        }
        for (from, number) in &note.read {
            // What was read of a life that is over may be what a restart has named.
            if from.0 == MORTAL || self.named.contains(&origins[from.0]) {
                continue;
            }
            // Before the advert of an origin has come, nobody here knows that there is something to wait for.
            if self.read.get(from).is_some_and(|read| read < number) {
                return Err(format!("{:?} came before its cause {:?}", (note.from, note.number), (from, number)));
            }
        }
        Ok(())
    }
}

struct Node {
    endpoint: Endpoint,
    bus: Bus,
    reader: Arc<Mutex<Reader>>,
}

fn address(node: usize) -> SocketAddr {
    // The hidden one has a network of its own.
    let third = u8::from(node == HIDDEN);
    ([10, 0, third, u8::try_from(node + 1).expect("few")], 4433).into()
}

fn keys(net: &SimNet, node: usize) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new(net.derive(&format!("keys {node}"))))
}

async fn start(net: &SimNet, node: usize, life: u32) -> Node {
    let at = address(node);
    let mesh = Mesh::new(MeshId([1; 32]), 0, Psk::new([2; 32]));
    let mut config = EndpointConfig::default();
    config.sockets = Some(Sockets { runtime: net.runtime_of(at.ip()), sockets: vec![net.socket(at).expect("free")] });
    config.seed = Some(net.derive(&format!("endpoint {node} {life}")));
    config.clock = Some(net.time_source());
    config.mdns = false;
    if node != 0 {
        config.known = vec![Peer { binding: *keys(net, 0).binding(), addresses: vec![address(0)] }];
    }
    let gate = Arc::new(OpenGate::new(mesh.id()));
    let (endpoint, inbox) = Endpoint::bind(keys(net, node), mesh, gate, config).await.expect("bind");
    let mut config = BusConfig::new(Arc::new(keys(net, node)));
    let (clock, rng) = (net.clone(), Mutex::new(net.rng(&format!("bus {node} {life}"))));
    config.environment = Environment::new(
        move || 1_700_000_000_000_000_000 + u64::try_from(clock.elapsed().as_nanos()).expect("short"),
        move |bytes| bytes.iter_mut().for_each(|b| *b = rng.lock().expect("sound").next_u64().to_le_bytes()[0]),
    );
    let bus = Bus::start(endpoint.clone(), inbox, config).await.expect("start");
    let reader = Arc::default();
    let subscription = bus.subscribe("c").from(From::Earliest).await.expect("subscribe");
    let origins = (0..NODES).map(|node| EntityId::from_bytes(*keys(net, node).id().as_bytes())).collect();
    net.spawn_on(at.ip(), read(subscription, origins, Arc::clone(&reader)));
    Node { endpoint, bus, reader }
}

async fn read(mut subscription: Subscription, origins: Vec<EntityId>, reader: Arc<Mutex<Reader>>) {
    while let Some(Ok(item)) = subscription.next().await {
        let mut reader = reader.lock().expect("sound");
        if let Err(error) = reader.take(&origins, &item) {
            reader.error.get_or_insert(error);
        }
    }
}

async fn publish(channel: Channel, node: usize, life: u32, reader: Arc<Mutex<Reader>>, events: u64) {
    for number in 0..events {
        let read = reader.lock().expect("sound").read.clone();
        let note = Note { from: (node, life), number, read };
        let payload = postcard::to_extend(&note, Vec::new()).expect("it serialises");
        channel.publish(payload).await.expect("open");
        sleep(20 * MS).await;
    }
}

/// What came of one run.
struct Outcome {
    faults: Faults,
    trace: u64,
    fetches: u64,
    gaps: u64,
    restarts: u64,
}

async fn scenario(net: SimNet) -> Outcome {
    net.set_default(LinkConfig {
        latency: 3 * MS,
        jitter: 2 * MS,
        loss: 0.05,
        reorder: 0.05,
        reorder_delay: 10 * MS,
        duplicate: 0.02,
        ..LinkConfig::default()
    });
    net.nat(Subnet::new([10, 0, 1, 0], 24), [20, 0, 0, 1].into(), NatKind::FullCone);
    let thin = LinkConfig { bytes_per_second: Some(60_000), ..LinkConfig::default() };
    (0..NODES).filter(|node| *node != SLOW).for_each(|node| net.set_link_both(ip(node), ip(SLOW), thin));
    let mut nodes = Vec::new();
    for node in 0..NODES {
        nodes.push(start(&net, node, 0).await);
    }
    sleep(2_000 * MS).await;
    let mut publishing = Vec::new();
    for (node, state) in nodes.iter().enumerate().take(PRODUCERS) {
        let channel = state.bus.channel("c").open().await.expect("open");
        let publish = publish(channel, node, 0, state.reader.clone(), EVENTS);
        publishing.push(net.spawn_on(ip(node), publish));
    }
    sleep(500 * MS).await;
    net.partition(&[&[ip(0), ip(1)]]);
    sleep(1_500 * MS).await;
    net.heal();
    sleep(300 * MS).await;
    net.crash(ip(MORTAL));
    let dead = nodes.remove(MORTAL);
    drop((dead.bus, dead.endpoint));
    sleep(1_000 * MS).await;
    net.restart(ip(MORTAL));
    let again = start(&net, MORTAL, 1).await;
    let channel = again.bus.channel("c").open().await.expect("open");
    publishing[MORTAL] = net.spawn_on(ip(MORTAL), publish(channel, MORTAL, 1, again.reader.clone(), EVENTS));
    nodes.insert(MORTAL, again);
    for task in publishing {
        task.await.expect("it publishes to its end");
    }
    let complete = |node: &Node| {
        let read = node.reader.lock().expect("sound").read.clone();
        [(0, 0), (1, 0), (MORTAL, 1)].iter().all(|from| read.get(from) == Some(&(EVENTS - 1)))
    };
    for _ in 0..600 {
        if nodes.iter().all(complete) {
            break;
        }
        sleep(100 * MS).await;
    }
    let (mut fetches, mut gaps, mut restarts) = (0, 0, 0);
    for (place, node) in nodes.iter().enumerate() {
        let reader = node.reader.lock().expect("sound");
        assert_eq!(reader.error, None, "node {place}");
        let expected = [((0, 0), EVENTS - 1), ((1, 0), EVENTS - 1), ((MORTAL, 1), EVENTS - 1)];
        expected.iter().for_each(|(from, last)| assert_eq!(reader.read.get(from), Some(last), "node {place}"));
        (gaps, restarts) = (gaps + reader.gaps, restarts + reader.restarts);
    }
    for node in &nodes {
        fetches += node.bus.counters().await.fetches;
    }
    Outcome { faults: net.faults(), trace: net.trace_hash(), fetches, gaps, restarts }
}

fn ip(node: usize) -> IpAddr {
    address(node).ip()
}

#[test]
fn sim_whole_nodes_deliver_in_causal_order_through_a_bad_network() {
    let (mut fetches, mut gaps, mut restarts, mut runs) = (0, 0, 0, 0);
    let mut last = None;
    for seed in sim::seeds(3) {
        let outcome = sim::run(seed, scenario);
        (fetches, gaps, restarts) = (fetches + outcome.fetches, gaps + outcome.gaps, restarts + outcome.restarts);
        runs += 1;
        last = Some(outcome.faults);
    }
    let last = last.map(|faults| faults.to_string()).unwrap_or_default();
    println!(
        "{runs} runs: {fetches} requests for what was missing, {gaps} gaps, {restarts} restarts; the last: {last}"
    );
    assert!(fetches > 0 && restarts > 0, "nothing was repaired: {fetches} requests, {restarts} restarts");
}

#[test]
fn whole_nodes_do_the_same_with_the_same_seed() {
    let trace = |seed| sim::run(seed, scenario).trace;
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}
