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

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) position: u64,
    pub(crate) offset: u64,
}

impl Start {
    /// The first record of a segment.
    pub(crate) fn of_segment(base: u64) -> Self {
        Self { position: SEGMENT_HEADER_LEN as u64, offset: base }
    }
}

/// Walks a segment to its end: the last record, or the last byte that is not zero.
pub(crate) fn walk(segment: &[u8], log: &LogId, start: Start) -> Walk {
    let mut out = Walk { end: start.position, next_offset: start.offset, ..Walk::default() };
    loop {
        let rest = from(segment, out.end);
        match step(rest, log, out.next_offset) {
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

impl Walk {
    /// Takes note that the log is known to have reached a place: what is missing up to there was lost.
    pub(crate) fn reaches(&mut self, position: u64, offset: u64) {
        // How many events damage held at the end is a guess, of its own bytes; the place is known.
        let guessed = self.spans.last().is_some_and(|span| span.bytes.end == self.end);
        if self.next_offset >= offset && !(guessed && self.end <= position) {
            return;
        }
        match self.spans.last_mut().filter(|_| guessed) {
            Some(last) => {
                (last.offsets.end, last.stray) = (offset, false);
                last.bytes.end = last.bytes.end.max(position);
            }
            None => self.spans.push(Span {
                bytes: self.end..position.max(self.end),
                offsets: self.next_offset..offset,
                hint: None,
                can_be_torn: false,
                stray: false,
            }),
        }
        (self.end, self.next_offset) = (self.end.max(position), offset);
    }
}

enum Step {
    Record(Seen, u64, u64),
    /// No record here. `skip` is how far the next one is at least; `whole`: the bytes are known not to be torn.
    Lost {
        skip: u64,
        hint: Option<(ShortId, u64, u16)>,
        whole: bool,
    },
}

fn step(rest: &[u8], log: &LogId, expected: u64) -> Step {
    let guess = || hint(rest).map(|h| (h.origin(), h.seq(), h.events()));
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

#[cfg(test)]
mod tests {
    use net_channel::{BatchBuilder, BatchHash, ChannelHash, Hlc, SealParams, SealedView, SenderKey};
    use net_identity::EntityKey;
    use net_transport::MeshId;

    use super::*;
    use crate::format::{RecordParams, body_crc, push};

    const LOG: LogId = LogId([4; 16]);
    const MESH: MeshId = MeshId([7; 32]);
    const CHANNEL: ChannelHash = ChannelHash([8; 32]);

    fn index(position: u64) -> usize {
        usize::try_from(position).expect("it is in memory")
    }

    fn frames(count: u64, payload_len: usize) -> Vec<Vec<u8>> {
        let (signer, sender_key) = (EntityKey::from_secret(&[1; 32]), SenderKey::new([2; 32]));
        let mut prev = BatchHash::ZERO;
        let frame = |seq| {
            let mut builder = BatchBuilder::new();
            builder.push(&vec![3; payload_len], None, &[], Hlc::new(1, 0)).expect("it fits");
            let sealed = builder.seal(&SealParams {
                incarnation: 1,
                prev,
                ..SealParams::first(&MESH, &CHANNEL, &signer, &sender_key, seq, [1; 16])
            });
            let sealed = sealed.expect("the key is here");
            prev = sealed.hash();
            sealed.frame().to_vec()
        };
        (1..=count).map(frame).collect()
    }

    fn segment(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_LEN];
        for (i, frame) in frames.iter().enumerate() {
            let params = RecordParams { flags: 0, offset: i as u64, time: 5 };
            push(&mut bytes, &LOG, params, frame, body_crc(frame));
        }
        bytes
    }

    #[test]
    fn each_bit_of_a_mebibyte_of_records_is_covered_by_a_checksum() {
        let mut bytes = segment(&frames(1100, 600));
        assert!(bytes.len() > 1 << 20);
        let records = walk(&bytes, &LOG, Start::of_segment(0)).records;
        assert_eq!(records.len(), 1100);
        let ends = records.iter().skip(1).map(|r| r.position).chain([bytes.len() as u64]);
        let mut flipped = 0;
        for (record, end) in records.iter().zip(ends) {
            let (start, end) = (index(record.position), index(end));
            for bit in start * 8..end * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(probe(&bytes[start..end], &LOG), Probe::Record(_)), "bit {bit}");
                bytes[bit / 8] ^= 1 << (bit % 8);
                flipped += 1;
            }
        }
        assert!(flipped >= 8 << 20, "{flipped} bits");
    }

    /// Every bit with `NET_REDEX_BUDGET=full`, as `cargo xtask e2e crash` sets it.
    #[test]
    fn each_flipped_bit_of_a_mebibyte_costs_the_record_it_hit_and_no_other() {
        let full = std::env::var("NET_REDEX_BUDGET").is_ok_and(|value| value == "full");
        let bytes = segment(&frames(1100, 600));
        let records = walk(&bytes, &LOG, Start::of_segment(0)).records;
        let ends = records.iter().skip(1).map(|r| r.position).chain([bytes.len() as u64]);
        let ranges: Vec<Range<usize>> =
            records.iter().zip(ends).map(|(record, end)| index(record.position)..index(end)).collect();
        let mut flipped = 0_u64;
        // A record and its neighbours: what is further away is not looked at once the way is found again.
        for (i, window) in ranges.windows(3).enumerate() {
            let [before, hit, after] = window else { unreachable!("three of them") };
            let mut part = [&[0; SEGMENT_HEADER_LEN], &bytes[before.start..after.end]].concat();
            let start = Start { position: SEGMENT_HEADER_LEN as u64, offset: i as u64 };
            let from = SEGMENT_HEADER_LEN + hit.start - before.start;
            for bit in (from * 8..(from + hit.len()) * 8).step_by(if full { 1 } else { 41 }) {
                part[bit / 8] ^= 1 << (bit % 8);
                let walk = walk(&part, &LOG, start);
                part[bit / 8] ^= 1 << (bit % 8);
                assert!(walk.records.iter().map(|r| r.offset).eq([i as u64, i as u64 + 2]), "record {i}, bit {bit}");
                let [span] = &walk.spans[..] else { panic!("record {i}, bit {bit}: {:?}", walk.spans) };
                assert!(!span.can_be_torn && span.offsets == (i as u64 + 1..i as u64 + 2), "record {i}, bit {bit}");
                flipped += 1;
            }
        }
        assert!(flipped > if full { 8 << 20 } else { 200_000 }, "{flipped} bits");
    }

    #[test]
    fn ten_thousand_flipped_bits_with_checksums_made_right_are_seen_by_hash_or_signature() {
        let frames = frames(20, 600);
        let origin = EntityKey::from_secret(&[1; 32]).id();
        let mut random = 1_u64;
        let mut seen = 0;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut frame = frames[index(random >> 33) % frames.len()].clone();
            let bit = index(random >> 13) % (frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            let verified = SealedView::parse(&frame).and_then(|view| view.verify(&MESH, &CHANNEL, &origin));
            // Only the ttl is outside the signature, and a log stores it as zero.
            assert_eq!(verified.is_err(), bit / 8 != 3, "bit {bit}");
            seen += u32::from(verified.is_err());
        }
        assert!(seen > 9_900, "{seen} of 10,000");
    }

    #[test]
    fn flipped_bits_cost_one_record_and_no_other() {
        let clean = segment(&frames(40, 300));
        let all = walk(&clean, &LOG, Start::of_segment(0)).records;
        let mut bytes = clean.clone();
        for bit in (SEGMENT_HEADER_LEN * 8..clean.len() * 8).step_by(37) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let walk = walk(&bytes, &LOG, Start::of_segment(0));
            assert_eq!(walk.records.len(), 39, "bit {bit}");
            assert!(walk.records.iter().all(|r| all.contains(r)), "bit {bit}");
            let [span] = &walk.spans[..] else { panic!("bit {bit}: {:?}", walk.spans) };
            assert!(!span.can_be_torn, "bit {bit}: a whole record is never taken for a torn one");
            assert_eq!(span.offsets.end - span.offsets.start, 1, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn missing_sectors_of_the_last_record_read_as_torn() {
        let clean = segment(&frames(3, 2000));
        let last = index(walk(&clean, &LOG, Start::of_segment(0)).records[2].position);
        let sectors: Vec<usize> = (last / SECTOR_LEN..clean.len().div_ceil(SECTOR_LEN)).collect();
        for missing in 1_u32..1 << sectors.len() {
            let mut bytes = clean.clone();
            for (_, sector) in sectors.iter().enumerate().filter(|(i, _)| missing >> i & 1 == 1) {
                let start = (sector * SECTOR_LEN).max(last);
                let end = ((sector + 1) * SECTOR_LEN).min(bytes.len());
                bytes[start..end].fill(0);
            }
            let walk = walk(&bytes, &LOG, Start::of_segment(0));
            assert_eq!(walk.records.len(), 2);
            assert!(walk.spans.iter().all(|span| span.can_be_torn), "{missing:b}: {:?}", walk.spans);
        }
    }

    #[test]
    fn stray_bits_in_free_space_are_no_record() {
        let clean = segment(&frames(3, 100));
        for at in [0, 5, 700, 4000] {
            let mut bytes = clean.clone();
            bytes.resize(clean.len() + 8192, 0);
            bytes[clean.len() + at] = 4;
            let walk = walk(&bytes, &LOG, Start::of_segment(0));
            assert_eq!((walk.records.len(), walk.next_offset), (3, 3));
            let [span] = &walk.spans[..] else { panic!("{:?}", walk.spans) };
            assert!(span.stray && span.can_be_torn && span.offsets.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_walked_without_panic_and_to_an_end() {
        proptest::proptest!(proptest::prelude::ProptestConfig::with_cases(300), |(
            mut tail in proptest::collection::vec(proptest::num::u8::ANY, 0..3000),
            at in 0_usize..6000, len in 0_usize..200,
        )| {
            let mut bytes = segment(&frames(4, 500));
            bytes.append(&mut tail);
            let at = at.min(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
            let walk = walk(&bytes, &LOG, Start::of_segment(0));
            assert!(walk.end <= bytes.len().next_multiple_of(RECORD_ALIGN) as u64);
            assert!(walk.records.windows(2).all(|w| w[0].offset < w[1].offset));
        });
    }
}
