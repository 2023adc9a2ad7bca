//! Opening batches: from ciphertext to events.

use aws_lc_rs::aead::Aad;
use bytes::{Bytes, BytesMut};
use net_transport::buffers;
use zerocopy::FromBytes;
use zeroize::Zeroizing;

use super::layout::{
    OFFSET_LEN, RECORD_ALIGN, RECORD_LEN, RecordBytes, TAG_LEN, associated_data, cipher, head_len, key_commit, nonce,
};
use super::view::{Head, SealedBatch, VerifiedSeal};
use super::{EVENT_LEN_MAX, KEY_LEN_MAX};
use crate::{HeadersRef, Hlc, KeyId, SenderKey};

/// Opened bodies start at a multiple of this in memory, so that archived values can be read where they lie.
const BODY_ALIGN: usize = 16;

/// Why a batch that verified does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Sealed with another key than the one given: ask for that one.
    #[error("the batch is sealed with key {0}, which is not the one given")]
    UnknownKey(KeyId),
    /// The key has the right id and is not the one the origin committed to. The origin, or who gave the key, is at fault.
    #[error("the key is not the one that the origin committed to")]
    WrongKey,
    /// The body does not open under the key the origin committed to. The origin is at fault.
    #[error("the body does not open")]
    Body,
    /// The body opens, and is not made of the events that the header says. The origin is at fault.
    #[error("record {record} of the body is malformed")]
    Malformed {
        /// Which event; the number of events where what follows them is wrong.
        record: u16,
    },
}

/// A batch that verified and did not open.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unopened {
    /// Why not.
    pub why: OpenError,
    /// What is proved of it nevertheless.
    pub seal: VerifiedSeal,
}

impl SealedBatch {
    /// Opens the batch in its own buffer where nobody else holds it, else in a copy.
    ///
    /// # Errors
    /// [`Unopened`], with what is proved of the batch. The frame is gone then; [`SealedBatch::open`] keeps it.
    pub fn open_in_place(self, key: &SenderKey) -> Result<OpenBatch, Box<Unopened>> {
        let plain = self.batch_key(key).and_then(|batch_key| match self.frame.try_into_mut() {
            Ok(frame) => open(&self.seal, frame, &batch_key),
            Err(shared) => open(&self.seal, BytesMut::from(&shared[..]), &batch_key),
        });
        match plain {
            Ok((plain, table_at)) => Ok(OpenBatch { seal: self.seal, plain, table_at }),
            Err(why) => Err(Box::new(Unopened { why, seal: self.seal })),
        }
    }

    /// Opens a copy of the batch, and keeps the ciphertext: for logs.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, key: &SenderKey) -> Result<OpenBatch, OpenError> {
        let batch_key = self.batch_key(key)?;
        let (plain, table_at) = open(&self.seal, BytesMut::from(&self.frame[..]), &batch_key)?;
        Ok(OpenBatch { seal: self.seal.clone(), plain, table_at })
    }

    /// The key of this batch, if the origin committed to it.
    fn batch_key(&self, key: &SenderKey) -> Result<Zeroizing<[u8; 32]>, OpenError> {
        let seal = &self.seal;
        if key.key_id() != seal.key_id() {
            return Err(OpenError::UnknownKey(seal.key_id()));
        }
        let batch_key = key.batch_key(&seal.channel, seal.seq(), &seal.seal.salt);
        // `blake3::Hash` compares in constant time.
        if blake3::Hash::from(key_commit(&batch_key)) != blake3::Hash::from(seal.seal.key_commit) {
            return Err(OpenError::WrongKey);
        }
        Ok(batch_key)
    }
}

/// Opens a frame. Gives records and offset table, and where in them the table begins.
fn open(seal: &VerifiedSeal, mut frame: BytesMut, batch_key: &[u8; 32]) -> Result<(Bytes, usize), OpenError> {
    let body_at = head_len(seal.parents.len());
    let (head, _) = Head::parse(&frame).expect("the frame was parsed when it was verified");
    let associated = associated_data(head.header, head.seal, head.parents);
    let plain_len = cipher(seal.seal.aead(), batch_key)
        .open_in_place(nonce(), Aad::from(&associated), &mut frame[body_at..])
        .map_err(|_| OpenError::Body)?
        .len();
    // A frame that begins anywhere has its records moved to where they are aligned: the head leaves room for that.
    let plain_at = body_at - frame[body_at..].as_ptr().addr() % BODY_ALIGN;
    if plain_at < body_at {
        frame.copy_within(body_at..body_at + plain_len, plain_at);
    }
    let plain = buffers::share(frame).slice(plain_at..plain_at + plain_len);
    debug_assert_eq!(plain_len + TAG_LEN + body_at, seal.header.payload_len() + size_of::<net_transport::Header>());
    let table_at = check(&plain, seal.events())?;
    Ok((plain, table_at))
}

/// Checks every record and offset, so that nothing can be wrong when events are taken. Gives where the table starts.
fn check(plain: &[u8], events: u16) -> Result<usize, OpenError> {
    let malformed = |record| OpenError::Malformed { record };
    let table_at = plain.len().checked_sub(usize::from(events) * OFFSET_LEN).ok_or_else(|| malformed(events))?;
    let (records, table) = plain.split_at(table_at);
    let mut rest = records;
    for (record, offset) in (0..events).zip(table.chunks_exact(OFFSET_LEN)) {
        if offset_at(offset) != table_at - rest.len() {
            return Err(malformed(record));
        }
        rest = check_record(rest).ok_or_else(|| malformed(record))?;
    }
    if rest.is_empty() { Ok(table_at) } else { Err(malformed(events)) }
}

/// What follows the record at the start of `bytes`, if that is one.
#[inline]
fn check_record(bytes: &[u8]) -> Option<&[u8]> {
    let (record, rest) = RecordBytes::ref_from_prefix(bytes).ok()?;
    let (payload_len, key_len, headers_len) = record.lens();
    let len = payload_len.checked_add(key_len + headers_len)?;
    if record.flags.get() != 0 || key_len > KEY_LEN_MAX || len > EVENT_LEN_MAX {
        return None;
    }
    let padded_len = (RECORD_LEN + len).next_multiple_of(RECORD_ALIGN) - RECORD_LEN;
    let (content, rest) = rest.split_at_checked(padded_len)?;
    if content[len..].iter().any(|&b| b != 0) {
        return None;
    }
    if headers_len > 0 {
        HeadersRef::parse(&content[payload_len + key_len..len])?;
    }
    Some(rest)
}

impl RecordBytes {
    /// Bytes of payload, key and headers.
    #[inline]
    fn lens(&self) -> (usize, usize, usize) {
        (self.payload_len.get() as usize, self.key_len.get().into(), self.headers_len.get().into())
    }
}

#[inline]
fn offset_at(entry: &[u8]) -> usize {
    U32Bytes::read_from_bytes(entry).expect("an entry has 4 bytes").get() as usize
}

type U32Bytes = zerocopy::byteorder::little_endian::U32;

/// The events of a batch, checked. Taking one cannot fail and copies nothing.
#[derive(Clone)]
pub struct OpenBatch {
    seal: VerifiedSeal,
    /// Records and offset table.
    plain: Bytes,
    table_at: usize,
}

/// One event of an [`OpenBatch`], borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Which of the origin's events it is.
    pub seq: u64,
    /// When it happened, by the origin's clock.
    pub time: Hlc,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The headers.
    pub headers: HeadersRef<'a>,
    /// What was published.
    pub payload: &'a [u8],
}

impl OpenBatch {
    /// What is proved of the batch.
    #[must_use]
    pub fn seal(&self) -> &VerifiedSeal {
        &self.seal
    }

    /// Records and offset table, as the origin encoded them.
    #[must_use]
    pub fn plaintext(&self) -> &Bytes {
        &self.plain
    }

    /// The event at this place, 0 first.
    #[inline]
    #[must_use]
    pub fn event(&self, index: u16) -> Option<EventRef<'_>> {
        let entry_at = self.table_at + usize::from(index) * OFFSET_LEN;
        let entry = self.plain.get(entry_at..entry_at + OFFSET_LEN)?;
        Some(self.event_at(index, offset_at(entry)))
    }

    /// The events, in the order of their seq.
    pub fn events(&self) -> impl ExactSizeIterator<Item = EventRef<'_>> {
        self.plain[self.table_at..]
            .chunks_exact(OFFSET_LEN)
            .zip(0..self.seal.events())
            .map(|(entry, index)| self.event_at(index, offset_at(entry)))
    }

    #[inline]
    fn event_at(&self, index: u16, offset: usize) -> EventRef<'_> {
        let (record, content) =
            RecordBytes::ref_from_prefix(&self.plain[offset..]).expect("records were checked when it was opened");
        let (payload_len, key_len, headers_len) = record.lens();
        let (payload, rest) = content.split_at(payload_len);
        let (key, rest) = rest.split_at(key_len);
        EventRef {
            seq: self.seal.seq() + u64::from(index),
            time: Hlc(self.seal.time().0.saturating_add(record.time_delta.get().into())),
            key: (!key.is_empty()).then_some(key),
            headers: HeadersRef::trusted(&rest[..headers_len]),
            payload,
        }
    }

    /// A part of the plaintext that keeps it alive, for one that is borrowed from it.
    #[must_use]
    pub fn slice(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.plain.slice_ref(part) }
    }
}

impl std::fmt::Debug for OpenBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenBatch").field("seal", &self.seal).field("len", &self.plain.len()).finish_non_exhaustive()
    }
}
