//! What happens to a datagram between two nodes.

use std::time::Duration;

use super::SimRng;
use super::trace::Outcome;

/// How one direction between two nodes behaves.
///
/// Probabilities are from 0 to 1. Times are kept to the nanosecond, but a datagram is handed over when the clock moves,
/// and tokio's moves in whole milliseconds: never early, and less than a millisecond late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time on the wire.
    pub latency: Duration,
    /// At most this much is added to `latency`, evenly distributed. It does not reorder: a datagram waits for the one
    /// before it.
    pub jitter: Duration,
    /// Probability that a datagram is lost. 1 cuts this direction.
    pub loss: f64,
    /// Probability that a datagram is held back by up to `reorder_delay`, while others overtake it.
    pub reorder: f64,
    /// How long a datagram that is reordered, or the second copy of one, is held back at most.
    pub reorder_delay: Duration,
    /// Probability that a datagram arrives a second time.
    pub duplicate: f64,
    /// Probability that one bit of a datagram flips. A checksum would catch it on most real paths; this is for the
    /// others, and for middle boxes that mean ill.
    pub corrupt: f64,
    /// Bytes of UDP payload at most; a longer datagram is dropped, silently.
    pub mtu: usize,
    /// Bytes of UDP payload per second; none: no limit. 0 counts as 1.
    pub bytes_per_second: Option<u64>,
    /// Bytes that wait for the wire at most, where `bytes_per_second` limits it. What does not fit is dropped, but a
    /// wire that is idle takes a datagram of any length.
    pub queue_bytes: usize,
}

impl Default for LinkConfig {
    /// A perfect wire of 1 ms and Ethernet's 1,452 bytes.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::ZERO,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1452,
            bytes_per_second: None,
            queue_bytes: 256 * 1024,
        }
    }
}

/// One direction between two nodes that have spoken.
#[derive(Debug)]
pub(super) struct Link {
    rng: SimRng,
    /// When the wire has sent what waits for it, in nanoseconds of virtual time like all instants here.
    idle_at: u64,
    /// When the last datagram that was not reordered arrives.
    last_arrival: u64,
    /// Datagrams taken so far: numbers them.
    taken: u64,
    /// The highest number that was delivered.
    delivered: Option<u64>,
}

/// What a link does with a datagram.
#[derive(Debug)]
pub(super) enum Fate {
    Dropped(Outcome),
    Carried(Carried),
}

#[derive(Debug)]
pub(super) struct Carried {
    /// The number of the datagram on its link.
    pub(super) number: u64,
    pub(super) arrives_at: u64,
    /// When a second copy arrives.
    pub(super) copy_at: Option<u64>,
    /// The bit that flips.
    pub(super) flipped_bit: Option<usize>,
}

impl Link {
    pub(super) fn new(rng: SimRng) -> Self {
        Self { rng, idle_at: 0, last_arrival: 0, taken: 0, delivered: None }
    }

    /// Takes a datagram of `len` bytes.
    pub(super) fn take(&mut self, config: &LinkConfig, now: u64, len: usize) -> Fate {
        if len > config.mtu {
            return Fate::Dropped(Outcome::Mtu);
        }
        let Some(sent_at) = self.queue(config, now, len) else {
            return Fate::Dropped(Outcome::Queue);
        };
        // What is lost has been on the wire, so the decision comes after the queue.
        if self.rng.chance(config.loss) {
            return Fate::Dropped(Outcome::Loss);
        }
        let bits = u64::try_from(len).unwrap_or(u64::MAX).saturating_mul(8);
        let flips = bits > 0 && self.rng.chance(config.corrupt);
        let flipped_bit = flips.then(|| usize::try_from(self.rng.below(bits)).expect("below the length in bits"));

        let in_order = sent_at
            .saturating_add(nanos(config.latency))
            .saturating_add(nanos(self.rng.up_to(config.jitter)))
            .max(self.last_arrival);
        let arrives_at = if self.rng.chance(config.reorder) {
            in_order.saturating_add(nanos(self.rng.up_to(config.reorder_delay)))
        } else {
            self.last_arrival = in_order;
            in_order
        };
        let duplicated = self.rng.chance(config.duplicate);
        let copy_at = duplicated.then(|| arrives_at.saturating_add(nanos(self.rng.up_to(config.reorder_delay))));
        let number = self.taken;
        self.taken += 1;
        Fate::Carried(Carried { number, arrives_at, copy_at, flipped_bit })
    }

    /// When the last bit of a datagram that is queued now is on the wire; nothing if the queue is full.
    fn queue(&mut self, config: &LinkConfig, now: u64, len: usize) -> Option<u64> {
        let Some(rate) = config.bytes_per_second else {
            return Some(now);
        };
        let rate = u128::from(rate.max(1));
        let waiting = u128::from(self.idle_at.saturating_sub(now)) * rate / NANOS_PER_SECOND;
        if waiting > 0 && waiting + len as u128 > config.queue_bytes as u128 {
            return None;
        }
        let takes = u64::try_from(len as u128 * NANOS_PER_SECOND / rate).unwrap_or(u64::MAX);
        self.idle_at = self.idle_at.max(now).saturating_add(takes);
        Some(self.idle_at)
    }

    /// Notes that a datagram was delivered; tells whether a later one was delivered before.
    pub(super) fn delivered(&mut self, number: u64) -> bool {
        let overtaken = self.delivered.is_some_and(|highest| number < highest);
        self.delivered = self.delivered.max(Some(number));
        overtaken
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;
