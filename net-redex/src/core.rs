//! The state of an open log, and putting a batch in the queue of what is to be written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use net_channel::ChannelHash;
use net_transport::{MeshId, ShortId};

use crate::config::LogConfig;
use crate::disk::DiskFile;
use crate::format::{Floor, IndexFile, LogId, Manifest, RecordParams, SEGMENT_HEADER_LEN, body_crc, push, record_len};
use crate::group::{Group, Watch};
use crate::hole::Hole;
use crate::keyring::KeyRing;
use crate::segment::{ActiveIndex, Head, Segment, Table};
use crate::{AppendError, batch};

/// Bytes that may wait to be written; then appends wait for room.
pub(crate) const STAGED_BYTES_MAX: usize = 8 << 20;
/// Bytes of a group at most, one larger batch aside.
pub(crate) const GROUP_BYTES_MAX: usize = 4 << 20;

/// An open log, shared by its handles, its threads and its readers.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    pub(crate) id: LogId,
    pub(crate) channel: ChannelHash,
    pub(crate) mesh: MeshId,
    pub(crate) staging: Mutex<Staging>,
    /// Held by whoever leads, and by those who must not meet a leader.
    pub(crate) writer: Mutex<Writer>,
    pub(crate) index: RwLock<ActiveIndex>,
    pub(crate) table: RwLock<Table>,
    pub(crate) indexes: Mutex<VecDeque<(u64, Arc<IndexFile>)>>,
    pub(crate) holes: Mutex<BTreeMap<u64, Hole>>,
    /// The offset after the last event that can be read.
    pub(crate) end_offset: AtomicU64,
    pub(crate) watch: Watch,
    pub(crate) chores: Chores,
    pub(crate) keys: Mutex<KeyRing>,
    /// Held by whoever replaces a segment: compaction and repair take turns.
    pub(crate) rewriting: Mutex<()>,
    /// Origins that have a writer: one each.
    pub(crate) writing: Mutex<BTreeSet<ShortId>>,
    pub(crate) counters: Counters,
}

/// What has been taken in and not yet written.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) queue: VecDeque<Pending>,
    pub(crate) bytes: usize,
    pub(crate) leading: bool,
    pub(crate) next_offset: u64,
    /// Where the next record will stand in the segment that will then be the active one.
    pub(crate) position: u64,
    pub(crate) time: u64,
    /// What the leader is writing now.
    pub(crate) in_flight: Vec<StagedRecord>,
    /// Heads of origins that have something in the queue.
    pub(crate) heads: BTreeMap<ShortId, Head>,
    /// Why nothing more is taken.
    pub(crate) stop: Option<AppendError>,
    /// A buffer to use again.
    pub(crate) buffer: Vec<u8>,
}

/// Those that wait for one write.
pub(crate) type AppendGroup = Group<Result<(), AppendError>>;

/// A group and its records.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) group: Arc<AppendGroup>,
    /// Threads that wait, or are about to, and can be made leaders.
    pub(crate) threads: usize,
    /// It begins a new segment.
    pub(crate) roll: bool,
    pub(crate) position: u64,
    pub(crate) first_offset: u64,
    pub(crate) first_time: u64,
    pub(crate) last_time: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<StagedRecord>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedRecord {
    pub(crate) position: u64,
    pub(crate) origin: ShortId,
    pub(crate) seq: u64,
    pub(crate) events: u16,
    pub(crate) hash: [u8; 32],
}

/// What only the leader touches.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) active: Arc<Segment>,
    /// Where the next record goes.
    pub(crate) position: u64,
    pub(crate) next_offset: u64,
    pub(crate) time: u64,
    /// Everything up to here is on the disk.
    pub(crate) durable: Floor,
    /// Segments before the active one that have not been synced.
    pub(crate) unsynced: Vec<Arc<Segment>>,
    pub(crate) manifest: ManifestFile,
}

#[derive(Debug)]
pub(crate) struct ManifestFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) last: Manifest,
}

/// What the log's threads have to do.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    pub(crate) state: Mutex<ChoreState>,
    pub(crate) changed: Condvar,
    /// Wakes the thread that leads for those who have none.
    pub(crate) lead: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct ChoreState {
    pub(crate) stop: bool,
    /// Someone is to lead who has no thread for it.
    pub(crate) lead: bool,
    /// Something was appended since the last round.
    pub(crate) dirty: bool,
    pub(crate) tend_now: bool,
    pub(crate) threads: Vec<std::thread::JoinHandle<()>>,
    pub(crate) spare: Option<Spare>,
    /// Spares made so far: no two have one name.
    pub(crate) spares: u64,
    /// Indexes of sealed segments that are to be written.
    pub(crate) indexes: Vec<Arc<IndexFile>>,
}

/// A file that will be the next segment.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) allocated: u64,
}

/// What has happened since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) batches: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) rolls: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) chore_failures: AtomicU64,
    pub(crate) scrubbed: AtomicU64,
    pub(crate) holes_forgotten: AtomicU64,
}

/// Where a batch stands in the queue.
#[derive(Debug)]
pub(crate) enum Staged {
    In {
        group: Arc<AppendGroup>,
        offset: u64,
        lead: bool,
    },
    /// There is no room until this group is done.
    NoRoom(Arc<AppendGroup>),
}

/// Who waits for an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    Thread,
    Task,
}

impl Core {
    pub(crate) fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    /// Puts a batch in the queue.
    pub(crate) fn stage(&self, frame: &[u8], expected: Option<u64>, waiter: Waiter) -> Result<Staged, AppendError> {
        let staged = self.try_stage(frame, expected, waiter);
        if staged.is_err() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        staged
    }

    fn try_stage(&self, frame: &[u8], expected: Option<u64>, waiter: Waiter) -> Result<Staged, AppendError> {
        let view = batch::check(frame)?;
        let header = view.header();
        if self.channel.prefix() != header.channel() {
            return Err(AppendError::OtherChannel);
        }
        let limit = self.config.batch_len_max();
        if frame.len() as u64 > limit {
            return Err(AppendError::TooLarge { limit });
        }
        // Everything that costs by the byte is done before the lock is taken, but for one copy.
        let (crc, hash) = (body_crc(frame), view.hash().0);
        let (origin, seq, events) = (header.origin(), header.seq(), header.events());
        let len = record_len(frame.len());
        let now = self.config.clock.now();

        let mut staging = self.staging();
        let staging = &mut *staging;
        if let Some(stop) = &staging.stop {
            return Err(stop.clone());
        }
        let head = staging.heads.get(&origin).copied().or_else(|| self.index().head(&origin));
        let next = head.map_or(0, |head| head.next);
        if seq < next
            && let Some(seq) = self.first_known(staging, origin, seq, events)
        {
            return Err(AppendError::Duplicate { seq });
        }
        if let Some(expected) = expected
            && expected != next
        {
            return Err(AppendError::Conflict { next });
        }
        if staging.bytes > 0 && staging.bytes + len > STAGED_BYTES_MAX {
            let last = staging.queue.back_mut();
            if let Some(pending) = last {
                pending.threads += usize::from(waiter == Waiter::Thread);
                return Ok(Staged::NoRoom(pending.group.clone()));
            }
        }
        let roll = staging.position + len as u64 > self.config.segment_bytes;
        if roll {
            staging.position = SEGMENT_HEADER_LEN as u64;
        }
        staging.time = staging.time.max(now);
        let shared = self.config.sync != crate::SyncPolicy::Always;
        let room = |pending: &Pending| shared && !roll && pending.bytes.len() + len <= GROUP_BYTES_MAX;
        if !staging.queue.back().is_some_and(room) {
            staging.queue.push_back(Pending {
                group: Arc::default(),
                threads: 0,
                roll,
                position: staging.position,
                first_offset: staging.next_offset,
                first_time: staging.time,
                last_time: staging.time,
                bytes: std::mem::take(&mut staging.buffer),
                records: Vec::new(),
            });
        }
        let pending = staging.queue.back_mut().expect("one was pushed if there was none");
        let offset = staging.next_offset;
        push(&mut pending.bytes, &self.id, RecordParams { flags: 0, offset, time: staging.time }, frame, crc);
        pending.records.push(StagedRecord { position: staging.position, origin, seq, events, hash });
        pending.threads += usize::from(waiter == Waiter::Thread);
        pending.last_time = staging.time;
        staging.bytes += len;
        staging.position += len as u64;
        staging.next_offset += u64::from(events);
        if seq + u64::from(events) > next {
            staging.heads.insert(origin, Head { next: seq + u64::from(events), hash });
        }
        let lead = !std::mem::replace(&mut staging.leading, true);
        Ok(Staged::In { group: pending.group.clone(), offset, lead })
    }

    /// The first seq of these that the log has, or will have when the queue is written.
    fn first_known(&self, staging: &Staging, origin: ShortId, seq: u64, events: u16) -> Option<u64> {
        let end = seq + u64::from(events);
        let queued = staging.queue.iter().flat_map(|pending| &pending.records).chain(&staging.in_flight);
        let overlap = |from: u64, count: u16| {
            let to = from + u64::from(count);
            (from < end && seq < to).then(|| from.max(seq))
        };
        let queued = queued.filter(|r| r.origin == origin).filter_map(|r| overlap(r.seq, r.events)).min();
        queued.or_else(|| self.find_dots(origin, seq..end).into_iter().map(|found| found.seq.max(seq)).min())
    }

    pub(crate) fn index(&self) -> std::sync::RwLockReadGuard<'_, ActiveIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
