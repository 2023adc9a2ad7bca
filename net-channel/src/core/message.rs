//! What a subscriber's node and an origin's node say to each other, end to end.
//!
//! On a stream each message is `length u32 ‖ postcard body`. Formats: `docs/spec/delivery.md`.

use net_transport::Pair;
use serde::{Deserialize, Serialize};

/// The protocol name of the end-to-end stream.
pub const PROTOCOL: &str = "net/channel/1";
/// The most bytes of one message: an answer of 1 MiB whose last batch may be one of 1 MiB itself, and its frame.
pub const MESSAGE_LEN_MAX: usize = (2 << 20) + (64 << 10);
/// The most bytes of batches that one [`Message::Batches`] holds before its last batch.
pub const ANSWER_LEN_MAX: u32 = 1 << 20;

/// The most ranges of one [`Message::Fetch`].
pub const RANGES_PER_FETCH_MAX: usize = 64;

/// Where a subscription begins in one origin's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With the first event published after the subscription was made, this many milliseconds ago.
    Live {
        /// Age of the subscription in milliseconds. Relative, so that the two clocks need not agree.
        ago_ms: u64,
    },
    /// With the oldest event that can be had.
    Earliest,
    /// With the last `n` events.
    Last(u64),
    /// With the first batch sealed at or after this unix time in milliseconds.
    Since(u64),
    /// With this seq.
    Seq(u64),
}

/// Half-open: `from <= seq < to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SeqRange {
    /// First seq of the range.
    pub from: u64,
    /// First seq after the range.
    pub to: u64,
}

impl SeqRange {
    /// How many seqs it holds; zero if it is empty or reversed.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusedWhy {
    /// This node does not produce that pair now.
    NotHere,
    /// The subscriber lacks the right.
    NotAllowed,
    /// This node has as many subscribers as it takes.
    TooMany,
}

/// One message of the end-to-end stream. A subscriber sends the first five, and the origin's node answers with the next
/// four; a proof goes either way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// Asks for keys and a starting point.
    Subscribe {
        /// Chosen by the subscriber, unique among its own.
        id: u64,
        /// What is subscribed.
        pair: Pair,
        /// Where to begin.
        start: Start,
    },
    /// Ends a subscription.
    Unsubscribe {
        /// The id it was made with.
        id: u64,
        /// What was subscribed.
        pair: Pair,
    },
    /// Asks for the batches that hold seqs of some ranges, and where the origin stands.
    Fetch {
        /// Chosen by the subscriber, named in the answer.
        id: u64,
        /// Whose events.
        pair: Pair,
        /// Which: ascending, apart, at most [`RANGES_PER_FETCH_MAX`]. None asks only where the origin stands.
        ranges: Vec<SeqRange>,
        /// How many bytes of batches may come, one batch more in any case.
        len_max: u64,
    },
    /// Says that all events below `next` have been handed to this node's subscriptions.
    Received {
        /// Of which pair.
        pair: Pair,
        /// The first seq that has not been handed over.
        next: u64,
    },
    /// Says that all events of a range are stored on this node's disk: a sync has returned, unless its log is kept
    /// without.
    Stored {
        /// Of which pair.
        pair: Pair,
        /// Which.
        range: SeqRange,
    },
    /// Answers [`Message::Subscribe`]. The keys needed from `start` on have been sent before it.
    Subscribed {
        /// The id of the subscription.
        id: u64,
        /// The first seq of the subscription.
        start: u64,
        /// The seq that the next event to be published gets.
        next: u64,
        /// First seq of the producer's present incarnation.
        incarnation: u64,
        /// The oldest seq that is kept here.
        kept_from: u64,
    },
    /// Answers [`Message::Subscribe`] too.
    Refused {
        /// The id of the subscription.
        id: u64,
        /// Why.
        why: RefusedWhy,
    },
    /// A key grant of the origin for this subscriber.
    Grant {
        /// Of which pair.
        pair: Pair,
        /// The encoded grant.
        #[serde(borrow)]
        grant: &'a [u8],
    },
    /// Answers [`Message::Fetch`], once or several times: every batch with asked seqs below `covered`, and not below that
    /// of the answer before, that this node can give, whole and in order. What was asked for, is covered and not among them was never published or cannot be had here.
    Batches {
        /// The id of the fetch.
        id: u64,
        /// Of which pair.
        pair: Pair,
        /// The answer says all about the asked seqs up to here, and nothing beyond.
        covered: u64,
        /// The seq that the next event to be published gets.
        next: u64,
        /// The oldest seq that is kept here.
        kept_from: u64,
        /// Whether another answer to the same question follows.
        more: bool,
        /// Frames, one after the other, as they were sent live.
        #[serde(borrow)]
        frames: &'a [u8],
    },
    /// Proof that an origin signed two batches for one place, passed on by whoever has it, to everybody near.
    Equivocation {
        /// The encoded proof.
        #[serde(borrow)]
        proof: &'a [u8],
    },
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("a message of {0} bytes, the limit is {MESSAGE_LEN_MAX}")]
    TooLong(usize),
    /// Not decodable, or bytes follow it.
    #[error("not a message of this protocol version")]
    Malformed,
}

impl<'a> Message<'a> {
    /// The message with its length in front.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_extend(self, vec![0; 4]).expect("a Vec grows and these types always serialise");
        let mut bytes = bytes;
        let len = u32::try_from(bytes.len() - 4).expect("messages are below 4 GiB");
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    /// Decodes a body (without its length), borrowing from it.
    ///
    /// # Errors
    /// [`MessageError`] if it is too long, not a message, or followed by other bytes.
    pub fn decode(body: &'a [u8]) -> Result<Self, MessageError> {
        if body.len() > MESSAGE_LEN_MAX {
            return Err(MessageError::TooLong(body.len()));
        }
        match postcard::take_from_bytes::<Self>(body) {
            Ok((message, [])) => Ok(message),
            _ => Err(MessageError::Malformed),
        }
    }

    /// The pair it is about, if it names one.
    #[must_use]
    pub fn pair(&self) -> Option<Pair> {
        match *self {
            Self::Subscribe { pair, .. }
            | Self::Unsubscribe { pair, .. }
            | Self::Fetch { pair, .. }
            | Self::Received { pair, .. }
            | Self::Stored { pair, .. }
            | Self::Grant { pair, .. }
            | Self::Batches { pair, .. } => Some(pair),
            Self::Subscribed { .. } | Self::Refused { .. } | Self::Equivocation { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_trailing_bytes_are_refused() {
        let pair = Pair { channel: [1; 32], origin: [2; 32] };
        for message in [
            Message::Subscribe { id: 1, pair, start: Start::Live { ago_ms: 5 } },
            Message::Fetch {
                id: 2,
                pair,
                ranges: vec![SeqRange { from: 3, to: 4 }, SeqRange { from: 7, to: u64::MAX }],
                len_max: 1 << 20,
            },
            Message::Grant { pair, grant: b"grant" },
            Message::Batches { id: 9, pair, covered: 7, next: 8, kept_from: 2, more: true, frames: b"frames" },
            Message::Stored { pair, range: SeqRange { from: 1, to: 3 } },
            Message::Equivocation { proof: b"proof" },
        ] {
            let mut bytes = message.encode();
            assert_eq!(Message::decode(&bytes[4..]), Ok(message));
            bytes.push(0);
            assert_eq!(Message::decode(&bytes[4..]), Err(MessageError::Malformed));
            for n in 4..bytes.len() - 2 {
                assert!(Message::decode(&bytes[4..n]).is_err());
            }
        }
    }
}
