//! A simulated mesh of publishers and subscribers: virtual time, one seed, faults, and a ledger of what was published.
//!
//! It stands where links, streams and applications stand: joined frames may be lost, reordered and duplicated (links
//! that were full, lanes, connections that changed), end-to-end streams are ordered and break as a whole.

mod app;
mod craft;
mod judge;
mod network;
mod publishing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use net_channel::core::{Action, Delivery, Given, Known, Limits, Message, Publisher, Subscriptions};
use net_channel::{ChannelHash, ChannelName, Class, Cursor, From, Order, Parent, Pattern, SenderKey, Tick, TickParams};
use net_identity::EntityId;
use net_transport::{MeshId, NodeId, NodeKeys, Pair, Priority, Seed, Visibility};

pub use craft::Craft;

use crate::oracle::{Clock, Ledger, Seen, Witness};

/// SplitMix64: enough randomness for faults, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// What the network does to joined frames, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub reorder: u64,
    pub duplicate: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub frames: u64,
    pub dropped: u64,
    pub reordered: u64,
    pub duplicated: u64,
    pub partitions: u64,
    pub crashes: u64,
    pub forged: u64,
    pub gaps: u64,
    pub restarts: u64,
    pub trimmed: u64,
    pub late: u64,
    pub equivocations: u64,
    pub delivered: u64,
}

struct Producer {
    publisher: Publisher,
    name: ChannelName,
    class: Class,
}

struct App {
    queue: VecDeque<Delivery>,
    seen: BTreeMap<Pair, Vec<Seen>>,
    /// All of it, in order.
    log: Vec<(Pair, Seen)>,
    /// The application takes nothing while it sleeps.
    asleep: bool,
    witness: Witness,
    /// Behind what the application has taken.
    positions: Cursor,
    pattern: String,
    order: Order,
}

struct Node {
    keys: NodeKeys,
    alive: bool,
    boot: u64,
    floor: u64,
    subscriptions: Subscriptions,
    producers: BTreeMap<Pair, Producer>,
    apps: BTreeMap<u64, App>,
    joins: BTreeMap<Pair, NodeId>,
    given: Given,
    /// What its applications have taken since it last published, by channel: the causes of what it publishes next.
    clocks: BTreeMap<[u8; 32], Clock>,
    known: BTreeSet<Pair>,
    /// Where the origins said that this node's subscriptions begin.
    starts: BTreeMap<Pair, u64>,
}

enum Happening {
    Frame { to: NodeId, boot: u64, frame: Bytes },
    Message { from: NodeId, to: NodeId, boots: (u64, u64), bytes: Vec<u8> },
    Join { from: NodeId, to: NodeId, pair: Pair, boots: (u64, u64) },
    Joined { to: NodeId, pair: Pair, boot: u64 },
    Take { node: NodeId, sub: u64, boot: u64 },
    Wake,
    Tick { node: NodeId, pair: Pair, boot: u64 },
}

impl Happening {
    /// The node that has to act.
    fn concerns(&self) -> Option<NodeId> {
        match self {
            Self::Frame { to, .. } | Self::Message { to, .. } | Self::Join { to, .. } | Self::Joined { to, .. } => {
                Some(*to)
            }
            Self::Take { node, .. } | Self::Tick { node, .. } => Some(*node),
            Self::Wake => None,
        }
    }
}

/// From when, and until when if it is over.
type Span = (Duration, Option<Duration>);

pub struct World {
    pub rng: Rng,
    pub faults: Faults,
    pub totals: Totals,
    pub mesh: MeshId,
    start: Instant,
    limits: Limits,
    now: Duration,
    nodes: BTreeMap<NodeId, Node>,
    order: Vec<NodeId>,
    queue: BTreeMap<(Duration, u64), Happening>,
    tie: u64,
    /// (origin's node, subscriber's node) pairs that have joined.
    joined: BTreeMap<Pair, BTreeSet<NodeId>>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last message of a stream arrives: streams are ordered.
    streams: BTreeMap<(NodeId, NodeId), Duration>,
    /// Subscribe messages under way or answered: of which pair they are.
    asks: BTreeMap<(NodeId, u64), Pair>,
    /// When nodes could not reach each other.
    apart: BTreeMap<(NodeId, NodeId), Vec<Span>>,
    pub ledger: Ledger,
    pub trace: blake3::Hasher,
    /// The first thing that was not as it must be.
    pub failure: Option<String>,
    pub cache_bytes: usize,
    /// What all wall clocks show, in nanoseconds, if they stand still.
    pub stopped_clock: Option<u64>,
    /// Who has told that it is full, and has not taken it back.
    full: BTreeSet<(NodeId, Pair)>,
    deaf: BTreeSet<(NodeId, NodeId)>,
    frozen: BTreeMap<NodeId, Duration>,
}

const LATENCY_US: u64 = 1_000;

impl World {
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self::with_limits(seed, nodes, Limits::default())
    }

    pub fn with_limits(seed: u64, nodes: usize, limits: Limits) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            faults: Faults::default(),
            totals: Totals::default(),
            mesh: MeshId([7; 32]),
            start: Instant::now(),
            limits: limits.clone(),
            now: Duration::from_secs(1),
            nodes: BTreeMap::new(),
            order: vec![],
            queue: BTreeMap::new(),
            tie: 0,
            joined: BTreeMap::new(),
            cut: BTreeSet::new(),
            streams: BTreeMap::new(),
            asks: BTreeMap::new(),
            apart: BTreeMap::new(),
            ledger: Ledger::default(),
            trace: blake3::Hasher::new(),
            failure: None,
            cache_bytes: 64 << 10,
            stopped_clock: None,
            full: BTreeSet::new(),
            deaf: BTreeSet::new(),
            frozen: BTreeMap::new(),
        };
        for i in 0..nodes {
            let mut seed = [i as u8; 32];
            seed[31] = 0x5e;
            let keys = NodeKeys::from_seed(&Seed::new(seed));
            let id = keys.id();
            let node = Node {
                subscriptions: Subscriptions::new(id, world.mesh, limits.clone()),
                keys,
                alive: true,
                boot: 0,
                floor: 0,
                producers: BTreeMap::new(),
                apps: BTreeMap::new(),
                joins: BTreeMap::new(),
                given: Given::default(),
                clocks: BTreeMap::new(),
                known: BTreeSet::new(),
                starts: BTreeMap::new(),
            };
            world.nodes.insert(id, node);
            world.order.push(id);
        }
        world
    }

    /// Virtual time since the world began.
    pub fn now(&self) -> Duration {
        self.now
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.tie += 1;
        self.queue.insert((self.now + after, self.tie), happening);
    }

    pub fn pair(&self, node: usize, channel: &str) -> Pair {
        let name = ChannelName::parse(channel).expect("a name");
        Pair { channel: name.hash(&self.mesh).0, origin: *self.order[node].as_bytes() }
    }

    /// Opens a producer: a new incarnation, whose advert everybody who is not cut off hears.
    pub fn open(&mut self, node: usize, channel: &str) -> Pair {
        self.open_as(node, channel, Class::Reliable)
    }

    pub fn open_as(&mut self, node: usize, channel: &str, class: Class) -> Pair {
        let pair = self.pair(node, channel);
        let id = self.order[node];
        let name = ChannelName::parse(channel).expect("a name");
        let key = SenderKey::new(self.rng.bytes());
        let now = self.instant();
        // Clocks of machines that start again are not what they were.
        let skew = self.rng.below(2_000_000_000);
        let clock = 3_000_000_000 + u64::try_from(self.now.as_nanos()).expect("short runs") - skew;
        let unix_ns = self.stopped_clock.unwrap_or(clock);
        let cache_bytes = self.cache_bytes;
        let owner = self.nodes.get_mut(&id).expect("a node");
        let incarnation = net_channel::first_seq(unix_ns, 0, owner.floor).expect("seqs are left");
        owner.floor = net_channel::floor_after(incarnation);
        let publisher = Publisher::new(pair, class, incarnation, key, now, cache_bytes);
        owner.given.forget_named(&pair.channel);
        owner.producers.insert(pair, Producer { publisher, name, class });
        for to in self.order.clone() {
            if !self.is_cut(&id, &to) && self.nodes[&to].alive {
                self.advertise(id, to, pair);
            }
        }
        pair
    }

    fn advertise(&mut self, from: NodeId, to: NodeId, pair: Pair) {
        let producer = &self.nodes[&from].producers[&pair];
        let entity = EntityId::from_bytes(*from.as_bytes());
        let (name, class) = (producer.name.clone(), producer.class);
        let known = Known { name, node: from, entity, class, seq: producer.publisher.incarnation() };
        let now = self.instant();
        self.node(&to).known.insert(pair);
        self.node(&to).subscriptions.handle_advert(now, pair, Some(known));
        self.act(to);
    }

    pub fn subscribe(&mut self, node: usize, sub: u64, pattern: &str, from: From) {
        self.subscribe_in(node, sub, pattern, from, Order::Causal);
    }

    pub fn subscribe_in(&mut self, node: usize, sub: u64, pattern: &str, from: From, order: Order) {
        let id = self.order[node];
        let now = self.instant();
        let parsed = Pattern::parse(pattern).expect("a pattern");
        let positions = if let From::Cursor(cursor) = &from { cursor.clone() } else { Cursor::default() };
        let next = positions.iter().map(|(pair, next)| (*pair, next)).collect();
        let witness = Witness::new(order == Order::Causal, next);
        let app = App {
            queue: VecDeque::new(),
            seen: BTreeMap::new(),
            log: vec![],
            asleep: false,
            witness,
            positions,
            pattern: pattern.to_owned(),
            order,
        };
        let node = self.node(&id);
        node.apps.insert(sub, app);
        node.subscriptions.subscribe(now, sub, parsed, from, order);
        self.act(id);
    }

    fn node(&mut self, id: &NodeId) -> &mut Node {
        self.nodes.get_mut(id).expect("a node of this world")
    }

    fn boots(&self, a: &NodeId, b: &NodeId) -> (u64, u64) {
        (self.nodes[a].boot, self.nodes[b].boot)
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        if self.is_cut(&from, &to) || !self.nodes[&to].alive {
            return;
        }
        if let Ok(Message::Subscribe { id, pair, .. }) = Message::decode(&bytes[4..]) {
            self.asks.insert((from, id), pair);
        }
        let boots = self.boots(&from, &to);
        let delay = LATENCY_US + self.rng.below(1_000);
        let last = self.streams.entry((from, to)).or_default();
        let at = (*last + Duration::from_micros(1)).max(self.now + Duration::from_micros(delay));
        *last = at;
        let after = at - self.now;
        self.at(after, Happening::Message { from, to, boots, bytes });
    }

    /// Carries out what a node's subscriptions want.
    fn act(&mut self, id: NodeId) {
        while let Some(action) = self.node(&id).subscriptions.poll_action() {
            match action {
                Action::Send { to, message } => self.send(id, to, message),
                Action::SendAll { message } => {
                    for to in self.order.clone().into_iter().filter(|to| *to != id) {
                        self.send(id, to, message.clone());
                    }
                }
                Action::Join { pair, node } => {
                    self.node(&id).joins.insert(pair, node);
                    let boots = self.boots(&id, &node);
                    self.at(Duration::from_micros(LATENCY_US), Happening::Join { from: id, to: node, pair, boots });
                }
                Action::Unjoin { pair } => {
                    self.node(&id).joins.remove(&pair);
                    self.joined.entry(pair).or_default().remove(&id);
                }
                Action::Full { pair, full: true } => {
                    self.full.insert((id, pair));
                }
                Action::Full { pair, full: false } => {
                    self.full.remove(&(id, pair));
                }
                Action::Deliver { sub, delivery } => {
                    let delay = Duration::from_micros(self.rng.below(500));
                    let boot = self.nodes[&id].boot;
                    self.witness(id, sub, &delivery);
                    let Some(app) = self.node(&id).apps.get_mut(&sub) else { continue };
                    app.queue.push_back(delivery);
                    if !app.asleep {
                        self.at(delay, Happening::Take { node: id, sub, boot });
                    }
                }
            }
        }
        if let Some(at) = self.node(&id).subscriptions.poll_timeout() {
            let after = at.saturating_duration_since(self.instant());
            self.at(after, Happening::Wake);
        }
    }

    /// kill −9: memory is gone, the floor stays, and the positions that applications keep.
    pub fn crash(&mut self, node: usize) {
        let id = self.order[node];
        self.totals.crashes += 1;
        self.node(&id).alive = false;
        self.node(&id).boot += 1;
        for other in self.order.clone() {
            if other != id {
                self.part(id, other);
            }
        }
        let (mesh, limits, node) = (self.mesh, self.limits.clone(), self.node(&id));
        node.producers.clear();
        node.joins.clear();
        node.given = Given::default();
        node.clocks.clear();
        node.known.clear();
        node.starts.clear();
        node.subscriptions = Subscriptions::new(id, mesh, limits);
        self.full.retain(|(full, _)| *full != id);
        for joined in self.joined.values_mut() {
            joined.remove(&id);
        }
    }

    /// The node is started again; its applications go on where they were.
    pub fn restart(&mut self, node: usize) {
        let id = self.order[node];
        self.node(&id).alive = true;
        for (sub, app) in std::mem::take(&mut self.node(&id).apps) {
            self.subscribe_in(node, sub, &app.pattern, From::Cursor(app.positions), app.order);
        }
        for other in self.order.clone() {
            if other != id && !self.is_cut(&id, &other) {
                self.meet(id, other);
            }
        }
    }

    /// Runs until nothing is left to happen before `until`.
    pub fn run_for(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some((&(at, tie), _)) = self.queue.first_key_value() {
            if at > until {
                break;
            }
            let happening = self.queue.remove(&(at, tie)).expect("it was first");
            self.now = at;
            self.frozen.retain(|_, until| *until > at);
            match happening.concerns().and_then(|node| self.frozen.get(&node)).copied() {
                // Timers that were due meanwhile are late: they run first when the process goes on.
                Some(until) => self.at(until - at + Duration::from_micros(1), happening),
                None => self.happen(happening),
            }
        }
        self.now = until;
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.instant();
        match happening {
            Happening::Frame { to, boot, frame } => {
                if self.nodes[&to].boot == boot && self.nodes[&to].alive {
                    self.trace.update(&self.now.as_nanos().to_le_bytes()).update(&frame);
                    self.node(&to).subscriptions.handle_frame(now, Bytes::copy_from_slice(&frame));
                    self.act(to);
                }
            }
            Happening::Message { from, to, boots, bytes } => {
                if self.boots(&from, &to) != boots || !self.nodes[&to].alive || self.is_cut(&from, &to) {
                    return;
                }
                self.trace.update(&self.now.as_nanos().to_le_bytes()).update(&bytes);
                let message = Message::decode(&bytes[4..]).expect("nodes of this world speak the protocol");
                match message {
                    Message::Equivocation { .. }
                    | Message::Subscribed { .. }
                    | Message::Refused { .. }
                    | Message::Grant { .. }
                    | Message::Batches { .. } => {
                        let refused = self.node(&to).subscriptions.counters().unexpected;
                        self.node(&to).subscriptions.handle_message(now, from, &message);
                        let is_taken = self.nodes[&to].subscriptions.counters().unexpected == refused;
                        if let Message::Subscribed { id, start, .. } = message
                            && let Some(pair) = self.asks.get(&(to, id)).copied().filter(|_| is_taken)
                        {
                            self.node(&to).starts.entry(pair).or_insert(start);
                        }
                        self.act(to);
                    }
                    _ => {
                        let pair = message.pair().expect("requests name a pair");
                        let node = self.node(&to);
                        let keys = node.keys.clone();
                        let Some(producer) = node.producers.get_mut(&pair) else { return };
                        let answers = producer.publisher.handle(from, &message, now, 0, &keys).expect("keys sign");
                        for answer in answers {
                            self.send(to, from, answer);
                        }
                    }
                }
            }
            Happening::Join { from, to, pair, boots } => {
                if self.boots(&from, &to) != boots || !self.nodes[&from].alive {
                    return;
                }
                let served = self.nodes[&to].alive && self.nodes[&to].producers.contains_key(&pair);
                if served && !self.is_cut(&from, &to) {
                    self.joined.entry(pair).or_default().insert(from);
                    let boot = boots.0;
                    self.at(Duration::from_micros(LATENCY_US), Happening::Joined { to: from, pair, boot });
                } else {
                    self.node(&from).subscriptions.handle_unjoined(now, pair);
                    self.act(from);
                }
            }
            Happening::Joined { to, pair, boot } => {
                let still = self.joined.get(&pair).is_some_and(|nodes| nodes.contains(&to));
                if still && self.nodes[&to].boot == boot {
                    self.node(&to).subscriptions.handle_joined(now, pair);
                    self.act(to);
                }
            }
            Happening::Tick { node, pair, boot } => {
                if self.nodes[&node].boot == boot {
                    self.tick(node, pair);
                }
            }
            Happening::Take { node, sub, boot } => {
                if self.nodes[&node].boot == boot {
                    self.take(node, sub);
                }
            }
            Happening::Wake => {
                for id in self.order.clone() {
                    if self.nodes[&id].alive
                        && !self.frozen.contains_key(&id)
                        && self.nodes[&id].subscriptions.poll_timeout().is_some_and(|at| at <= now)
                    {
                        self.node(&id).subscriptions.handle_timeout(now);
                        self.act(id);
                    }
                }
            }
        }
    }

    fn tick(&mut self, id: NodeId, pair: Pair) {
        let (now, mesh, boot) = (self.instant(), self.mesh, self.nodes[&id].boot);
        let node = self.node(&id);
        let Some(producer) = node.producers.get_mut(&pair) else { return };
        let due = producer.publisher.poll_tick().is_some_and(|at| at <= now);
        let told = producer.publisher.take_tick(now);
        let (incarnation, next) = (producer.publisher.incarnation(), producer.publisher.poll_tick());
        if let Some((last_seq, last_hash)) = told {
            let tick = Tick::sign(&TickParams {
                mesh: &mesh,
                channel: &ChannelHash(pair.channel),
                signer: &node.keys,
                last_seq,
                last_hash,
                incarnation,
                unix_ms: 0,
                visibility: Visibility::Global,
                priority: Priority::Normal,
                subnet: [0; 4],
                cap: [0; 4],
            });
            self.publish_to(id, &pair, &tick.expect("a key in memory signs"), |_| true);
        }
        if let Some(at) = next.filter(|_| due) {
            self.at(at - now, Happening::Tick { node: id, pair, boot });
        }
    }

    /// How many proofs against an origin a node keeps.
    pub fn proofs(&self, node: usize, origin: usize, channel: &str) -> usize {
        self.nodes[&self.order[node]].subscriptions.proofs(&self.pair(origin, channel)).len()
    }

    /// How many pairs a node has told its upstreams to be full for.
    pub fn full(&self, node: usize) -> usize {
        self.full.iter().filter(|(id, _)| *id == self.order[node]).count()
    }

    /// An advert of this node's producer that names another node and is that much older or newer reaches a node.
    pub fn advertise_elsewhere(&mut self, node: usize, channel: &str, elsewhere: usize, to: usize, newer: i64) {
        let (pair, id) = (self.pair(node, channel), self.order[node]);
        let producer = &self.nodes[&id].producers[&pair];
        let seq = producer.publisher.incarnation().saturating_add_signed(newer);
        let (name, class) = (producer.name.clone(), producer.class);
        let known = Known { name, node: self.order[elsewhere], entity: EntityId::from_bytes(pair.origin), class, seq };
        let (now, to) = (self.instant(), self.order[to]);
        self.node(&to).subscriptions.handle_advert(now, pair, Some(known));
        self.node(&to).subscriptions.handle_closed(pair, seq);
        self.act(to);
    }

    /// Batches and bytes that wait in a node's subscriptions.
    pub fn held(&self, node: usize) -> (usize, usize) {
        self.nodes[&self.order[node]].subscriptions.held()
    }

    /// A node's process stands still for a while; what comes meanwhile waits for it.
    pub fn freeze(&mut self, node: usize, span: Duration) {
        let id = self.order[node];
        let until = self.now + span;
        self.frozen.insert(id, until);
        self.at(span, Happening::Wake);
    }

    /// A node says something to another, whether it makes sense or not.
    pub fn say(&mut self, from: usize, to: usize, message: &Message<'_>) {
        self.send(self.order[from], self.order[to], message.encode());
    }

    pub fn keys(&self, node: usize) -> NodeKeys {
        self.nodes[&self.order[node]].keys.clone()
    }

    pub fn publisher(&self, node: usize, channel: &str) -> &Publisher {
        &self.nodes[&self.order[node]].producers[&self.pair(node, channel)].publisher
    }

    /// The last event that a node's application was handed, of this origin, as a cause.
    pub fn cause(&self, origin: usize, seq: u64) -> Parent {
        let origin = EntityId::from_bytes(*self.order[origin].as_bytes());
        Parent { origin: origin.short(), seq, hash: [0; 8] }
    }

    pub fn counters(&self, node: usize) -> net_channel::core::Counters {
        *self.nodes[&self.order[node]].subscriptions.counters()
    }

    pub fn received(&self, node: usize, channel: &str) -> (usize, usize) {
        let producer = &self.nodes[&self.order[node]].producers[&self.pair(node, channel)].publisher;
        (producer.received(producer.next()), producer.subscribers().len())
    }

    pub fn trace_hash(&self) -> [u8; 32] {
        *self.trace.clone().finalize().as_bytes()
    }
}
