//! What comes out of an endpoint: frames, bounded in bytes, and events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::fair::FairQueue;
use crate::outbox::RoomSignal;
use crate::pace::{Fill, Gauge};
use crate::sync::lock;
use crate::{Header, NodeId, Pair};

/// What an endpoint hands up. The two halves are separate so that two tasks may own them.
#[derive(Debug)]
pub struct Inbox {
    /// Frames of joined pairs, and datagrams.
    pub frames: FrameReceiver,
    /// What happened to links, adverts and joins. Nothing is left out: when it is not read, neighbours wait.
    pub events: mpsc::Receiver<Event>,
}

/// Something that happened to a link, an advert or a join.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node has become a neighbour.
    LinkUp {
        /// The neighbour.
        node: NodeId,
        /// Random for each start of that node: another value than last time means that it was restarted.
        boot: [u8; 8],
    },
    /// A neighbour is gone. Joins are gone with it, on both ends; those of this node are made again when it is back.
    LinkDown {
        /// The node.
        node: NodeId,
    },
    /// A new advert, or a newer one in the place of another.
    Advert {
        /// The node it speaks of.
        node: NodeId,
        /// What it speaks of.
        key: [u8; 32],
        /// What the other node gave to its endpoint; the admission has accepted it.
        bytes: Bytes,
    },
    /// A node's record has run out, it was restarted, or it has left: its adverts hold no more.
    AdvertsGone {
        /// The node.
        node: NodeId,
    },
    /// A join of this node has become live: frames of the pair come from now on.
    Joined {
        /// What was joined.
        pair: Pair,
        /// The upstream; this node itself for a pair of its own.
        node: NodeId,
    },
    /// A join of this node is not live (any more).
    Unjoined {
        /// What was joined.
        pair: Pair,
        /// The upstream.
        node: NodeId,
        /// Why.
        reason: UnjoinReason,
    },
    /// One who takes the frames of a served pair kept the others waiting for too long: nobody waits for it until half its queue
    /// has drained, or it says that it has room. What it misses meanwhile it asks for.
    Slow {
        /// The pair.
        pair: Pair,
        /// The neighbour; this node itself if it is its own inbox.
        node: NodeId,
    },
    /// How many take the frames of a served pair has changed.
    Joiners {
        /// The pair.
        pair: Pair,
        /// Links that have joined it, and one more if this node itself has.
        takers: usize,
    },
}

/// Why a join is not live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum UnjoinReason {
    /// The node does not serve the pair, or no longer. Join again when its advert says otherwise.
    NotServed = 1,
    /// This node is in the path that was told.
    Loop = 2,
    /// The node holds as many joins as it can.
    TooMany = 3,
    /// The link is down; the join is made again when it is back.
    LinkDown = 4,
}

impl UnjoinReason {
    pub(crate) fn from_wire(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::NotServed,
            2 => Self::Loop,
            3 => Self::TooMany,
            _ => return None,
        })
    }
}

impl fmt::Display for UnjoinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotServed => "the node does not serve it",
            Self::Loop => "its path leads back here",
            Self::TooMany => "the node holds as many joins as it can",
            Self::LinkDown => "the link is down",
        })
    }
}

/// A received frame. Its room in the inbox is given back when it is dropped.
pub struct Frame {
    /// The neighbour it came from; this node itself for its own pairs.
    pub from: NodeId,
    /// The whole frame, with a header that has been checked. The allocation is this frame's own and
    /// starts at a multiple of 16 bytes, so that the body can be opened in place.
    pub bytes: BytesMut,
    room: Room,
}

impl Frame {
    /// The header.
    ///
    /// # Panics
    /// If `bytes` has been changed so that it no longer starts with a header.
    #[must_use]
    pub fn header(&self) -> &Header {
        Header::parse(&self.bytes).expect("checked before the frame was made")
    }

    /// Gives the frame's room in the inbox back before the frame is dropped: for frames that now count elsewhere.
    pub fn release(&mut self) {
        self.room.release();
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("from", &self.from).field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// Bytes of the inbox that a frame holds.
struct Room {
    queue: Arc<FrameQueue>,
    bytes: usize,
    of: Part,
}

/// Whose part of the inbox a frame takes.
enum Part {
    /// That of a neighbour, which has so much at most.
    Neighbour(Arc<Semaphore>),
    /// That of this node's own frames.
    Own,
    /// None: realtime frames are bounded where they wait.
    None,
}

impl Room {
    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        match &self.of {
            Part::Neighbour(part) => {
                self.queue.room.add_permits(bytes);
                part.add_permits(bytes);
            }
            Part::Own if self.queue.own.sub(bytes) => self.queue.own_room.changed(),
            Part::Own | Part::None => {}
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.release();
    }
}

/// The receiving end of an endpoint's frames.
pub struct FrameReceiver {
    queue: Arc<FrameQueue>,
    /// Taken from the queue in one go, so that its lock is taken once for many frames.
    local: VecDeque<Frame>,
}

impl FrameReceiver {
    /// The next frame, or nothing when the endpoint is closed and everything has been received.
    ///
    /// # Cancel safety
    /// Cancel safe: a frame is either returned or still there.
    pub async fn recv(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.try_recv() {
                return Some(frame);
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// Appends up to `max` frames to `into`, waiting for at least one; 0 when the endpoint is closed and everything has
    /// been received.
    ///
    /// # Cancel safety
    /// Cancel safe: frames are either in `into` or still there.
    pub async fn recv_many(&mut self, into: &mut Vec<Frame>, max: usize) -> usize {
        loop {
            let before = into.len();
            into.extend(std::iter::from_fn(|| self.next_realtime()).take(max));
            if self.local.is_empty() {
                self.refill();
            }
            let rest = max - (into.len() - before);
            let n = self.local.len().min(rest);
            into.extend(self.local.drain(..n));
            if into.len() > before || max == 0 {
                return into.len() - before;
            }
            if !self.wait().await {
                return 0;
            }
        }
    }

    /// The next frame, if one is there now.
    pub fn try_recv(&mut self) -> Option<Frame> {
        if let Some(frame) = self.next_realtime() {
            return Some(frame);
        }
        if self.local.is_empty() {
            self.refill();
        }
        self.local.pop_front()
    }

    /// Realtime frames go before all others.
    fn next_realtime(&self) -> Option<Frame> {
        if !self.queue.realtime.load(Ordering::Acquire) {
            return None;
        }
        let mut state = lock(&self.queue.state);
        let frame = state.realtime.pop();
        self.queue.realtime.store(!state.realtime.is_empty(), Ordering::Release);
        frame
    }

    fn refill(&mut self) {
        let mut state = lock(&self.queue.state);
        self.local.extend(std::iter::from_fn(|| state.frames.pop()).take(REFILL));
    }

    /// Waits until frames may be there; false when none will ever be.
    async fn wait(&self) -> bool {
        {
            let state = lock(&self.queue.state);
            if !state.frames.is_empty() || !state.realtime.is_empty() {
                return true;
            }
            if state.closed {
                return false;
            }
        }
        // A push between the check and here has left a permit behind: there is one receiver.
        self.queue.ready.notified().await;
        true
    }
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReceiver").finish_non_exhaustive()
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        // Nobody will take what comes: lanes must not wait for it.
        let mut state = lock(&self.queue.state);
        state.closed = true;
        state.frames.clear();
        state.realtime.clear();
        drop(state);
        self.queue.closed.cancel();
    }
}

/// The queue between the lanes of all links and the one receiver, bounded in bytes.
pub(crate) struct FrameQueue {
    state: Mutex<QueueState>,
    ready: Notify,
    /// Bytes that are free for frames of neighbours.
    room: Semaphore,
    limit_bytes: usize,
    /// Bytes of this node's own frames: they have a part of their own, so that nobody who floods the inbox keeps them out.
    own: Gauge,
    /// Told when there is room for own frames.
    own_room: Arc<RoomSignal>,
    /// Realtime frames are there.
    realtime: AtomicBool,
    /// Nobody takes frames any more.
    closed: CancellationToken,
}

struct QueueState {
    /// Each neighbour has its turn, so that nobody waits for what another floods it with.
    frames: FairQueue<NodeId, Frame>,
    /// Realtime frames, which wait for nobody and for which nobody waits.
    realtime: FairQueue<NodeId, Frame>,
    closed: bool,
}

/// Bytes of received realtime frames that the layer above has not taken; beyond them the oldest go.
const REALTIME_BYTES: usize = 4 << 20;

/// Frames that are taken from the queue at once; what comes after them has its turn among the next.
const REFILL: usize = 128;
/// What a frame takes of the inbox beside its bytes: so that tiny frames are bounded in number.
const FRAME_OVERHEAD: usize = 128;

/// The queue is closed: the receiver or the endpoint is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InboxClosed;

impl FrameQueue {
    pub(crate) fn new(limit_bytes: usize, own_room: Arc<RoomSignal>) -> (Arc<Self>, FrameReceiver) {
        let queue = Arc::new(Self {
            state: Mutex::new(QueueState {
                frames: FairQueue::new(usize::MAX),
                realtime: FairQueue::new(REALTIME_BYTES),
                closed: false,
            }),
            ready: Notify::new(),
            room: Semaphore::new(limit_bytes.min(Semaphore::MAX_PERMITS)),
            limit_bytes,
            own: Gauge::new(limit_bytes / 4),
            own_room,
            realtime: AtomicBool::new(false),
            closed: CancellationToken::new(),
        });
        (queue.clone(), FrameReceiver { queue, local: VecDeque::new() })
    }

    fn cost(frames: &[BytesMut]) -> usize {
        frames.iter().map(|bytes| bytes.len() + FRAME_OVERHEAD).sum()
    }

    /// The part of one neighbour: half of all, so that one that floods the inbox leaves room for others.
    pub(crate) fn part(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new((self.limit_bytes / 2).min(Semaphore::MAX_PERMITS)))
    }

    /// Hands all `frames` of a neighbour over if there is room for them now; otherwise they stay where they are.
    pub(crate) fn try_push(self: &Arc<Self>, from: NodeId, part: &Arc<Semaphore>, frames: &mut Vec<BytesMut>) -> bool {
        let cost = u32::try_from(Self::cost(frames)).unwrap_or(u32::MAX);
        let Ok(of_part) = part.try_acquire_many(cost) else { return false };
        let Ok(of_all) = self.room.try_acquire_many(cost) else { return false };
        of_part.forget();
        of_all.forget();
        self.append(from, frames.drain(..), || Part::Neighbour(part.clone()));
        true
    }

    /// Hands one of this node's own frames over if there is room for it.
    pub(crate) fn push_own(self: &Arc<Self>, me: NodeId, frame: BytesMut) -> Fill {
        let fill = self.own.check();
        if fill == Fill::Taken {
            self.own.add(frame.len() + FRAME_OVERHEAD);
            self.append(me, [frame], || Part::Own);
        }
        fill
    }

    /// How full the part for own frames is.
    pub(crate) fn own(&self) -> &Gauge {
        &self.own
    }

    /// Hands all `frames` of a neighbour over as soon as there is room for them.
    pub(crate) async fn push(
        self: &Arc<Self>,
        from: NodeId,
        part: &Arc<Semaphore>,
        frames: &mut Vec<BytesMut>,
    ) -> Result<(), InboxClosed> {
        while !frames.is_empty() {
            // Many small frames may take more than there will ever be room for at once.
            let mut cost = 0;
            let fits = |frame: &&BytesMut| {
                cost += Self::cost(std::slice::from_ref(*frame));
                cost <= self.limit_bytes / 4
            };
            let count = frames.iter().take_while(fits).count().max(1);
            self.acquire(part, Self::cost(&frames[..count])).await?;
            self.append(from, frames.drain(..count), || Part::Neighbour(part.clone()));
        }
        Ok(())
    }

    /// First of its own part: who waits for that does not stand in the way of others.
    async fn acquire(&self, part: &Semaphore, cost: usize) -> Result<(), InboxClosed> {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let acquired = async {
            let of_part = part.acquire_many(cost).await.ok()?;
            self.room.acquire_many(cost).await.ok()?.forget();
            of_part.forget();
            Some(())
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(InboxClosed),
            acquired = acquired => acquired.ok_or(InboxClosed),
        }
    }

    /// Hands a realtime frame over; gives how many older ones had to go for it.
    pub(crate) fn push_realtime(self: &Arc<Self>, from: NodeId, bytes: BytesMut) -> usize {
        let cost = bytes.len() + FRAME_OVERHEAD;
        // It takes no room of the others.
        let room = Room { queue: self.clone(), bytes: 0, of: Part::None };
        let mut state = lock(&self.state);
        if state.closed {
            return 0;
        }
        let dropped = state.realtime.push(from, cost, Frame { from, bytes, room });
        self.realtime.store(true, Ordering::Release);
        drop(state);
        self.ready.notify_one();
        dropped
    }

    fn append(self: &Arc<Self>, from: NodeId, frames: impl IntoIterator<Item = BytesMut>, of: impl Fn() -> Part) {
        let mut state = lock(&self.state);
        for bytes in frames {
            debug_assert_eq!(bytes.as_ptr().align_offset(16), 0, "allocations start at a multiple of 16 bytes");
            let cost = bytes.len() + FRAME_OVERHEAD;
            let room = Room { queue: self.clone(), bytes: cost, of: of() };
            if !state.closed {
                state.frames.push(from, cost, Frame { from, bytes, room });
            }
        }
        drop(state);
        self.ready.notify_one();
    }

    /// No more frames will come; what is queued can still be received.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.closed.cancel();
        self.ready.notify_one();
    }
}

/// Events on their way to the layer above. Pushing never waits; those who cause events wait for room before they read on.
#[derive(Debug)]
pub(crate) struct Events {
    queue: Mutex<VecDeque<Event>>,
    pushed: Notify,
    taken: Notify,
    limit: usize,
}

impl Events {
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), pushed: Notify::new(), taken: Notify::new(), limit: limit.max(1) }
    }

    pub(crate) fn push(&self, event: Event) {
        lock(&self.queue).push_back(event);
        self.pushed.notify_one();
    }

    /// Drops the event if as many wait as may: for those that nothing depends on.
    pub(crate) fn offer(&self, event: Event) {
        let mut queue = lock(&self.queue);
        if queue.len() < self.limit {
            queue.push_back(event);
            drop(queue);
            self.pushed.notify_one();
        }
    }

    /// Waits until fewer than the limit are queued: back-pressure for whoever reads what causes events.
    pub(crate) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if lock(&self.queue).len() < self.limit {
                return;
            }
            taken.await;
        }
    }

    /// Moves events to the receiver until it is gone.
    pub(crate) async fn pump(&self, to: mpsc::Sender<Event>) {
        loop {
            let Ok(permit) = to.reserve().await else { break };
            let event = loop {
                if let Some(event) = lock(&self.queue).pop_front() {
                    break event;
                }
                self.pushed.notified().await;
            };
            permit.send(event);
            self.taken.notify_waiters();
        }
        // Nobody listens any more: swallow what comes, so that nobody waits for room.
        loop {
            lock(&self.queue).clear();
            self.taken.notify_waiters();
            self.pushed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pace::Standing;

    fn frame(len: usize) -> BytesMut {
        BytesMut::zeroed(len)
    }

    #[tokio::test]
    async fn room_comes_back_when_a_frame_is_dropped_or_released() {
        let (queue, mut receiver) = FrameQueue::new(2000, Arc::default());
        let (from, part) = (NodeId::from_bytes([1; 32]), queue.part());
        let mut batch = vec![frame(300), frame(300)];
        assert!(queue.try_push(from, &part, &mut batch) && batch.is_empty());
        let mut more = vec![frame(300)];
        assert!(!queue.try_push(from, &part, &mut more) && more.len() == 1);
        let mut first = receiver.recv().await.expect("two frames are queued");
        first.release();
        assert!(queue.try_push(from, &part, &mut more));
        drop(first);
        assert!(!queue.try_push(from, &part, &mut vec![frame(300)]));
        drop(receiver.recv().await);
        assert!(queue.try_push(from, &part, &mut vec![frame(300)]));
    }

    #[tokio::test]
    async fn neighbour_that_floods_the_inbox_leaves_room_and_turns_for_others() {
        let (queue, mut receiver) = FrameQueue::new(100_000, Arc::default());
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let (part_a, part_b) = (queue.part(), queue.part());
        let taken = (0..1000).take_while(|_| queue.try_push(a, &part_a, &mut vec![frame(372)])).count();
        assert_eq!(taken, 100, "half of the inbox");
        for _ in 0..50 {
            assert!(queue.try_push(b, &part_b, &mut vec![frame(372)]));
        }
        let mut frames = Vec::new();
        receiver.recv_many(&mut frames, 100).await;
        assert_eq!(frames.iter().filter(|frame| frame.from == b).count(), 50, "each has its turn");
    }

    #[tokio::test]
    async fn more_small_frames_than_the_inbox_holds_go_over_in_pieces() {
        let (queue, mut receiver) = FrameQueue::new(1000, Arc::default());
        let (from, part) = (NodeId::from_bytes([1; 32]), queue.part());
        let pushed = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push(from, &part, &mut (0..100).map(|_| frame(64)).collect()).await }
        });
        for _ in 0..100 {
            assert!(receiver.recv().await.is_some());
        }
        assert_eq!(pushed.await.expect("it ends"), Ok(()));
    }

    #[tokio::test]
    async fn own_frames_have_a_part_of_their_own_and_tell_when_it_has_room() {
        let signal = Arc::new(RoomSignal::default());
        let (queue, mut receiver) = FrameQueue::new(8000, signal.clone());
        let me = NodeId::from_bytes([1; 32]);
        for n in [2, 3] {
            let neighbour = NodeId::from_bytes([n; 32]);
            assert!(queue.try_push(neighbour, &queue.part(), &mut vec![frame(3800)]), "others fill the inbox");
        }
        let taken = (0..20).take_while(|_| queue.push_own(me, frame(372)) == Fill::Taken).count();
        assert_eq!((taken, queue.own().standing()), (4, Standing::Full));
        let room = signal.waiting();
        tokio::pin!(room);
        room.as_mut().enable();
        // Those of the neighbours, and two of its own.
        for _ in 0..4 {
            drop(receiver.recv().await);
        }
        room.await;
        assert_eq!(queue.own().standing(), Standing::Room);
    }

    #[tokio::test]
    async fn realtime_frames_go_first_and_the_oldest_of_who_has_most_are_dropped() {
        let (queue, mut receiver) = FrameQueue::new(1000, Arc::default());
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let part = queue.part();
        assert!(queue.try_push(a, &part, &mut vec![frame(64)]));
        assert_eq!(queue.push_realtime(b, frame(100)), 0);
        let dropped: usize = (0..100).map(|_| queue.push_realtime(a, frame(100_000))).sum();
        assert!(dropped > 50, "a flood is bounded: {dropped}");
        assert!(!queue.try_push(a, &part, &mut vec![frame(300)]), "it gives no room");
        assert!(queue.try_push(a, &part, &mut vec![frame(100)]), "and takes none");
        let mut frames = Vec::new();
        assert_eq!(receiver.recv_many(&mut frames, 3).await, 3);
        let seen: Vec<_> = frames.iter().map(|frame| (frame.from, frame.bytes.len())).collect();
        assert!(seen.contains(&(b, 100)), "who sent little is heard: {seen:?}");
        let mut rest = 0;
        while receiver.try_recv().is_some() {
            rest += 1;
        }
        assert_eq!(rest, 100 - dropped - 2 + 2);
    }

    #[tokio::test]
    async fn closed_queue_ends_after_its_last_frame() {
        let (queue, mut receiver) = FrameQueue::new(1000, Arc::default());
        queue.try_push(NodeId::from_bytes([1; 32]), &queue.part(), &mut vec![frame(64)]);
        queue.close();
        assert!(receiver.recv().await.is_some());
        assert!(receiver.recv().await.is_none());
        assert!(queue.push(NodeId::from_bytes([1; 32]), &queue.part(), &mut vec![frame(64)]).await.is_err());
    }

    #[tokio::test]
    async fn dropped_receiver_does_not_leave_lanes_waiting() {
        let (queue, receiver) = FrameQueue::new(500, Arc::default());
        let (from, part) = (NodeId::from_bytes([1; 32]), queue.part());
        assert!(queue.try_push(from, &part, &mut vec![frame(64)]));
        let waiting = tokio::spawn({
            let (queue, part) = (queue.clone(), part.clone());
            async move { queue.push(from, &part, &mut vec![frame(64)]).await }
        });
        tokio::task::yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.expect("it ends"), Err(InboxClosed));
        assert_eq!(queue.push(from, &part, &mut vec![frame(64)]).await, Err(InboxClosed));
    }

    #[tokio::test]
    async fn events_come_in_order_and_room_waits_for_the_reader() {
        let events = Arc::new(Events::new(2));
        let (tx, mut rx) = mpsc::channel(1);
        let node = |n| NodeId::from_bytes([n; 32]);
        for n in 0..4 {
            events.push(Event::LinkDown { node: node(n) });
        }
        let waiting = tokio::spawn({
            let events = events.clone();
            async move { events.room().await }
        });
        let pump = tokio::spawn({
            let events = events.clone();
            async move { events.pump(tx).await }
        });
        for n in 0..4 {
            assert_eq!(rx.recv().await, Some(Event::LinkDown { node: node(n) }));
        }
        waiting.await.expect("room came");
        pump.abort();
    }
}
