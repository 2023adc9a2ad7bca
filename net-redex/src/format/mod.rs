//! What lies on the disk: pure functions over bytes. Byte tables: `docs/spec/redex.md`.

mod index;
mod manifest;
mod record;
mod segment;

pub(crate) use index::{Entry, IndexFile, IndexMeta, OriginRange};
pub(crate) use manifest::{Floor, Manifest, SLOT_LEN, newest, other_version, slot_of};
pub(crate) use record::{
    FLAG_COMPACTED, FLAG_SYNCED_BEFORE, Probe, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, RecordParams, SECTOR_LEN,
    Stored, body_crc, header, hint, mark_synced_before, probe, push, record_len, salvage,
};
pub(crate) use segment::{SEGMENT_HEADER_LEN, SegmentHeader, SegmentParams};

use std::fmt;

/// The random name of one log: a record of another log never passes for one of this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// What checksums of record headers begin with.
    fn salt(&self) -> u32 {
        crc32c::crc32c(&self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The highest offset a log can have. Offsets above it are damage or a lie, so that counting on from one that was read
/// never overflows.
pub(crate) const OFFSET_MAX: u64 = 1 << 63;

/// A page of 4096 bytes whose last four are the checksum of the rest.
pub(crate) const PAGE_LEN: usize = 4096;

fn seal_page(page: &mut [u8; PAGE_LEN]) {
    let crc = crc32c::crc32c(&page[..PAGE_LEN - 4]);
    page[PAGE_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
}

fn page_is_sound(page: &[u8]) -> bool {
    let Some((body, crc)) = page.split_last_chunk::<4>() else { return false };
    page.len() == PAGE_LEN && crc32c::crc32c(body) == u32::from_le_bytes(*crc)
}
