//! One (channel, origin) that this node subscribes to: its join, its keys, what its origin has been asked.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_identity::PreparedKey;
use net_transport::{MeshId, NodeId};

use crate::core::delivery::LineId;
use crate::core::item::Source;
use crate::core::message::{SeqRange, Start};
use crate::core::subscriptions::SubId;
use crate::{BatchHash, Class, Equivocation, KeyId, SealedBatch, SenderKey, VerifiedSeal};

/// What all subscriptions of this node share of one origin's events in one channel.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) source: Arc<Source>,
    pub(super) class: Class,
    pub(super) node: NodeId,
    /// Checks the origin's signatures.
    pub(super) verifier: PreparedKey,
    pub(super) since: Instant,
    pub(super) joined: bool,
    pub(super) join_sent_at: Instant,
    /// How long the join took: a round trip to the origin's node.
    pub(super) round_trip: Duration,
    pub(super) join_again_at: Option<Instant>,
    keys: HashMap<KeyId, SenderKey>,
    /// In the order in which they came.
    keys_came: VecDeque<KeyId>,
    /// Verified batches whose key has not come yet, by seq.
    pub(super) locked: BTreeMap<u64, (Instant, SealedBatch)>,
    locked_bytes: usize,
    /// Since when realtime batches have come whose key is not here; those are not kept.
    pub(super) keyless_since: Option<Instant>,
    /// The last batches that verified, to find those that contradict them.
    recent: VecDeque<VerifiedSeal>,
    pub(super) sessions: BTreeMap<SubId, Session>,
    pub(super) full: bool,
    pub(super) reported: u64,
    pub(super) report_at: Option<Instant>,
    pub(super) reported_at: Option<Instant>,
    pub(super) due: Option<Instant>,
}

/// What one subscription has asked the origin's node.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) line: LineId,
    pub(super) phase: Phase,
    /// Where to begin, until the origin has said which seq that is.
    pub(super) start: Option<Start>,
    /// The id of the last subscribe message.
    pub(super) asked_as: Option<u64>,
    pub(super) asked_at: Instant,
    /// The keys that a subscription that stores has been given.
    pub(super) keys_given: HashSet<KeyId>,
    /// The last events that are known to be stored here without one missing, if this subscription stores.
    pub(super) stored: Option<SeqRange>,
    pub(super) fetch: Option<Fetch>,
}

/// A request under way.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) id: u64,
    pub(super) ranges: Vec<SeqRange>,
    /// Seqs below this were known to exist when it was sent.
    pub(super) known: u64,
    pub(super) sent_at: Instant,
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Asked { id: u64, deadline: Instant },
    Refused { again_at: Instant },
    Running { id: u64 },
}

/// The most keys that are kept of one origin.
pub(super) const KEYS_MAX: usize = 4_096;
/// The most seals that are kept of one origin's delivered batches.
const RECENT_MAX: usize = 16;
/// How long a batch waits for its key before the origin is asked for it.
pub(super) const LOCKED_ASK_AFTER: Duration = Duration::from_secs(2);

impl Feed {
    pub(super) fn new(now: Instant, source: Arc<Source>, class: Class, node: NodeId) -> Self {
        Self {
            verifier: PreparedKey::new(source.origin),
            source,
            class,
            node,
            since: now,
            joined: false,
            join_sent_at: now,
            round_trip: Duration::ZERO,
            join_again_at: None,
            keys: HashMap::new(),
            keys_came: VecDeque::new(),
            locked: BTreeMap::new(),
            locked_bytes: 0,
            keyless_since: None,
            recent: VecDeque::new(),
            sessions: BTreeMap::new(),
            full: false,
            reported: 0,
            report_at: None,
            reported_at: None,
            due: None,
        }
    }

    pub(super) fn key(&self, id: &KeyId) -> Option<&SenderKey> {
        self.keys.get(id)
    }

    pub(super) fn add_key(&mut self, key: SenderKey) {
        self.keyless_since = None;
        let id = key.key_id();
        if self.keys.contains_key(&id) {
            return;
        }
        if self.keys.len() >= KEYS_MAX
            && let Some(oldest) = self.keys_came.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.keys_came.push_back(id);
        self.keys.insert(id, key);
    }

    /// Keeps a batch until its key comes, if there is room.
    pub(super) fn lock(&mut self, now: Instant, sealed: SealedBatch, batches_max: usize, bytes_max: usize) -> bool {
        let len = sealed.frame().len();
        if self.locked.contains_key(&sealed.seal().seq()) {
            return true;
        }
        if self.locked.len() >= batches_max || self.locked_bytes + len > bytes_max {
            return false;
        }
        self.locked.insert(sealed.seal().seq(), (now, sealed));
        self.locked_bytes += len;
        true
    }

    /// Takes out the batches that this holds of.
    pub(super) fn unlock(&mut self, mut which: impl FnMut(&Instant, &SealedBatch) -> bool) -> Vec<SealedBatch> {
        let seqs: Vec<u64> =
            self.locked.iter().filter(|(_, (at, sealed))| which(at, sealed)).map(|(seq, _)| *seq).collect();
        let taken: Vec<SealedBatch> =
            seqs.iter().filter_map(|seq| self.locked.remove(seq)).map(|(_, sealed)| sealed).collect();
        self.locked_bytes -= taken.iter().map(|sealed| sealed.frame().len()).sum::<usize>();
        taken
    }

    /// Is this batch one of those that verified lately?
    pub(super) fn is_recent(&self, hash: BatchHash) -> bool {
        self.recent.iter().any(|seal| seal.hash() == hash)
    }

    /// Would a batch of these seqs contradict one that verified lately, if it verified?
    pub(super) fn overlaps_recent(&self, range: SeqRange) -> bool {
        self.recent.iter().any(|seal| range.from < seal.next_seq() && seal.seq() < range.to)
    }

    /// The hash of the batch that ends with this seq, if it verified lately.
    pub(super) fn hash_of_last(&self, last_seq: u64) -> Option<BatchHash> {
        self.recent.iter().find(|seal| seal.last_seq() == last_seq).map(VerifiedSeal::hash)
    }

    /// Remembers a verified batch, and proves a contradiction to one before it.
    pub(super) fn remember(&mut self, mesh: &MeshId, seal: &VerifiedSeal) -> Option<Equivocation> {
        let proof = self.recent.iter().find_map(|before| Equivocation::between(mesh, before, seal));
        if !self.is_recent(seal.hash()) {
            if self.recent.len() >= RECENT_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(seal.clone());
        }
        proof
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let sessions = self.sessions.values().flat_map(|session| {
            let phase = match session.phase {
                Phase::Asked { deadline: at, .. } | Phase::Refused { again_at: at } if self.joined => Some(at),
                _ => None,
            };
            [phase, session.fetch.as_ref().map(|fetch| fetch.deadline)]
        });
        sessions.chain([self.join_again_at, self.report_at, self.locked_due()]).flatten().min()
    }

    /// When the origin is to be asked for a key that has not come.
    pub(super) fn locked_due(&self) -> Option<Instant> {
        let asked_at = self.sessions.values().map(|session| session.asked_at).max()?;
        let oldest = self.locked.values().map(|(at, _)| *at).chain(self.keyless_since).min()?;
        // What was asked for after the batch came is being answered.
        (self.is_running() && oldest >= asked_at).then(|| oldest + LOCKED_ASK_AFTER)
    }

    fn is_running(&self) -> bool {
        self.sessions.values().any(|session| matches!(session.phase, Phase::Running { .. }))
    }
}

impl Session {
    pub(super) fn new(now: Instant, line: LineId, start: Option<Start>) -> Self {
        Self {
            line,
            phase: Phase::Idle,
            start,
            asked_as: None,
            asked_at: now,
            keys_given: HashSet::new(),
            stored: None,
            fetch: None,
        }
    }

    /// What was asked has no answer any more.
    pub(super) fn interrupt(&mut self, phase: Phase) {
        self.phase = phase;
        self.fetch = None;
    }
}
