//! What a log does beside appending: room ahead, syncs by the clock, indexes, the floor, retention.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::commit::GROW_BYTES;
use crate::config::SyncPolicy;
use crate::core::{ChoreState, Core, Writer, lock};
use crate::disk::read_up_to;
use crate::files::Files;
use crate::format::{Floor, SEGMENT_HEADER_LEN, SLOT_LEN, newest};
use crate::mutants::mutant;
use crate::open::give_up;
use crate::segment::Segment;
use crate::{AppendError, Log};

/// How long appended batches wait, at most, until the floor is above them and reopening need not read them.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Bytes in the active segment from which on a whole next one is made ahead.
const SPARE_FROM_BYTES: u64 = 4 << 20;

impl Log {
    /// Gives up what stands before this offset, as far as whole segments do; gives the first offset that is kept.
    ///
    /// The segment that is being written goes too if all of it is before the offset and nobody appends at the moment.
    /// Readers that stand in what goes are told ([`Found::Trimmed`](crate::Found::Trimmed)). Blocks.
    ///
    /// # Errors
    /// [`AppendError::ReadOnly`], [`AppendError::Closed`], [`AppendError::Poisoned`]; [`AppendError::Io`] if the system
    /// refused, and then some of the segments may have gone.
    ///
    /// # Durability
    /// What was given up does not come back after a power cut.
    pub fn trim(&self, before: u64) -> Result<u64, AppendError> {
        self.core.trim_before(before)
    }
}

impl Core {
    pub(crate) fn files(&self) -> Files<'_> {
        Files { dir: &self.dir, config: &self.config, id: self.id }
    }

    /// Asks the chore thread to lead; says whether it will.
    pub(crate) fn ask_for_leader(&self) -> bool {
        let mut state = lock(&self.chores.state);
        if state.threads.is_empty() || state.stop {
            return false;
        }
        state.lead = true;
        drop(state);
        self.chores.lead.notify_one();
        true
    }

    /// There is work that should not wait for the clock.
    pub(crate) fn tend_soon(&self) {
        let mut state = lock(&self.chores.state);
        let first = !std::mem::replace(&mut state.tend_now, true);
        drop(state);
        if first {
            self.chores.changed.notify_all();
        }
    }

    /// Called by the leader after each group.
    pub(crate) fn after_commit(&self, writer: &Writer) {
        if !self.config.background {
            return;
        }
        let allocated = writer.active.allocated();
        let full = allocated >= self.config.segment_bytes;
        let wants_room = !full && writer.position + GROW_BYTES / 2 > allocated;
        let mut state = lock(&self.chores.state);
        let wants_spare = writer.position > self.spare_from() && state.spare.is_none();
        let news = !state.dirty || (wants_room || wants_spare) && !state.tend_now;
        state.dirty = true;
        state.tend_now |= wants_room || wants_spare;
        drop(state);
        if news {
            self.chores.changed.notify_all();
        }
    }

    fn spare_from(&self) -> u64 {
        SPARE_FROM_BYTES.min(self.config.segment_bytes / 4)
    }

    /// One round of chores. What fails is tried again in the next round.
    pub(crate) fn tend(&self) {
        for result in [self.sync_behind(), self.make_room(), self.end_aged(), self.write_indexes(), self.retain()] {
            if result.is_err() {
                self.counters.chore_failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.checkpoint().is_err() {
            self.counters.chore_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Syncs what was written without one, where the policy says so.
    fn sync_behind(&self) -> io::Result<()> {
        if matches!(self.config.sync, SyncPolicy::Interval(_)) {
            return self.sync().map_err(io::Error::other);
        }
        // Without a policy that syncs, what is sealed is synced all the same, so that the floor can move.
        let (segments, active) = {
            let writer = lock(&self.writer);
            (writer.unsynced.clone(), writer.active.base())
        };
        self.sync_sealed(&segments, active).map_err(io::Error::other)
    }

    fn sync_sealed(&self, segments: &[Arc<Segment>], next: u64) -> Result<(), AppendError> {
        for segment in segments {
            self.fdatasync(segment).inspect_err(|_| self.poison())?;
        }
        if !segments.is_empty() {
            let mut writer = lock(&self.writer);
            writer.unsynced.retain(|old| segments.iter().all(|synced| synced.base() != old.base()));
            let floor = Floor { segment: next, position: SEGMENT_HEADER_LEN as u64, offset: next };
            writer.durable = writer.durable.max(floor);
        }
        Ok(())
    }

    fn poison(&self) {
        self.staging().stop = Some(AppendError::Poisoned);
    }

    /// Returns when everything appended before is on the disk.
    pub(crate) fn sync(&self) -> Result<(), AppendError> {
        if let Some(AppendError::Poisoned) = self.staging().stop {
            return Err(AppendError::Poisoned);
        }
        // The writer is not held while the disk works: appends go on meanwhile.
        let (mut segments, active, reached) = {
            let writer = lock(&self.writer);
            let reached =
                Floor { segment: writer.active.base(), position: writer.position, offset: writer.next_offset };
            if writer.durable == reached {
                return Ok(());
            }
            (writer.unsynced.clone(), writer.active.clone(), reached)
        };
        if mutant!("forget_rolled") {
            segments.clear();
        }
        segments.push(active);
        for segment in &segments {
            self.fdatasync(segment).inspect_err(|_| self.poison())?;
        }
        let mut writer = lock(&self.writer);
        writer.unsynced.retain(|old| segments.iter().all(|synced| synced.base() != old.base()));
        writer.durable = writer.durable.max(reached);
        Ok(())
    }

    /// Makes the active segment longer, and the next one, before they are needed.
    fn make_room(&self) -> io::Result<()> {
        let (active, position) = {
            let writer = lock(&self.writer);
            (writer.active.clone(), writer.position)
        };
        let whole = self.config.segment_bytes;
        if position + GROW_BYTES > active.allocated() {
            active.grow((active.allocated() + GROW_BYTES).min(whole))?;
        }
        if position > self.spare_from() && lock(&self.chores.state).spare.is_none() && self.config.background {
            let spare = self.make_spare(whole)?;
            lock(&self.chores.state).spare = Some(spare);
        }
        Ok(())
    }

    /// Ends the active segment when its oldest batch is past the retention's age: the segment can go once its youngest
    /// is, so that nothing is kept twice as long as it should be, however slowly the log grows.
    fn end_aged(&self) -> io::Result<()> {
        let Some(age) = self.config.retention.age else { return Ok(()) };
        let limit = self.too_old(self.config.clock.now(), age);
        self.end_active(|writer| writer.active.params.base_time < limit).map_err(io::Error::other)
    }

    /// Ends the active segment if it is to be, holds something, and nobody appends at the moment.
    fn end_active(&self, is_to_end: impl FnOnce(&Writer) -> bool) -> Result<(), AppendError> {
        let mut writer = lock(&self.writer);
        let mut staging = self.staging();
        let empty = writer.position == SEGMENT_HEADER_LEN as u64;
        let busy = staging.leading || !staging.queue.is_empty() || staging.stop.is_some();
        if empty || busy || !is_to_end(&writer) {
            return Ok(());
        }
        staging.time = staging.time.max(self.config.clock.now());
        let (base, time) = (writer.next_offset, staging.time);
        let rolled = self.roll(&mut writer, base, time);
        staging.position = writer.position;
        if let Err(AppendError::Poisoned) = rolled {
            staging.stop = Some(AppendError::Poisoned);
        }
        rolled
    }

    /// What was stored before this time is past the age.
    fn too_old(&self, now: u64, age: Duration) -> u64 {
        now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
    }

    fn write_indexes(&self) -> io::Result<()> {
        loop {
            let Some(index) = lock(&self.chores.state).indexes.pop() else { return Ok(()) };
            if let Err(error) = self.files().write_index(&index) {
                lock(&self.chores.state).indexes.push(index);
                return Err(error);
            }
        }
    }

    /// Moves the floor up to what is on the disk.
    pub(crate) fn checkpoint(&self) -> Result<(), AppendError> {
        let mut writer = lock(&self.writer);
        if writer.durable == writer.manifest.last.floor || matches!(self.staging().stop, Some(AppendError::Poisoned)) {
            return Ok(());
        }
        self.write_floor(&mut writer)
    }

    /// Beside a process that writes, its manifest tells what its retention has given up.
    pub(crate) fn look_for_trim(&self) -> io::Result<()> {
        if self.config.read_only {
            let file = lock(&self.writer).manifest.file.clone();
            if let (Some(manifest), _) = newest(&read_up_to(&*file, 0, 2 * SLOT_LEN)?) {
                let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
                table.first = table.first.max(manifest.first);
            }
        }
        Ok(())
    }

    /// Gives up the oldest segments that the retention does not want.
    pub(crate) fn retain(&self) -> io::Result<()> {
        let retention = self.config.retention;
        // A segment that is being written anew must not be given up meanwhile; the next round comes by again.
        let Ok(_rewriting) = self.rewriting.try_lock() else { return Ok(()) };
        loop {
            let (oldest, next) = {
                let table = self.table();
                let Some((&oldest, _)) = table.sealed.first_key_value() else { return Ok(()) };
                (oldest, table.after(oldest).expect("the active segment comes after every sealed one"))
            };
            let end = self.end_offset.load(Ordering::Acquire);
            let too_many = retention.events.is_some_and(|events| end - next >= events);
            let too_large = match retention.bytes {
                Some(limit) => self.stored_bytes()? > limit,
                None => false,
            };
            let too_old = retention.age.is_some_and(|age| self.is_older(oldest, age));
            if !(too_many || too_large || too_old) {
                return Ok(());
            }
            self.trim(oldest, next)?;
        }
    }

    /// Gives up every segment that ends at or before this offset; gives the first offset that is left.
    fn trim_before(&self, before: u64) -> Result<u64, AppendError> {
        if let Some(stop) = &self.staging().stop {
            return Err(stop.clone());
        }
        self.end_active(|writer| writer.next_offset <= before)?;
        // The floor must not be in what goes.
        self.sync()?;
        // A segment that is being written anew must not be given up meanwhile.
        let _rewriting = lock(&self.rewriting);
        loop {
            let (first, oldest) = {
                let table = self.table();
                let oldest = table.sealed.first_key_value().map(|(&base, _)| base);
                (table.first, oldest.and_then(|base| Some((base, table.after(base)?))))
            };
            match oldest {
                Some((oldest, next)) if next <= before => {
                    self.trim(oldest, next).map_err(|error| AppendError::Io(Arc::new(error)))?;
                }
                _ => return Ok(first),
            }
        }
    }

    /// Bytes of all segment files. The files are looked at once; what compaction made shorter counts as what it is.
    fn stored_bytes(&self) -> io::Result<u64> {
        let unknown: Vec<u64> = {
            let table = self.table();
            table.sealed.iter().filter(|(_, slot)| slot.file_len.is_none()).map(|(base, _)| *base).collect()
        };
        for base in unknown {
            let len = self.files().open(base)?.map_or(0, |opened| opened.len);
            if let Some(slot) = self.table.write().unwrap_or_else(PoisonError::into_inner).sealed.get_mut(&base) {
                slot.file_len = Some(len);
            }
        }
        let table = self.table();
        let sealed: u64 = table.sealed.values().filter_map(|slot| slot.file_len).sum();
        Ok(sealed + table.active.allocated())
    }

    fn is_older(&self, base: u64, age: Duration) -> bool {
        let limit = self.too_old(self.config.clock.now(), age);
        self.sealed_index(base).is_ok_and(|index| index.meta.end_time < limit)
    }

    /// Gives up one segment: first its index is safe, for the origins in it; then the manifest says so, then the file goes.
    fn trim(&self, oldest: u64, next: u64) -> io::Result<()> {
        let index = self.sealed_index(oldest)?;
        self.files().write_index(&index)?;
        {
            let mut writer = lock(&self.writer);
            let before = {
                let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut table.first, next)
            };
            if let Err(error) = self.write_floor(&mut writer) {
                self.table.write().unwrap_or_else(PoisonError::into_inner).first = before;
                return Err(io::Error::other(error));
            }
            self.table.write().unwrap_or_else(PoisonError::into_inner).sealed.remove(&oldest);
        }
        lock(&self.indexes).retain(|(base, _)| *base != oldest);
        lock(&self.chores.state).indexes.retain(|index| index.meta.base != oldest);
        lock(&self.holes).retain(|_, hole| hole.offsets.end > next);
        give_up(&self.files(), oldest)?;
        if !mutant!("skip_dir_sync") {
            self.config.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    /// Starts the log's threads.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        if !self.config.background || self.config.read_only {
            return Ok(());
        }
        let spawn = |name: &str, run: fn(&Self)| {
            let core = self.clone();
            std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&core))
        };
        let threads = vec![spawn("redex-commit", Self::run_commits)?, spawn("redex-tend", Self::run_chores)?];
        lock(&self.chores.state).threads = threads;
        Ok(())
    }

    fn run_commits(&self) {
        let mut state = lock(&self.chores.state);
        loop {
            if std::mem::take(&mut state.lead) {
                drop(state);
                self.lead();
                state = lock(&self.chores.state);
            } else if state.stop {
                return;
            } else {
                state = self.chores.lead.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn run_chores(&self) {
        let every = match self.config.sync {
            SyncPolicy::Interval(every) => every.min(CHECKPOINT_EVERY),
            _ => CHECKPOINT_EVERY,
        };
        let mut scrubbed = Instant::now();
        let mut state = lock(&self.chores.state);
        loop {
            // Idle, there is nothing to wake up for but retention by age, and scrubbing.
            let idle = !state.dirty && self.config.retention.age.is_none();
            let until_scrub = self.scrub_interval().saturating_sub(scrubbed.elapsed());
            let wait = until_scrub.min(if idle { Duration::MAX } else { every });
            let waits = |s: &mut ChoreState| !(s.stop || s.tend_now || idle && s.dirty);
            let waited = self.chores.changed.wait_timeout_while(state, wait, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.stop {
                return;
            }
            if scrubbed.elapsed() >= self.scrub_interval() {
                scrubbed = Instant::now();
                drop(state);
                self.scrub_one();
                state = lock(&self.chores.state);
            }
            if idle && !state.tend_now {
                // The first append after a rest: its chores are due when the time is over.
                continue;
            }
            (state.dirty, state.tend_now) = (false, false);
            drop(state);
            self.tend();
            state = lock(&self.chores.state);
        }
    }

    /// Writes what is queued, syncs it, and moves the floor above it.
    pub(crate) fn close(&self) -> Result<(), AppendError> {
        let threads = {
            let mut state = lock(&self.chores.state);
            state.stop = true;
            std::mem::take(&mut state.threads)
        };
        self.chores.changed.notify_all();
        self.chores.lead.notify_all();
        for thread in threads {
            // One that panicked has left its mark in the state that the calls below return.
            let _ = thread.join();
        }
        let stop = self.staging().stop.clone();
        if let Some(error) = stop {
            return if matches!(error, AppendError::Poisoned) { Err(error) } else { Ok(()) };
        }
        self.staging().stop.get_or_insert(AppendError::Closed);
        self.drain();
        self.sync()?;
        if self.write_indexes().is_err() {
            self.counters.chore_failures.fetch_add(1, Ordering::Relaxed);
        }
        self.checkpoint()
    }

    /// Returns when what was queued is written and nobody leads: after that nothing touches the files.
    fn drain(&self) {
        loop {
            let vacant = {
                let mut staging = self.staging();
                if staging.queue.is_empty() && !staging.leading {
                    return;
                }
                !std::mem::replace(&mut staging.leading, true)
            };
            if vacant {
                self.lead();
            } else {
                // Whoever leads holds the writer while it writes.
                drop(lock(&self.writer));
                std::thread::yield_now();
            }
        }
    }
}
