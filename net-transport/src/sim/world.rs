//! The network as a value: datagrams go in, time passes, datagrams come out. No task, no clock, no lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use quinn::udp::EcnCodepoint;
use tokio::task::AbortHandle;

use super::SimRng;
use super::link::{Fate, Link, LinkConfig};
use super::nat::{NatConfig, Nats, Subnet};
use super::trace::{Faults, Outcome, Trace, TraceRecord, contents};
use crate::prf;

/// A datagram in a receive buffer.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) bytes: Bytes,
    pub(super) ecn: Option<EcnCodepoint>,
}

/// A datagram on its way.
#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Bytes,
    ecn: Option<EcnCodepoint>,
    /// The nodes at both ends, behind their NATs.
    link: (IpAddr, IpAddr),
    number: u64,
    is_copy: bool,
}

/// A socket, seen from the network.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// Tells apart sockets that had the same address one after the other.
    pub(super) id: u64,
    pub(super) queue: VecDeque<Received>,
    pub(super) queue_bytes: usize,
    pub(super) reader: Option<Waker>,
}

impl Mailbox {
    pub(super) fn new(id: u64) -> Self {
        Self { id, queue: VecDeque::new(), queue_bytes: 0, reader: None }
    }

    /// Takes up to `count` datagrams out.
    pub(super) fn take(&mut self, count: usize) -> Vec<Received> {
        let taken: Vec<_> = self.queue.drain(..count.min(self.queue.len())).collect();
        self.queue_bytes -= taken.iter().map(|received| received.bytes.len() + DATAGRAM_OVERHEAD_BYTES).sum::<usize>();
        taken
    }
}

/// A node: an IP address and the tasks that run there.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) crashed: bool,
    pub(super) paused: bool,
    /// Crashes so far: tells the tasks of one life from those of the next.
    pub(super) life: u64,
    pub(super) tasks: BTreeMap<u64, AbortHandle>,
    /// What waits for the node to run again, by task or poller.
    pub(super) held: BTreeMap<u64, Waker>,
}

#[derive(Debug)]
pub(super) struct World {
    key: [u8; 32],
    pub(super) faults: Faults,
    pub(super) trace: Trace,
    pub(super) nodes: BTreeMap<IpAddr, Node>,
    pub(super) sockets: BTreeMap<SocketAddr, Mailbox>,
    pub(super) default_link: LinkConfig,
    pub(super) link_configs: BTreeMap<(IpAddr, IpAddr), LinkConfig>,
    pub(super) receive_buffer_bytes: usize,
    links: BTreeMap<(IpAddr, IpAddr), Link>,
    /// The side of each node that was named; the others are on a side of their own. Nothing: not partitioned.
    sides: Option<BTreeMap<IpAddr, usize>>,
    nats: Nats,
    /// By arrival, then in the order of sending.
    in_flight: BTreeMap<(u64, u64), Datagram>,
    in_flight_bytes: usize,
    pub(super) in_flight_bytes_max: usize,
    next_id: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let key = blake3::hash(&seed.to_le_bytes()).into();
        Self {
            key,
            faults: Faults::default(),
            trace: Trace::default(),
            nodes: BTreeMap::new(),
            sockets: BTreeMap::new(),
            default_link: LinkConfig::default(),
            link_configs: BTreeMap::new(),
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            links: BTreeMap::new(),
            sides: None,
            nats: Nats::default(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            next_id: 0,
        }
    }

    /// 32 bytes that seed and label decide.
    pub(super) fn derive(&self, label: &str) -> [u8; 32] {
        prf(&self.key, "sim derive", &[label.as_bytes()])
    }

    pub(super) fn rng(&self, kind: &str, about: &str) -> SimRng {
        let bytes = prf(&self.key, kind, &[about.as_bytes()]);
        SimRng::new(contents(&bytes))
    }

    /// A number that was not given out before.
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn add_nat(&mut self, inside: Subnet, outside: IpAddr, config: NatConfig) {
        let bound = self.sockets.keys().any(|address| address.ip() == outside);
        assert!(!bound, "no socket is bound to the outside address of a NAT: {outside}");
        let rng = self.rng("sim nat", &outside.to_string());
        self.nats.add(inside, outside, config, rng);
    }

    pub(super) fn rebind(&mut self, outside: IpAddr) -> bool {
        let rebound = self.nats.rebind(outside);
        self.faults.rebinds += u64::from(rebound);
        rebound
    }

    pub(super) fn is_nat(&self, ip: IpAddr) -> bool {
        self.nats.is_outside(ip)
    }

    pub(super) fn partition(&mut self, sides: &[&[IpAddr]]) {
        let named = sides.iter().enumerate().flat_map(|(side, ips)| ips.iter().map(move |ip| (*ip, side)));
        self.sides = Some(named.collect());
        self.faults.partitions += 1;
    }

    pub(super) fn heal(&mut self) {
        self.sides = None;
    }

    fn is_cut(&self, (a, b): (IpAddr, IpAddr)) -> bool {
        self.sides.as_ref().is_some_and(|sides| sides.get(&a) != sides.get(&b))
    }

    /// A socket at `from` sends; tells whether something now arrives earlier than anything did.
    pub(super) fn send(
        &mut self,
        now: u64,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        ecn: Option<EcnCodepoint>,
    ) -> bool {
        self.faults.sent += 1;
        let first = self.next_arrival();
        let Some(seen) = self.nats.outbound(now, from, to) else {
            self.conclude(now, from, to, bytes, Outcome::Nat);
            return false;
        };
        let link = (from.ip(), self.nats.behind(to));
        let carried = match self.carry(now, link, bytes.len()) {
            Fate::Carried(carried) => carried,
            Fate::Dropped(outcome) => {
                self.conclude(now, seen, to, bytes, outcome);
                return false;
            }
        };
        let mut bytes = bytes.to_vec();
        if let Some(bit) = carried.flipped_bit {
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.faults.corrupted += 1;
        }
        let bytes = Bytes::from(bytes);
        let datagram =
            |is_copy| Datagram { from: seen, to, bytes: bytes.clone(), ecn, link, number: carried.number, is_copy };
        self.launch(carried.arrives_at, datagram(false));
        if let Some(copy_at) = carried.copy_at {
            self.faults.duplicated += 1;
            self.launch(copy_at, datagram(true));
        }
        self.next_arrival() != first
    }

    fn carry(&mut self, now: u64, ends: (IpAddr, IpAddr), len: usize) -> Fate {
        if self.is_cut(ends) {
            return Fate::Dropped(Outcome::Partition);
        }
        // A copy counts as well, so there has to be room for two.
        let is_full = self.in_flight_bytes.saturating_add(len.saturating_mul(2)) > self.in_flight_bytes_max;
        if is_full || (self.links.len() >= LINKS_MAX && !self.links.contains_key(&ends)) {
            return Fate::Dropped(Outcome::Queue);
        }
        let config = self.link_configs.get(&ends).unwrap_or(&self.default_link);
        let key = &self.key;
        // Each link has randomness of its own, so traffic on one does not change the faults of another.
        let link = self.links.entry(ends).or_insert_with(|| {
            let about = format!("{} {}", ends.0, ends.1);
            Link::new(SimRng::new(contents(&prf(key, "sim link", &[about.as_bytes()]))))
        });
        link.take(config, now, len)
    }

    fn launch(&mut self, at: u64, datagram: Datagram) {
        self.in_flight_bytes += datagram.bytes.len();
        let id = self.id();
        self.in_flight.insert((at, id), datagram);
    }

    /// When the next datagram arrives.
    pub(super) fn next_arrival(&self) -> Option<u64> {
        self.in_flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// Delivers what has arrived by `now`; gives the readers to wake, in order of arrival.
    pub(super) fn deliver(&mut self, now: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= now) {
            let datagram = entry.remove();
            self.in_flight_bytes -= datagram.bytes.len();
            let outcome = self.arrive(now, &datagram, &mut wakers);
            self.conclude(now, datagram.from, datagram.to, &datagram.bytes, outcome);
        }
        wakers
    }

    fn arrive(&mut self, now: u64, datagram: &Datagram, wakers: &mut Vec<Waker>) -> Outcome {
        if self.is_cut(datagram.link) {
            return Outcome::Partition;
        }
        let Some(to) = self.nats.inbound(now, datagram.from, datagram.to) else {
            return Outcome::Nat;
        };
        let node = self.nodes.get(&to.ip());
        if node.is_some_and(|node| node.crashed) {
            return Outcome::Crash;
        }
        let Some(mailbox) = self.sockets.get_mut(&to) else {
            return Outcome::Unbound;
        };
        let len = datagram.bytes.len();
        if mailbox.queue_bytes.saturating_add(len + DATAGRAM_OVERHEAD_BYTES) > self.receive_buffer_bytes {
            return Outcome::Buffer;
        }
        mailbox.queue_bytes += len + DATAGRAM_OVERHEAD_BYTES;
        mailbox.queue.push_back(Received { from: datagram.from, bytes: datagram.bytes.clone(), ecn: datagram.ecn });
        if !node.is_some_and(|node| node.paused) {
            wakers.extend(mailbox.reader.take());
        }
        if !datagram.is_copy
            && let Some(link) = self.links.get_mut(&datagram.link)
        {
            self.faults.reordered += u64::from(link.delivered(datagram.number));
        }
        Outcome::Delivered
    }

    fn conclude(&mut self, now: u64, from: SocketAddr, to: SocketAddr, bytes: &[u8], outcome: Outcome) {
        self.faults.count(outcome);
        let at = Duration::from_nanos(now);
        self.trace.record(TraceRecord { at, from, to, len: bytes.len(), contents: contents(bytes), outcome });
    }

    /// Takes a node down; gives what must be woken to learn of it, and the tasks to stop.
    pub(super) fn crash(&mut self, now: u64, ip: IpAddr) -> (Vec<Waker>, Vec<AbortHandle>) {
        let node = self.nodes.entry(ip).or_default();
        if node.crashed {
            return (Vec::new(), Vec::new());
        }
        node.crashed = true;
        node.paused = false;
        node.life += 1;
        let tasks = std::mem::take(&mut node.tasks).into_values().collect();
        let mut wakers: Vec<_> = std::mem::take(&mut node.held).into_values().collect();
        self.faults.crashes += 1;

        let bound: BTreeSet<_> = self.sockets.keys().filter(|address| address.ip() == ip).copied().collect();
        for address in bound {
            wakers.extend(self.sockets.remove(&address).and_then(|mailbox| mailbox.reader));
        }
        let lost: Vec<_> = self.in_flight.iter().filter(|(_, d)| d.link.1 == ip).map(|(key, _)| *key).collect();
        for key in lost {
            let Some(datagram) = self.in_flight.remove(&key) else {
                continue;
            };
            self.in_flight_bytes -= datagram.bytes.len();
            self.conclude(now, datagram.from, datagram.to, &datagram.bytes, Outcome::Crash);
        }
        (wakers, tasks)
    }

    pub(super) fn restart(&mut self, ip: IpAddr) {
        let node = self.nodes.entry(ip).or_default();
        self.faults.restarts += u64::from(node.crashed);
        node.crashed = false;
    }

    pub(super) fn pause(&mut self, ip: IpAddr) {
        let node = self.nodes.entry(ip).or_default();
        if !node.crashed && !node.paused {
            node.paused = true;
            self.faults.pauses += 1;
        }
    }

    /// Lets a node run again; gives all that waited for it.
    pub(super) fn resume(&mut self, ip: IpAddr) -> Vec<Waker> {
        let Some(node) = self.nodes.get_mut(&ip) else {
            return Vec::new();
        };
        node.paused = false;
        let held = std::mem::take(&mut node.held).into_values();
        let readers = self.sockets.iter_mut().filter(|(address, _)| address.ip() == ip);
        held.chain(readers.filter_map(|(_, mailbox)| mailbox.reader.take())).collect()
    }

    pub(super) fn is_paused(&self, ip: IpAddr) -> bool {
        self.nodes.get(&ip).is_some_and(|node| node.paused)
    }
}

/// Bytes that wait in one socket at most, unless set otherwise: what real nodes ask the kernel for.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What a datagram takes of a receive buffer besides its bytes, so that empty ones fill it too.
const DATAGRAM_OVERHEAD_BYTES: usize = 64;

/// Bytes on their way in the whole network at most, unless set otherwise.
const IN_FLIGHT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Pairs of nodes that have spoken at most: a thousand nodes, each with each other.
const LINKS_MAX: usize = 1 << 20;
