//! Reading everything again, so that rot is found while another copy may still be had.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::core::Core;
use crate::disk::read_up_to;
use crate::error::At;
use crate::files::Opened;
use crate::format::{IndexFile, SLOT_LEN, newest};
use crate::hole::Hole;
use crate::segment::{index_path, segment_path};
use crate::walk::{Start, Walk};
use crate::{Log, ReadError};

const READ_BYTES: usize = 1 << 20;
/// However many segments there are, no more is read than one in this time.
const SCRUB_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What reading everything again found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scrub {
    /// Segments read.
    pub segments: u64,
    /// Sound batches in them.
    pub batches: u64,
    /// Damage, with the events it took.
    pub holes: Vec<Hole>,
    /// Damage that took no event: in a segment's first page, in free space, in an index or in the manifest.
    pub harmless: Vec<String>,
}

impl Log {
    /// Reads and checks every byte of the log; holes it finds are remembered and skipped by readers. Blocks.
    ///
    /// # Errors
    /// [`ReadError`] if a file cannot be read at all.
    pub fn scrub(&self) -> Result<Scrub, ReadError> {
        let core = &*self.core;
        let mut report = Scrub::default();
        core.scrub_manifest(&mut report).reading(&core.dir)?;
        let bases: Vec<u64> = core.table().sealed.keys().copied().collect();
        for base in bases {
            core.scrub_sealed(base, &mut report).reading(&segment_path(&core.dir, base))?;
        }
        core.scrub_active(&mut report).reading(&core.dir)?;
        Ok(report)
    }
}

impl Core {
    /// How long after a segment the next one is read again.
    pub(crate) fn scrub_interval(&self) -> Duration {
        let segments = u32::try_from(self.table().sealed.len()).unwrap_or(u32::MAX);
        match self.config.scrub {
            Some(within) if segments > 0 => (within / segments).max(SCRUB_INTERVAL_MIN),
            _ => Duration::MAX,
        }
    }

    /// Reads one sealed segment again: which one follows from the time, so that a start anew does not begin anew.
    pub(crate) fn scrub_one(&self) {
        let bases: Vec<u64> = self.table().sealed.keys().copied().collect();
        let turn = u128::from(self.config.clock.now()) / self.scrub_interval().as_nanos().max(1);
        let Some(base) = usize::try_from(turn % bases.len().max(1) as u128).ok().and_then(|i| bases.get(i)) else {
            return;
        };
        let done = self.scrub_sealed(*base, &mut Scrub::default());
        let counter = if done.is_ok() { &self.counters.scrubbed } else { &self.counters.chore_failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn scrub_manifest(&self, report: &mut Scrub) -> io::Result<()> {
        // The leader rewrites the slots; between two writes both are sound.
        let writer = crate::core::lock(&self.writer);
        let bytes = read_up_to(&*writer.manifest.file, 0, 2 * SLOT_LEN)?;
        drop(writer);
        let (_, damaged) = newest(&bytes);
        if damaged > 0 {
            report.harmless.push(format!("{damaged} damaged slot of the manifest: the other one counts"));
        }
        Ok(())
    }

    fn scrub_sealed(&self, base: u64, report: &mut Scrub) -> io::Result<()> {
        let path = index_path(&self.dir, base);
        match self.config.disk.open(&path, crate::disk::OpenMode::Read) {
            Ok(file) => {
                let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::InvalidData)?;
                if IndexFile::decode(&read_up_to(&*file, 0, len)?).is_err() {
                    report.harmless.push(format!("{base:016x}.idx is damaged: it is made again when it is needed"));
                }
            }
            // It is written after the segment is sealed, and made again where it is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let Some(opened) = self.files().open(base)? else {
            // Retention may have been faster; otherwise readers name what is missing.
            return Ok(());
        };
        self.read_through(&opened)?;
        let end = self.sealed_index(base)?.meta;
        let walk = self.files().walk(&opened, Start::of_segment(base))?;
        let next = self.table().after(base).unwrap_or(end.end_offset);
        self.take_walk(base, &opened, &walk, end.end, next, report)
    }

    fn scrub_active(&self, report: &mut Scrub) -> io::Result<()> {
        let (base, end, next) = {
            let writer = crate::core::lock(&self.writer);
            (writer.active.base(), writer.active.bytes.end(), writer.next_offset)
        };
        let Some(opened) = self.files().open(base)? else { return Ok(()) };
        // Behind `end` the leader may be writing.
        let opened = Opened { len: end, ..opened };
        self.read_through(&opened)?;
        let walk = self.files().walk(&opened, Start::of_segment(base))?;
        self.take_walk(base, &opened, &walk, end, next, report)
    }

    /// Reads with calls that can fail, so that a sector that cannot be read is an error and not a fault of the
    /// mapping that is walked next.
    fn read_through(&self, opened: &Opened) -> io::Result<()> {
        if !self.config.read_only {
            // What the system remembers says nothing of the disk.
            opened.file.forget_cache(0)?;
        }
        let mut at = 0;
        while at < opened.len {
            let n = read_up_to(&*opened.file, at, READ_BYTES)?.len();
            if n == 0 {
                break;
            }
            at += n as u64;
        }
        Ok(())
    }

    fn take_walk(
        &self,
        base: u64,
        opened: &Opened,
        walk: &Walk,
        end: u64,
        next_offset: u64,
        report: &mut Scrub,
    ) -> io::Result<()> {
        report.segments += 1;
        report.batches += walk.records.len() as u64;
        if opened.header_damaged {
            report.harmless.push(format!("{base:016x}.seg has a damaged first page"));
        }
        let mut offset = base;
        for span in &walk.spans {
            if span.bytes.start >= end {
                report.harmless.push(format!("{base:016x}.seg has stray bits in free space"));
                continue;
            }
            // What follows, or where the log goes on, says how many events the damage took.
            let after = walk.records.iter().find(|r| r.position >= span.bytes.end);
            let lost = span.offsets.start..after.map_or(next_offset, |r| r.offset);
            offset = offset.max(lost.end);
            report.holes.push(self.name_hole(base, span.bytes.clone(), lost, span.hint)?);
        }
        if walk.next_offset.max(offset) < next_offset {
            // The end was damaged so badly that nothing is left of it.
            let lost = walk.next_offset..next_offset;
            report.holes.push(self.name_hole(base, walk.end..end.max(walk.end), lost, None)?);
        }
        Ok(())
    }
}
