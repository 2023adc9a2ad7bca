//! A simulated mesh of publishers and subscribers: virtual time, one seed, faults, and a ledger of what was published.
//!
//! It stands where links, streams and applications stand: joined frames may be lost, reordered and duplicated (links
//! that were full, lanes, connections that changed), end-to-end streams are ordered and break as a whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use net_channel::core::{Action, Cached, Delivery, Known, Limits, Message, Publisher, Subscriptions};
use net_channel::{
    BatchBuilder, BatchHash, ChannelHash, ChannelName, Class, From, Hlc, Item, Pattern, SealParams, SenderKey, SeqRange,
};
use net_identity::EntityId;
use net_transport::{MeshId, NodeId, NodeKeys, Pair, Priority, Seed, Visibility};

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
    pub gaps: u64,
    pub restarts: u64,
    pub fetches: u64,
    pub delivered: u64,
}

/// What an application of a node has seen of one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Event(u64, Vec<u8>),
    Gap(SeqRange),
    Restart { last_seen: u64, incarnation: u64 },
    Equivocation(u64),
}

struct Producer {
    publisher: Publisher,
    prev: BatchHash,
    name: ChannelName,
}

struct App {
    queue: VecDeque<Delivery>,
    seen: BTreeMap<Pair, Vec<Seen>>,
    /// The application takes nothing while it sleeps.
    asleep: bool,
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
    subscribed: Vec<(u64, String, From)>,
}

enum Happening {
    Frame { to: NodeId, boot: u64, frame: Bytes },
    Message { from: NodeId, to: NodeId, boots: (u64, u64), bytes: Vec<u8> },
    Join { from: NodeId, to: NodeId, pair: Pair, boots: (u64, u64) },
    Joined { to: NodeId, pair: Pair, boot: u64 },
    Take { node: NodeId, sub: u64, boot: u64 },
    Wake,
}

pub struct World {
    pub rng: Rng,
    pub faults: Faults,
    pub totals: Totals,
    pub mesh: MeshId,
    start: Instant,
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
    pub published: BTreeMap<Pair, BTreeMap<u64, Vec<u8>>>,
    pub trace: blake3::Hasher,
}

const LATENCY_US: u64 = 1_000;

impl World {
    pub fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            rng: Rng(seed),
            faults: Faults::default(),
            totals: Totals::default(),
            mesh: MeshId([7; 32]),
            start: Instant::now(),
            now: Duration::from_secs(1),
            nodes: BTreeMap::new(),
            order: vec![],
            queue: BTreeMap::new(),
            tie: 0,
            joined: BTreeMap::new(),
            cut: BTreeSet::new(),
            streams: BTreeMap::new(),
            published: BTreeMap::new(),
            trace: blake3::Hasher::new(),
        };
        for i in 0..nodes {
            let mut seed = [i as u8; 32];
            seed[31] = 0x5e;
            let keys = NodeKeys::from_seed(&Seed::new(seed));
            let id = keys.id();
            let node = Node {
                subscriptions: Subscriptions::new(id, world.mesh, Limits::default()),
                keys,
                alive: true,
                boot: 0,
                floor: 0,
                producers: BTreeMap::new(),
                apps: BTreeMap::new(),
                joins: BTreeMap::new(),
                subscribed: vec![],
            };
            world.nodes.insert(id, node);
            world.order.push(id);
        }
        world
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
        let pair = self.pair(node, channel);
        let id = self.order[node];
        let name = ChannelName::parse(channel).expect("a name");
        let key = SenderKey::new(self.rng.bytes());
        let now = self.instant();
        let unix_ns = 1_000_000 + u64::try_from(self.now.as_nanos()).expect("short runs");
        let owner = self.nodes.get_mut(&id).expect("a node");
        let incarnation = net_channel::first_seq(unix_ns, 0, owner.floor).expect("seqs are left");
        owner.floor = net_channel::floor_after(incarnation);
        let publisher = Publisher::new(pair, incarnation, key, now, 64 << 10);
        owner.producers.insert(pair, Producer { publisher, prev: BatchHash::ZERO, name: name.clone() });
        let entity = EntityId::from_bytes(*id.as_bytes());
        let known = Known { name, node: id, entity, class: Class::Reliable };
        for to in self.order.clone() {
            if !self.is_cut(&id, &to) && self.nodes[&to].alive {
                self.node(&to).subscriptions.handle_advert(now, pair, Some(known.clone()));
                self.act(to);
            }
        }
        pair
    }

    pub fn subscribe(&mut self, node: usize, sub: u64, pattern: &str, from: From) {
        let id = self.order[node];
        let now = self.instant();
        let parsed = Pattern::parse(pattern).expect("a pattern");
        let node = self.node(&id);
        node.apps.insert(sub, App { queue: VecDeque::new(), seen: BTreeMap::new(), asleep: false });
        node.subscribed.push((sub, pattern.to_owned(), from.clone()));
        node.subscriptions.subscribe(now, sub, parsed, from);
        self.act(id);
    }

    /// Publishes one batch of these payloads.
    pub fn publish(&mut self, node: usize, channel: &str, payloads: &[&[u8]]) {
        let pair = self.pair(node, channel);
        let id = self.order[node];
        let salt = self.rng.bytes();
        let (mesh, now) = (self.mesh, self.instant());
        let unix_ms = u64::try_from(self.now.as_millis()).expect("short runs");
        let owner = self.nodes.get_mut(&id).expect("a node");
        if !owner.alive {
            return;
        }
        let producer = owner.producers.get_mut(&pair).expect("opened before");
        let mut builder = BatchBuilder::new();
        for payload in payloads {
            builder.push(payload, None, &[], Hlc::new(unix_ms, 0)).expect("small");
        }
        let seq = producer.publisher.next();
        let sealed = builder.seal(&SealParams {
            mesh: &mesh,
            channel: &ChannelHash(pair.channel),
            signer: &owner.keys,
            sender_key: producer.publisher.key(),
            seq,
            incarnation: producer.publisher.incarnation(),
            prev: producer.prev,
            parents: &[],
            parents_cut: false,
            salt,
            visibility: Visibility::Global,
            priority: Priority::Normal,
            realtime: false,
            subnet: [0; 4],
            cap: [0; 4],
        });
        let sealed = sealed.expect("a key in memory signs");
        producer.prev = sealed.hash();
        let range = SeqRange { from: seq, to: seq + payloads.len() as u64 };
        producer.publisher.sealed(Cached { range, sealed_at: now, unix_ms, frame: sealed.frame().clone() });
        let ledger = self.published.entry(pair).or_default();
        for (i, payload) in payloads.iter().enumerate() {
            let before = ledger.insert(seq + i as u64, payload.to_vec());
            assert_eq!(before, None, "a seq was used twice");
        }
        for to in self.joined.get(&pair).cloned().unwrap_or_default() {
            self.carry(id, to, sealed.frame().clone());
        }
    }

    fn carry(&mut self, from: NodeId, to: NodeId, frame: Bytes) {
        self.totals.frames += 1;
        if self.is_cut(&from, &to) || from != to && self.rng.chance(self.faults.loss) {
            self.totals.dropped += 1;
            return;
        }
        let boot = self.nodes[&to].boot;
        let mut copies = 1;
        if self.rng.chance(self.faults.duplicate) {
            self.totals.duplicated += 1;
            copies = 2;
        }
        for _ in 0..copies {
            let mut delay = LATENCY_US;
            if self.rng.chance(self.faults.reorder) {
                self.totals.reordered += 1;
                delay += self.rng.below(50_000);
            }
            self.at(Duration::from_micros(delay), Happening::Frame { to, boot, frame: frame.clone() });
        }
    }

    fn node(&mut self, id: &NodeId) -> &mut Node {
        self.nodes.get_mut(id).expect("a node of this world")
    }

    fn is_cut(&self, a: &NodeId, b: &NodeId) -> bool {
        self.cut.contains(&(*a, *b)) || self.cut.contains(&(*b, *a))
    }

    fn boots(&self, a: &NodeId, b: &NodeId) -> (u64, u64) {
        (self.nodes[a].boot, self.nodes[b].boot)
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        if self.is_cut(&from, &to) || !self.nodes[&to].alive {
            return;
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
                Action::Join { pair, node } => {
                    self.node(&id).joins.insert(pair, node);
                    let boots = self.boots(&id, &node);
                    self.at(Duration::from_micros(LATENCY_US), Happening::Join { from: id, to: node, pair, boots });
                }
                Action::Unjoin { pair } => {
                    self.node(&id).joins.remove(&pair);
                    self.joined.entry(pair).or_default().remove(&id);
                }
                Action::Full { .. } => {}
                Action::Deliver { sub, delivery } => {
                    let delay = Duration::from_micros(self.rng.below(500));
                    let boot = self.nodes[&id].boot;
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

    /// The application of a subscription stops taking, or goes on.
    pub fn sleep(&mut self, node: usize, sub: u64, asleep: bool) {
        let id = self.order[node];
        let boot = self.nodes[&id].boot;
        self.node(&id).apps.get_mut(&sub).expect("a subscription").asleep = asleep;
        if !asleep {
            self.at(Duration::ZERO, Happening::Take { node: id, sub, boot });
        }
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        let (a, b) = (self.order[a], self.order[b]);
        self.totals.partitions += 1;
        self.cut.insert((a, b));
        self.part(a, b);
    }

    pub fn heal(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            self.meet(a, b);
        }
    }

    /// Both ends notice that the link is gone.
    fn part(&mut self, a: NodeId, b: NodeId) {
        let now = self.instant();
        for (x, y) in [(a, b), (b, a)] {
            let pairs: Vec<Pair> = self.nodes[&x].joins.iter().filter(|(_, n)| **n == y).map(|(p, _)| *p).collect();
            for pair in pairs {
                self.joined.entry(pair).or_default().remove(&x);
                if self.nodes[&x].alive {
                    self.node(&x).subscriptions.handle_unjoined(now, pair);
                }
            }
            if self.nodes[&x].alive {
                self.node(&x).subscriptions.handle_peer_lost(now, &y);
                for producer in self.node(&x).producers.values_mut() {
                    producer.publisher.handle_gone(&y);
                }
                self.act(x);
            }
        }
    }

    /// The link is back: adverts are exchanged.
    fn meet(&mut self, a: NodeId, b: NodeId) {
        let now = self.instant();
        for (x, y) in [(a, b), (b, a)] {
            if !self.nodes[&x].alive || !self.nodes[&y].alive {
                continue;
            }
            let entity = EntityId::from_bytes(*x.as_bytes());
            let adverts: Vec<(Pair, ChannelName)> =
                self.nodes[&x].producers.iter().map(|(pair, p)| (*pair, p.name.clone())).collect();
            for (pair, name) in adverts {
                let known = Known { name, node: x, entity, class: Class::Reliable };
                self.node(&y).subscriptions.handle_advert(now, pair, Some(known));
            }
            self.act(y);
        }
    }

    /// kill −9: memory is gone, the floor stays.
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
        let (mesh, node) = (self.mesh, self.node(&id));
        node.producers.clear();
        node.joins.clear();
        node.subscriptions = Subscriptions::new(id, mesh, Limits::default());
        for joined in self.joined.values_mut() {
            joined.remove(&id);
        }
    }

    pub fn restart(&mut self, node: usize) {
        let id = self.order[node];
        self.node(&id).alive = true;
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
            self.happen(happening);
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
                    Message::Subscribed { .. }
                    | Message::Refused { .. }
                    | Message::Grant { .. }
                    | Message::Batches { .. } => {
                        self.node(&to).subscriptions.handle_message(now, from, &message);
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
            Happening::Take { node, sub, boot } => {
                if self.nodes[&node].boot == boot {
                    self.take(node, sub);
                }
            }
            Happening::Wake => {
                for id in self.order.clone() {
                    if self.nodes[&id].alive && self.nodes[&id].subscriptions.poll_timeout().is_some_and(|at| at <= now)
                    {
                        self.node(&id).subscriptions.handle_timeout(now);
                        self.act(id);
                    }
                }
            }
        }
    }

    fn take(&mut self, id: NodeId, sub: u64) {
        let now = self.instant();
        let Some(app) = self.node(&id).apps.get_mut(&sub) else { return };
        if app.asleep {
            return;
        }
        let deliveries: Vec<Delivery> = app.queue.drain(..).collect();
        let mut cost = 0;
        let (mut gaps, mut restarts, mut delivered) = (0, 0, 0);
        for delivery in deliveries {
            cost += delivery.cost();
            match delivery {
                Delivery::Batch { source, batch, skip, .. } => {
                    let seen = app.seen.entry(source.pair).or_default();
                    for event in batch.events().skip(usize::from(skip)) {
                        seen.push(Seen::Event(event.seq(), event.payload().to_vec()));
                        delivered += 1;
                    }
                }
                Delivery::Item(Item::Gap(gap)) => {
                    gaps += 1;
                    app.seen.entry(gap.source.pair).or_default().push(Seen::Gap(gap.range));
                }
                Delivery::Item(Item::Restart(restart)) => {
                    restarts += 1;
                    let (last_seen, incarnation) = (restart.last_seen, restart.incarnation);
                    let seen = app.seen.entry(restart.source.pair).or_default();
                    seen.push(Seen::Restart { last_seen, incarnation });
                }
                Delivery::Item(Item::Equivocation(e)) => {
                    app.seen.entry(e.source.pair).or_default().push(Seen::Equivocation(e.seq));
                }
                Delivery::Item(other) => panic!("unexpected {other:?}"),
            }
        }
        self.totals.gaps += gaps;
        self.totals.restarts += restarts;
        self.totals.delivered += delivered;
        self.node(&id).subscriptions.handle_taken(now, sub, cost);
        self.act(id);
    }

    pub fn seen(&self, node: usize, sub: u64, pair: &Pair) -> Vec<Seen> {
        self.nodes[&self.order[node]].apps[&sub].seen.get(pair).cloned().unwrap_or_default()
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

/// What one origin's events must look like to a subscriber that was there from the first: every published event once
/// and in order, and what is missing named by a gap or a restart.
pub fn check_complete(published: &BTreeMap<u64, Vec<u8>>, seen: &[Seen]) -> Result<(), String> {
    let mut next = None;
    let mut missing: BTreeSet<u64> = published.keys().copied().collect();
    for item in seen {
        match item {
            Seen::Event(seq, payload) => {
                if next.is_some_and(|next| *seq < next) {
                    return Err(format!("{seq} came after {next:?}"));
                }
                next = Some(seq + 1);
                match published.get(seq) {
                    Some(expected) if expected == payload => {}
                    _ => return Err(format!("{seq} was never published like this")),
                }
                if !missing.remove(seq) {
                    return Err(format!("{seq} came twice"));
                }
            }
            Seen::Gap(range) => {
                let named: Vec<u64> = missing.range(range.from..range.to).copied().collect();
                named.iter().for_each(|seq| {
                    missing.remove(seq);
                });
            }
            Seen::Restart { last_seen, incarnation } => {
                let named: Vec<u64> = missing.range(last_seen + 1..*incarnation).copied().collect();
                named.iter().for_each(|seq| {
                    missing.remove(seq);
                });
            }
            Seen::Equivocation(seq) => return Err(format!("equivocation at {seq}")),
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("{} events missing and not named, first {:?}", missing.len(), missing.first()))
    }
}
