//! One stored batch: 32 bytes that say what follows, the batch as it was on the wire, zeros to 64.

use net_transport::{FRAME_LEN_MAX, HEADER_LEN, Header};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LogId, OFFSET_MAX};

/// Bytes of a record header.
pub(crate) const RECORD_HEADER_LEN: usize = 32;
/// Records begin at multiples of this many bytes, so that bodies are 16-aligned in memory.
pub(crate) const RECORD_ALIGN: usize = 64;
/// The part of a file that a disk writes whole or not at all: what telling torn from rotten rests on.
pub(crate) const SECTOR_LEN: usize = 512;

const MAGIC: u16 = 0x5852;
const OFFSET_TTL: usize = 3;

/// Everything before this record in the log was on the disk before this record was written.
pub(crate) const FLAG_SYNCED_BEFORE: u16 = 1;
/// The body is gone: every event in it was superseded. Header, seal and parents stay.
pub(crate) const FLAG_COMPACTED: u16 = 2;
const FLAGS_KNOWN: u16 = FLAG_SYNCED_BEFORE | FLAG_COMPACTED;

/// The 32 bytes before a stored batch. Numbers are little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    magic: U16,
    flags: U16,
    header_crc: U32,
    body_crc: U32,
    length: U32,
    offset: U64,
    time: U64,
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_LEN && RECORD_HEADER_LEN + HEADER_LEN <= SECTOR_LEN);

impl RecordHeader {
    /// Bit field: [`FLAG_SYNCED_BEFORE`], [`FLAG_COMPACTED`].
    #[must_use]
    pub(crate) fn flags(&self) -> u16 {
        self.flags.get()
    }

    /// Bytes of the stored batch.
    #[must_use]
    pub(crate) fn length(&self) -> usize {
        self.length.get() as usize
    }

    /// Offset of the batch's first event in this log.
    #[must_use]
    pub(crate) fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// When it was stored: unix nanoseconds, never less than that of the record before.
    #[must_use]
    pub(crate) fn time(&self) -> u64 {
        self.time.get()
    }

    /// Bytes of the whole record: header, batch, zeros.
    #[must_use]
    pub(crate) fn record_len(&self) -> usize {
        record_len(self.length())
    }

    fn crc(&self, log: &LogId) -> u32 {
        let unset = Self { header_crc: U32::ZERO, ..*self };
        crc32c::crc32c_append(log.salt(), unset.as_bytes())
    }
}

/// Bytes of the record of a batch of this length.
#[must_use]
pub(crate) const fn record_len(batch_len: usize) -> usize {
    (RECORD_HEADER_LEN + batch_len).next_multiple_of(RECORD_ALIGN)
}

/// What a record is made with, beside the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordParams {
    /// Bit field.
    pub(crate) flags: u16,
    /// Offset of the first event.
    pub(crate) offset: u64,
    /// Unix nanoseconds.
    pub(crate) time: u64,
}

/// The zeros after a batch of this length, at most 63 of them.
fn padding(batch_len: usize) -> &'static [u8] {
    &[0; RECORD_ALIGN][..record_len(batch_len) - RECORD_HEADER_LEN - batch_len]
}

/// The checksum of a stored batch: over it with `ttl` 0 and the zeros that follow it.
///
/// Apart from [`push`] so that it can be computed before any lock is taken.
#[must_use]
pub(crate) fn body_crc(batch: &[u8]) -> u32 {
    let Some((before, rest)) = batch.split_at_checked(OFFSET_TTL) else { return crc32c::crc32c(batch) };
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0]);
    let crc = crc32c::crc32c_append(crc, rest.get(1..).unwrap_or_default());
    crc32c::crc32c_append(crc, padding(batch.len()))
}

/// Appends a record to `out`.
pub(crate) fn push(out: &mut Vec<u8>, log: &LogId, params: RecordParams, batch: &[u8], body_crc: u32) {
    let length = u32::try_from(batch.len()).expect("a frame has at most FRAME_LEN_MAX bytes");
    let mut header = RecordHeader {
        magic: U16::new(MAGIC),
        flags: U16::new(params.flags),
        header_crc: U32::ZERO,
        body_crc: U32::new(body_crc),
        length: U32::new(length),
        offset: U64::new(params.offset),
        time: U64::new(params.time),
    };
    header.header_crc = U32::new(header.crc(log));
    out.reserve(record_len(batch.len()));
    out.extend_from_slice(header.as_bytes());
    let start = out.len();
    out.extend_from_slice(batch);
    if let Some(ttl) = out.get_mut(start + OFFSET_TTL) {
        *ttl = 0;
    }
    out.extend_from_slice(padding(batch.len()));
}

/// Sets [`FLAG_SYNCED_BEFORE`] in the record that starts at the beginning of `record`.
pub(crate) fn mark_synced_before(record: &mut [u8], log: &LogId) {
    let Ok((header, _)) = RecordHeader::mut_from_prefix(record) else { return };
    header.flags = U16::new(header.flags() | FLAG_SYNCED_BEFORE);
    header.header_crc = U32::new(header.crc(log));
}

/// What stands at a place in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe<'a> {
    /// A record whose checksums hold.
    Record(Stored<'a>),
    /// A record whose header holds and whose body does not.
    BodyDamaged(RecordHeader),
    /// Neither a record nor free space.
    HeaderDamaged,
    /// Zeros where a header would be.
    Free,
}

/// A record whose checksums hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    /// Its 32 bytes.
    pub(crate) header: &'a RecordHeader,
    /// The frame's 64 bytes.
    pub(crate) frame_header: &'a Header,
    /// The frame: for a compacted record header, seal and parents only.
    pub(crate) frame: &'a [u8],
}

impl Stored<'_> {
    /// The offset after its last event.
    #[must_use]
    pub(crate) fn next_offset(&self) -> u64 {
        self.header.offset() + u64::from(self.frame_header.events())
    }
}

/// The record header at the start of `bytes`, if its own checksum holds. The body is not looked at.
#[must_use]
pub(crate) fn header<'a>(bytes: &'a [u8], log: &LogId) -> Option<&'a RecordHeader> {
    let (header, _) = RecordHeader::ref_from_prefix(bytes).ok()?;
    let sound = header.magic.get() == MAGIC
        && header.header_crc.get() == header.crc(log)
        && header.flags() & !FLAGS_KNOWN == 0
        && (HEADER_LEN..=FRAME_LEN_MAX).contains(&header.length());
    sound.then_some(header)
}

/// Looks at the record at the start of `bytes`, which go to the end of the segment.
#[must_use]
pub(crate) fn probe<'a>(bytes: &'a [u8], log: &LogId) -> Probe<'a> {
    let Some(first) = bytes.get(..RECORD_HEADER_LEN) else { return Probe::Free };
    let Some(header) = header(bytes, log) else {
        return if first.iter().all(|b| *b == 0) { Probe::Free } else { Probe::HeaderDamaged };
    };
    let Some(body) = bytes.get(RECORD_HEADER_LEN..header.record_len()) else {
        return Probe::BodyDamaged(*header);
    };
    if crc32c::crc32c(body) != header.body_crc.get() {
        return Probe::BodyDamaged(*header);
    }
    match frame(body, header) {
        Some((frame_header, frame)) => Probe::Record(Stored { header, frame_header, frame }),
        None => Probe::BodyDamaged(*header),
    }
}

/// The frame of a record whose checksums hold; nothing if it is not one that a log stores.
fn frame<'a>(body: &'a [u8], header: &RecordHeader) -> Option<(&'a Header, &'a [u8])> {
    let frame = body.get(..header.length())?;
    let frame_header = Header::parse(frame).ok()?;
    let whole = HEADER_LEN + frame_header.payload_len();
    let fits = if header.flags() & FLAG_COMPACTED == 0 { frame.len() == whole } else { frame.len() <= whole };
    let counts = countable(frame_header) && header.offset() <= OFFSET_MAX;
    (fits && counts).then_some((frame_header, frame))
}

/// There are events in the frame, and the seq after the last of them is a number.
fn countable(header: &Header) -> bool {
    header.events() > 0 && header.seq().checked_add(u64::from(header.events())).is_some()
}

/// The frame's header in a record that is damaged: a hint of whose events it held, and no proof.
#[must_use]
pub(crate) fn hint(bytes: &[u8]) -> Option<&Header> {
    let header = Header::parse(bytes.get(RECORD_HEADER_LEN..)?).ok()?;
    countable(header).then_some(header)
}

/// If the header of the record at the start of `bytes` is damaged and its body is not: the body's length in bytes.
///
/// The body's own frame header gives a length; if the checksum over that length is the one that stands in the
/// damaged header, the body is whole.
#[must_use]
pub(crate) fn salvage(bytes: &[u8]) -> Option<usize> {
    let (header, _) = RecordHeader::ref_from_prefix(bytes).ok()?;
    let batch_len = HEADER_LEN + hint(bytes)?.payload_len();
    let body = bytes.get(RECORD_HEADER_LEN..record_len(batch_len))?;
    (crc32c::crc32c(body) == header.body_crc.get()).then_some(batch_len)
}
