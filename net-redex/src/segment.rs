//! A segment in memory, and the table of all of a log's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use net_transport::ShortId;

use crate::disk::Published;
use crate::format::{Entry, IndexFile, IndexMeta, LogId, OFFSET_MAX, OriginRange, SegmentParams};

/// One segment file, mapped.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) params: SegmentParams,
    pub(crate) bytes: Published,
    /// Bytes of the file that are there and were zeros.
    allocated: AtomicU64,
    growing: Mutex<()>,
}

impl Segment {
    pub(crate) fn new(params: SegmentParams, bytes: Published, allocated: u64) -> Self {
        Self { params, bytes, allocated: AtomicU64::new(allocated), growing: Mutex::default() }
    }

    pub(crate) fn base(&self) -> u64 {
        self.params.base
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Acquire)
    }

    /// Makes sure that the file has `len` bytes.
    pub(crate) fn grow(&self, len: u64) -> io::Result<()> {
        if len <= self.allocated() {
            return Ok(());
        }
        // Two at once would each write zeros, one of them over what was appended in between.
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if len > self.allocated() {
            self.bytes.allocate(len)?;
            self.allocated.store(len, Ordering::Release);
        }
        Ok(())
    }
}

/// Where an origin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) next: u64,
    pub(crate) hash: [u8; 32],
}

/// The index of the segment being written.
#[derive(Debug, Default)]
pub(crate) struct ActiveIndex {
    /// Of the segment.
    base: u64,
    entries: Vec<Entry>,
    origins: Vec<OriginRange>,
    numbers: BTreeMap<ShortId, usize>,
    last_hash: [u8; 32],
}

impl ActiveIndex {
    /// The index of an empty segment that follows one with these origins.
    pub(crate) fn after(origins: &[OriginRange], base: u64, last_hash: [u8; 32]) -> Self {
        let origins: Vec<_> = origins.iter().map(|o| OriginRange { range: None, ..*o }).collect();
        let numbers = origins.iter().enumerate().map(|(i, o)| (o.origin, i)).collect();
        Self { base, entries: Vec::new(), origins, numbers, last_hash }
    }

    pub(crate) fn push(&mut self, position: u64, origin: ShortId, seq: u64, events: u16, hash: [u8; 32]) {
        let number = *self.numbers.entry(origin).or_insert_with(|| {
            self.origins.push(OriginRange { origin, range: None, next: 0, hash: [0; 32] });
            self.origins.len() - 1
        });
        let last = seq + u64::from(events) - 1;
        let range = &mut self.origins[number];
        range.range = Some(range.range.map_or((seq, last), |(a, b)| (a.min(seq), b.max(last))));
        if last >= range.next {
            (range.next, range.hash) = (last + 1, hash);
        }
        self.last_hash = hash;
        let origin = u16::try_from(number).ok().filter(|number| *number != u16::MAX);
        self.entries.push(Entry { seq, position, origin, events });
    }

    pub(crate) fn head(&self, origin: &ShortId) -> Option<Head> {
        let range = &self.origins[*self.numbers.get(origin)?];
        Some(Head { next: range.next, hash: range.hash })
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn last_hash(&self) -> [u8; 32] {
        self.last_hash
    }

    pub(crate) fn origins(&self) -> &[OriginRange] {
        &self.origins
    }

    /// The index as it is, to be searched or written.
    pub(crate) fn snapshot(&self, log: LogId, segment: &SegmentParams, end: (u64, u64, u64)) -> IndexFile {
        let (end, end_offset, end_time) = end;
        let meta = IndexMeta {
            log,
            base: segment.base,
            generation: segment.generation,
            end,
            end_offset,
            end_time,
            last_hash: self.last_hash,
        };
        IndexFile { meta, entries: self.entries.clone(), origins: self.origins.clone() }
    }
}

/// What is known of a sealed segment without opening it.
#[derive(Debug, Default)]
pub(crate) struct SealedSlot {
    /// The segment, if somebody reads it.
    pub(crate) segment: Weak<Segment>,
    /// Bytes of its file, once somebody asked.
    pub(crate) file_len: Option<u64>,
    /// First and last seq of each origin in it, once its index was read.
    pub(crate) ranges: Option<Ranges>,
}

/// First and last seq of each origin that is in a segment.
pub(crate) type Ranges = Box<[(ShortId, u64, u64)]>;

/// All segments of a log, by base offset; the last one is being written.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) sealed: BTreeMap<u64, SealedSlot>,
    pub(crate) active: Arc<Segment>,
    /// The first offset that retention has left.
    pub(crate) first: u64,
}

impl Table {
    /// Base of the segment that holds this offset, or would.
    pub(crate) fn base_of(&self, offset: u64) -> u64 {
        if offset >= self.active.base() {
            return self.active.base();
        }
        let before = self.sealed.range(..=offset).next_back().or_else(|| self.sealed.first_key_value());
        before.map_or_else(|| self.active.base(), |(base, _)| *base)
    }

    /// Base offsets of the sealed segments, ascending, and of the active one.
    pub(crate) fn bases(&self) -> Vec<u64> {
        self.sealed.keys().copied().chain([self.active.base()]).collect()
    }

    /// Base of the segment after this one.
    pub(crate) fn after(&self, base: u64) -> Option<u64> {
        let next = self.sealed.range(base + 1..).next().map(|(base, _)| *base);
        next.or_else(|| (self.active.base() > base).then(|| self.active.base()))
    }
}

pub(crate) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:016x}.seg"))
}

pub(crate) fn index_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:016x}.idx"))
}

/// The base offset in a file name like `000000000000002a.seg`.
pub(crate) fn base_in_name(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten().filter(|base| *base <= OFFSET_MAX)
}
