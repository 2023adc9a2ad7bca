//! A sealed segment written anew, and put in the old one's place: for compaction, and to fill a hole.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crate::core::{Core, lock};
use crate::disk::{DiskFile, OpenMode, write_all};
use crate::format::{
    Entry, IndexFile, IndexMeta, RecordParams, SEGMENT_HEADER_LEN, SegmentHeader, SegmentParams, body_crc, push,
};
use crate::hole::Hole;
use crate::segment::{SealedSlot, Segment, segment_path};

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// The new segment as far as it is written.
pub(crate) struct Rewrite<'a> {
    core: &'a Core,
    params: SegmentParams,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    written: u64,
    buffer: Vec<u8>,
    old: Arc<IndexFile>,
    entries: Vec<Entry>,
    /// Known holes of the segment, by where they began in the old one.
    holes: BTreeMap<u64, Hole>,
    moved: Vec<Hole>,
}

impl<'a> Rewrite<'a> {
    pub(crate) fn begin(core: &'a Core, segment: &Segment, index: Arc<IndexFile>) -> io::Result<Self> {
        let params = SegmentParams { generation: segment.params.generation.wrapping_add(1), ..segment.params };
        let temporary = segment_path(&core.dir, params.base).with_extension("seg.tmp");
        let file = core.config.disk.open(&temporary, OpenMode::Create)?;
        let known = lock(&core.holes);
        let holes = known.values().filter(|hole| hole.segment == params.base);
        let holes = holes.map(|hole| (hole.bytes.start, hole.clone())).collect();
        drop(known);
        let buffer = SegmentHeader::encode(&params).to_vec();
        Ok(Self {
            core,
            params,
            temporary,
            file,
            written: 0,
            buffer,
            old: index,
            entries: Vec::new(),
            holes,
            moved: Vec::new(),
        })
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The entry of the record that stood at `at` in the old segment; damage may have one as well.
    fn entry_at(&self, at: u64) -> Option<Entry> {
        let place = self.old.entries.binary_search_by_key(&at, |entry| entry.position).ok()?;
        Some(self.old.entries[place])
    }

    /// Copies a record, or a piece of damage, which stays a hole with what the index says of it.
    pub(crate) fn copy(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let position = self.position();
        self.entries.extend(self.entry_at(at).map(|entry| Entry { position, ..entry }));
        if let Some(mut hole) = self.holes.remove(&at) {
            hole.bytes = position..position + (hole.bytes.end - hole.bytes.start);
            self.moved.push(hole);
        }
        self.buffer.extend_from_slice(bytes);
        self.flush(WRITE_BYTES)
    }

    /// Writes a record in the place of the one at `at`, which keeps its entry.
    pub(crate) fn replace(&mut self, at: u64, params: RecordParams, frame: &[u8]) -> io::Result<()> {
        let position = self.position();
        self.entries.extend(self.entry_at(at).map(|entry| Entry { position, ..entry }));
        push(&mut self.buffer, &self.core.id, params, frame, body_crc(frame));
        self.flush(WRITE_BYTES)
    }

    /// Writes a record that the old segment had lost.
    pub(crate) fn insert(&mut self, entry: Entry, params: RecordParams, frame: &[u8]) -> io::Result<()> {
        self.entries.push(Entry { position: self.position(), ..entry });
        push(&mut self.buffer, &self.core.id, params, frame, body_crc(frame));
        self.flush(WRITE_BYTES)
    }

    /// Forgets the hole that began at `at`: it has been filled.
    pub(crate) fn fill(&mut self, at: u64) {
        self.holes.remove(&at);
    }

    fn flush(&mut self, least: usize) -> io::Result<()> {
        if self.buffer.len() >= least {
            write_all(&*self.file, &self.buffer, self.written)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Puts the new segment in the old one's place; gives its bytes. Readers that are in the old one stay there.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush(1)?;
        self.file.fdatasync()?;
        let end = self.position();
        let Self { core, params, old, .. } = self;
        let base = params.base;
        // What is lost behind the last record has no bytes, and is behind the last record still.
        for mut hole in self.holes.into_values() {
            hole.bytes = end..end;
            self.moved.push(hole);
        }
        let meta = IndexMeta { generation: params.generation, end: end.max(SEGMENT_HEADER_LEN as u64), ..old.meta };
        let made = IndexFile { meta, entries: self.entries, origins: old.origins.clone() };
        // From here the old index is of another generation, and is not believed.
        core.config.disk.rename(&self.temporary, &segment_path(&core.dir, base))?;
        core.config.disk.sync_dir(&core.dir)?;
        {
            let mut table = core.table.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = table.sealed.get_mut(&base) {
                *slot = SealedSlot { file_len: Some(end), ..SealedSlot::default() };
            }
            lock(&core.indexes).retain(|(known, _)| *known != base);
            let mut holes = lock(&core.holes);
            holes.retain(|_, hole| hole.segment != base);
            holes.extend(self.moved.into_iter().map(|hole| (hole.offsets.start, hole)));
        }
        core.files().write_index(&made)?;
        Ok(end)
    }
}
