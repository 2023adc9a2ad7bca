//! The frames that wait for one neighbour: 4 priorities × 8 lanes, bounded in bytes for each priority.
//!
//! An outbox belongs to the neighbour, not to a connection: when a connection takes over from another, what is queued
//! stays, and each lane's writer hands the lane on at the end of a frame.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::Priority;
use crate::pace::{Fill, Gauge};
use crate::sync::lock;

/// Lanes of one priority.
pub(crate) const LANES_PER_PRIORITY: usize = 8;
/// Lanes of a link.
pub(crate) const LANES: usize = 4 * LANES_PER_PRIORITY;
/// Bytes that a lane's writer takes at once, and the part of the queue that this is at most: they count until all are
/// written, and who waits for room is to see it come in small steps.
const TAKE_BYTES: usize = 256 << 10;
const TAKE_PART: usize = 16;
/// Frames at least this large are written as they are.
const COPY_BELOW: usize = 16 << 10;
/// Smaller ones are copied together up to this size, since quinn walks all unacknowledged segments for each packet.
const COALESCE_BYTES: usize = 64 << 10;

/// A lane: its number on the wire, 0 to 31; priority × 8 + channel hash modulo 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane(u8);

impl Lane {
    pub(crate) fn of(priority: Priority, channel: u64) -> Self {
        // The first byte of the channel hash stands lowest.
        Self(priority as u8 * 8 + (channel % 8) as u8)
    }

    pub(crate) fn from_wire(number: u8) -> Option<Self> {
        (usize::from(number) < LANES).then_some(Self(number))
    }

    pub(crate) fn number(self) -> u8 {
        self.0
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn priority(self) -> Priority {
        Priority::from_bits(self.0 / 8).unwrap_or_default()
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..32).map(Self)
    }
}

/// Tells those who wait for room that it is worth looking again.
#[derive(Debug, Default)]
pub(crate) struct RoomSignal(Notify);

impl RoomSignal {
    pub(crate) fn changed(&self) {
        self.0.notify_waiters();
    }

    pub(crate) fn waiting(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.notified()
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: [LaneQueue; LANES],
    /// Queued bytes of each priority, until they are written to their stream.
    queued: [Gauge; 4],
    take_bytes: usize,
    closed: AtomicBool,
    /// A lane has frames and no writer.
    pub(crate) wants_writer: Notify,
}

#[derive(Debug, Default)]
struct LaneQueue {
    state: Mutex<LaneState>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct LaneState {
    frames: VecDeque<Bytes>,
    /// A writer owns the lane.
    owned: bool,
    /// Frames ever taken from the lane: what the prelude of its next stream says.
    sent: u64,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queued {
    Yes,
    Full,
    /// The queue has been full for so long that it takes nothing until half has drained.
    Slow,
    Closed,
}

/// Frames taken from a lane, joined for writing.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) chunks: Vec<Bytes>,
    pub(crate) frames: u64,
    pub(crate) bytes: usize,
}

impl Outbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            lanes: std::array::from_fn(|_| LaneQueue::default()),
            queued: std::array::from_fn(|_| Gauge::new(limit)),
            take_bytes: TAKE_BYTES.min(limit / TAKE_PART).max(1),
            closed: AtomicBool::new(false),
            wants_writer: Notify::new(),
        }
    }

    /// Queues a frame while less than the limit is queued; the last frame may reach over it.
    pub(crate) fn push(&self, lane: Lane, frame: Bytes) -> Queued {
        let queued = self.queued(lane.priority());
        match queued.check() {
            Fill::Taken => {}
            Fill::Full => return Queued::Full,
            Fill::Slow => return Queued::Slow,
        }
        let slot = &self.lanes[lane.index()];
        let mut state = lock(&slot.state);
        // Looked at under the lock, so that nothing is queued after `close` has emptied the lane.
        if self.closed.load(Ordering::Acquire) {
            return Queued::Closed;
        }
        queued.add(frame.len());
        let first = state.frames.is_empty();
        state.frames.push_back(frame);
        let owned = state.owned;
        drop(state);
        if first {
            if owned { slot.ready.notify_one() } else { self.wants_writer.notify_one() }
        }
        Queued::Yes
    }

    /// How full the queue of a priority is.
    pub(crate) fn queued(&self, priority: Priority) -> &Gauge {
        &self.queued[priority as usize]
    }

    /// Bytes that are queued.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued.iter().map(Gauge::used).sum()
    }

    /// A lane that has frames and no writer, which the caller now owns; with the frames sent on it so far.
    pub(crate) fn own_next(&self) -> Option<(Lane, u64)> {
        Lane::all().find_map(|lane| {
            let mut state = lock(&self.lanes[lane.index()].state);
            let free = !state.owned && !state.frames.is_empty();
            state.owned |= free;
            free.then_some((lane, state.sent))
        })
    }

    /// The writer of a lane gives it up, at the end of a frame.
    pub(crate) fn disown(&self, lane: Lane) {
        lock(&self.lanes[lane.index()].state).owned = false;
        // Whoever writes now looks whether there is more.
        self.wants_writer.notify_one();
    }

    /// What waits on a lane, a small part of the queue, joined for writing; its owner calls `written` when it is written.
    pub(crate) fn take(&self, lane: Lane) -> Option<Batch> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        {
            let mut state = lock(&self.lanes[lane.index()].state);
            while bytes < self.take_bytes {
                let Some(frame) = state.frames.pop_front() else { break };
                bytes += frame.len();
                taken.push(frame);
            }
            state.sent += taken.len() as u64;
        }
        (!taken.is_empty()).then(|| Batch { frames: taken.len() as u64, bytes, chunks: coalesce(taken) })
    }

    /// Waits until a lane may have frames. Only its owner calls this.
    pub(crate) async fn ready(&self, lane: Lane) {
        self.lanes[lane.index()].ready.notified().await;
    }

    /// Frames of a batch have been written; true if it is worth for those who wait for room to look again.
    #[must_use]
    pub(crate) fn written(&self, lane: Lane, bytes: usize) -> bool {
        self.queued(lane.priority()).sub(bytes)
    }

    /// Takes no more frames and forgets those that are queued; returns how many that were.
    pub(crate) fn close(&self) -> usize {
        self.closed.store(true, Ordering::Release);
        let mut dropped = 0;
        for lane in Lane::all() {
            let frames = std::mem::take(&mut lock(&self.lanes[lane.index()].state).frames);
            let bytes: usize = frames.iter().map(Bytes::len).sum();
            // Whoever closes it tells those who wait.
            let _ = self.queued(lane.priority()).sub(bytes);
            dropped += frames.len();
        }
        dropped
    }
}

/// Copies small frames together and leaves large ones as they are.
fn coalesce(frames: Vec<Bytes>) -> Vec<Bytes> {
    if frames.len() == 1 {
        return frames;
    }
    let mut chunks = Vec::new();
    let mut joined = BytesMut::new();
    let mut left: usize = frames.iter().map(Bytes::len).sum();
    for frame in frames {
        let len = frame.len();
        if !joined.is_empty() && (len >= COPY_BELOW || joined.len() + len > COALESCE_BYTES) {
            chunks.push(std::mem::take(&mut joined).freeze());
        }
        if len >= COPY_BELOW {
            chunks.push(frame);
        } else {
            if joined.is_empty() {
                joined.reserve(left.min(COALESCE_BYTES));
            }
            joined.extend_from_slice(&frame);
        }
        left -= len;
    }
    if !joined.is_empty() {
        chunks.push(joined.freeze());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(n: u8) -> Lane {
        Lane::from_wire(n).expect("a lane")
    }

    fn frame(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn lanes_are_numbered_by_priority_and_channel() {
        assert_eq!(Lane::of(Priority::Highest, 8), lane(0));
        assert_eq!(Lane::of(Priority::Low, 0x107), lane(31));
        assert_eq!(lane(17).priority(), Priority::Normal);
        assert_eq!(Lane::from_wire(32), None);
        assert_eq!(Lane::all().count(), LANES);
    }

    #[test]
    fn queue_is_bounded_for_each_priority() {
        let outbox = Outbox::new(1000);
        assert_eq!(outbox.push(lane(0), frame(900)), Queued::Yes);
        assert_eq!(outbox.push(lane(1), frame(900)), Queued::Yes);
        assert_eq!(outbox.push(lane(2), frame(1)), Queued::Full);
        assert_eq!(outbox.push(lane(8), frame(1)), Queued::Yes);
        assert_eq!(outbox.queued_bytes(), 1801);
    }

    #[test]
    fn slow_queue_takes_nothing_until_it_is_half_empty() {
        let outbox = Outbox::new(1000);
        for _ in 0..8 {
            outbox.push(lane(0), frame(100));
        }
        outbox.queued(Priority::Highest).set_slow();
        assert_eq!(outbox.push(lane(0), frame(100)), Queued::Slow);
        assert_eq!(outbox.push(lane(8), frame(100)), Queued::Yes);
        assert!(outbox.written(lane(0), 300), "half was crossed");
        assert_eq!(outbox.push(lane(0), frame(100)), Queued::Yes);
    }

    #[test]
    fn lane_has_one_owner_and_keeps_its_count_over_owners() {
        let outbox = Outbox::new(1 << 20);
        outbox.push(lane(5), frame(64));
        outbox.push(lane(5), frame(64));
        assert_eq!(outbox.own_next(), Some((lane(5), 0)));
        assert_eq!(outbox.own_next(), None);
        let batch = outbox.take(lane(5)).expect("two frames");
        assert_eq!((batch.frames, batch.bytes, batch.chunks.len()), (2, 128, 1));
        outbox.disown(lane(5));
        assert_eq!(outbox.own_next(), None, "nothing is queued");
        outbox.push(lane(5), frame(64));
        assert_eq!(outbox.own_next(), Some((lane(5), 2)));
    }

    #[test]
    fn small_frames_are_joined_and_large_ones_left_alone() {
        let sizes = |frames: &[usize]| -> Vec<usize> {
            coalesce(frames.iter().map(|len| frame(*len)).collect()).iter().map(Bytes::len).collect()
        };
        assert_eq!(sizes(&[100]), [100]);
        assert_eq!(sizes(&[100; 10]), [1000]);
        assert_eq!(sizes(&[100, 20_000, 100, 100]), [100, 20_000, 200]);
        assert_eq!(sizes(&[16_000; 5]), [64_000, 16_000]);
        let large = frame(20_000);
        assert_eq!(coalesce(vec![frame(1), large.clone()])[1].as_ptr(), large.as_ptr());
    }

    #[test]
    fn closed_outbox_forgets_and_refuses() {
        let outbox = Outbox::new(1000);
        outbox.push(lane(0), frame(10));
        outbox.push(lane(9), frame(10));
        assert_eq!(outbox.close(), 2);
        assert_eq!(outbox.push(lane(0), frame(10)), Queued::Closed);
        assert_eq!(outbox.queued_bytes(), 0);
    }
}
