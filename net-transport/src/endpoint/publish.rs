//! Frames on their way out, and waiting for room.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::Endpoint;
use crate::joins::Taker;
use crate::neighbour::Neighbour;
use crate::outbox::{Lane, Queued};
use crate::sync::read;
use crate::{HEADER_LEN, Header, NodeId, Pair, Priority};

/// How long anyone waits for a link that is full while others have room.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// Where a frame went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fanout {
    /// Links it was queued on, and one more if this node has joined the pair itself and had room.
    pub links: u32,
    /// Links that have joined and were full: the frame will be a gap there.
    pub skipped: u32,
}

/// Why a datagram was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The node is no neighbour.
    #[error("no link with node {0}")]
    NotLinked(NodeId),
    /// The frame has no proper header, or it says another length.
    #[error("not a frame: header and payload do not fit")]
    NotAFrame,
    /// The frame does not fit into a datagram on the link's path.
    #[error("a frame of {len} bytes, and a datagram to this node holds {max} now")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// Bytes that fit now.
        max: usize,
    },
    /// The link has gone meanwhile.
    #[error("the link is gone")]
    LinkLost,
}

impl Endpoint {
    /// Sends a frame to whoever has joined the pair: header and payload, whose header names this pair. Never waits.
    ///
    /// A link whose queue is full, or that has said it is full for this pair, is left out. If this node has joined its own
    /// pair, the frame comes out of its inbox with its own id as `from`.
    pub fn publish(&self, pair: &Pair, frame: Bytes) -> Fanout {
        let shared = &self.shared;
        let counters = &shared.counters;
        let Some(header) = whole_frame(&frame) else {
            counters.frames_malformed_local.one();
            return Fanout::default();
        };
        let lane = Lane::of(header.priority(), header.channel());
        let joins = read(&shared.joins);
        let mut fanout = Fanout::default();
        let Some(served) = joins.served(pair) else { return fanout };
        served.set_priority(header.priority());
        for taker in &served.takers {
            let queued = if taker.full {
                counters.frames_skipped_told_full.one();
                false
            } else {
                match taker.link.outbox.push(lane, frame.clone()) {
                    Queued::Yes => true,
                    Queued::Full => {
                        counters.frames_skipped_queue_full.one();
                        false
                    }
                    Queued::Closed => continue,
                }
            };
            if queued {
                fanout.links += 1;
                let len = frame.len() as u64;
                counters.frames_sent.one();
                counters.bytes_sent.add(len);
                taker.link.counters.frames_sent.one();
                taker.link.counters.bytes_sent.add(len);
            } else {
                fanout.skipped += 1;
            }
        }
        if served.local {
            let full = joins.local_full(pair);
            if !full && shared.frames.try_push(shared.me, &mut vec![BytesMut::from(&frame[..])]) {
                fanout.links += 1;
            } else {
                counters.frames_skipped_inbox_full.one();
                fanout.skipped += 1;
            }
        }
        fanout
    }

    /// Waits until it is worth publishing a frame of the pair; at once if there is room, or nobody has joined.
    ///
    /// It waits as long as *no* joined link has room. For one that is full while another has room it waits 100 ms at most;
    /// that link is slow from then on, and nobody waits for it until half its queue has drained or it says that it has
    /// room.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn room(&self, pair: &Pair) -> impl Future<Output = ()> + Send + use<'_> {
        let pair = *pair;
        async move {
            // Almost always there is room, and then nothing more is done.
            if self.look(&pair) != Look::Wait {
                return;
            }
            let mut deadline = Some(Instant::now() + FULL_WAIT);
            loop {
                let mut changed = pin!(self.shared.room.waiting());
                changed.as_mut().enable();
                if self.shared.closed.is_cancelled() || self.look(&pair) != Look::Wait {
                    return;
                }
                match deadline {
                    Some(at) if timeout_at(at, changed.as_mut()).await.is_err() => {
                        self.mark_slow(&pair);
                        deadline = None;
                    }
                    Some(_) => {}
                    None => tokio::select! {
                        biased;
                        () = self.shared.closed.cancelled() => return,
                        () = changed => {}
                    },
                }
            }
        }
    }

    fn look(&self, pair: &Pair) -> Look {
        let joins = read(&self.shared.joins);
        let Some(served) = joins.served(pair) else { return Look::Nobody };
        let priority = served.priority();
        let (mut with_room, mut full, mut slow) = (0, 0, 0);
        for taker in &served.takers {
            match taker.standing(priority) {
                Standing::Room => with_room += 1,
                Standing::Full => full += 1,
                Standing::Slow => slow += 1,
            }
        }
        if served.local {
            if joins.local_full(pair) { slow += 1 } else { with_room += 1 }
        }
        match (with_room, full, slow) {
            (0, 0, 0) => Look::Nobody,
            (1.., 0, _) => Look::Room,
            _ => Look::Wait,
        }
    }

    /// Those that are full now have been so for long enough.
    fn mark_slow(&self, pair: &Pair) {
        let joins = read(&self.shared.joins);
        let Some(served) = joins.served(pair) else { return };
        let priority = served.priority();
        for taker in served.takers.iter().filter(|taker| taker.standing(priority) == Standing::Full) {
            taker.slow.store(true, Ordering::Release);
            if !taker.full {
                taker.link.outbox.set_slow(priority);
            }
        }
    }

    /// Sends a frame, header and payload, to a neighbour in one QUIC datagram, which may be lost. It comes out of the
    /// inbox there if its pair is joined.
    ///
    /// # Errors
    /// [`DatagramError`]; nothing was sent then.
    pub fn send_datagram(&self, node: &NodeId, frame: Bytes) -> Result<(), DatagramError> {
        if whole_frame(&frame).is_none() {
            return Err(DatagramError::NotAFrame);
        }
        let neighbour: Arc<Neighbour> = self.shared.neighbour(node).ok_or(DatagramError::NotLinked(*node))?;
        let link = neighbour.current();
        let len = frame.len();
        match link.connection.send_datagram(frame) {
            Ok(()) => {
                self.shared.counters.datagrams_sent.one();
                neighbour.counters.frames_sent.one();
                neighbour.counters.bytes_sent.add(len as u64);
                Ok(())
            }
            Err(quinn::SendDatagramError::TooLarge) => {
                Err(DatagramError::TooLarge { len, max: link.connection.max_datagram_size().unwrap_or(0) })
            }
            Err(_) => Err(DatagramError::LinkLost),
        }
    }
}

/// What a look at those who have joined says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Nobody,
    Room,
    Wait,
}

/// How a joined link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Room,
    Full,
    /// Full for so long that nobody waits for it.
    Slow,
}

impl Taker<Arc<Neighbour>> {
    fn standing(&self, priority: Priority) -> Standing {
        let outbox = &self.link.outbox;
        if !self.full && outbox.has_room(priority) {
            self.slow.store(false, Ordering::Release);
            return Standing::Room;
        }
        let slow = if self.full { self.slow.load(Ordering::Acquire) } else { outbox.is_slow(priority) };
        if slow { Standing::Slow } else { Standing::Full }
    }
}

fn whole_frame(frame: &[u8]) -> Option<&Header> {
    Header::parse(frame).ok().filter(|header| HEADER_LEN + header.payload_len() == frame.len())
}
