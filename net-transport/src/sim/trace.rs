//! What became of every datagram: counted, hashed, and on request recorded.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Outcome {
    /// It lies in the receive buffer of its socket.
    Delivered,
    /// Lost on the wire.
    Loss,
    /// Between two sides of a partition, when it was sent or when it would have arrived.
    Partition,
    /// Longer than its link carries.
    Mtu,
    /// No room in the queue of its link, or in the network as a whole.
    Queue,
    /// A NAT box had no mapping for it, or none that lets this sender in, or no room for another mapping.
    Nat,
    /// On its way to a node when that crashed, or sent to a node that is down.
    Crash,
    /// Nobody listens at its destination.
    Unbound,
    /// The receive buffer of its socket was full.
    Buffer,
}

/// What has been done to the datagrams of a [`SimNet`](super::SimNet) so far.
///
/// `sent + duplicated` is the sum of `delivered`, of everything `dropped_*`, and of what is still on its way. `Display`
/// prints what is not zero on one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// Datagrams that sockets sent.
    pub sent: u64,
    /// Datagrams, with copies, that came into the receive buffer of a socket.
    pub delivered: u64,
    /// Copies that were made.
    pub duplicated: u64,
    /// Delivered after one that had been sent later over the same link. Copies do not count.
    pub reordered: u64,
    /// Sent on with one bit flipped.
    pub corrupted: u64,
    /// [`Outcome::Loss`].
    pub dropped_loss: u64,
    /// [`Outcome::Partition`].
    pub dropped_partition: u64,
    /// [`Outcome::Mtu`].
    pub dropped_mtu: u64,
    /// [`Outcome::Queue`].
    pub dropped_queue: u64,
    /// [`Outcome::Nat`].
    pub dropped_nat: u64,
    /// [`Outcome::Crash`].
    pub dropped_crash: u64,
    /// [`Outcome::Unbound`].
    pub dropped_unbound: u64,
    /// [`Outcome::Buffer`].
    pub dropped_buffer: u64,
    /// Times that the network was partitioned.
    pub partitions: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Nodes started again.
    pub restarts: u64,
    /// Nodes paused.
    pub pauses: u64,
    /// NAT boxes that forgot their mappings.
    pub rebinds: u64,
}

impl Faults {
    /// All datagrams that were not delivered.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped_loss
            + self.dropped_partition
            + self.dropped_mtu
            + self.dropped_queue
            + self.dropped_nat
            + self.dropped_crash
            + self.dropped_unbound
            + self.dropped_buffer
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Delivered => &mut self.delivered,
            Outcome::Loss => &mut self.dropped_loss,
            Outcome::Partition => &mut self.dropped_partition,
            Outcome::Mtu => &mut self.dropped_mtu,
            Outcome::Queue => &mut self.dropped_queue,
            Outcome::Nat => &mut self.dropped_nat,
            Outcome::Crash => &mut self.dropped_crash,
            Outcome::Unbound => &mut self.dropped_unbound,
            Outcome::Buffer => &mut self.dropped_buffer,
        } += 1;
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams sent, {} delivered", self.sent, self.delivered)?;
        let rest = [
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (self.corrupted, "corrupted"),
            (self.dropped_loss, "lost"),
            (self.dropped_partition, "cut off"),
            (self.dropped_mtu, "too long"),
            (self.dropped_queue, "too many for a link"),
            (self.dropped_nat, "kept out by a NAT"),
            (self.dropped_crash, "to a crashed node"),
            (self.dropped_unbound, "to nobody"),
            (self.dropped_buffer, "too many for a receiver"),
            (self.partitions, "partitions"),
            (self.crashes, "crashes"),
            (self.restarts, "restarts"),
            (self.pauses, "pauses"),
            (self.rebinds, "NAT rebinds"),
        ];
        rest.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

/// One datagram in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceRecord {
    /// When its fate was sealed, in virtual time since the network began.
    pub at: Duration,
    /// The sender's address as a receiver sees it: outside its NAT.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: SocketAddr,
    /// Bytes of UDP payload.
    pub len: usize,
    /// 64 bits of a hash of these bytes.
    pub contents: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Keeps the hashes of everything, and the last records if asked to.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Over everything.
    whole: blake3::Hasher,
    /// Over everything but contents.
    shape: blake3::Hasher,
    kept: VecDeque<TraceRecord>,
    keep: usize,
}

impl Trace {
    pub(super) fn record(&mut self, record: TraceRecord) {
        let mut shape = Vec::with_capacity(RECORD_LEN_MAX);
        shape.extend(record.at.as_nanos().to_le_bytes());
        shape.push(record.outcome as u8);
        shape.extend((record.len as u64).to_le_bytes());
        for address in [record.from, record.to] {
            match address.ip() {
                IpAddr::V4(ip) => shape.extend([4].into_iter().chain(ip.octets())),
                IpAddr::V6(ip) => shape.extend([6].into_iter().chain(ip.octets())),
            }
            shape.extend(address.port().to_le_bytes());
        }
        self.shape.update(&shape);
        self.whole.update(&shape).update(&record.contents.to_le_bytes());
        if self.keep > 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back(record);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        head(&self.whole.finalize())
    }

    pub(super) fn shape_hash(&self) -> u64 {
        head(&self.shape.finalize())
    }

    pub(super) fn keep(&mut self, count: usize) {
        self.keep = count;
        self.kept.truncate(count);
    }

    pub(super) fn kept(&self) -> Vec<TraceRecord> {
        self.kept.iter().copied().collect()
    }
}

pub(super) fn contents(bytes: &[u8]) -> u64 {
    head(&blake3::hash(bytes))
}

fn head(hash: &blake3::Hash) -> u64 {
    let [head, ..] = hash.as_bytes().as_chunks::<8>().0 else { unreachable!("a hash has 32 bytes") };
    u64::from_le_bytes(*head)
}

/// Time, outcome, length, two addresses.
const RECORD_LEN_MAX: usize = 16 + 1 + 8 + 2 * (1 + 16 + 2);
