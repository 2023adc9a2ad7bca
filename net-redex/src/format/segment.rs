//! The first 4 KiB of a segment.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{LogId, PAGE_LEN, page_is_sound, seal_page};

/// Bytes before the first record of a segment.
pub(crate) const SEGMENT_HEADER_LEN: usize = PAGE_LEN;

const MAGIC: [u8; 8] = *b"NETREDEX";
const VERSION: u32 = 1;
const FLAG_SYNCED_BEFORE: u32 = 1;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentParams {
    /// The log it belongs to.
    pub(crate) log: LogId,
    /// Offset of its first event.
    pub(crate) base: u64,
    /// Unix nanoseconds: no record in it is older.
    pub(crate) base_time: u64,
    /// Hash of the batch before its first; zeros if there is none.
    pub(crate) prev: [u8; 32],
    /// Everything before it in the log was on the disk before it was made.
    pub(crate) synced_before: bool,
    /// How often it has been rewritten, by compaction or repair.
    pub(crate) generation: u32,
}

/// The fixed part; zeros and a checksum fill the page.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    log: [u8; 16],
    base: U64,
    base_time: U64,
    prev: [u8; 32],
    generation: U32,
}

impl SegmentHeader {
    /// The page.
    #[must_use]
    pub(crate) fn encode(params: &SegmentParams) -> [u8; PAGE_LEN] {
        let header = Self {
            magic: MAGIC,
            version: U32::new(VERSION),
            flags: U32::new(if params.synced_before { FLAG_SYNCED_BEFORE } else { 0 }),
            log: params.log.0,
            base: U64::new(params.base),
            base_time: U64::new(params.base_time),
            prev: params.prev,
            generation: U32::new(params.generation),
        };
        let mut page = [0; PAGE_LEN];
        page[..size_of::<Self>()].copy_from_slice(header.as_bytes());
        seal_page(&mut page);
        page
    }

    /// What the page says, or nothing if it is damaged or of another version.
    #[must_use]
    pub(crate) fn decode(page: &[u8]) -> Option<SegmentParams> {
        if !page_is_sound(page) {
            return None;
        }
        let (header, rest) = Self::ref_from_prefix(page).ok()?;
        let zeros = &rest[..rest.len() - 4];
        let flags = header.flags.get();
        let known = header.magic == MAGIC && header.version.get() == VERSION && flags & !FLAG_SYNCED_BEFORE == 0;
        (known && zeros.iter().all(|b| *b == 0)).then(|| SegmentParams {
            log: LogId(header.log),
            base: header.base.get(),
            base_time: header.base_time.get(),
            prev: header.prev,
            synced_before: flags & FLAG_SYNCED_BEFORE != 0,
            generation: header.generation.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flipped_bit_of_a_segment_header_is_seen() {
        let params = SegmentParams {
            log: LogId([3; 16]),
            base: 77,
            base_time: 5,
            prev: [9; 32],
            synced_before: true,
            generation: 2,
        };
        let mut page = SegmentHeader::encode(&params);
        assert_eq!(SegmentHeader::decode(&page), Some(params));
        for bit in 0..PAGE_LEN * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&page), None, "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(SegmentHeader::decode(&page[..100]), None);
    }
}
