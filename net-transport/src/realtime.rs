//! Realtime frames that wait for one neighbour: the newest win, and none waits for another.
//!
//! What fits goes in a datagram, and when too many wait, the oldest is dropped. What does not fit goes on a stream of its
//! own, one for each pair: a newer frame of the pair takes the place of one that waits, and ends the stream of one that
//! is under way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Pair;
use crate::sync::lock;

/// Bytes of frames that wait to be sent in datagrams on one link.
pub(crate) const DATAGRAMS_BYTES: usize = 256 << 10;
/// Bytes of frames that wait for a stream of their own on one link; the newest may reach over it.
pub(crate) const LARGE_BYTES: usize = 2 << 20;
/// What each takes beside its bytes, so that tiny ones are bounded in number.
const OVERHEAD: usize = 64;

/// The queue of one neighbour, over all its connections.
#[derive(Debug, Default)]
pub(crate) struct RealtimeOut {
    state: Mutex<State>,
    /// A datagram waits.
    pub(crate) datagram: Notify,
    /// A frame for a stream of its own waits.
    pub(crate) large: Notify,
}

#[derive(Debug, Default)]
struct State {
    datagrams: VecDeque<Bytes>,
    datagrams_bytes: usize,
    /// Oldest first, each pair once.
    large: VecDeque<(Pair, Bytes)>,
    large_bytes: usize,
    /// Streams that are under way.
    sending: BTreeMap<Pair, CancellationToken>,
    closed: bool,
}

/// What had to go for a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    /// The oldest of a full queue.
    pub(crate) dropped: u64,
    /// Older ones of the same pair.
    pub(crate) superseded: u64,
}

impl RealtimeOut {
    /// Queues a frame of a pair; `fits` says whether a datagram holds it.
    pub(crate) fn push(&self, pair: Pair, frame: Bytes, fits: bool) -> Gone {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let mut gone = Gone::default();
        if state.closed {
            return Gone { dropped: 1, ..gone };
        }
        if let Some(sending) = state.sending.remove(&pair) {
            sending.cancel();
            gone.superseded += 1;
        }
        if let Some(at) = state.large.iter().position(|(other, _)| *other == pair)
            && let Some((_, older)) = state.large.remove(at)
        {
            state.large_bytes -= older.len();
            gone.superseded += 1;
        }
        if fits {
            state.datagrams_bytes += frame.len() + OVERHEAD;
            state.datagrams.push_back(frame);
            while state.datagrams_bytes > DATAGRAMS_BYTES
                && let Some(oldest) = state.datagrams.pop_front()
            {
                state.datagrams_bytes -= oldest.len() + OVERHEAD;
                gone.dropped += 1;
            }
            self.datagram.notify_one();
        } else {
            while state.large_bytes >= LARGE_BYTES
                && let Some((_, oldest)) = state.large.pop_front()
            {
                state.large_bytes -= oldest.len();
                gone.dropped += 1;
            }
            state.large_bytes += frame.len();
            state.large.push_back((pair, frame));
            self.large.notify_one();
        }
        gone
    }

    /// The next frame for a datagram.
    pub(crate) fn next_datagram(&self) -> Option<Bytes> {
        let mut state = lock(&self.state);
        let frame = state.datagrams.pop_front()?;
        state.datagrams_bytes -= frame.len() + OVERHEAD;
        Some(frame)
    }

    /// The next frame for a stream of its own, and what is cancelled when a newer one of its pair is queued.
    pub(crate) fn next_large(&self) -> Option<(Pair, Bytes, CancellationToken)> {
        let mut state = lock(&self.state);
        let (pair, frame) = state.large.pop_front()?;
        state.large_bytes -= frame.len();
        let newer = CancellationToken::new();
        state.sending.insert(pair, newer.clone());
        Some((pair, frame, newer))
    }

    /// A frame has been sent, or its stream was lost.
    pub(crate) fn sent(&self, pair: &Pair, newer: &CancellationToken) {
        // If a newer frame of the pair is under way, that one's entry stays.
        if !newer.is_cancelled() {
            lock(&self.state).sending.remove(pair);
        }
    }

    /// Takes no more frames and forgets those that wait; gives how many that were.
    pub(crate) fn close(&self) -> usize {
        let mut state = lock(&self.state);
        let waiting = state.datagrams.len() + state.large.len();
        *state = State { closed: true, ..State::default() };
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(n: u8) -> Pair {
        Pair { channel: [n; 32], origin: [n; 32] }
    }

    fn frame(n: u8, len: usize) -> Bytes {
        Bytes::from(vec![n; len])
    }

    const NONE: Gone = Gone { dropped: 0, superseded: 0 };

    #[test]
    fn oldest_datagram_goes_when_too_many_wait() {
        let out = RealtimeOut::default();
        let dropped: u64 = (0..=255).map(|n| out.push(pair(1), frame(n, 2000), true).dropped).sum();
        let kept = DATAGRAMS_BYTES / (2000 + OVERHEAD);
        assert_eq!(dropped, 256 - kept as u64);
        let next = out.next_datagram().expect("some are left");
        assert_eq!(u64::from(next[0]), dropped, "the oldest that is left");
        assert_eq!(std::iter::from_fn(|| out.next_datagram()).count(), kept - 1);
    }

    #[test]
    fn newer_frame_takes_the_place_of_a_large_one_that_waits() {
        let out = RealtimeOut::default();
        assert_eq!(out.push(pair(1), frame(1, 9000), false), NONE);
        assert_eq!(out.push(pair(2), frame(2, 9000), false), NONE);
        assert_eq!(out.push(pair(1), frame(3, 9000), false), Gone { superseded: 1, ..NONE });
        let order: Vec<u8> = std::iter::from_fn(|| out.next_large()).map(|(_, frame, _)| frame[0]).collect();
        assert_eq!(order, [2, 3]);
        // A small one is newer as well.
        out.push(pair(5), frame(1, 9000), false);
        assert_eq!(out.push(pair(5), frame(2, 10), true), Gone { superseded: 1, ..NONE });
        assert!(out.next_large().is_none());
    }

    #[test]
    fn newer_frame_ends_the_stream_of_one_that_is_under_way() {
        let out = RealtimeOut::default();
        out.push(pair(1), frame(1, 9000), false);
        let (_, _, first) = out.next_large().expect("it waits");
        assert_eq!(out.push(pair(1), frame(2, 9000), false), Gone { superseded: 1, ..NONE });
        assert!(first.is_cancelled());
        let (_, _, second) = out.next_large().expect("it waits");
        // The end of the first is not taken for that of the second.
        out.sent(&pair(1), &first);
        assert_eq!(out.push(pair(1), frame(3, 10), true), Gone { superseded: 1, ..NONE });
        assert!(second.is_cancelled());
        out.push(pair(2), frame(1, 9000), false);
        let (_, _, done) = out.next_large().expect("it waits");
        out.sent(&pair(2), &done);
        assert_eq!(out.push(pair(2), frame(2, 9000), false), NONE, "it has been sent");
    }

    #[test]
    fn large_frames_that_wait_are_bounded() {
        let out = RealtimeOut::default();
        let dropped: u64 = (0..100).map(|n| out.push(pair(n), frame(n, 1 << 20), false).dropped).sum();
        let left = std::iter::from_fn(|| out.next_large()).count();
        assert_eq!((left, dropped), (2, 98));
        assert_eq!(out.close(), 0);
        assert_eq!(out.push(pair(1), frame(1, 10), true), Gone { dropped: 1, ..NONE });
    }
}
