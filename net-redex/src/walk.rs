//! Going through a segment record by record, and finding the way again after damage.

use std::ops::Range;

use net_transport::ShortId;

use crate::format::{
    FLAG_SYNCED_BEFORE, LogId, Probe, RECORD_ALIGN, RECORD_HEADER_LEN, SECTOR_LEN, SEGMENT_HEADER_LEN, header, hint,
    probe, record_len, salvage,
};

/// A record as a walk saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
    pub(crate) origin: ShortId,
    pub(crate) events: u16,
    pub(crate) synced_before: bool,
}

/// Bytes that hold no record, between records or after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) bytes: Range<u64>,
    /// Offsets that are lost with it; the end is a guess where nothing valid follows.
    pub(crate) offsets: Range<u64>,
    /// Whose events these were, as far as the damaged bytes tell.
    pub(crate) hint: Option<(ShortId, u64, u16)>,
    /// A write that the power interrupted can look like this: a sector of it never reached the disk.
    ///
    /// A disk writes a sector whole or not at all, and what is appended to was zeros. So a damaged record none of
    /// whose sectors is zeros was written whole, and damaged later.
    pub(crate) can_be_torn: bool,
    /// Some bits in free space that held no record.
    pub(crate) stray: bool,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) records: Vec<Seen>,
    pub(crate) spans: Vec<Span>,
    /// Byte position after the last record or span.
    pub(crate) end: u64,
    /// Offset of what would be appended there.
    pub(crate) next_offset: u64,
    pub(crate) last_time: u64,
}

/// Where a walk begins and what it checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    /// Bodies of records at or after this position are checked; of those before only the headers.
    pub(crate) bodies_from: u64,
}

impl Start {
    /// The first record of a segment.
    pub(crate) fn of_segment(base: u64) -> Self {
        Self { position: SEGMENT_HEADER_LEN as u64, offset: base, bodies_from: 0 }
    }
}

/// Walks a segment to its end: the last record, or the last byte that is not zero.
pub(crate) fn walk(segment: &[u8], log: &LogId, start: Start) -> Walk {
    let mut out = Walk { end: start.position, next_offset: start.offset, ..Walk::default() };
    loop {
        let rest = from(segment, out.end);
        match step(rest, log, out.end >= start.bodies_from, out.next_offset) {
            Step::Record(seen, len, time) => {
                out.next_offset = seen.offset + u64::from(seen.events);
                out.records.push(Seen { position: out.end, ..seen });
                out.end += len;
                out.last_time = time;
            }
            Step::Lost { skip, hint, whole } => {
                let (len, next) = resync(rest, log, out.next_offset, skip);
                let Some(len) = len else { return out };
                let bytes = out.end..out.end + len;
                let end = next.unwrap_or_else(|| out.next_offset + hint.map_or(1, |(_, _, events)| u64::from(events)));
                let lost = &rest[..usize::try_from(len).unwrap_or(usize::MAX).min(rest.len())];
                let stray = next.is_none() && is_stray(lost);
                out.spans.push(Span {
                    can_be_torn: stray || !whole && has_zero_sector(lost, out.end),
                    stray,
                    bytes,
                    offsets: out.next_offset..if stray { out.next_offset } else { end },
                    hint,
                });
                out.end += len;
                out.next_offset = if stray { out.next_offset } else { end };
            }
        }
    }
}

enum Step {
    Record(Seen, u64, u64),
    /// No record here. `skip` is how far the next one is at least; `whole`: the bytes are known not to be torn.
    Lost { skip: u64, hint: Option<(ShortId, u64, u16)>, whole: bool },
}

fn step(rest: &[u8], log: &LogId, check_body: bool, expected: u64) -> Step {
    let guess = || hint(rest).map(|h| (h.origin(), h.seq(), h.events()));
    if !check_body
        && let Some(header) = header(rest, log)
        && header.offset() == expected
        && let Some(frame) = hint(rest)
        && rest.len() >= header.record_len()
    {
        let seen = Seen {
            position: 0,
            offset: header.offset(),
            seq: frame.seq(),
            origin: frame.origin(),
            events: frame.events(),
            synced_before: header.flags() & FLAG_SYNCED_BEFORE != 0,
        };
        return Step::Record(seen, header.record_len() as u64, header.time());
    }
    match probe(rest, log) {
        Probe::Record(stored) if stored.header.offset() == expected => {
            let seen = Seen {
                position: 0,
                offset: stored.header.offset(),
                seq: stored.frame_header.seq(),
                origin: stored.frame_header.origin(),
                events: stored.frame_header.events(),
                synced_before: stored.header.flags() & FLAG_SYNCED_BEFORE != 0,
            };
            Step::Record(seen, stored.header.record_len() as u64, stored.header.time())
        }
        // A record of another place in the log: what a cut left behind, or a program copied here.
        Probe::Record(_) => Step::Lost { skip: RECORD_ALIGN as u64, hint: None, whole: false },
        Probe::BodyDamaged(header) => Step::Lost { skip: header.record_len() as u64, hint: guess(), whole: false },
        Probe::HeaderDamaged => match salvage(rest) {
            Some(len) => Step::Lost { skip: record_len(len) as u64, hint: guess(), whole: true },
            None => Step::Lost { skip: RECORD_ALIGN as u64, hint: guess(), whole: false },
        },
        Probe::Free => Step::Lost { skip: RECORD_ALIGN as u64, hint: None, whole: false },
    }
}

/// How many bytes there are to the next record that continues the log, at least `skip`, and its offset. Without such
/// a record: to the last byte that is not zero, rounded up; nothing if all are zeros.
fn resync(rest: &[u8], log: &LogId, expected: u64, skip: u64) -> (Option<u64>, Option<u64>) {
    let mut at = skip;
    while let tail @ [_, ..] = from(rest, at) {
        // Free space is mostly zeros: whole pages of it are passed at once.
        if let Some(page) = tail.get(..SEGMENT_HEADER_LEN)
            && is_zero(page)
        {
            at += SEGMENT_HEADER_LEN as u64;
            continue;
        }
        if header(tail, log).is_some_and(|h| h.offset() >= expected)
            && let Probe::Record(stored) = probe(tail, log)
        {
            return (Some(at), Some(stored.header.offset()));
        }
        at += RECORD_ALIGN as u64;
    }
    let Some(last) = rest.iter().rposition(|b| *b != 0) else { return (None, None) };
    (Some(((last + 1).next_multiple_of(RECORD_ALIGN) as u64).max(skip.min(rest.len() as u64))), None)
}

fn from(bytes: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default()
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Eight bytes at a time where they are aligned; the compiler makes vectors of it.
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

/// Whether a part of these bytes that one sector holds is zeros. They begin at this position of the segment.
fn has_zero_sector(bytes: &[u8], position: u64) -> bool {
    let within = usize::try_from(position % SECTOR_LEN as u64).expect("below 512");
    let (head, tail) = bytes.split_at_checked(SECTOR_LEN - within).unwrap_or((bytes, &[]));
    is_zero(head) || tail.chunks(SECTOR_LEN).any(is_zero)
}

/// One or two bits where otherwise all is zeros: damage in free space, not the rest of a record.
fn is_stray(bytes: &[u8]) -> bool {
    let bits: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    bits <= 2 && bytes.len() >= RECORD_HEADER_LEN
}
