//! The index of a sealed segment: one entry a record, who is in it, and where each origin stands at its end.
//!
//! Everything here can be made again from the segment. Pages carry checksums of their own, so that a damaged index
//! is noticed and rebuilt, never believed.

use net_transport::ShortId;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LogId, OFFSET_MAX, PAGE_LEN, RECORD_ALIGN, SEGMENT_HEADER_LEN, page_is_sound, seal_page};

const MAGIC: [u8; 8] = *b"NETINDEX";
const VERSION: u32 = 1;
const PAGE_HEADER_LEN: usize = 16;
const ENTRIES_PER_PAGE: usize = (PAGE_LEN - PAGE_HEADER_LEN - 4) / size_of::<RawEntry>();
const ORIGINS_PER_PAGE: usize = (PAGE_LEN - PAGE_HEADER_LEN - 4) / size_of::<RawOrigin>();
/// An origin that has no number of its own in an index: there are more than 65,535 in the segment.
const ORIGIN_UNNAMED: u16 = u16::MAX;

/// One record, in 16 bytes: which dots it holds and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Seq of its first event.
    pub(crate) seq: u64,
    /// Byte position in the segment.
    pub(crate) position: u64,
    /// Number of its origin in the index's table; none for the 65,536th and later.
    pub(crate) origin: Option<u16>,
    /// Its events.
    pub(crate) events: u16,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    seq: U64,
    position: U32,
    origin: U16,
    events: U16,
}

/// What an origin has in a segment, and where it stands at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OriginRange {
    /// Whose.
    pub(crate) origin: ShortId,
    /// First and last seq in this segment; none if it has nothing in it.
    pub(crate) range: Option<(u64, u64)>,
    /// The seq after the highest one in the log up to the segment's end.
    pub(crate) next: u64,
    /// Hash of the batch that holds `next - 1`.
    pub(crate) hash: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawOrigin {
    origin: [u8; 8],
    first: U64,
    last: U64,
    next: U64,
    hash: [u8; 32],
}

/// What the index says of its segment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexMeta {
    /// The log.
    pub(crate) log: LogId,
    /// Base offset of the segment.
    pub(crate) base: u64,
    /// How often the segment had been rewritten.
    pub(crate) generation: u32,
    /// Byte position after the last record.
    pub(crate) end: u64,
    /// Offset after the last event.
    pub(crate) end_offset: u64,
    /// Store time of the last record, unix nanoseconds.
    pub(crate) end_time: u64,
    /// Hash of the last batch.
    pub(crate) last_hash: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawMeta {
    magic: [u8; 8],
    version: U32,
    generation: U32,
    log: [u8; 16],
    base: U64,
    end: U64,
    end_offset: U64,
    end_time: U64,
    last_hash: [u8; 32],
    entries: U32,
    origins: U32,
}

/// A whole index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFile {
    /// The segment as a whole.
    pub(crate) meta: IndexMeta,
    /// One for each record, in order.
    pub(crate) entries: Vec<Entry>,
    /// One for each origin of the log so far; `Entry::origin` counts in it.
    pub(crate) origins: Vec<OriginRange>,
}

/// Why bytes are no index of the segment at hand. The index is then made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IndexError {
    /// A page is damaged or missing, or says what no segment can hold.
    #[error("the index is damaged")]
    Damaged,
}

impl IndexFile {
    /// The bytes of the file.
    #[must_use]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = |n: usize| U32::new(u32::try_from(n).expect("a segment has at most 2^32 bytes"));
        let meta = RawMeta {
            magic: MAGIC,
            version: U32::new(VERSION),
            generation: U32::new(self.meta.generation),
            log: self.meta.log.0,
            base: U64::new(self.meta.base),
            end: U64::new(self.meta.end),
            end_offset: U64::new(self.meta.end_offset),
            end_time: U64::new(self.meta.end_time),
            last_hash: self.meta.last_hash,
            entries: count(self.entries.len()),
            origins: count(self.origins.len()),
        };
        let mut out = Vec::new();
        let mut page = [0; PAGE_LEN];
        page[..size_of::<RawMeta>()].copy_from_slice(meta.as_bytes());
        seal_page(&mut page);
        out.extend_from_slice(&page);
        push_pages(
            &mut out,
            ENTRIES_PER_PAGE,
            self.entries.iter().map(|entry| RawEntry {
                seq: U64::new(entry.seq),
                position: U32::new(u32::try_from(entry.position / RECORD_ALIGN as u64).expect("segments have limits")),
                origin: U16::new(entry.origin.unwrap_or(ORIGIN_UNNAMED)),
                events: U16::new(entry.events),
            }),
        );
        push_pages(
            &mut out,
            ORIGINS_PER_PAGE,
            self.origins.iter().map(|origin| {
                // A range in which the last is before the first is none.
                let (first, last) = origin.range.unwrap_or((1, 0));
                RawOrigin {
                    origin: origin.origin.0,
                    first: U64::new(first),
                    last: U64::new(last),
                    next: U64::new(origin.next),
                    hash: origin.hash,
                }
            }),
        );
        out
    }

    /// Parses a file.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if a checksum does not hold, bytes are missing or left over, or a number is out of range.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let (first, mut rest) = bytes.split_at_checked(PAGE_LEN).ok_or(IndexError::Damaged)?;
        if !page_is_sound(first) {
            return Err(IndexError::Damaged);
        }
        let (meta, zeros) = RawMeta::ref_from_prefix(first).map_err(|_| IndexError::Damaged)?;
        let zeros = zeros[..zeros.len() - 4].iter().all(|b| *b == 0);
        if meta.magic != MAGIC || meta.version.get() != VERSION || !zeros {
            return Err(IndexError::Damaged);
        }
        let (entry_count, origin_count) = (meta.entries.get() as usize, meta.origins.get() as usize);
        let pages = entry_count.div_ceil(ENTRIES_PER_PAGE) + origin_count.div_ceil(ORIGINS_PER_PAGE);
        if pages.checked_mul(PAGE_LEN) != Some(rest.len()) {
            return Err(IndexError::Damaged);
        }
        let mut number = 1;
        let entries = read_pages(&mut rest, &mut number, entry_count, ENTRIES_PER_PAGE, |raw: &RawEntry| Entry {
            seq: raw.seq.get(),
            position: u64::from(raw.position.get()) * RECORD_ALIGN as u64,
            origin: (raw.origin.get() != ORIGIN_UNNAMED).then(|| raw.origin.get()),
            events: raw.events.get(),
        })?;
        let origins =
            read_pages(&mut rest, &mut number, origin_count, ORIGINS_PER_PAGE, |raw: &RawOrigin| OriginRange {
                origin: ShortId(raw.origin),
                range: (raw.first <= raw.last).then(|| (raw.first.get(), raw.last.get())),
                next: raw.next.get(),
                hash: raw.hash,
            })?;
        let meta = IndexMeta {
            log: LogId(meta.log),
            base: meta.base.get(),
            generation: meta.generation.get(),
            end: meta.end.get(),
            end_offset: meta.end_offset.get(),
            end_time: meta.end_time.get(),
            last_hash: meta.last_hash,
        };
        let index = Self { meta, entries, origins };
        // What has a checksum was written by someone, and still it may be a lie. One way of writing each index.
        if index.is_possible() && index.encode() == bytes { Ok(index) } else { Err(IndexError::Damaged) }
    }

    fn is_possible(&self) -> bool {
        let meta = &self.meta;
        let countable = |e: &Entry| e.seq.checked_add(u64::from(e.events)).is_some();
        let nameable = |o: &OriginRange| o.range.is_none_or(|(_, last)| last < u64::MAX);
        let position_max = u64::from(u32::MAX) * RECORD_ALIGN as u64;
        let positions = self.entries.iter().map(|e| e.position).chain([meta.end]);
        meta.base <= meta.end_offset
            && meta.end_offset <= OFFSET_MAX
            && (SEGMENT_HEADER_LEN as u64..=position_max).contains(&meta.end)
            && positions.is_sorted_by(|a, b| a < b)
            && self.entries.iter().all(countable)
            && self.origins.iter().all(nameable)
    }
}

fn push_pages<T: IntoBytes + Immutable>(out: &mut Vec<u8>, per_page: usize, items: impl Iterator<Item = T>) {
    let mut items = items.peekable();
    while items.peek().is_some() {
        let mut page = [0; PAGE_LEN];
        for (i, item) in items.by_ref().take(per_page).enumerate() {
            let at = PAGE_HEADER_LEN + i * size_of::<T>();
            page[at..at + size_of::<T>()].copy_from_slice(item.as_bytes());
        }
        let number = out.len() / PAGE_LEN;
        page[..8].copy_from_slice(&(number as u64).to_le_bytes());
        seal_page(&mut page);
        out.extend_from_slice(&page);
    }
}

fn read_pages<T: FromBytes + KnownLayout + Immutable + Unaligned, U>(
    rest: &mut &[u8],
    number: &mut u64,
    count: usize,
    per_page: usize,
    read: impl Fn(&T) -> U,
) -> Result<Vec<U>, IndexError> {
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let (page, behind) = rest.split_at_checked(PAGE_LEN).ok_or(IndexError::Damaged)?;
        if !page_is_sound(page) || page[..8] != number.to_le_bytes() {
            return Err(IndexError::Damaged);
        }
        (*rest, *number) = (behind, *number + 1);
        for i in 0..per_page.min(count - out.len()) {
            let at = PAGE_HEADER_LEN + i * size_of::<T>();
            let item = T::ref_from_bytes(&page[at..at + size_of::<T>()]).map_err(|_| IndexError::Damaged)?;
            out.push(read(item));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> IndexFile {
        let meta = IndexMeta {
            log: LogId([1; 16]),
            base: 5,
            generation: 1,
            end: 1 << 20,
            end_offset: 905,
            end_time: 77,
            last_hash: [8; 32],
        };
        let entry = |i: u16| Entry {
            seq: u64::from(i),
            position: 4096 + u64::from(i) * 64,
            origin: if i == 899 { None } else { Some(i % 3) },
            events: 1,
        };
        let origin = |i: u8| OriginRange {
            origin: ShortId([i; 8]),
            range: i.is_multiple_of(2).then_some((1, 2)),
            next: 3,
            hash: [i; 32],
        };
        IndexFile { meta, entries: (0..900).map(entry).collect(), origins: (0..70).map(origin).collect() }
    }

    #[test]
    fn index_round_trips_and_each_damaged_byte_is_seen() {
        let bytes = sample().encode();
        assert_eq!(IndexFile::decode(&bytes), Ok(sample()));
        for at in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(IndexFile::decode(&bad), Err(IndexError::Damaged), "byte {at}");
        }
        for len in [0, 1, PAGE_LEN, bytes.len() - 1, bytes.len() - PAGE_LEN] {
            assert_eq!(IndexFile::decode(&bytes[..len]), Err(IndexError::Damaged), "{len} bytes");
        }
        let mut longer = bytes;
        longer.extend_from_slice(&[0; PAGE_LEN]);
        assert_eq!(IndexFile::decode(&longer), Err(IndexError::Damaged));
    }

    #[test]
    fn an_index_that_claims_four_billion_entries_allocates_nothing() {
        let mut bytes = sample().encode();
        let at = size_of::<RawMeta>() - 8;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut page: [u8; PAGE_LEN] = bytes[..PAGE_LEN].try_into().expect("a page");
        seal_page(&mut page);
        bytes[..PAGE_LEN].copy_from_slice(&page);
        assert_eq!(IndexFile::decode(&bytes), Err(IndexError::Damaged));
    }
}
