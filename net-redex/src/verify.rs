//! Checking a log with public keys only: checksums, chain, signatures. Nothing is opened, nothing is changed.

use std::collections::BTreeMap;
use std::fmt;

use net_channel::{BatchError, BatchHash, SealView, SealedView, VerifiedSeal};
use net_identity::{EntityId, PreparedKey};
use net_transport::ShortId;

use crate::core::lock;
use crate::format::record_len;
use crate::hole::{DotRange, dots_of};
use crate::{Batch, Found, Log, ReadError, Start};

/// Faults that a verification lists; more are counted.
const FAULTS_MAX: usize = 10_000;

/// Where an origin is known to stand, from elsewhere: a Tick, a keeper, a note taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Whose.
    pub origin: EntityId,
    /// The seq after its last event.
    pub next: u64,
    /// Hash of the batch that holds the last event.
    pub hash: BatchHash,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// Batches looked at.
    pub batches: u64,
    /// Events in batches that are as they should be.
    pub events: u64,
    /// How often a producer that keeps no log of its own was started anew: it names no batch before it, so whether
    /// something is missing there is not known to anybody.
    pub restarts: u64,
    /// What is wrong, in the order of the log; at most 10,000.
    pub faults: Vec<Fault>,
    /// Faults beyond those.
    pub more_faults: u64,
    /// Where each origin stands at the end.
    pub heads: Vec<Expected>,
}

/// Something that is wrong, and with which events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Offset in the log.
    pub offset: u64,
    /// The events at fault; none where damage does not tell.
    pub dots: Option<DotRange>,
    /// What is wrong.
    pub what: FaultKind,
}

/// What can be wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// A checksum does not hold, or bytes are missing.
    #[error("damaged on the disk")]
    Damaged,
    /// The batch is not what was signed: its body or its head was changed, another key signed it, or it belongs to
    /// another channel or mesh.
    #[error("not what the origin signed: {0}")]
    Invalid(BatchError),
    /// The origin's public key is not known.
    #[error("the public key of its origin is not known")]
    UnknownOrigin,
    /// Events between two that are here are missing.
    #[error("missing")]
    Missing,
    /// The batch stands behind a later one of its origin.
    #[error("out of order: a later one stands before it")]
    OutOfOrder,
    /// Another batch holds some of the same seqs.
    #[error("a second batch for the same seqs")]
    Repeated,
    /// The batch does not name the one before it: what lay between was changed or taken away.
    #[error("does not continue the batch before it")]
    Unlinked,
    /// The log ends before a place that its origin is known to have reached.
    #[error("the end is missing")]
    Truncated,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.dots {
            Some(dots) => write!(f, "{}:{}..={}: {}", dots.origin, dots.first, dots.last, self.what),
            None => write!(f, "offset {}: {}", self.offset, self.what),
        }
    }
}

#[derive(Clone, Copy)]
struct Head {
    origin: EntityId,
    next: u64,
    hash: BatchHash,
    incarnation: u64,
}

struct Verifier<'a> {
    log: &'a Log,
    origins: BTreeMap<ShortId, PreparedKey>,
    heads: BTreeMap<ShortId, Head>,
    report: Verification,
    /// Gaps seen: to tell a batch that is late from one that is repeated.
    missing: Vec<DotRange>,
}

impl Log {
    /// Checks every batch that is kept: its checksum, its signature, and that it continues the one before it.
    ///
    /// `origins` are public keys beside those that the log knows; `expected` is where origins are known to stand.
    ///
    /// # Errors
    /// [`ReadError`] if the disk refuses; what is wrong with the log is in the result.
    pub fn verify(&self, origins: &[EntityId], expected: &[Expected]) -> Result<Verification, ReadError> {
        self.verify_with_progress(origins, expected, |_| {})
    }

    /// The same, and tells after each batch how many bytes of records have been looked at: of all that the
    /// [segments](Log::segments) have, but for a header each.
    ///
    /// # Errors
    /// As [`Log::verify`].
    pub fn verify_with_progress(
        &self,
        origins: &[EntityId],
        expected: &[Expected],
        mut progress: impl FnMut(u64),
    ) -> Result<Verification, ReadError> {
        let known = lock(&self.core.keys).origins().collect::<Vec<_>>();
        let origins = known.iter().chain(origins).chain(expected.iter().map(|e| &e.origin));
        let origins = origins.map(|origin| (origin.short(), PreparedKey::new(*origin))).collect();
        let report = Verification::default();
        let mut verifier = Verifier { log: self, origins, heads: BTreeMap::new(), report, missing: Vec::new() };
        let mut bytes = 0;
        for found in self.read(Start::Earliest)? {
            let found = found?;
            verifier.look_at(&found);
            bytes += match &found {
                Found::Batch(batch) => record_len(batch.frame().len()) as u64,
                Found::Hole(hole) => hole.bytes.end - hole.bytes.start,
                Found::Trimmed { .. } => 0,
            };
            progress(bytes);
        }
        // Opening had found these; reading does not come by where nothing was left to read.
        let end = self.next_offset();
        for hole in self.recovery().holes.iter().filter(|hole| hole.offsets.end > end) {
            verifier.damaged(hole);
        }
        verifier.finish(expected);
        Ok(verifier.report)
    }
}

impl Verifier<'_> {
    fn look_at(&mut self, found: &Found) {
        match found {
            Found::Batch(batch) => self.batch(batch),
            Found::Hole(hole) => self.damaged(hole),
            Found::Trimmed { .. } => {}
        }
    }

    fn damaged(&mut self, hole: &crate::Hole) {
        if hole.dots.is_empty() {
            self.fault(hole.offsets.start, None, FaultKind::Damaged);
        }
        for dots in &hole.dots {
            self.fault(hole.offsets.start, Some(*dots), FaultKind::Damaged);
        }
    }

    fn batch(&mut self, batch: &Batch) {
        self.report.batches += 1;
        let dots = dots_of(batch.header());
        match self.verified(batch) {
            Ok(seal) => {
                let before = self.report.faults.len() as u64 + self.report.more_faults;
                self.link(batch.offset(), dots, &seal);
                if before == self.report.faults.len() as u64 + self.report.more_faults {
                    self.report.events += u64::from(seal.events());
                }
            }
            Err(what) => self.fault(batch.offset(), Some(dots), what),
        }
    }

    fn verified(&self, batch: &Batch) -> Result<VerifiedSeal, FaultKind> {
        let origin = self.origins.get(&batch.header().origin()).ok_or(FaultKind::UnknownOrigin)?;
        let (mesh, channel) = (&self.log.core.mesh, &self.log.core.channel);
        if batch.is_compacted() {
            return SealView::parse(batch.frame())
                .and_then(|seal| seal.verify(mesh, channel, origin))
                .map_err(FaultKind::Invalid);
        }
        let view = SealedView::parse(batch.frame()).map_err(FaultKind::Invalid)?;
        view.verify(mesh, channel, origin).map_err(FaultKind::Invalid)
    }

    /// Holds a batch against its origin's batch before it.
    fn link(&mut self, offset: u64, dots: DotRange, seal: &VerifiedSeal) {
        let head = self.heads.get(&dots.origin).copied();
        let new =
            Head { origin: seal.origin(), next: seal.next_seq(), hash: seal.hash(), incarnation: seal.incarnation() };
        let Some(head) = head else {
            // What came before may have been given up by retention, or never kept here.
            if !seal.is_first() && self.log.first_offset() == 0 && offset == 0 {
                self.missing_between(offset, dots, seal.incarnation());
            }
            self.heads.insert(dots.origin, new);
            return;
        };
        if dots.first < head.next {
            let fills = |gap: &DotRange| gap.origin == dots.origin && gap.first <= dots.first && dots.last <= gap.last;
            let what = if self.missing.iter().any(fills) { FaultKind::OutOfOrder } else { FaultKind::Repeated };
            self.fault(offset, Some(dots), what);
            return;
        }
        let same = head.incarnation == seal.incarnation();
        if same && dots.first > head.next {
            self.missing_between(offset, dots, head.next);
        } else if !same && !seal.is_first() {
            self.missing_between(offset, dots, seal.incarnation());
        } else if !same && seal.prev() == BatchHash::ZERO {
            self.report.restarts += 1;
        } else if seal.prev() != head.hash {
            self.fault(offset, Some(dots), FaultKind::Unlinked);
        }
        self.heads.insert(dots.origin, new);
    }

    fn missing_between(&mut self, offset: u64, dots: DotRange, from: u64) {
        let gap = DotRange { first: from, last: dots.first - 1, ..dots };
        if self.missing.len() < FAULTS_MAX {
            self.missing.push(gap);
        }
        self.fault(offset, Some(gap), FaultKind::Missing);
    }

    fn finish(&mut self, expected: &[Expected]) {
        let end = self.log.next_offset();
        for e in expected {
            let head = self.heads.get(&e.origin.short());
            let next = head.map_or(0, |head| head.next);
            let dots =
                DotRange { origin: e.origin.short(), first: next, last: e.next.saturating_sub(1), certain: true };
            if next < e.next {
                self.fault(end, Some(dots), FaultKind::Truncated);
            } else if next == e.next && head.is_some_and(|head| head.hash != e.hash) {
                let dots = DotRange { first: e.next.saturating_sub(1), ..dots };
                self.fault(end, Some(dots), FaultKind::Unlinked);
            }
        }
        self.report.heads =
            self.heads.values().map(|h| Expected { origin: h.origin, next: h.next, hash: h.hash }).collect();
    }

    fn fault(&mut self, offset: u64, dots: Option<DotRange>, what: FaultKind) {
        if self.report.faults.len() < FAULTS_MAX {
            self.report.faults.push(Fault { offset, dots, what });
        } else {
            self.report.more_faults += 1;
        }
    }
}
