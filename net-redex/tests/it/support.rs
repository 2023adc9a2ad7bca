//! Batches as an origin makes them, and what a log holds, for comparison.

use net_channel::{BatchBuilder, BatchHash, ChannelHash, ChannelName, Hlc, SealParams, SenderKey};
use net_identity::EntityKey;
use net_redex::{Batch, Found, Log, LogConfig, Start};
use net_transport::{MeshId, ShortId};

pub(crate) const MESH: MeshId = MeshId([7; 32]);

pub(crate) fn channel() -> ChannelHash {
    ChannelName::parse("tests/log").expect("a name").hash(&MESH)
}

/// A log of the tests' channel.
pub(crate) fn config() -> LogConfig {
    LogConfig::default().channel(MESH, channel())
}

/// An origin that makes batches, one after the other.
pub(crate) struct Origin {
    pub(crate) key: EntityKey,
    pub(crate) sender_key: SenderKey,
    pub(crate) channel: ChannelHash,
    next: u64,
    incarnation: u64,
    pub(crate) prev: BatchHash,
    builder: BatchBuilder,
}

impl Origin {
    pub(crate) fn new(number: u8) -> Self {
        Self::in_channel(number, channel())
    }

    pub(crate) fn in_channel(number: u8, channel: ChannelHash) -> Self {
        Self {
            key: EntityKey::from_secret(&[number; 32]),
            sender_key: SenderKey::new([number; 32]),
            channel,
            next: 1000,
            incarnation: 1000,
            prev: BatchHash::ZERO,
            builder: BatchBuilder::new(),
        }
    }

    /// It is started anew, and knows nothing of what it published before.
    pub(crate) fn restart(&mut self) {
        self.next += 1_000_000;
        (self.incarnation, self.prev) = (self.next, BatchHash::ZERO);
    }

    pub(crate) fn short(&self) -> ShortId {
        self.key.id().short()
    }

    pub(crate) fn next_seq(&self) -> u64 {
        self.next
    }

    /// A batch of these payloads, the next of the chain.
    pub(crate) fn batch(&mut self, payloads: &[&[u8]]) -> Vec<u8> {
        let keyed: Vec<_> = payloads.iter().map(|payload| (None, *payload)).collect();
        self.keyed_batch(&keyed)
    }

    pub(crate) fn keyed_batch(&mut self, events: &[(Option<&[u8]>, &[u8])]) -> Vec<u8> {
        for (key, payload) in events {
            self.builder.push(payload, *key, &[], Hlc::new(1, 0)).expect("it fits");
        }
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&self.next.to_le_bytes());
        let sealed = self.builder.seal(&SealParams {
            incarnation: self.incarnation,
            prev: self.prev,
            ..SealParams::first(&MESH, &self.channel, &self.key, &self.sender_key, self.next, salt)
        });
        let sealed = sealed.expect("the key is here");
        self.next += events.len() as u64;
        self.prev = sealed.hash();
        sealed.frame().to_vec()
    }
}

/// All that a log holds, in order.
pub(crate) fn read_all(log: &Log) -> Vec<Found> {
    log.read(Start::Earliest).expect("readable").map(|found| found.expect("readable")).collect()
}

/// The batches that a log holds; panics on anything else.
pub(crate) fn batches(log: &Log) -> Vec<Batch> {
    let batch = |found| match found {
        Found::Batch(batch) => batch,
        other => panic!("expected batches only, found {other:?}"),
    };
    read_all(log).into_iter().map(batch).collect()
}

/// The frame as a log stores it: its ttl is zero.
pub(crate) fn stored(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[3] = 0;
    frame
}
