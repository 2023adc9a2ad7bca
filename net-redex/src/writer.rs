//! Writing events rather than batches: for those who use the log alone.
//!
//! Events of all threads gather in one batch while the batch before it is being sealed, signed, written and synced.
//! So a batch, and with it a signature and a sync, serves as many events as come in the time of one sync.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use net_channel::{
    BatchBuilder, BatchHash, HlcClock, PushError, SEAL_LEN, SealError, SealParams, SenderKey, SeqsExhausted, first_seq,
};
use net_identity::Signer;
use net_transport::{HEADER_LEN, Priority, Visibility};

use crate::core::lock;
use crate::group::{Group, Waited, let_gather};
use crate::keyring::KeyRingError;
use crate::{Ack, AppendError, Log};

/// Batches that one thread seals and writes before another takes over.
const ROUNDS_MAX: usize = 8;
const NANOS_PER_MS: u64 = 1_000_000;

/// Appends events to a log, signed by one origin. Clones share it; every thread may use it.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

struct Inner {
    log: Log,
    signer: Arc<dyn Signer>,
    sender_key: SenderKey,
    incarnation: u64,
    staging: Mutex<Staging>,
    chain: Mutex<Chain>,
}

#[derive(Default)]
struct Staging {
    open: Option<Open>,
    leading: bool,
    builders: Vec<BatchBuilder>,
    clock: HlcClock,
    stop: Option<WriteError>,
    /// Events that are likely to come while the last batch's writers are woken, and how long that took.
    expected: usize,
    last_took: Duration,
}

struct Open {
    builder: BatchBuilder,
    group: Arc<WriteGroup>,
}

type WriteGroup = Group<Result<Ack, WriteError>>;

struct Chain {
    next: u64,
    prev: BatchHash,
}

/// An event to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewEvent<'a> {
    /// The payload.
    pub payload: &'a [u8],
    /// What it is about: later events of the same key supersede it.
    pub key: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
}

impl<'a> From<&'a [u8]> for NewEvent<'a> {
    fn from(payload: &'a [u8]) -> Self {
        Self { payload, ..Self::default() }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for NewEvent<'a> {
    fn from(payload: &'a [u8; N]) -> Self {
        Self::from(payload.as_slice())
    }
}

impl<'a> From<&'a Vec<u8>> for NewEvent<'a> {
    fn from(payload: &'a Vec<u8>) -> Self {
        Self::from(payload.as_slice())
    }
}

impl<'a> From<&'a str> for NewEvent<'a> {
    fn from(payload: &'a str) -> Self {
        Self::from(payload.as_bytes())
    }
}

/// Why an event was not written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The event fits into no batch.
    #[error(transparent)]
    Event(#[from] PushError),
    /// The batch was not sealed.
    #[error("the batch was not sealed")]
    Seal(#[source] Arc<SealError>),
    /// The batch was not appended.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why there is no writer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// This origin has a writer on this log: share that one.
    #[error("this origin has a writer on this log already: use a clone of that one")]
    Taken,
    /// The origin has used up its seqs.
    #[error(transparent)]
    Exhausted(#[from] SeqsExhausted),
    /// The key of this start could not be kept.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
}

impl Log {
    /// A writer that signs as this origin. It makes a fresh sender key, and keeps it in the key ring if there is one.
    ///
    /// # Errors
    /// [`WriterError`].
    pub fn writer(&self, signer: Arc<dyn Signer>) -> Result<Writer, WriterError> {
        let origin = signer.id();
        if !lock(&self.core.writing).insert(origin.short()) {
            return Err(WriterError::Taken);
        }
        self.make_writer(signer).inspect_err(|_| {
            lock(&self.core.writing).remove(&origin.short());
        })
    }

    fn make_writer(&self, signer: Arc<dyn Signer>) -> Result<Writer, WriterError> {
        let origin = signer.id();
        let head = self.core.index().head(&origin.short());
        let known = head.map_or(0, |head| head.next.saturating_sub(1));
        let incarnation = first_seq(self.core.config.clock.now(), known, 0)?;
        let sender_key = SenderKey::new(self.core.config.entropy.bytes());
        // Kept before anything is sealed with it, or a crash could leave batches that nobody can open.
        self.add_key(origin, incarnation, sender_key.clone())?;
        let prev = head.map_or(BatchHash::ZERO, |head| BatchHash(head.hash));
        Ok(Writer(Arc::new(Inner {
            log: self.clone(),
            signer,
            sender_key,
            incarnation,
            staging: Mutex::default(),
            chain: Mutex::new(Chain { next: incarnation, prev }),
        })))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        lock(&self.log.core.writing).remove(&self.signer.id().short());
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("origin", &self.0.signer.id()).finish_non_exhaustive()
    }
}

impl Writer {
    /// Writes an event, with whatever others are writing at the moment, and blocks until that is done.
    ///
    /// # Errors
    /// [`WriteError`]. The event is not in the log then, but for [`AppendError::Poisoned`], where nobody knows.
    ///
    /// # Durability
    /// As the log's policy says; the [`Ack`] tells. Its offset is that of this event.
    pub fn append<'a>(&self, event: impl Into<NewEvent<'a>>) -> Result<Ack, WriteError> {
        let event = event.into();
        loop {
            let Placed { group, index, lead } = self.0.place(&event)?;
            if lead {
                self.0.lead();
            }
            let result = loop {
                match group.wait() {
                    Waited::Done(result) => break result,
                    Waited::Lead => self.0.lead(),
                }
            };
            // Without an index the event waited for room.
            if let Some(index) = index {
                return Ok(match result? {
                    Ack::Durable { offset } => Ack::Durable { offset: offset + index },
                    Ack::Buffered { offset } => Ack::Buffered { offset: offset + index },
                });
            }
        }
    }

    /// Writes these events, as few batches as they fit in, and blocks until that is done. The offset is the first's.
    ///
    /// # Errors
    /// [`WriteError`]. Those before the one that failed may be in the log.
    pub fn append_all<'a, E: Into<NewEvent<'a>>>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Option<Ack>, WriteError> {
        let mut first: Option<Ack> = None;
        let spare = lock(&self.0.staging).builders.pop();
        let mut builder = spare.unwrap_or_else(|| self.0.builder());
        let now_ms = self.0.log.core.config.clock.now() / NANOS_PER_MS;
        let mut flush = |builder: &mut BatchBuilder| -> Result<(), WriteError> {
            if !builder.is_empty() {
                let ack = self.0.seal_and_append(builder)?;
                first.get_or_insert(ack);
            }
            Ok(())
        };
        for event in events {
            let event = event.into();
            let time = self.0.staging().clock.tick(now_ms);
            match builder.push(event.payload, event.key, event.headers, time) {
                Ok(_) => {}
                Err(PushError::Full) => {
                    flush(&mut builder)?;
                    builder.push(event.payload, event.key, event.headers, time)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        flush(&mut builder)?;
        self.0.staging().builders.push(builder);
        Ok(first)
    }
}

impl Staging {
    fn queued(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.builder.events())
    }
}

struct Placed {
    group: Arc<WriteGroup>,
    index: Option<u64>,
    lead: bool,
}

impl Inner {
    fn staging(&self) -> MutexGuard<'_, Staging> {
        lock(&self.staging)
    }

    /// For batches that fit into a segment.
    fn builder(&self) -> BatchBuilder {
        let room = self.log.core.config.batch_len_max() - (HEADER_LEN + SEAL_LEN) as u64;
        BatchBuilder::with_limit(room.try_into().unwrap_or(usize::MAX))
    }

    /// Encodes the event into the open batch, or says whom to wait for until there is room.
    fn place(&self, event: &NewEvent<'_>) -> Result<Placed, WriteError> {
        let now_ms = self.log.core.config.clock.now() / NANOS_PER_MS;
        let mut staging = self.staging();
        let staging = &mut *staging;
        if let Some(stop) = &staging.stop {
            return Err(stop.clone());
        }
        let time = staging.clock.tick(now_ms);
        let builders = &mut staging.builders;
        let open = staging.open.get_or_insert_with(|| Open {
            builder: builders.pop().unwrap_or_else(|| self.builder()),
            group: Arc::default(),
        });
        let index = match open.builder.push(event.payload, event.key, event.headers, time) {
            Ok(index) => Some(index as u64),
            Err(PushError::Full) => None,
            Err(error) => {
                if open.builder.is_empty() {
                    staging.open = None;
                }
                return Err(error.into());
            }
        };
        let group = open.group.clone();
        Ok(Placed { group, index, lead: !std::mem::replace(&mut staging.leading, true) })
    }

    /// Seals and writes batches until there is none, or it is another's turn.
    fn lead(&self) {
        for round in 1.. {
            let (expected, last_took) = {
                let staging = self.staging();
                (staging.expected, staging.last_took)
            };
            if expected > 1 {
                let_gather(expected, last_took, || self.staging().queued());
            }
            let mut open = {
                let mut staging = self.staging();
                let Some(open) = staging.open.take() else {
                    staging.leading = false;
                    return;
                };
                open
            };
            let (size, start) = (open.builder.events(), Instant::now());
            let result = self.seal_and_append(&mut open.builder);
            open.builder.clear();
            {
                let mut staging = self.staging();
                staging.expected = size + staging.queued();
                staging.last_took = start.elapsed();
                staging.builders.push(open.builder);
            }
            open.group.complete(result);
            if round >= ROUNDS_MAX {
                let mut staging = self.staging();
                match &staging.open {
                    // Whoever put the first event there waits, or is about to.
                    Some(open) => open.group.offer_lead(),
                    None => staging.leading = false,
                }
                return;
            }
        }
    }

    fn seal_and_append(&self, builder: &mut BatchBuilder) -> Result<Ack, WriteError> {
        let mut chain = lock(&self.chain);
        let core = &self.log.core;
        let events = builder.events() as u64;
        let sealed = builder.seal(&SealParams {
            mesh: &core.mesh,
            channel: &core.channel,
            signer: &*self.signer,
            sender_key: &self.sender_key,
            seq: chain.next,
            incarnation: self.incarnation,
            prev: chain.prev,
            parents: &[],
            parents_cut: false,
            salt: core.config.entropy.bytes(),
            visibility: Visibility::Global,
            priority: Priority::Normal,
            realtime: false,
            subnet: [0; 4],
            aead: core.config.aead,
            cap: [0; 4],
        });
        let sealed = sealed.map_err(|error| WriteError::Seal(Arc::new(error)))?;
        match self.log.append(sealed.frame()).wait() {
            Ok(ack) => {
                (chain.next, chain.prev) = (chain.next + events, sealed.hash());
                Ok(ack)
            }
            Err(error) => {
                if matches!(error, AppendError::Poisoned | AppendError::Closed | AppendError::ReadOnly) {
                    // Whether the batch is there is not known: nothing may be signed for its place.
                    self.staging().stop = Some(error.clone().into());
                }
                Err(error.into())
            }
        }
    }
}
