//! A log's directory: which segments there are, opening them, and their indexes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch;
use crate::config::LogConfig;
use crate::disk::{Disk, DiskFile, OpenMode, Published, read_up_to, write_all};
use crate::format::{IndexFile, LogId, OriginRange, Probe, SEGMENT_HEADER_LEN, SegmentHeader, SegmentParams, probe};
use crate::segment::{ActiveIndex, Segment, base_in_name, index_path, segment_path};
use crate::walk::{Seen, Start, Walk, walk};

/// The directory and what is needed to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) config: &'a LogConfig,
    pub(crate) id: LogId,
}

/// A segment file that can be read.
pub(crate) struct Opened {
    pub(crate) params: SegmentParams,
    /// The first page is damaged; what it said follows from the rest.
    pub(crate) header_damaged: bool,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) len: u64,
}

impl Files<'_> {
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.config.disk
    }

    /// Base offsets of the segment files, ascending.
    pub(crate) fn bases(&self) -> io::Result<Vec<u64>> {
        let mut bases: Vec<u64> =
            self.disk().list(self.dir)?.iter().filter_map(|name| base_in_name(name, "seg")).collect();
        bases.sort_unstable();
        Ok(bases)
    }

    pub(crate) fn segment_path(&self, base: u64) -> PathBuf {
        segment_path(self.dir, base)
    }

    /// Opens a segment file; nothing if there is none, or it says that it belongs to another log.
    pub(crate) fn open(&self, base: u64) -> io::Result<Option<Opened>> {
        let mode = if self.config.read_only { OpenMode::Read } else { OpenMode::Write };
        let file = match self.disk().open(&self.segment_path(base), mode) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let page = read_up_to(&*file, 0, SEGMENT_HEADER_LEN)?;
        let len = file.len()?;
        let said = SegmentHeader::decode(&page);
        if said.is_some_and(|said| said.log != self.id || said.base != base) {
            return Ok(None);
        }
        // Records name the log and their offsets by themselves, so a damaged first page loses nothing.
        let unknown =
            SegmentParams { log: self.id, base, base_time: 0, prev: [0; 32], synced_before: false, generation: 0 };
        let params = said.unwrap_or(unknown);
        Ok(Some(Opened { params, header_damaged: said.is_none(), file, len }))
    }

    /// Walks a whole segment, or a part of it, and gives its index as well.
    pub(crate) fn walk(&self, opened: &Opened, start: Start) -> io::Result<Walk> {
        let all = Published::new(opened.file.clone(), opened.len)?;
        all.publish(opened.len)?;
        all.will_read_in_order();
        Ok(walk(all.slice(0..opened.len).unwrap_or_default(), &self.id, start))
    }

    /// Makes the index of what a walk saw, following a segment with these origins.
    pub(crate) fn index_of(
        &self,
        opened: &Opened,
        records: &[Seen],
        before: &[OriginRange],
    ) -> io::Result<ActiveIndex> {
        let all = Published::new(opened.file.clone(), opened.len)?;
        all.publish(opened.len)?;
        let mut index = ActiveIndex::after(before, opened.params.base, opened.params.prev);
        let mut newest = std::collections::BTreeMap::new();
        for (i, record) in records.iter().enumerate() {
            newest.insert(record.origin, i);
        }
        for (i, record) in records.iter().enumerate() {
            // Hashes are needed of each origin's last batch and of the segment's.
            let needed = newest.get(&record.origin) == Some(&i) || i + 1 == records.len();
            let hash = if needed { self.hash_at(&all, record.position, opened.len) } else { [0; 32] };
            index.push(record.position, record.origin, record.seq, record.events, hash);
        }
        Ok(index)
    }

    fn hash_at(&self, bytes: &Published, position: u64, len: u64) -> [u8; 32] {
        match bytes.slice(position..len).map(|rest| probe(rest, &self.id)) {
            Some(Probe::Record(stored)) => batch::hash(stored.frame),
            _ => [0; 32],
        }
    }

    /// The index of a sealed segment: from its file, or made again where that is damaged, stale or missing.
    ///
    /// `bases` are those of all segments, `at` the place of this one among them.
    pub(crate) fn index(&self, bases: &[u64], at: usize) -> io::Result<Arc<IndexFile>> {
        let sound = (0..=at).rev().find_map(|i| Some((i, self.read_index(bases, i).transpose()?)));
        let (mut next, mut index) = match sound {
            Some((i, index)) => (i + 1, Some(index?)),
            None => (0, None),
        };
        while next <= at {
            let origins = match &index {
                Some(index) => index.origins.clone(),
                None => self.origins_before(bases[0])?,
            };
            let made = self.make_index(bases, next, &origins)?;
            if !self.config.read_only {
                // An index that cannot be written is made again the next time.
                let _ = self.write_index(&made);
            }
            (index, next) = (Some(made), next + 1);
        }
        Ok(Arc::new(index.expect("`at` is in range, so one was read or made")))
    }

    /// The origins of segments that retention has given up: the index of the last of them stays for that.
    pub(crate) fn origins_before(&self, base: u64) -> io::Result<Vec<OriginRange>> {
        for last in self.given_up(base)?.into_iter().rev() {
            let path = index_path(self.dir, last);
            let file = self.disk().open(&path, OpenMode::Read)?;
            let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::InvalidData)?;
            if let Ok(index) = IndexFile::decode(&read_up_to(&*file, 0, len)?)
                && index.meta.log == self.id
                && index.meta.base == last
            {
                return Ok(index.origins);
            }
        }
        Ok(Vec::new())
    }

    /// The bases below this one of which there is an index and no segment.
    pub(crate) fn given_up(&self, base: u64) -> io::Result<Vec<u64>> {
        let (names, bases) = (self.disk().list(self.dir)?, self.bases()?);
        let indexes = names.iter().filter_map(|name| base_in_name(name, "idx"));
        let mut given_up: Vec<u64> = indexes.filter(|b| *b < base && bases.binary_search(b).is_err()).collect();
        given_up.sort_unstable();
        Ok(given_up)
    }

    fn read_index(&self, bases: &[u64], at: usize) -> io::Result<Option<IndexFile>> {
        let file = match self.disk().open(&index_path(self.dir, bases[at]), OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::InvalidData)?;
        let Ok(index) = IndexFile::decode(&read_up_to(&*file, 0, len)?) else { return Ok(None) };
        let Some(segment) = self.open(bases[at])? else { return Ok(None) };
        let meta = &index.meta;
        let fits = meta.log == self.id
            && meta.base == bases[at]
            && meta.end <= segment.len
            && (segment.header_damaged || meta.generation == segment.params.generation)
            && bases.get(at + 1).is_none_or(|next| *next >= meta.end_offset);
        Ok(fits.then_some(index))
    }

    fn make_index(&self, bases: &[u64], at: usize, before: &[OriginRange]) -> io::Result<IndexFile> {
        let Some(segment) = self.open(bases[at])? else {
            let params = SegmentParams {
                log: self.id,
                base: bases[at],
                base_time: 0,
                prev: [0; 32],
                synced_before: false,
                generation: 0,
            };
            let end = (SEGMENT_HEADER_LEN as u64, bases[at], 0);
            return Ok(ActiveIndex::after(before, bases[at], [0; 32]).snapshot(self.id, &params, end));
        };
        let walk = self.walk(&segment, Start::of_segment(bases[at]))?;
        let index = self.index_of(&segment, &walk.records, before)?;
        Ok(index.snapshot(self.id, &segment.params, (walk.end, walk.next_offset, walk.last_time)))
    }

    /// Writes an index beside its segment.
    pub(crate) fn write_index(&self, index: &IndexFile) -> io::Result<()> {
        let path = index_path(self.dir, index.meta.base);
        // Readers that miss an index and the thread that writes it after a roll may be here at once.
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("idx-{number}.tmp"));
        let file = self.disk().open(&temporary, OpenMode::Create)?;
        write_all(&*file, &index.encode(), 0)?;
        file.fdatasync()?;
        self.disk().rename(&temporary, &path)?;
        self.disk().sync_dir(self.dir)
    }

    /// A sealed segment, readable up to its last record.
    pub(crate) fn sealed(&self, base: u64, end: u64) -> io::Result<Option<Segment>> {
        let Some(opened) = self.open(base)? else { return Ok(None) };
        let bytes = Published::new(opened.file, opened.len)?;
        bytes.publish(end.min(opened.len))?;
        Ok(Some(Segment::new(opened.params, bytes, opened.len)))
    }
}
