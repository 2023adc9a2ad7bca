//! Key compaction: bodies whose every event was superseded go; header, seal and parents stay.
//!
//! A batch is signed as a whole, so it stays or goes as a whole. What stays of one that goes still proves who sent
//! what after what, and its dots read as compacted, never as a hole.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use net_channel::SealedView;

use crate::core::{Core, lock};
use crate::error::At;
use crate::events::{LogEvent, SealedWhy};
use crate::format::{FLAG_COMPACTED, RecordParams};
use crate::read::segment_reader;
use crate::rewrite::Rewrite;
use crate::segment::segment_path;
use crate::{AppendError, Batch, Log, ReadError};

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
    /// What supersedes could not be synced, so what is superseded stays.
    #[error("the log's end was not synced")]
    Sync(#[from] AppendError),
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
        let bases = core.table().bases();
        for (i, base) in bases.iter().enumerate().rev() {
            let sealed = i + 1 < bases.len();
            let gone = self.superseded(*base, &mut seen)?;
            if sealed && !gone.is_empty() {
                // What supersedes must be on the disk before what is superseded leaves it.
                core.sync()?;
                core.rewrite(*base, &gone, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Offsets of batches of this segment whose every event is superseded; adds the keys of all others.
    fn superseded(&self, base: u64, seen: &mut HashSet<[u8; 16]>) -> Result<HashSet<u64>, CompactError> {
        let mut gone = HashSet::new();
        for batch in self.backwards(base)?.filter(|batch| !batch.is_compacted()) {
            let open = self.open_batch(&batch);
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

    /// The sound batches of a segment, the last one first.
    fn backwards(&self, base: u64) -> Result<impl Iterator<Item = Batch>, ReadError> {
        let core = self.core.clone();
        let found = core.positions(base).reading(&segment_path(&core.dir, base))?;
        let batches = found.map(|(segment, positions)| {
            positions.into_iter().rev().filter_map(move |position| Batch::at(&segment, position, &core.id))
        });
        Ok(batches.into_iter().flatten())
    }

    /// The newest event with this key: looked for from the end.
    ///
    /// # Errors
    /// [`ReadError`]. Batches that do not open are passed over.
    pub fn latest(&self, key: &[u8]) -> Result<Option<LogEvent>, ReadError> {
        let bases = self.core.table().bases();
        for base in bases.into_iter().rev() {
            for batch in self.backwards(base)?.filter(|batch| !batch.is_compacted()) {
                let Ok(open) = self.open_batch(&batch) else { continue };
                let key_of = |index: &u16| open.event(*index).and_then(|event| event.key);
                if let Some(index) = (0..open.seal().events()).rev().find(|index| key_of(index) == Some(key)) {
                    return Ok(Some(LogEvent::new(Arc::new(open), index, batch.offset())));
                }
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
    /// Writes a sealed segment anew without the bodies of these batches.
    fn rewrite(&self, base: u64, gone: &HashSet<u64>, report: &mut Compaction) -> io::Result<()> {
        let Some((segment, index)) = self.sealed_segment(base)? else { return Ok(()) };
        let mut rewrite = Rewrite::begin(self, &segment, index)?;
        let mut reader = segment_reader(&segment, &self.id);
        let (mut batches, mut events) = (0, 0);
        loop {
            let at = reader.position();
            let Some((bytes, batch)) = reader.next_record() else { break };
            let Some(batch) = batch.filter(|batch| gone.contains(&batch.offset())) else {
                rewrite.copy(at, bytes)?;
                continue;
            };
            let flags = batch.flags() | FLAG_COMPACTED;
            rewrite.replace(at, RecordParams { flags, offset: batch.offset(), time: batch.time() }, head(&batch))?;
            batches += 1;
            events += batch.next_offset() - batch.offset();
        }
        let written = rewrite.finish()?;
        report.batches += batches;
        report.events += events;
        report.segments += 1;
        report.bytes += segment.bytes.end().saturating_sub(written);
        Ok(())
    }
}

/// Header, seal and parents of a batch.
fn head(batch: &Batch) -> &[u8] {
    let len = SealedView::parse(batch.frame()).map_or_else(|_| batch.frame().len(), |view| view.head_len());
    &batch.frame()[..len]
}
