//! Frames on their way out, and waiting for room.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep_until};

use super::Endpoint;
use crate::joins::{Joins, Patience, Served};
use crate::neighbour::Neighbour;
use crate::outbox::{Lane, Queued};
use crate::pace::{Fill, Gauge, Standing};
use crate::sync::{lock, read};
use crate::{Event, HEADER_LEN, Header, NodeId, Pair};

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
    /// A link is left out if its queue is full, or was and has not drained by half, or if it has said that it is full for
    /// this pair. After [`Endpoint::room`], with nothing awaited between, no link is left out but one that is slow. If
    /// this node has joined its own pair, the frame comes out of its inbox with its own id as `from`.
    ///
    /// A realtime frame ([`Header::is_realtime`]) goes in a datagram if the path holds it, and otherwise on a stream of its
    /// own, which is reset when a newer one of the pair is published. It waits for nothing and holds nothing up; it may be
    /// lost, and comes in no order. When too many wait for a link the oldest is dropped.
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
        served.note(header);
        if header.is_realtime() {
            return self.publish_realtime(pair, &frame, served, joins.local_full(pair));
        }
        for taker in &served.takers {
            let queued = if taker.full { None } else { Some(taker.link.outbox.push(lane, frame.clone())) };
            let skipped = match queued {
                Some(Queued::Yes) => {
                    fanout.links += 1;
                    let len = frame.len() as u64;
                    counters.frames_sent.one();
                    counters.bytes_sent.add(len);
                    taker.link.counters.frames_sent.one();
                    taker.link.counters.bytes_sent.add(len);
                    continue;
                }
                Some(Queued::Closed) => continue,
                Some(Queued::Full) => &counters.frames_skipped_queue_full,
                Some(Queued::Slow) => &counters.frames_skipped_slow,
                None => &counters.frames_skipped_told_full,
            };
            fanout.skipped += 1;
            skipped.one();
            taker.link.counters.frames_skipped.one();
        }
        if served.local {
            if !joins.local_full(pair) && shared.frames.push_own(shared.me, BytesMut::from(&frame[..])) == Fill::Taken {
                fanout.links += 1;
            } else {
                counters.frames_skipped_inbox_full.one();
                fanout.skipped += 1;
            }
        }
        fanout
    }

    /// Newest wins: what cannot go at once makes room for what comes later, and nobody waits.
    fn publish_realtime(
        &self,
        pair: &Pair,
        frame: &Bytes,
        served: &Served<Arc<Neighbour>>,
        local_full: bool,
    ) -> Fanout {
        let (shared, counters) = (&self.shared, &self.shared.counters);
        let mut fanout = Fanout::default();
        for taker in &served.takers {
            if taker.full {
                fanout.skipped += 1;
                counters.frames_skipped_told_full.one();
                taker.link.counters.frames_skipped.one();
                continue;
            }
            let fits = taker.link.current().connection.max_datagram_size().is_some_and(|max| frame.len() <= max);
            let gone = taker.link.realtime.push(*pair, frame.clone(), fits);
            counters.realtime_dropped_unsent.add(gone.dropped);
            counters.realtime_superseded.add(gone.superseded);
            fanout.links += 1;
            counters.frames_sent.one();
            counters.bytes_sent.add(frame.len() as u64);
            taker.link.counters.frames_sent.one();
            taker.link.counters.bytes_sent.add(frame.len() as u64);
        }
        if served.local {
            if local_full {
                fanout.skipped += 1;
                counters.frames_skipped_inbox_full.one();
            } else {
                let dropped = shared.frames.push_realtime(shared.me, BytesMut::from(&frame[..]));
                counters.realtime_dropped_inbox_full.add(dropped as u64);
                fanout.links += 1;
            }
        }
        fanout
    }

    /// Waits until it is worth publishing a frame of the pair; at once if there is room, nobody has joined, or the last
    /// frame of the pair was a realtime frame. Call it directly before [`Endpoint::publish`].
    ///
    /// It waits as long as *none* of those who have joined has room. For one that is full while another has room it waits
    /// 100 ms at most, and if the other has hardly anything left to send, 100 ms in all and one part in a hundred of the
    /// time: then that one is slow, and nobody waits for it until half its queue has drained or it says that it has room.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn room(&self, pair: &Pair) -> impl Future<Output = ()> + Send + use<'_> {
        let pair = *pair;
        async move {
            // Almost always there is room, and then nothing more is done.
            if self.has_room(&pair) {
                return;
            }
            loop {
                let mut changed = pin!(self.shared.room.waiting());
                changed.as_mut().enable();
                if self.shared.closed.is_cancelled() {
                    return;
                }
                let until = match self.weigh(&pair, Instant::now()) {
                    Wait::No => return,
                    Wait::Until(until) => Some(until),
                    Wait::ForRoom => None,
                };
                tokio::select! {
                    biased;
                    () = self.shared.closed.cancelled() => return,
                    () = changed => {}
                    () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                }
            }
        }
    }

    fn has_room(&self, pair: &Pair) -> bool {
        let joins = read(&self.shared.joins);
        let Some(served) = joins.served(pair).filter(|served| !served.is_realtime()) else { return true };
        let (mut any, mut full, mut room) = (false, false, false);
        for taker in self.takers(&joins, served, pair) {
            any = true;
            match taker.standing() {
                Standing::Plenty | Standing::Room => room = true,
                Standing::Full => full = true,
                Standing::Slow => {}
            }
        }
        !any || (room && !full)
    }

    /// Is it worth waiting, and until when? Those who are waited for too long are slow from now on.
    fn weigh(&self, pair: &Pair, now: Instant) -> Wait {
        let joins = read(&self.shared.joins);
        let Some(served) = joins.served(pair).filter(|served| !served.is_realtime()) else { return Wait::No };
        let takers = || self.takers(&joins, served, pair).map(|taker| (taker.standing(), taker));
        let plenty = takers().any(|(standing, _)| standing == Standing::Plenty);
        let room = plenty || takers().any(|(standing, _)| standing == Standing::Room);
        let (mut any, mut wait) = (false, None);
        for (standing, taker) in takers() {
            any = true;
            let mut pace = lock(&taker.patience.pace);
            if !room || standing != Standing::Full {
                pace.rest(now);
            } else if let Some(until) = pace.wait(now, plenty) {
                wait = Some(wait.map_or(until, |earlier: Instant| earlier.min(until)));
            } else {
                pace.rest(now);
                taker.set_slow();
                self.shared.events.offer(Event::Slow { pair: *pair, node: taker.node });
            }
        }
        match wait {
            Some(until) => Wait::Until(until),
            None if room || !any => Wait::No,
            None => Wait::ForRoom,
        }
    }

    /// Those who take the frames of a served pair, this node itself among them.
    fn takers<'a>(
        &'a self,
        joins: &Joins<Arc<Neighbour>>,
        served: &'a Served<Arc<Neighbour>>,
        pair: &Pair,
    ) -> impl Iterator<Item = Taking<'a>> + use<'a> {
        let priority = served.priority();
        let links = served.takers.iter().map(move |taker| Taking {
            node: taker.link.node,
            told_full: taker.full,
            queue: taker.link.outbox.queued(priority),
            patience: &taker.pace,
        });
        let own = served.local.then(|| Taking {
            node: self.shared.me,
            told_full: joins.local_full(pair),
            queue: self.shared.frames.own(),
            patience: &served.local_pace,
        });
        links.chain(own)
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

/// Is there something to wait for?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    No,
    /// Until then, for those that are full while others have room.
    Until(Instant),
    /// Until somebody has room.
    ForRoom,
}

/// One of those who take the frames of a pair.
struct Taking<'a> {
    node: NodeId,
    /// It has said that it is full.
    told_full: bool,
    queue: &'a Gauge,
    patience: &'a Patience,
}

impl Taking<'_> {
    fn standing(&self) -> Standing {
        let told_slow = &self.patience.told_slow;
        if !self.told_full {
            told_slow.store(false, Ordering::Release);
            return self.queue.standing();
        }
        if told_slow.load(Ordering::Acquire) { Standing::Slow } else { Standing::Full }
    }

    fn set_slow(&self) {
        if self.told_full {
            self.patience.told_slow.store(true, Ordering::Release);
        } else {
            self.queue.set_slow();
        }
    }
}

fn whole_frame(frame: &[u8]) -> Option<&Header> {
    Header::parse(frame).ok().filter(|header| HEADER_LEN + header.payload_len() == frame.len())
}
