//! Writing what is queued: one thread at a time leads, the others wait or queue more.
//!
//! A thread that appends while nobody leads writes and syncs by itself, without a switch to another thread: alone,
//! it is as fast as the device. While it syncs, others queue; when it is done it wakes them and goes on with what has
//! gathered, a bounded number of rounds, then hands on to one of those that wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::AppendError;
use crate::core::{Core, Pending, Spare, Writer, lock};
use crate::disk::{OpenMode, Published, write_all};
use crate::format::{Floor, SEGMENT_HEADER_LEN, SegmentHeader, SegmentParams, mark_synced_before, slot_of};
use crate::group::let_gather;
use crate::mutants::mutant;
use crate::segment::{ActiveIndex, SealedSlot, Segment, segment_path};

/// Groups that one thread writes before another takes over: its own append is done after the first.
const ROUNDS_MAX: usize = 8;
/// Sealed segments that may wait for a sync, where the policy does not ask for one.
const UNSYNCED_SEGMENTS_MAX: usize = 16;
/// A segment grows by at least this much at a time.
pub(crate) const GROW_BYTES: u64 = 1 << 20;

impl Core {
    /// Writes groups until none is left, or it is another's turn.
    pub(crate) fn lead(&self) {
        let (mut expected, mut last_took) = (0, Duration::ZERO);
        for round in 1.. {
            if expected > 1 {
                let_gather(expected, last_took, || self.queued());
            }
            let Some(pending) = self.next_group() else { return };
            let size = pending.records.len();
            let group = pending.group.clone();
            let start = Instant::now();
            let result = self.commit(pending);
            last_took = start.elapsed();
            if let Err(error) = &result {
                self.fail_queue(error);
            }
            expected = size + self.queued();
            group.complete(result);
            if round >= ROUNDS_MAX && self.hand_on() {
                return;
            }
        }
    }

    /// Batches that wait to be written.
    fn queued(&self) -> usize {
        self.staging().queue.iter().map(|pending| pending.records.len()).sum()
    }

    /// The oldest group; if there is none, nobody leads any more.
    fn next_group(&self) -> Option<Pending> {
        let mut staging = self.staging();
        let Some(pending) = staging.queue.pop_front() else {
            staging.leading = false;
            staging.in_flight.clear();
            staging.heads.clear();
            return None;
        };
        staging.bytes -= pending.bytes.len();
        staging.in_flight.clone_from(&pending.records);
        Some(pending)
    }

    /// Makes another the leader; says whether this thread is rid of it.
    fn hand_on(&self) -> bool {
        let mut staging = self.staging();
        let Some(pending) = staging.queue.front() else {
            staging.leading = false;
            staging.in_flight.clear();
            staging.heads.clear();
            return true;
        };
        if pending.threads > 0 {
            pending.group.offer_lead();
            return true;
        }
        drop(staging);
        self.ask_for_leader()
    }

    fn commit(&self, mut pending: Pending) -> Result<(), AppendError> {
        let mut writer = lock(&self.writer);
        let writer = &mut *writer;
        if pending.roll {
            self.roll(writer, pending.first_offset, pending.first_time)?;
        }
        debug_assert_eq!(pending.position, writer.position, "the queue knows where the writer is");
        let len = pending.bytes.len() as u64;
        let end = pending.position + len;
        let segment = writer.active.clone();
        self.grow(&segment, end)?;
        if writer.durable.position == writer.position && writer.durable.segment == segment.base() {
            mark_synced_before(&mut pending.bytes, &self.id);
        }
        self.write(&segment, &pending.bytes, pending.position)?;
        let events: u64 = pending.records.iter().map(|record| u64::from(record.events)).sum();
        let (count, next_offset) = (pending.records.len() as u64, pending.first_offset + events);
        (writer.position, writer.next_offset, writer.time) = (end, next_offset, pending.last_time);
        if self.config.sync.waits() {
            let synced = self.sync_active(writer);
            if !mutant!("ack_early") {
                synced?;
            }
        }
        {
            let mut index = self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            for r in &pending.records {
                index.push(r.position, r.origin, r.seq, r.events, r.hash);
            }
        }
        segment.bytes.publish_written(end);
        self.end_offset.store(next_offset, Ordering::Release);
        self.watch.notify();
        let counters = &self.counters;
        counters.groups.fetch_add(1, Ordering::Relaxed);
        counters.batches.fetch_add(count, Ordering::Relaxed);
        counters.events.fetch_add(events, Ordering::Relaxed);
        counters.bytes.fetch_add(len, Ordering::Relaxed);
        self.after_commit(writer);
        pending.bytes.clear();
        self.staging().buffer = pending.bytes;
        Ok(())
    }

    fn sync_active(&self, writer: &mut Writer) -> Result<(), AppendError> {
        self.fdatasync(&writer.active)?;
        writer.durable = Floor { segment: writer.active.base(), position: writer.position, offset: writer.next_offset };
        Ok(())
    }

    /// Syncs; after a failure nothing more is written.
    pub(crate) fn fdatasync(&self, segment: &Segment) -> Result<(), AppendError> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if mutant!("skip_fsync") {
            return Ok(());
        }
        let mut result = segment.bytes.fdatasync();
        if mutant!("retry_fsync") && result.is_err() {
            result = segment.bytes.fdatasync();
        }
        result.map_err(|_| AppendError::Poisoned)
    }

    /// Room for what is to be written, before it is written.
    fn grow(&self, segment: &Segment, end: u64) -> Result<(), AppendError> {
        if end <= segment.allocated() {
            return Ok(());
        }
        let len = end.next_multiple_of(GROW_BYTES).min(self.config.segment_bytes);
        segment.grow(len).map_err(|error| refused(&error, len))
    }

    /// Writes all, or takes back what was written.
    fn write(&self, segment: &Segment, bytes: &[u8], position: u64) -> Result<(), AppendError> {
        let Err(error) = segment.bytes.write(bytes, position) else { return Ok(()) };
        if mutant!("leave_failed_write") {
            return Err(refused(&error, bytes.len() as u64));
        }
        // Records of a failed append must not come back to life behind a later one that is shorter.
        match segment.bytes.write(&vec![0; bytes.len()], position) {
            Ok(()) => Err(refused(&error, bytes.len() as u64)),
            Err(_) => Err(AppendError::Poisoned),
        }
    }

    /// Fails everything that waits, and puts the queue back to where the writer is.
    fn fail_queue(&self, error: &AppendError) {
        let writer = lock(&self.writer);
        let mut staging = self.staging();
        let failed: Vec<Pending> = staging.queue.drain(..).collect();
        staging.bytes = 0;
        staging.in_flight.clear();
        staging.heads.clear();
        staging.position = writer.position;
        staging.next_offset = writer.next_offset;
        if matches!(error, AppendError::Poisoned) {
            staging.stop = Some(AppendError::Poisoned);
        }
        drop(staging);
        drop(writer);
        for pending in failed {
            pending.group.complete(Err(error.clone()));
        }
    }

    /// Ends the active segment and begins the next one.
    pub(crate) fn roll(&self, writer: &mut Writer, base: u64, time: u64) -> Result<(), AppendError> {
        let old = writer.active.clone();
        let synced = writer.durable.position == writer.position && writer.durable.segment == old.base();
        let Spare { path, file, allocated } = self.take_spare()?;
        let (last_hash, index) = {
            let index = self.index();
            let end = (writer.position, writer.next_offset, writer.time);
            (index.last_hash(), Arc::new(index.snapshot(self.id, &old.params, end)))
        };
        let params = SegmentParams {
            log: self.id,
            base,
            base_time: time,
            prev: last_hash,
            synced_before: synced,
            generation: 0,
        };
        let written = write_all(&*file, &SegmentHeader::encode(&params), 0).and_then(|()| file.fdatasync());
        if let Err(error) = written {
            // The file is dropped with the failed sync; the next attempt makes another.
            let _ = self.config.disk.remove(&path);
            return Err(refused(&error, SEGMENT_HEADER_LEN as u64));
        }
        let made = || -> io::Result<Published> {
            self.config.disk.rename(&path, &segment_path(&self.dir, base))?;
            if !mutant!("skip_dir_sync") {
                self.config.disk.sync_dir(&self.dir)?;
            }
            let bytes = Published::new(file.clone(), self.config.segment_bytes)?;
            bytes.publish(SEGMENT_HEADER_LEN as u64)?;
            Ok(bytes)
        };
        // From here on the directory may name a segment that this log does not write to: there is no way back.
        let bytes = made().map_err(|_| AppendError::Poisoned)?;
        let segment = Arc::new(Segment::new(params, bytes, allocated));
        if synced {
            writer.durable = Floor { segment: base, position: SEGMENT_HEADER_LEN as u64, offset: base };
            self.write_floor(writer)?;
        } else {
            writer.unsynced.push(old.clone());
            if writer.unsynced.len() > UNSYNCED_SEGMENTS_MAX {
                self.sync_unsynced(writer, base)?;
            }
        }
        self.remember_index(old.base(), index.clone());
        {
            let mut table = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut slot = SealedSlot { file_len: Some(old.allocated()), ..SealedSlot::default() };
            slot.segment = Arc::downgrade(&old);
            table.sealed.insert(old.base(), slot);
            table.active = segment.clone();
        }
        {
            let mut active = self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            *active = ActiveIndex::after(active.origins(), base, last_hash);
        }
        (writer.active, writer.position) = (segment, SEGMENT_HEADER_LEN as u64);
        lock(&self.chores.state).indexes.push(index);
        self.counters.rolls.fetch_add(1, Ordering::Relaxed);
        self.tend_soon();
        Ok(())
    }

    /// Syncs the segments before the one that begins at `next`, and moves the durable place there.
    fn sync_unsynced(&self, writer: &mut Writer, next: u64) -> Result<(), AppendError> {
        for segment in std::mem::take(&mut writer.unsynced) {
            self.fdatasync(&segment)?;
        }
        let floor = Floor { segment: next, position: SEGMENT_HEADER_LEN as u64, offset: next };
        writer.durable = writer.durable.max(floor);
        Ok(())
    }

    fn take_spare(&self) -> Result<Spare, AppendError> {
        let ready = lock(&self.chores.state).spare.take();
        match ready {
            Some(spare) => Ok(spare),
            None => {
                self.make_spare(GROW_BYTES.min(self.config.segment_bytes)).map_err(|error| refused(&error, GROW_BYTES))
            }
        }
    }

    /// Makes a file with room for this many bytes.
    pub(crate) fn make_spare(&self, bytes: u64) -> io::Result<Spare> {
        let number = {
            let mut state = lock(&self.chores.state);
            state.spares += 1;
            state.spares
        };
        let path = self.dir.join(format!("spare-{number}.tmp"));
        let file = self.config.disk.open(&path, OpenMode::Create)?;
        let allocated = file.allocate(bytes).and_then(|()| file.fdatasync());
        if let Err(error) = allocated {
            // What was taken in vain is given back; the error that counts is the first.
            let _ = self.config.disk.remove(&path);
            return Err(error);
        }
        Ok(Spare { path, file, allocated: bytes })
    }

    /// Writes the manifest with the floor where the writer knows it.
    pub(crate) fn write_floor(&self, writer: &mut Writer) -> Result<(), AppendError> {
        let mut next = writer.manifest.last;
        next.generation += 1;
        next.floor = writer.durable;
        next.first = self.table().first;
        if mutant!("floor_ahead") {
            next.floor.position = writer.position.max(next.floor.position);
        }
        let slot = slot_of(next.generation);
        let file = &writer.manifest.file;
        write_all(&**file, &next.encode(), slot).map_err(|error| AppendError::Io(Arc::new(error)))?;
        file.fdatasync().map_err(|_| AppendError::Poisoned)?;
        writer.manifest.last = next;
        Ok(())
    }
}

fn refused(error: &io::Error, needed: u64) -> AppendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full { needed },
        kind => AppendError::Io(Arc::new(io::Error::new(kind, error.to_string()))),
    }
}
