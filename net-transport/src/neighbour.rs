//! A node that this one is linked with, whichever connection carries the link at the moment.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};

use crate::NodeId;
use crate::link::Link;
use crate::metrics::Counter;
use crate::outbox::{LANES, Lane, Outbox};
use crate::realtime::RealtimeOut;
use crate::sync::lock;

/// Connections of one link that are drained at a time. An honest peer has one, or two when dials have crossed.
pub(crate) const DRAINING_MAX: usize = 8;

/// One neighbour, from link-up to link-down.
pub(crate) struct Neighbour {
    pub(crate) node: NodeId,
    pub(crate) boot: [u8; 8],
    pub(crate) outbox: Outbox,
    pub(crate) realtime: RealtimeOut,
    /// Its part of the inbox.
    pub(crate) inbox: Arc<Semaphore>,
    pub(crate) counters: NeighbourCounters,
    links: Mutex<Links>,
    lanes: [LaneIn; LANES],
    /// A lane has ended or a connection is gone: lanes that wait for their turn look again.
    turn: Notify,
}

/// What has passed, by neighbour.
#[derive(Debug, Default)]
pub(crate) struct NeighbourCounters {
    pub(crate) frames_sent: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) frames_dropped: Counter,
    pub(crate) frames_skipped: Counter,
}

struct Links {
    current: Arc<Link>,
    draining: Vec<Arc<Link>>,
    /// The link is down: no connection speaks for the node any more.
    ended: bool,
}

impl Links {
    fn drain(&mut self, link: Arc<Link>) -> Option<Arc<Link>> {
        self.draining.push(link);
        (self.draining.len() > DRAINING_MAX).then(|| self.draining.remove(0))
    }
}

/// A lane towards us, over all connections.
#[derive(Debug, Default)]
struct LaneIn {
    /// Frames that have come, counted by their sender.
    delivered: AtomicU64,
    /// A stream is being read.
    busy: AtomicBool,
}

impl Neighbour {
    pub(crate) fn new(link: Arc<Link>, queue_bytes: usize, inbox: Arc<Semaphore>) -> Self {
        Self {
            node: link.node,
            boot: link.boot,
            outbox: Outbox::new(queue_bytes),
            realtime: RealtimeOut::default(),
            inbox,
            counters: NeighbourCounters::default(),
            links: Mutex::new(Links { current: link, draining: Vec::new(), ended: false }),
            lanes: std::array::from_fn(|_| LaneIn::default()),
            turn: Notify::new(),
        }
    }

    /// The connection that new streams and control messages take.
    pub(crate) fn current(&self) -> Arc<Link> {
        lock(&self.links).current.clone()
    }

    /// Does this connection speak for the node? Not while it is drained, nor after the link has gone down: whoever comes
    /// after it is told everything, and says everything, again.
    pub(crate) fn is_current(&self, link: &Link) -> bool {
        let links = lock(&self.links);
        !links.ended && links.current.id == link.id
    }

    /// The link is down.
    pub(crate) fn end(&self) {
        lock(&self.links).ended = true;
    }

    /// All connections.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let links = lock(&self.links);
        links.draining.iter().chain([&links.current]).cloned().collect()
    }

    /// Is another connection still being drained?
    pub(crate) fn is_draining(&self) -> bool {
        !lock(&self.links).draining.is_empty()
    }

    /// Makes a connection the current one, and returns the one before, which is to be drained, and one that is drained
    /// already and has to go, since too many are.
    pub(crate) fn switch(&self, link: Arc<Link>) -> (Arc<Link>, Option<Arc<Link>>) {
        let mut links = lock(&self.links);
        let old = std::mem::replace(&mut links.current, link);
        let cut = links.drain(old.clone());
        (old, cut)
    }

    /// Keeps a connection that is to be drained, so that lanes know of it. Returns one that has to go for it.
    pub(crate) fn add_draining(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        lock(&self.links).drain(link)
    }

    /// A connection is gone; false if it was the current one.
    pub(crate) fn remove_draining(&self, link: &Link) -> bool {
        let mut links = lock(&self.links);
        links.draining.retain(|other| other.id != link.id);
        let stays = links.current.id != link.id;
        drop(links);
        self.turn.notify_waiters();
        stays
    }

    /// Waits until a lane that begins on this connection after `sent` frames has its turn: those frames have come over
    /// another connection, or none is left over which they could.
    pub(crate) async fn begin_lane(self: &Arc<Self>, link: &Link, lane: Lane, sent: u64) -> LaneTurn {
        let slot = &self.lanes[lane.index()];
        loop {
            let turn = self.turn.notified();
            tokio::pin!(turn);
            turn.as_mut().enable();
            let alone = {
                let links = lock(&self.links);
                links.current.id == link.id && links.draining.is_empty()
            };
            let come = slot.delivered.load(Ordering::Acquire) >= sent;
            if (come || alone) && !slot.busy.swap(true, Ordering::AcqRel) {
                slot.delivered.store(sent, Ordering::Release);
                return LaneTurn { neighbour: self.clone(), lane };
            }
            turn.await;
        }
    }
}

impl fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbour").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The right to read a lane; given up when dropped.
#[derive(Debug)]
pub(crate) struct LaneTurn {
    neighbour: Arc<Neighbour>,
    lane: Lane,
}

impl LaneTurn {
    /// So many more frames have been handed on.
    pub(crate) fn delivered(&self, frames: u64) {
        self.neighbour.lanes[self.lane.index()].delivered.fetch_add(frames, Ordering::AcqRel);
    }
}

impl Drop for LaneTurn {
    fn drop(&mut self) {
        self.neighbour.lanes[self.lane.index()].busy.store(false, Ordering::Release);
        self.neighbour.turn.notify_waiters();
    }
}
