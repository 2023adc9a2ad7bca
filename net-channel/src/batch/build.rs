//! Building a batch: records are encoded where they will be sealed and sent from.

use bytes::Bytes;
use net_identity::Signer;
use net_transport::{HEADER_LEN, Header, Kind, MeshId, Priority, ShortId, Visibility};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32, U64};

use super::layout::{
    BATCH_LEN_FULL, EVENT_LEN_MAX, EVENTS_MAX, FLAG_FIRST, FLAG_PARENTS_CUT, FORMAT, HEADERS_LEN_MAX, KEY_LEN_MAX,
    OFFSET_LEN, PARENT_LEN, PARENTS_MAX, Parent, ParentBytes, RECORD_LEN, RecordBytes, SEAL_HASHED, SEAL_LEN, SealBytes,
    TAG_LEN, body_offset,
};
use super::{BatchHash, SealError, associated_data, key_commit, signed_bytes};
use crate::{ChannelHash, Hlc, SenderKey};

/// Parents for which there is room in front of the records from the beginning.
const PARENTS_EXPECTED: usize = 10;
/// Where the records begin in the buffer.
const HEADROOM: usize = body_offset(PARENTS_EXPECTED);

/// Events on their way into one batch.
///
/// [`BatchBuilder::push`] encodes an event behind the ones before it; [`BatchBuilder::seal`] encrypts in place and
/// writes header and seal in front. The bytes of a payload are copied once.
#[derive(Debug)]
pub struct BatchBuilder {
    /// `HEADROOM` unused bytes, then the records.
    buf: Vec<u8>,
    offsets: Vec<u32>,
}

/// Why an event does not go into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The batch is full; the event goes into the next.
    #[error("the batch is full")]
    Full,
    /// No batch can take it.
    #[error("{what} of {len} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        limit: usize,
    },
}

/// With what, and as what, a batch is sealed.
#[derive(Debug)]
pub struct SealParams<'a> {
    /// The mesh.
    pub mesh: &'a MeshId,
    /// The channel.
    pub channel: &'a ChannelHash,
    /// The origin's key.
    pub signer: &'a dyn Signer,
    /// The sender key of the moment.
    pub sender_key: &'a SenderKey,
    /// Seq of the first event.
    pub seq: u64,
    /// Seq of the first event of this incarnation; equal to `seq` for its first batch, which is then flagged FIRST.
    pub incarnation: u64,
    /// Hash of the origin's batch before this one in the channel, or zeros.
    pub prev: [u8; 32],
    /// Causes of other origins, at most 255.
    pub parents: &'a [Parent],
    /// Whether there were more causes than that.
    pub parents_cut: bool,
    /// Time of the first event.
    pub time: Hlc,
    /// 16 random bytes, never the same for one (sender key, seq).
    pub salt: [u8; 16],
    /// How far it travels.
    pub visibility: Visibility,
    /// Which queue it waits in.
    pub priority: Priority,
    /// Newest wins, no repair.
    pub realtime: bool,
    /// The place of the origin's node.
    pub subnet: [u8; 4],
    /// First 4 bytes of the hash of the capability it is published under, or zeros.
    pub cap: [u8; 4],
}

/// A batch that is ready to be sent and stored.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    /// The whole frame.
    pub frame: Bytes,
    /// Its hash: the next batch's `prev`.
    pub hash: BatchHash,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(512)
    }

    /// An empty batch with room for records of this many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buf = Vec::with_capacity(HEADROOM + bytes + TAG_LEN);
        buf.resize(HEADROOM, 0);
        Self { buf, offsets: Vec::new() }
    }

    /// Events in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether it has no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Bytes of its records so far.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.buf.len() - HEADROOM
    }

    /// Adds an event and returns its index. `time_delta_ms` is its time after the batch's.
    ///
    /// # Errors
    /// [`PushError::Full`] if it belongs into the next batch, [`PushError::TooLarge`] if into none.
    pub fn push(
        &mut self,
        payload: &[u8],
        key: Option<&[u8]>,
        headers: &[(&str, &[u8])],
        time_delta_ms: u32,
    ) -> Result<u32, PushError> {
        let key = key.unwrap_or_default();
        let headers_len = headers_len(headers)?;
        let len = payload.len() + key.len() + headers_len;
        if key.len() > KEY_LEN_MAX {
            return Err(PushError::TooLarge { what: "a key", len: key.len(), limit: KEY_LEN_MAX });
        }
        if len > EVENT_LEN_MAX {
            return Err(PushError::TooLarge { what: "an event", len, limit: EVENT_LEN_MAX });
        }
        let begin = self.len_bytes();
        let size = (RECORD_LEN + len).next_multiple_of(8);
        let index = self.offsets.len();
        if index > 0 && (index >= EVENTS_MAX || begin + size > BATCH_LEN_FULL) {
            return Err(PushError::Full);
        }
        let narrow = "checked against the limits above";
        let record = RecordBytes {
            payload_len: U32::new(u32::try_from(payload.len()).expect(narrow)),
            key_len: U16::new(u16::try_from(key.len()).expect(narrow)),
            headers_len: U16::new(u16::try_from(headers_len).expect(narrow)),
            time_delta: U32::new(time_delta_ms),
            flags: U32::ZERO,
        };
        self.buf.reserve(size + TAG_LEN);
        self.buf.extend_from_slice(record.as_bytes());
        self.buf.extend_from_slice(payload);
        self.buf.extend_from_slice(key);
        for (name, value) in headers {
            self.buf.push(u8::try_from(name.len()).expect(narrow));
            self.buf.extend_from_slice(&u16::try_from(value.len()).expect(narrow).to_le_bytes());
            self.buf.extend_from_slice(name.as_bytes());
            self.buf.extend_from_slice(value);
        }
        self.buf.resize(HEADROOM + begin + size, 0);
        self.offsets.push(u32::try_from(begin).expect(narrow));
        Ok(u32::try_from(index).expect(narrow))
    }

    /// Seals and signs the batch.
    ///
    /// # Errors
    /// [`SealError`] if it is empty, has too many parents, or the key does not sign.
    pub fn seal(self, params: &SealParams<'_>) -> Result<SealedBatch, SealError> {
        let Self { mut buf, offsets } = self;
        if offsets.is_empty() {
            return Err(SealError::Empty);
        }
        let parents_len = u8::try_from(params.parents.len()).map_err(|_| SealError::Parents(params.parents.len()))?;
        const { assert!(PARENTS_MAX == u8::MAX as usize) };
        buf.reserve(offsets.len() * OFFSET_LEN + TAG_LEN);
        for offset in &offsets {
            buf.extend_from_slice(&offset.to_le_bytes());
        }
        let offset = body_offset(params.parents.len());
        let body_begin = if offset <= HEADROOM {
            HEADROOM
        } else {
            // More parents than there is room for in front: the records move, once.
            buf.splice(0..0, std::iter::repeat_n(0, offset - HEADROOM));
            offset
        };
        let begin = body_begin - offset;
        let origin = params.signer.id();

        let mut header = Header::new(Kind::Batch);
        header.set_flags(Header::SEALED | if params.realtime { Header::REALTIME } else { 0 });
        header.set_scope(params.visibility, params.priority);
        let payload_len = buf.len() - begin - HEADER_LEN + TAG_LEN;
        header.set_payload_len(u32::try_from(payload_len).expect("the limits keep a batch below 2 MiB"));
        header.set_channel(params.channel.prefix());
        header.set_origin(ShortId::of(origin.as_bytes()));
        header.set_seq(params.seq);
        header.set_events(u16::try_from(offsets.len()).expect("at most 1,024 events"));
        header.set_incarnation(params.incarnation);
        header.set_subnet(params.subnet);
        header.set_cap(params.cap);
        header.set_key_id(params.sender_key.key_id().0);

        let key = params.sender_key.batch_key(params.channel, params.seq, &params.salt);
        let first = if params.seq == params.incarnation { FLAG_FIRST } else { 0 };
        let cut = if params.parents_cut { FLAG_PARENTS_CUT } else { 0 };
        let mut seal = SealBytes {
            format: FORMAT,
            flags: first | cut,
            parents: parents_len,
            zero: [0; 5],
            time: U64::new(params.time.0),
            prev: params.prev,
            body_hash: [0; 32],
            key_commit: key_commit(&key),
            salt: params.salt,
            signature: [0; 64],
        };
        let mut parents = Vec::with_capacity(params.parents.len() * PARENT_LEN);
        for parent in params.parents {
            let bytes = ParentBytes { origin: parent.origin.0, seq: U64::new(parent.seq), hash: parent.hash };
            parents.extend_from_slice(bytes.as_bytes());
        }

        let aad = associated_data(&header, seal.as_bytes(), &parents);
        let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("the key has 32 bytes"));
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = cipher
            .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut buf[body_begin..])
            .expect("a batch is far shorter than the cipher's limit");
        buf.extend_from_slice(tag.as_ref());

        seal.body_hash = *blake3::hash(&buf[body_begin..]).as_bytes();
        let hash = BatchHash::of(&header, &seal.as_bytes()[..SEAL_HASHED], &parents);
        seal.signature = params.signer.sign(&signed_bytes(params.mesh, params.channel, &origin, &hash))?;

        let front = &mut buf[begin..body_begin];
        front.fill(0);
        front[..HEADER_LEN].copy_from_slice(header.as_bytes());
        front[HEADER_LEN..HEADER_LEN + SEAL_LEN].copy_from_slice(seal.as_bytes());
        front[HEADER_LEN + SEAL_LEN..][..parents.len()].copy_from_slice(&parents);
        Ok(SealedBatch { frame: Bytes::from(buf).slice(begin..), hash })
    }
}

fn headers_len(headers: &[(&str, &[u8])]) -> Result<usize, PushError> {
    let mut len = 0;
    for (name, value) in headers {
        if name.len() > usize::from(u8::MAX) {
            let limit = usize::from(u8::MAX);
            return Err(PushError::TooLarge { what: "a header's name", len: name.len(), limit });
        }
        len += 3 + name.len() + value.len();
    }
    if len > HEADERS_LEN_MAX {
        return Err(PushError::TooLarge { what: "headers", len, limit: HEADERS_LEN_MAX });
    }
    Ok(len)
}
