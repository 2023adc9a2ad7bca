//! Making batches: events are encoded as they are pushed, and sealed where they lie.

use aws_lc_rs::aead::{Aad, LessSafeKey};
use bytes::{Bytes, BytesMut};
use net_identity::{SignError, Signer};
use net_transport::{Aead, Header, Kind, MeshId, Priority, Visibility, buffers};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::layout::{
    FLAG_AES, FLAG_FIRST, FLAG_PARENTS_CUT, FORMAT, OFFSET_LEN, ParentBytes, RECORD_ALIGN, RECORD_LEN, RecordBytes,
    SealBytes, TAG_LEN, associated_data, batch_hash, cipher, head_len, key_commit, nonce, signed_message,
};
use super::{
    BATCH_BODY_LEN_MAX, BATCH_EVENTS_MAX, BatchHash, EVENT_LEN_MAX, KEY_LEN_MAX, PARENTS_MAX, SealedBatch, SealedView,
};
use crate::headers::{self, Headers, HeadersError};
use crate::{ChannelHash, Hlc, Parent, SenderKey};

/// Room before the records for header, seal and this many parents; more of them move the records once.
const HEADROOM_PARENTS: usize = 10;
const HEADROOM: usize = head_len(HEADROOM_PARENTS);
/// The least room that a new buffer has, in bytes: one small event.
const CAPACITY_MIN: usize = 1 << 10;
/// The most bytes of memory that a cleared builder keeps.
const KEPT_MAX: usize = 64 << 10;

/// Collects events and seals them as one batch.
///
/// Events are encoded into one buffer as they are pushed; header, seal and parents go into the room left before them, and
/// the body is sealed in place. A builder is used again and again: it learns how large batches are.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Headroom, then records.
    buffer: BytesMut,
    /// Where each record starts, from the start of the body.
    offsets: Vec<U32>,
    /// Time of the first event.
    time: Hlc,
    /// Bytes of the last frames, as far as can be told.
    expected_len: usize,
    /// The most bytes of a body of several events, as sealed.
    body_len_max: usize,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_limit(BATCH_BODY_LEN_MAX)
    }
}

/// Why an event was not taken. It is the caller's fault, except for [`PushError::Full`], which is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The event does not fit beside those that are there: seal them first.
    #[error("the batch is full: seal it first")]
    Full,
    /// Payload, key and headers are too large together: publish a blob instead.
    #[error("an event of {len} bytes; the limit is {limit}, larger things are blobs")]
    TooLarge {
        /// Bytes of payload, key and headers.
        len: usize,
        /// [`EVENT_LEN_MAX`].
        limit: usize,
    },
    /// The key is too large.
    #[error("a key of {len} bytes; the limit is {KEY_LEN_MAX}")]
    KeyTooLarge {
        /// Bytes of the key.
        len: usize,
    },
    /// The key is empty, which would be the same as none.
    #[error("an empty key: give none instead")]
    EmptyKey,
    /// The headers are wrong.
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

/// Why a batch was not sealed. The events are still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no event.
    #[error("a batch without events")]
    Empty,
    /// Seq 0, no room for the events after it, or below the incarnation.
    #[error("seq {seq} cannot be in incarnation {incarnation}")]
    Seq {
        /// The seq that was given.
        seq: u64,
        /// The incarnation that was given.
        incarnation: u64,
    },
    /// More than [`PARENTS_MAX`] parents.
    #[error("{0} parents; the limit is {PARENTS_MAX}: leave the oldest out and say so")]
    TooManyParents(usize),
    /// A parent of the batch's own origin, with a seq that no event has, or a second one of its origin.
    #[error("a parent of the batch's own origin, with a seq that no event has, or a second one of {0:?}")]
    Parent(net_transport::ShortId),
    /// Parents on a realtime batch.
    #[error("a realtime batch has no parents")]
    RealtimeParents,
    /// The batch was not signed.
    #[error("the batch could not be signed")]
    Sign(#[from] SignError),
}

/// All that a batch says beside its events.
#[derive(Clone, Copy)]
pub struct SealParams<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The channel.
    pub channel: &'a ChannelHash,
    /// Who signs: the origin.
    pub signer: &'a dyn Signer,
    /// What seals the body: made in this process, never loaded.
    pub sender_key: &'a SenderKey,
    /// Seq of the first event, at least 1.
    pub seq: u64,
    /// Seq of the first event of this incarnation; equal to `seq` for its first batch, which is flagged FIRST.
    pub incarnation: u64,
    /// Hash of the origin's batch before this one; for a first batch, of the last one its log holds, or zero.
    pub prev: BatchHash,
    /// The causes, in any order, one for each origin and none of our own; at most 255.
    pub parents: &'a [Parent],
    /// Were causes left out?
    pub parents_cut: bool,
    /// 16 random bytes, fresh for each attempt ([`random_salt`](crate::random_salt)).
    pub salt: [u8; 16],
    /// How far it may travel.
    pub visibility: Visibility,
    /// Which queues it waits in.
    pub priority: Priority,
    /// Newest wins, nothing is repaired.
    pub realtime: bool,
    /// The place of the origin's node, one byte a level.
    pub subnet: [u8; 4],
    /// What seals the body.
    pub aead: Aead,
    /// First 4 bytes of the hash of the capability under which the origin publishes; zero if none is needed.
    pub cap: [u8; 4],
}

impl<'a> SealParams<'a> {
    /// The first batch of an incarnation, reliable, for everybody, without parents and without a log before it, under the
    /// cipher that is fastest here. For any other, change what differs: `SealParams { incarnation, prev, ..SealParams::first(…) }`.
    #[must_use]
    pub fn first(
        mesh: &'a MeshId,
        channel: &'a ChannelHash,
        signer: &'a dyn Signer,
        sender_key: &'a SenderKey,
        seq: u64,
        salt: [u8; 16],
    ) -> Self {
        Self {
            mesh,
            channel,
            signer,
            sender_key,
            seq,
            incarnation: seq,
            prev: BatchHash::ZERO,
            parents: &[],
            parents_cut: false,
            salt,
            visibility: Visibility::Global,
            priority: Priority::Normal,
            realtime: false,
            subnet: [0; 4],
            aead: Aead::fastest_here(),
            cap: [0; 4],
        }
    }
}

impl std::fmt::Debug for SealParams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealParams")
            .field("channel", self.channel)
            .field("origin", &self.signer.id())
            .field("seq", &self.seq)
            .field("incarnation", &self.incarnation)
            .field("parents", &self.parents.len())
            .finish_non_exhaustive()
    }
}

impl BatchBuilder {
    /// A builder without events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder without events, whose batches of several events have a body of at most so many bytes, and of at most
    /// [`BATCH_BODY_LEN_MAX`]. One larger event goes alone.
    #[must_use]
    pub fn with_limit(body_len_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            offsets: Vec::new(),
            time: Hlc::default(),
            expected_len: 0,
            body_len_max: body_len_max.min(BATCH_BODY_LEN_MAX),
        }
    }

    /// Are there no events?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Events so far, at most 4,096.
    #[must_use]
    pub fn events(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes that the body would have if it were sealed now; 0 without events.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self.offsets.len() {
            0 => 0,
            events => self.buffer.len() - HEADROOM + events * OFFSET_LEN + TAG_LEN,
        }
    }

    /// Would even the smallest event be refused?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.offsets.len() == BATCH_EVENTS_MAX || self.len_bytes() + RECORD_LEN + OFFSET_LEN > self.body_len_max
    }

    /// Encodes an event at the end of the batch; gives back its place, 0 first.
    ///
    /// `time` is when it happened. It should not be before the event before it, and counts as that of the batch then.
    ///
    /// # Errors
    /// [`PushError::Full`] if it does not fit beside the others; into an empty batch every permitted event fits. The
    /// other errors are for events that fit into no batch.
    #[inline]
    pub fn push(
        &mut self,
        payload: &[u8],
        key: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        time: Hlc,
    ) -> Result<usize, PushError> {
        let headers_len = if headers.is_empty() { 0 } else { headers::encoded_len(headers)? };
        self.push_with(payload, key, headers_len, time, |buffer| headers::encode(headers, buffer))
    }

    /// As [`BatchBuilder::push`], with headers that are encoded already.
    ///
    /// # Errors
    /// As [`BatchBuilder::push`].
    #[inline]
    pub fn push_encoded(
        &mut self,
        payload: &[u8],
        key: Option<&[u8]>,
        headers: &Headers,
        time: Hlc,
    ) -> Result<usize, PushError> {
        let bytes = headers.as_ref().as_bytes();
        self.push_with(payload, key, bytes.len(), time, |buffer| buffer.extend_from_slice(bytes))
    }

    #[inline]
    fn push_with(
        &mut self,
        payload: &[u8],
        key: Option<&[u8]>,
        headers_len: usize,
        time: Hlc,
        write_headers: impl FnOnce(&mut BytesMut),
    ) -> Result<usize, PushError> {
        let key = match key {
            None => &[],
            Some([]) => return Err(PushError::EmptyKey),
            Some(key) if key.len() > KEY_LEN_MAX => return Err(PushError::KeyTooLarge { len: key.len() }),
            Some(key) => key,
        };
        let len = payload.len().saturating_add(key.len() + headers_len);
        if len > EVENT_LEN_MAX {
            return Err(PushError::TooLarge { len, limit: EVENT_LEN_MAX });
        }
        let record_len = (RECORD_LEN + len).next_multiple_of(RECORD_ALIGN);
        let time_delta = self.make_room(record_len, time)?;

        let index = self.offsets.len();
        let start = self.buffer.len();
        let record = RecordBytes {
            payload_len: U32::new(narrow(payload.len())),
            key_len: U16::new(narrow_u16(key.len())),
            headers_len: U16::new(narrow_u16(headers_len)),
            time_delta: U32::new(time_delta),
            flags: U32::ZERO,
        };
        self.buffer.extend_from_slice(record.as_bytes());
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(key);
        write_headers(&mut self.buffer);
        let padding = start + record_len - self.buffer.len();
        self.buffer.extend_from_slice(&[0; RECORD_ALIGN][..padding]);
        self.offsets.push(U32::new(narrow(start - HEADROOM)));
        Ok(index)
    }

    /// Refuses what does not fit; prepares the buffer for a first event. Gives the event's time after the first's.
    #[inline]
    fn make_room(&mut self, record_len: usize, time: Hlc) -> Result<u32, PushError> {
        if self.offsets.is_empty() {
            self.begin(record_len);
            self.time = time;
            return Ok(0);
        }
        let len = self.len_bytes() + record_len + OFFSET_LEN;
        if self.offsets.len() == BATCH_EVENTS_MAX || len > self.body_len_max {
            return Err(PushError::Full);
        }
        if HEADROOM + len > self.buffer.capacity() {
            self.grow(HEADROOM + len);
        }
        // 32 bits of a time are 65 s: who collects for longer than that seals two batches.
        u32::try_from(time.0.saturating_sub(self.time.0)).map_err(|_| PushError::Full)
    }

    fn begin(&mut self, record_len: usize) {
        let least = HEADROOM + record_len + OFFSET_LEN + TAG_LEN;
        if self.buffer.capacity() < least {
            self.buffer = buffers::take(least.max(self.expected_len).max(CAPACITY_MIN));
        }
        self.buffer.clear();
        self.buffer.resize(HEADROOM, 0);
    }

    /// Moves to a larger buffer, twice as large and up to the largest that a batch of several events needs.
    #[cold]
    fn grow(&mut self, least: usize) {
        let twice = (2 * self.buffer.capacity()).min(HEADROOM + self.body_len_max);
        let mut larger = buffers::take(least.max(twice));
        larger.extend_from_slice(&self.buffer);
        drop(buffers::share(std::mem::replace(&mut self.buffer, larger)));
    }

    /// Forgets the events and keeps their memory, unless that is much.
    pub fn clear(&mut self) {
        if self.buffer.capacity() > KEPT_MAX {
            drop(buffers::share(std::mem::take(&mut self.buffer)));
        }
        self.buffer.clear();
        self.offsets.clear();
    }

    /// Seals and signs the events as one batch, and is empty then. What comes out counts as verified.
    ///
    /// # Errors
    /// [`SealError`]; the events are still there and can be sealed again, with a fresh salt.
    pub fn seal(&mut self, params: &SealParams<'_>) -> Result<SealedBatch, SealError> {
        let origin = params.signer.id();
        let parents = self.check(params, origin.short())?;
        let batch_key = params.sender_key.batch_key(params.channel, params.seq, &params.salt);
        let cipher = cipher(params.aead, &batch_key);

        let start = self.open_head(parents.len());
        let body_at = start + head_len(parents.len());
        let records_len = self.buffer.len() - body_at;
        self.buffer.extend_from_slice(self.offsets.as_bytes());
        let body_len = self.buffer.len() - body_at + TAG_LEN;

        let mut header = header(params, origin.short(), self.offsets.len());
        header.set_payload_len(narrow(body_at - start - size_of::<Header>() + body_len));
        let mut seal = SealBytes::new_zeroed();
        seal.format = FORMAT;
        seal.flags = if params.seq == params.incarnation { FLAG_FIRST } else { 0 }
            | if params.parents_cut { FLAG_PARENTS_CUT } else { 0 }
            | if params.aead == Aead::Aes256Gcm { FLAG_AES } else { 0 };
        seal.parents = u8::try_from(parents.len()).expect("checked to be at most 255");
        seal.time = U64::new(self.time.0);
        seal.prev = params.prev.0;
        seal.key_commit = key_commit(&batch_key);
        seal.salt = params.salt;

        let associated = associated_data(&header, &seal, &parents);
        let tag = cipher
            .seal_in_place_separate_tag(nonce(), Aad::from(&associated), &mut self.buffer[body_at..])
            .expect("a body is far below the cipher's limit");
        self.buffer.extend_from_slice(tag.as_ref());
        seal.body_hash = *blake3::hash(&self.buffer[body_at..]).as_bytes();
        let hash = batch_hash(&header, &seal, &parents);
        match params.signer.sign(&signed_message(params.mesh, params.channel, &origin, &hash)) {
            Ok(signature) => seal.signature = signature,
            Err(error) => {
                self.unseal(&cipher, &associated, body_at, records_len);
                return Err(error.into());
            }
        }

        let mut head = start;
        for part in [header.as_bytes().as_slice(), seal.as_bytes(), parents.as_bytes()] {
            self.buffer[head..head + part.len()].copy_from_slice(part);
            head += part.len();
        }
        self.buffer[head..body_at].fill(0);

        let frame = self.take_frame(start);
        let view = SealedView::parse(&frame).expect("what is sealed here can be parsed");
        let seal = view.head.trusted(hash, params.channel, &origin);
        Ok(SealedBatch { seal, frame })
    }

    /// Checks what the caller gave; the parents come back in the order of the format.
    fn check(&self, params: &SealParams<'_>, own: net_transport::ShortId) -> Result<Vec<ParentBytes>, SealError> {
        let (seq, incarnation) = (params.seq, params.incarnation);
        if self.offsets.is_empty() {
            return Err(SealError::Empty);
        }
        if incarnation == 0 || incarnation > seq || seq.checked_add(self.offsets.len() as u64).is_none() {
            return Err(SealError::Seq { seq, incarnation });
        }
        if params.parents.len() > PARENTS_MAX {
            return Err(SealError::TooManyParents(params.parents.len()));
        }
        if params.realtime && (!params.parents.is_empty() || params.parents_cut) {
            return Err(SealError::RealtimeParents);
        }
        let mut parents: Vec<ParentBytes> = params.parents.iter().map(Into::into).collect();
        parents.sort_unstable_by_key(|p| p.origin);
        for (index, parent) in parents.iter().enumerate() {
            let repeated = index > 0 && parents[index - 1].origin == parent.origin;
            if parent.origin == own.0 || matches!(parent.seq.get(), 0 | u64::MAX) || repeated {
                return Err(SealError::Parent(net_transport::ShortId(parent.origin)));
            }
        }
        Ok(parents)
    }

    /// Makes room for the head before the records; gives where the frame starts in the buffer.
    fn open_head(&mut self, parents: usize) -> usize {
        let needed = head_len(parents);
        if needed <= HEADROOM {
            return HEADROOM - needed;
        }
        let end = self.buffer.len();
        self.buffer.resize(end + needed - HEADROOM, 0);
        self.buffer.copy_within(HEADROOM..end, needed);
        0
    }

    /// Undoes the sealing, so that nothing is lost when the signer fails.
    fn unseal(&mut self, cipher: &LessSafeKey, associated: &[u8], body_at: usize, records_len: usize) {
        cipher
            .open_in_place(nonce(), Aad::from(associated), &mut self.buffer[body_at..])
            .expect("it was sealed with this key a moment ago");
        self.buffer.copy_within(body_at..body_at + records_len, HEADROOM);
        self.buffer.truncate(HEADROOM + records_len);
    }

    /// Gives the frame away with its buffer where it fills most of it, else copies it and keeps the buffer.
    fn take_frame(&mut self, start: usize) -> Bytes {
        self.offsets.clear();
        self.expected_len = self.buffer.len().next_multiple_of(CAPACITY_MIN).max(self.expected_len / 2);
        if self.buffer.len() - start < self.buffer.capacity() / 2 {
            // A small frame must not keep a large buffer alive in caches and queues.
            let frame = Bytes::copy_from_slice(&self.buffer[start..]);
            self.buffer.clear();
            return frame;
        }
        buffers::share(std::mem::take(&mut self.buffer)).slice(start..)
    }
}

fn header(params: &SealParams<'_>, origin: net_transport::ShortId, events: usize) -> Header {
    let mut header = Header::new(Kind::Batch);
    header.set_flags(Header::SEALED | if params.realtime { Header::REALTIME } else { 0 });
    header.set_scope(params.visibility, params.priority);
    header.set_channel(params.channel.prefix());
    header.set_origin(origin);
    header.set_seq(params.seq);
    header.set_events(narrow_u16(events));
    header.set_subnet(params.subnet);
    header.set_incarnation(params.incarnation);
    header.set_cap(params.cap);
    header.set_key_id(params.sender_key.key_id().0);
    header
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("lengths are checked to be at most a few MiB")
}

fn narrow_u16(len: usize) -> u16 {
    u16::try_from(len).expect("lengths are checked to be at most 16 KiB")
}
