//! The handle of an open log.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use net_channel::ChannelHash;
use net_transport::MeshId;

use crate::config::LogConfig;
use crate::core::{AppendGroup, Core, Staged, Waiter, lock};
use crate::format::LogId;
use crate::group::{Waited, WakerSlot};
use crate::hole::Hole;
use crate::open::{DirLock, open};
use crate::recovery::Recovery;
use crate::{AppendError, OpenError};

/// What an append came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Ack {
    /// The batch is on the disk: fdatasync has returned. `offset` is that of its first event.
    Durable {
        /// Offset of the batch's first event.
        offset: u64,
    },
    /// The batch is written and not synced: it outlives the process, not a power cut.
    Buffered {
        /// Offset of the batch's first event.
        offset: u64,
    },
}

impl Ack {
    /// Offset of the batch's first event.
    #[must_use]
    pub fn offset(self) -> u64 {
        match self {
            Self::Durable { offset } | Self::Buffered { offset } => offset,
        }
    }

    /// Whether the batch is on the disk.
    #[must_use]
    pub fn is_durable(self) -> bool {
        matches!(self, Self::Durable { .. })
    }
}

/// An open log. Clones are handles of the same one; the last one dropped closes it.
#[derive(Clone)]
pub struct Log {
    pub(crate) core: Arc<Core>,
    closer: Arc<Closer>,
}

struct Closer {
    core: Arc<Core>,
    lock: std::sync::Mutex<Option<DirLock>>,
    recovery: Recovery,
}

impl Drop for Closer {
    fn drop(&mut self) {
        // Whoever wants to know how it ended calls `Log::close`.
        let _ = self.core.close();
        lock(&self.lock).take();
    }
}

/// What has happened since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogMetrics {
    /// Batches appended.
    pub batches: u64,
    /// Events appended.
    pub events: u64,
    /// Bytes appended, with record headers and padding.
    pub bytes: u64,
    /// Groups written; batches divided by this is how many shared one sync.
    pub groups: u64,
    /// Syncs of segments.
    pub syncs: u64,
    /// Segments begun.
    pub rolls: u64,
    /// Appends refused before anything was written.
    pub refused: u64,
    /// Chores that failed and are tried again.
    pub chore_failures: u64,
    /// Sealed segments read again in the background.
    pub scrubbed: u64,
    /// Holes known.
    pub holes: u64,
    /// Holes that were found, told, and not remembered: there are 65,536 already.
    pub holes_forgotten: u64,
}

impl Log {
    /// Opens the log in this directory, or makes one.
    ///
    /// What an interrupted write left is cut off; damage is named in [`Log::recovery`] and stays where it is.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is changed on the disk but by recovery.
    pub fn open(dir: impl AsRef<Path>, config: LogConfig) -> Result<Self, OpenError> {
        let (core, recovery, dir_lock) = open(dir.as_ref(), config)?;
        let core = Arc::new(core);
        core.start().map_err(|source| OpenError::Io { path: core.dir.clone(), source })?;
        let closer = Closer { core: core.clone(), lock: std::sync::Mutex::new(dir_lock), recovery };
        Ok(Self { core, closer: Arc::new(closer) })
    }

    /// What opening found and did.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.closer.recovery
    }

    /// The log's random name.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.core.id
    }

    /// The channel whose batches it holds.
    #[must_use]
    pub fn channel(&self) -> ChannelHash {
        self.core.channel
    }

    /// The mesh that its signatures name.
    #[must_use]
    pub fn mesh(&self) -> MeshId {
        self.core.mesh
    }

    /// The offset of the oldest event that is kept.
    #[must_use]
    pub fn first_offset(&self) -> u64 {
        self.core.table().first
    }

    /// The offset that the next event that can be read will have.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.core.end_offset.load(Ordering::Acquire)
    }

    /// The seq after the highest of this origin that is in the log; nothing if it has none.
    #[must_use]
    pub fn next_seq(&self, origin: &net_transport::ShortId) -> Option<u64> {
        Some(self.core.index().head(origin)?.next)
    }

    /// Damage that is known: from opening, reading and scrubbing.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        lock(&self.core.holes).values().cloned().collect()
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> LogMetrics {
        let c = &self.core.counters;
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        LogMetrics {
            batches: read(&c.batches),
            events: read(&c.events),
            bytes: read(&c.bytes),
            groups: read(&c.groups),
            syncs: read(&c.syncs),
            rolls: read(&c.rolls),
            refused: read(&c.refused),
            chore_failures: read(&c.chore_failures),
            scrubbed: read(&c.scrubbed),
            holes: lock(&self.core.holes).len() as u64,
            holes_forgotten: read(&c.holes_forgotten),
        }
    }

    /// Appends a batch, as it is on the wire. Nothing happens until the result is awaited or waited for.
    ///
    /// Header and seal must be well-formed; that the signature is good is the caller's to know. It costs one copy.
    ///
    /// # Errors
    /// [`AppendError`], from the result.
    ///
    /// # Durability
    /// The [`Ack`] says whether a sync has returned; the policy says whether it waits for one.
    ///
    /// # Cancel safety
    /// Dropped before it is polled, nothing happens. Dropped later, the batch is appended all the same.
    pub fn append<'a>(&'a self, batch: &'a [u8]) -> Append<'a> {
        Append(AppendState::New(self.enqueue(batch)))
    }

    /// Gives a batch its place behind those before it, without waiting until it is stored: for whoever appends many and
    /// wants them in order. The result is a future of the [`Ack`], which may be dropped.
    ///
    /// # Errors
    /// As [`Log::append`]; what refuses a batch before it has a place is told by the first future, and the log is as it was.
    ///
    /// # Cancel safety
    /// Dropped before it ends, the batch has no place.
    pub fn enqueue<'a>(&'a self, batch: &'a [u8]) -> Enqueue<'a> {
        self.enqueue_if(None, batch)
    }

    /// [`Log::enqueue`], if its origin's next seq in this log is `next_seq`; 0 for an origin that has none.
    pub(crate) fn enqueue_if<'a>(&'a self, next_seq: Option<u64>, batch: &'a [u8]) -> Enqueue<'a> {
        Enqueue { log: self, batch, expected: next_seq, no_room: None }
    }

    /// Appends a batch if its origin's next seq in this log is `next_seq`; 0 for an origin that has none.
    ///
    /// # Errors
    /// [`AppendError::Duplicate`] if the batch is there, [`AppendError::Conflict`] if the origin's next seq is another one;
    /// nothing is written then.
    pub fn append_if<'a>(&'a self, next_seq: u64, batch: &'a [u8]) -> Append<'a> {
        Append(AppendState::New(self.enqueue_if(Some(next_seq), batch)))
    }

    /// Returns when everything acknowledged before is on the disk, whatever the policy. Blocks.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`] if the disk refused.
    pub fn sync(&self) -> Result<(), AppendError> {
        self.core.sync()
    }

    /// One round of what the log's threads do by themselves: room ahead, indexes, retention, the floor. Blocks.
    pub fn tend(&self) {
        self.core.tend();
    }

    /// Writes what is queued, syncs, moves the floor to the end, and lets the directory go. Blocks.
    ///
    /// Other handles get [`AppendError::Closed`]; readers go on to read.
    ///
    /// # Errors
    /// What kept the end of the log from reaching the disk.
    pub fn close(self) -> Result<(), AppendError> {
        let result = self.core.close();
        lock(&self.closer.lock).take();
        result
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("id", &self.core.id)
            .field("next_offset", &self.next_offset())
            .finish_non_exhaustive()
    }
}

/// An append that is under way once it is awaited, or waited for.
#[must_use = "nothing is appended until this is awaited or waited for"]
#[derive(Debug)]
pub struct Append<'a>(AppendState<'a>);

#[derive(Debug)]
enum AppendState<'a> {
    New(Enqueue<'a>),
    Queued(&'a Core, Queued),
}

/// Gives a batch its place in the log, once it is awaited.
#[must_use = "nothing is appended until this is awaited"]
#[derive(Debug)]
pub struct Enqueue<'a> {
    log: &'a Log,
    batch: &'a [u8],
    expected: Option<u64>,
    /// There was no room; there may be when this group is done.
    no_room: Option<(Arc<AppendGroup>, WakerSlot)>,
}

/// A batch that has its place in the log, and is being written. Awaited or not, it is appended.
#[must_use = "only its result says whether the batch is stored"]
#[derive(Debug)]
pub struct Queued {
    group: Arc<AppendGroup>,
    slot: WakerSlot,
    ack: Ack,
}

impl Append<'_> {
    /// Blocks this thread until the append is done. If nobody else is writing, this thread writes.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn wait(self) -> Result<Ack, AppendError> {
        let (log, batch, expected) = match self.0 {
            AppendState::New(Enqueue { log, batch, expected, .. }) => (log, batch, expected),
            AppendState::Queued(core, Queued { group, ack, .. }) => return wait_for(core, &group).map(|()| ack),
        };
        let core = &*log.core;
        loop {
            match core.stage(batch, expected, Waiter::Thread)? {
                Staged::In { group, offset, lead } => {
                    if lead {
                        core.lead();
                    }
                    wait_for(core, &group)?;
                    return Ok(core.ack(offset));
                }
                // Room or failure: staging again tells.
                Staged::NoRoom(group) => drop(wait_for(core, &group)),
            }
        }
    }
}

impl Core {
    fn ack(&self, offset: u64) -> Ack {
        if self.config.sync.waits() { Ack::Durable { offset } } else { Ack::Buffered { offset } }
    }
}

fn wait_for(core: &Core, group: &AppendGroup) -> Result<(), AppendError> {
    loop {
        match group.wait() {
            Waited::Done(result) => return result,
            Waited::Lead => core.lead(),
        }
    }
}

impl Future for Append<'_> {
    type Output = Result<Ack, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                AppendState::New(enqueue) => {
                    let core = &*enqueue.log.core;
                    match Pin::new(enqueue).poll(context)? {
                        Poll::Ready(queued) => self.0 = AppendState::Queued(core, queued),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                AppendState::Queued(_, queued) => return Pin::new(queued).poll(context),
            }
        }
    }
}

impl Future for Enqueue<'_> {
    type Output = Result<Queued, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let core = &*self.log.core;
        loop {
            if let Some((group, slot)) = &mut self.no_room {
                if group.poll(context, slot).is_pending() {
                    return Poll::Pending;
                }
                self.no_room = None;
            }
            match core.stage(self.batch, self.expected, Waiter::Task)? {
                Staged::In { group, offset, lead } => {
                    if lead && !core.ask_for_leader() {
                        core.lead();
                    }
                    return Poll::Ready(Ok(Queued { group, slot: WakerSlot::default(), ack: core.ack(offset) }));
                }
                Staged::NoRoom(group) => self.no_room = Some((group, WakerSlot::default())),
            }
        }
    }
}

impl Future for Queued {
    type Output = Result<Ack, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { group, slot, ack } = &mut *self;
        group.poll(context, slot).map(|result| result.map(|()| *ack))
    }
}
