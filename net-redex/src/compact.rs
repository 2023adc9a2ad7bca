//! Key compaction: bodies whose every event was superseded go; header, seal and parents stay.
//!
//! A batch is signed as a whole, so it stays or goes as a whole. What stays of one that goes still proves who sent
//! what after what, and its dots read as compacted, never as a hole.

use std::collections::HashSet;
use std::io;
use std::sync::{PoisonError, Weak};

use net_channel::SealedView;

use crate::core::{Core, lock};
use crate::disk::{OpenMode, write_all};
use crate::events::SealedWhy;
use crate::files::{Files, Opened};
use crate::format::{FLAG_COMPACTED, IndexFile, RecordParams, SegmentHeader, SegmentParams, body_crc, push};
use crate::segment::segment_path;
use crate::walk::Start as WalkStart;
use crate::{Batch, Found, Log, ReadError, Start};

/// Different keys that one compaction can tell apart: 16 bytes each in memory.
pub(crate) const KEYS_MAX: usize = 4 << 20;

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// Batches that lost their body.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Segments that were written anew.
    pub segments: u64,
    /// Bytes that segments shrank by.
    pub bytes: u64,
}

/// Why nothing was compacted, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A batch cannot be opened, so nobody knows which keys its events have.
    #[error("the batch at offset {offset} does not open, so its keys are not known: {why}")]
    Unreadable {
        /// Offset of its first event.
        offset: u64,
        /// Why it does not open.
        why: SealedWhy,
    },
    /// There are more than four million keys.
    #[error("more than {KEYS_MAX} different keys: keep less, or divide the channel")]
    TooManyKeys,
    /// The log was opened read-only.
    #[error("the log was opened read-only")]
    ReadOnly,
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing failed; segments are replaced whole or not at all.
    #[error("a segment was not written")]
    Io(#[from] io::Error),
}

impl Log {
    /// Takes the bodies of batches whose every event has a key and a later event of that key. Only sealed segments
    /// change; retention and readers go on meanwhile. Blocks.
    ///
    /// # Errors
    /// [`CompactError`]; what was done before the error stays done.
    pub fn compact(&self) -> Result<Compaction, CompactError> {
        let core = &*self.core;
        if core.config.read_only {
            return Err(CompactError::ReadOnly);
        }
        let _rewriting = lock(&core.rewriting);
        let mut report = Compaction::default();
        let mut seen = HashSet::new();
        let bases: Vec<u64> = {
            let table = core.table();
            table.sealed.keys().copied().chain([table.active.base()]).collect()
        };
        for (i, base) in bases.iter().enumerate().rev() {
            let sealed = i + 1 < bases.len();
            let gone = self.superseded(*base, bases.get(i + 1).copied(), &mut seen)?;
            if sealed && !gone.is_empty() {
                core.rewrite(*base, &gone, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Offsets of batches of this segment whose every event is superseded; adds the keys of all others.
    fn superseded(
        &self,
        base: u64,
        end: Option<u64>,
        seen: &mut HashSet<[u8; 16]>,
    ) -> Result<HashSet<u64>, CompactError> {
        let mut gone = HashSet::new();
        let mut batches = Vec::new();
        for found in self.read(Start::Offset(base))? {
            match found? {
                Found::Batch(batch) if end.is_none_or(|end| batch.offset() < end) => batches.push(batch),
                Found::Batch(_) => break,
                Found::Hole(_) | Found::Trimmed { .. } => {}
            }
        }
        for batch in batches.iter().rev().filter(|batch| !batch.is_compacted()) {
            let open = self.open_batch(batch);
            let open = open.map_err(|why| CompactError::Unreadable { offset: batch.offset(), why })?;
            let mut all = true;
            // From the last to the first: a later event of the same batch supersedes an earlier one.
            for index in (0..open.seal().events()).rev() {
                let event = open.event(index).expect("the index is below the count");
                let Some(key) = event.key else {
                    all = false;
                    continue;
                };
                all &= !seen.insert(short_hash(key));
            }
            if seen.len() > KEYS_MAX {
                return Err(CompactError::TooManyKeys);
            }
            if all {
                gone.insert(batch.offset());
            }
        }
        Ok(gone)
    }

    /// The newest event with this key, and its offset: looked for from the end.
    ///
    /// # Errors
    /// [`ReadError`]. Batches that do not open are passed over.
    pub fn latest(&self, key: &[u8]) -> Result<Option<crate::LogEvent>, ReadError> {
        let bases: Vec<u64> = {
            let table = self.core.table();
            table.sealed.keys().copied().chain([table.active.base()]).collect()
        };
        for (i, base) in bases.iter().enumerate().rev() {
            let mut newest = None;
            for item in self.events(Start::Offset(*base))? {
                if let crate::EventItem::Event(event) = item? {
                    if bases.get(i + 1).is_some_and(|end| event.offset() >= *end) {
                        break;
                    }
                    if event.get().key == Some(key) {
                        newest = Some(event);
                    }
                }
            }
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }
}

pub(crate) fn short_hash(key: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(key);
    std::array::from_fn(|i| hash.as_bytes()[i])
}

impl Core {
    /// Writes a sealed segment anew without the bodies of these batches, and puts it in the old one's place.
    fn rewrite(&self, base: u64, gone: &HashSet<u64>, report: &mut Compaction) -> io::Result<()> {
        let Some((segment, index)) = self.sealed_segment(base)? else { return Ok(()) };
        let params = SegmentParams { generation: segment.params.generation.wrapping_add(1), ..segment.params };
        let mut bytes = SegmentHeader::encode(&params).to_vec();
        let mut reader = crate::read::segment_reader(&segment, &self.id);
        let (mut batches, mut events) = (0, 0);
        while let Some((raw, batch)) = reader.next_record() {
            match batch.filter(|batch| gone.contains(&batch.offset())) {
                Some(batch) => {
                    push_compacted(&mut bytes, self, &batch);
                    batches += 1;
                    events += batch.next_offset() - batch.offset();
                }
                // Damage is copied as it is: it stays a hole, with what can still be told of it.
                None => bytes.extend_from_slice(raw),
            }
        }
        let written = self.replace(params, &bytes, &index)?;
        report.batches += batches;
        report.events += events;
        report.segments += 1;
        report.bytes += segment.bytes.end().saturating_sub(written);
        Ok(())
    }

    /// Puts these bytes in the place of a sealed segment. Readers that are in the old one stay there.
    pub(crate) fn replace(&self, params: SegmentParams, bytes: &[u8], index: &IndexFile) -> io::Result<u64> {
        let path = segment_path(&self.dir, params.base);
        let temporary = path.with_extension("seg.tmp");
        let file = self.config.disk.open(&temporary, OpenMode::Create)?;
        write_all(&*file, bytes, 0)?;
        file.fdatasync()?;
        let files = self.files();
        let opened = Opened { params, header_damaged: false, file, len: bytes.len() as u64 };
        let made = self.index_of_rewritten(&files, &opened, index)?;
        // From here the old index is of another generation, and is not believed.
        self.config.disk.rename(&temporary, &path)?;
        self.config.disk.sync_dir(&self.dir)?;
        {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = table.sealed.get_mut(&params.base) {
                *slot = Weak::new();
            }
            lock(&self.indexes).retain(|(known, _)| *known != params.base);
        }
        files.write_index(&made)?;
        Ok(bytes.len() as u64)
    }

    fn index_of_rewritten(&self, files: &Files<'_>, opened: &Opened, old: &IndexFile) -> io::Result<IndexFile> {
        let walk = files.walk(opened, WalkStart::of_segment(opened.params.base))?;
        // Only positions change: the origins, and where they stand, are the old ones.
        let mut made = old.clone();
        let index = files.index_of(opened, &walk.records, &[])?;
        let snapshot = index.snapshot(self.id, &opened.params, (walk.end, old.meta.end_offset, old.meta.end_time));
        let number = |i: Option<u16>| -> Option<u16> {
            let origin = snapshot.origins.get(usize::from(i?))?.origin;
            u16::try_from(old.origins.iter().position(|o| o.origin == origin)?).ok()
        };
        made.entries =
            snapshot.entries.iter().map(|e| crate::format::Entry { origin: number(e.origin), ..*e }).collect();
        made.meta = crate::format::IndexMeta { last_hash: old.meta.last_hash, ..snapshot.meta };
        Ok(made)
    }
}

fn push_compacted(bytes: &mut Vec<u8>, core: &Core, batch: &Batch) {
    let head_len = SealedView::parse(batch.frame()).map_or_else(|_| batch.frame().len(), |view| view.head_len());
    let head = &batch.frame()[..head_len];
    let params = RecordParams { flags: batch.flags() | FLAG_COMPACTED, offset: batch.offset(), time: batch.time() };
    push(bytes, &core.id, params, head, body_crc(head));
}
