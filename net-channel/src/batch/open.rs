//! An opened batch: every record checked, so that reading an event cannot fail.

use std::sync::Arc;

use bytes::Bytes;
use net_transport::HEADER_LEN;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zerocopy::FromBytes;

use super::layout::{HEADERS_LEN_MAX, KEY_LEN_MAX, OFFSET_LEN, Parent, RECORD_LEN, RecordBytes, TAG_LEN};
use super::sealed::Verified;
use super::{BatchHash, associated_data, key_commit};
use crate::event::{Headers, valid_headers};
use crate::{Hlc, SenderKey};

/// Why a verified batch does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The key is another than the one that the batch names.
    #[error("this is not the key of the batch")]
    Key,
    /// The seal commits to another key: the origin made a batch that opens in two ways.
    #[error("the seal commits to another key")]
    Commit,
    /// The body was not sealed with this key.
    #[error("the body does not open")]
    Cipher,
    /// The body is no list of as many events as the header says.
    #[error("the events of the batch are malformed")]
    Records,
}

/// The events of one batch, in memory, with what its seal says.
#[derive(Debug)]
pub struct OpenedBatch {
    plain: Bytes,
    offsets_at: usize,
    events: usize,
    seq: u64,
    incarnation: u64,
    first: bool,
    time: Hlc,
    prev: [u8; 32],
    hash: BatchHash,
    parents: Arc<[Parent]>,
    frame_len: usize,
}

/// One event in an opened batch. All parts share the batch's memory.
#[derive(Clone, Debug)]
pub struct RecordView {
    /// What was published.
    pub payload: Bytes,
    /// Its key, if it has one.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// Milliseconds after the batch's time.
    pub time_delta_ms: u32,
}

impl OpenedBatch {
    pub(super) fn open(verified: Verified, key: &SenderKey) -> Result<Self, OpenError> {
        let (hash, prev, time, first) = (*verified.hash(), *verified.prev(), verified.time(), verified.is_first());
        let channel = *verified.channel();
        let sealed = verified.into_sealed();
        let header = *sealed.header();
        if header.key_id() != key.key_id().0 {
            return Err(OpenError::Key);
        }
        let parents: Arc<[Parent]> = sealed.parents().collect();
        let seal = *sealed.seal();
        let batch_key = key.batch_key(&channel, header.seq(), &seal.salt);
        // Hashes are compared in constant time.
        if blake3::Hash::from(key_commit(&batch_key)) != seal.key_commit {
            return Err(OpenError::Commit);
        }
        let seal_bytes: [u8; 128] = std::array::from_fn(|i| sealed.frame()[HEADER_LEN + i]);
        let aad = associated_data(&header, &seal_bytes, sealed.parents_bytes());
        let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*batch_key).expect("the key has 32 bytes"));
        let (mut frame, body) = sealed.into_parts();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        cipher.open_in_place(nonce, Aad::from(aad), &mut frame[body..]).map_err(|_| OpenError::Cipher)?;
        let frame_len = frame.len();
        let plain = frame.freeze().slice(body..frame_len - TAG_LEN);
        let events = usize::from(header.events());
        let offsets_at = check_records(&plain, events).ok_or(OpenError::Records)?;
        Ok(Self {
            plain,
            offsets_at,
            events,
            seq: header.seq(),
            incarnation: header.incarnation(),
            first,
            time,
            prev,
            hash,
            parents,
            frame_len,
        })
    }

    /// Seq of the first event.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Seq after the last event.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.seq + self.events as u64
    }

    /// Events in it; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.events
    }

    /// First seq of the incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether it begins the incarnation.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Time of the first event.
    #[must_use]
    pub fn time(&self) -> Hlc {
        self.time
    }

    /// Hash of the batch before it.
    #[must_use]
    pub fn prev(&self) -> &[u8; 32] {
        &self.prev
    }

    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> &BatchHash {
        &self.hash
    }

    /// Its causes.
    #[must_use]
    pub fn parents(&self) -> &Arc<[Parent]> {
        &self.parents
    }

    /// Bytes of the frame it came in.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// The event at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`OpenedBatch::len`].
    #[must_use]
    pub fn record(&self, index: usize) -> RecordView {
        assert!(index < self.events, "the batch has {} events", self.events);
        let checked = "checked when the batch was opened";
        let at = &self.plain[self.offsets_at + index * OFFSET_LEN..][..OFFSET_LEN];
        let at = u32::from_le_bytes(at.try_into().expect(checked)) as usize;
        let (record, _) = RecordBytes::ref_from_prefix(&self.plain[at..]).expect(checked);
        let payload_at = at + RECORD_LEN;
        let key_at = payload_at + record.payload_len.get() as usize;
        let headers_at = key_at + usize::from(record.key_len.get());
        let end = headers_at + usize::from(record.headers_len.get());
        RecordView {
            payload: self.plain.slice(payload_at..key_at),
            key: (key_at < headers_at).then(|| self.plain.slice(key_at..headers_at)),
            headers: if headers_at < end { Headers::new(self.plain.slice(headers_at..end)) } else { Headers::default() },
            time_delta_ms: record.time_delta.get(),
        }
    }
}

/// Checks that the body is exactly `events` records, each where the table says; returns where the table begins.
fn check_records(plain: &[u8], events: usize) -> Option<usize> {
    let offsets_at = plain.len().checked_sub(events * OFFSET_LEN)?;
    let mut at = 0;
    for offset in plain[offsets_at..].chunks_exact(OFFSET_LEN) {
        if u32::from_le_bytes(offset.try_into().ok()?) as usize != at {
            return None;
        }
        let (record, rest) = RecordBytes::ref_from_prefix(plain.get(at..offsets_at)?).ok()?;
        let (key_len, headers_len) = (usize::from(record.key_len.get()), usize::from(record.headers_len.get()));
        if record.flags.get() != 0 || key_len > KEY_LEN_MAX || headers_len > HEADERS_LEN_MAX {
            return None;
        }
        let len = (record.payload_len.get() as usize).checked_add(key_len + headers_len)?;
        if len > super::EVENT_LEN_MAX {
            return None;
        }
        if headers_len > 0 && !valid_headers(rest.get(len - headers_len..len)?) {
            return None;
        }
        let size = (RECORD_LEN + len).next_multiple_of(8);
        let padding = rest.get(len..size - RECORD_LEN)?;
        if padding.iter().any(|b| *b != 0) {
            return None;
        }
        at += size;
    }
    (at == offsets_at).then_some(offsets_at)
}
