//! Decoders of this crate that only fuzzers reach from outside: compiled with `--cfg fuzzing` and never otherwise.

use crate::format::{
    IndexFile, LogId, Manifest, PAGE_LEN, Probe, RECORD_ALIGN, RecordParams, SEGMENT_HEADER_LEN, SLOT_LEN,
    SegmentHeader, body_crc, newest, probe, push,
};
use crate::keyring;
use crate::walk::{Start, walk};

/// The log that records are read for.
const LOG: LogId = LogId([4; 16]);
/// Where the segment begins.
const BASE: u64 = 5;

/// Reads the bytes behind a segment's first page as a walk does. Tells whether there is a record.
///
/// # Panics
/// If a record is read differently from how it is written, or the walk contradicts itself: that is a bug.
#[must_use]
pub fn records(bytes: &[u8]) -> bool {
    let segment = [&[0; SEGMENT_HEADER_LEN], bytes].concat();
    let walk = walk(&segment, &LOG, Start::of_segment(BASE));
    let (mut at, mut offset) = (SEGMENT_HEADER_LEN as u64, BASE);
    let mut spans = walk.spans.iter().peekable();
    for record in &walk.records {
        while let Some(span) = spans.next_if(|span| span.bytes.start < record.position) {
            assert!(at <= span.bytes.start && span.bytes.start < span.bytes.end, "spans overlap what is before them");
            at = span.bytes.end;
        }
        assert!(at <= record.position && offset <= record.offset, "records go back");
        let rest = &segment[usize::try_from(record.position).expect("it is in memory")..];
        let Probe::Record(stored) = probe(rest, &LOG) else { panic!("a record is read once and not twice") };
        let (header, mut again) = (stored.header, Vec::new());
        let params = RecordParams { flags: header.flags(), offset: header.offset(), time: header.time() };
        push(&mut again, &LOG, params, stored.frame, body_crc(stored.frame));
        if stored.frame[3] == 0 {
            assert_eq!(again, rest[..header.record_len()], "a record is read differently from how it was written");
        }
        (at, offset) = (record.position + header.record_len() as u64, stored.next_offset());
    }
    assert!(walk.end >= at && walk.end <= (segment.len() as u64).next_multiple_of(RECORD_ALIGN as u64));
    assert!(walk.next_offset >= offset, "the end is before the last record");
    !walk.records.is_empty()
}

/// Records from `offset u64 ‖ time u64 ‖ flags u16 ‖ length u16 ‖ frame`, one after the other, with right checksums.
#[must_use]
pub fn make_records(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<20>() {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let frame;
        (frame, bytes) = rest.split_at(usize::from(short(18)).min(rest.len()));
        let params = RecordParams { flags: short(16), offset: number(0), time: number(8) };
        push(&mut out, &LOG, params, frame, body_crc(frame));
    }
    out
}

/// What [`make_records`] makes a record of this frame of.
#[must_use]
pub fn record_seed(offset: u64, flags: u16, frame: &[u8]) -> Vec<u8> {
    let len = u16::try_from(frame.len()).expect("a short frame").to_le_bytes();
    let (offset, time) = ((BASE + offset).to_le_bytes(), 77_u64.to_le_bytes());
    [offset.as_slice(), &time, &flags.to_le_bytes(), &len, frame].concat()
}

/// Reads a manifest, and its first page as that of a segment. Tells whether it is either.
///
/// # Panics
/// If a page is read differently from how it is written: that is a bug.
#[must_use]
pub fn pages(bytes: &[u8]) -> bool {
    let slots: Vec<Manifest> = bytes.chunks(SLOT_LEN).take(2).filter_map(Manifest::decode).collect();
    for (slot, page) in bytes.chunks(SLOT_LEN).filter_map(|page| Some((Manifest::decode(page)?, page))) {
        assert_eq!(slot.encode().as_slice(), page, "a manifest is read differently from how it was written");
    }
    let (found, damaged) = newest(bytes);
    assert_eq!(found.map(|found| found.generation), slots.iter().map(|slot| slot.generation).max());
    assert!(damaged + slots.len() <= 2);
    let segment = bytes.get(..PAGE_LEN).and_then(SegmentHeader::decode);
    if let Some(params) = &segment {
        assert_eq!(SegmentHeader::encode(params), bytes[..PAGE_LEN], "a segment's page is written differently");
    }
    found.is_some() || segment.is_some()
}

/// Reads an index. Tells whether it is one.
///
/// # Panics
/// If it is read differently from how it is written: that is a bug.
#[must_use]
pub fn index(bytes: &[u8]) -> bool {
    let Ok(index) = IndexFile::decode(bytes) else { return false };
    assert_eq!(index.encode(), bytes, "an index is read differently from how it was written");
    let end = index.meta.end;
    assert!(index.entries.windows(2).all(|pair| pair[0].position < pair[1].position), "entries go back");
    assert!(index.entries.last().is_none_or(|last| last.position < end), "an entry is behind the end");
    true
}

/// The bytes in pages of 4096, filled up with zeros, each with its right checksum.
#[must_use]
pub fn make_pages(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(PAGE_LEN), 0);
    for page in out.chunks_exact_mut(PAGE_LEN) {
        let crc = crc32c::crc32c(&page[..PAGE_LEN - 4]);
        page[PAGE_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Reads a key ring with this secret. Tells whether it opens.
#[must_use]
pub fn key_ring(bytes: &[u8], secret: &[u8; 32]) -> bool {
    keyring::reads(bytes, secret, LOG.0)
}
