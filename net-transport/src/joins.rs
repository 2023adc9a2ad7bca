//! Who takes the frames of which pair: a pure value.
//!
//! Two roles. As the node of an origin, this node *serves* pairs, and neighbours join them. As a subscriber, it *joins*
//! pairs at the neighbour that the origin's advert names. A join is live once the upstream has said `Joined`.
//!
//! `L` is what stands for a linked neighbour: in the endpoint the neighbour itself, in tests a number.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::metrics::Counters;
use crate::pace::Pace;
use crate::pair::Prefix;
use crate::{Event, Header, NodeId, Pair, Priority, ShortId, UnjoinReason};

#[cfg(test)]
mod tests;

/// Full pairs that one prefix may stand for.
const BUCKET_MAX: usize = 4;
/// Short ids in the path of a join.
pub(crate) const PATH_MAX: usize = 16;

/// What has to be done after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output<L> {
    Send(L, JoinMessage),
    Event(Event),
    /// A taker has gone or got room: those who wait for room look again.
    RoomChanged,
}

/// What neighbours say to each other about joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JoinMessage {
    Join(Pair),
    Unjoin(Pair),
    Joined(Pair, Vec<ShortId>),
    Unjoined(Pair, UnjoinReason),
    Full(Pair),
    Room(Pair),
    /// All joins of a fresh connection have been said.
    Synced,
}

/// May a received frame pass?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Solicited {
    Yes,
    /// The pair is not joined.
    No,
    /// The pair is joined elsewhere.
    WrongUpstream,
}

#[derive(Debug)]
pub(crate) struct Joins<L> {
    me: NodeId,
    joins_per_link: usize,
    links: BTreeMap<NodeId, LinkJoins<L>>,
    served: HashMap<Pair, Served<L>>,
    wanted: BTreeMap<Pair, Wanted>,
    /// The pairs of `wanted` by what frames say of them.
    by_prefix: HashMap<Prefix, Vec<Pair>>,
}

#[derive(Debug)]
struct LinkJoins<L> {
    link: L,
    /// What this neighbour has joined here.
    joined: BTreeSet<Pair>,
    /// What it had joined before its connection changed, and has not said again yet.
    unconfirmed: BTreeSet<Pair>,
}

/// A pair that this node is the origin's node of.
#[derive(Debug)]
pub(crate) struct Served<L> {
    pub(crate) takers: Vec<Taker<L>>,
    /// This node has joined it itself.
    pub(crate) local: bool,
    /// How long others have waited for this node itself.
    pub(crate) local_pace: Patience,
    /// The priority of its last frame, which says which queue has to have room.
    priority: AtomicU8,
    /// That frame was a realtime frame, which waits for nobody.
    realtime: AtomicBool,
}

/// A neighbour that has joined a served pair.
#[derive(Debug)]
pub(crate) struct Taker<L> {
    pub(crate) node: NodeId,
    pub(crate) link: L,
    /// It has told us that it is full for this pair.
    pub(crate) full: bool,
    pub(crate) pace: Patience,
}

/// How long others have waited for a taker.
#[derive(Debug)]
pub(crate) struct Patience {
    /// It has said for so long that it is full that nobody waits for it.
    pub(crate) told_slow: AtomicBool,
    pub(crate) pace: Mutex<Pace>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { told_slow: AtomicBool::new(false), pace: Mutex::new(Pace::new()) }
    }
}

#[derive(Debug)]
struct Wanted {
    node: NodeId,
    state: WantedState,
    /// We have told the upstream that we are full.
    full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WantedState {
    /// No link, or no answer yet.
    Waiting,
    Live,
    /// Refused; the layer above joins again when it knows better.
    Refused,
}

impl<L> Served<L> {
    pub(crate) fn priority(&self) -> Priority {
        Priority::from_bits(self.priority.load(Ordering::Relaxed)).unwrap_or_default()
    }

    pub(crate) fn is_realtime(&self) -> bool {
        self.realtime.load(Ordering::Relaxed)
    }

    /// Notes what is published.
    pub(crate) fn note(&self, header: &Header) {
        self.priority.store(header.priority() as u8, Ordering::Relaxed);
        self.realtime.store(header.is_realtime(), Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.takers.len() + usize::from(self.local)
    }
}

impl<L: Clone> Joins<L> {
    pub(crate) fn new(me: NodeId, joins_per_link: usize) -> Self {
        Self {
            me,
            joins_per_link,
            links: BTreeMap::new(),
            served: HashMap::new(),
            wanted: BTreeMap::new(),
            by_prefix: HashMap::new(),
        }
    }

    pub(crate) fn served(&self, pair: &Pair) -> Option<&Served<L>> {
        self.served.get(pair)
    }

    /// Is a frame with this prefix from this neighbour one that we asked it for?
    pub(crate) fn solicited(&self, from: &NodeId, prefix: &Prefix) -> Solicited {
        let Some(bucket) = self.by_prefix.get(prefix) else { return Solicited::No };
        let mut verdict = Solicited::No;
        for pair in bucket {
            match self.wanted.get(pair) {
                Some(wanted) if wanted.state == WantedState::Refused => {}
                Some(wanted) if wanted.node == *from => return Solicited::Yes,
                Some(_) => verdict = Solicited::WrongUpstream,
                None => {}
            }
        }
        verdict
    }

    // Serving.

    pub(crate) fn serve(&mut self, pair: Pair, out: &mut Vec<Output<L>>) {
        let Entry::Vacant(entry) = self.served.entry(pair) else { return };
        let served = entry.insert(Served {
            takers: Vec::new(),
            local: false,
            local_pace: Patience::default(),
            priority: AtomicU8::new(Priority::default() as u8),
            realtime: AtomicBool::new(false),
        });
        let Some(wanted) = self.wanted.get_mut(&pair).filter(|wanted| wanted.node == self.me) else { return };
        wanted.state = WantedState::Live;
        served.local = true;
        out.push(Output::Event(Event::Joined { pair, node: self.me }));
        out.push(Output::Event(Event::Joiners { pair, takers: 1 }));
    }

    pub(crate) fn unserve(&mut self, pair: &Pair, out: &mut Vec<Output<L>>) {
        let Some(served) = self.served.remove(pair) else { return };
        for taker in served.takers {
            if let Some(link) = self.links.get_mut(&taker.node) {
                link.joined.remove(pair);
            }
            out.push(Output::Send(taker.link, JoinMessage::Unjoined(*pair, UnjoinReason::NotServed)));
        }
        if let Some(wanted) = self.wanted.get_mut(pair).filter(|_| served.local) {
            wanted.state = WantedState::Waiting;
            let reason = UnjoinReason::NotServed;
            out.push(Output::Event(Event::Unjoined { pair: *pair, node: self.me, reason }));
        }
        out.push(Output::RoomChanged);
    }

    pub(crate) fn handle_join(&mut self, from: &NodeId, pair: Pair, counters: &Counters, out: &mut Vec<Output<L>>) {
        let Some(link) = self.links.get_mut(from) else { return };
        link.unconfirmed.remove(&pair);
        let refused = match self.served.get(&pair) {
            None => Some(UnjoinReason::NotServed),
            // A pair that this neighbour is our own upstream of cannot be served to it.
            Some(_) if self.wanted.get(&pair).is_some_and(|wanted| wanted.node == *from) => Some(UnjoinReason::Loop),
            Some(_) if link.joined.len() >= self.joins_per_link && !link.joined.contains(&pair) => {
                Some(UnjoinReason::TooMany)
            }
            Some(_) => None,
        };
        if let Some(reason) = refused {
            counters.joins_refused.one();
            out.push(Output::Send(link.link.clone(), JoinMessage::Unjoined(pair, reason)));
            return;
        }
        let served = self.served.get_mut(&pair).expect("a pair that is not served has been refused");
        out.push(Output::Send(link.link.clone(), JoinMessage::Joined(pair, vec![self.me.short()])));
        if link.joined.insert(pair) {
            let pace = Patience::default();
            served.takers.push(Taker { node: *from, link: link.link.clone(), full: false, pace });
            out.push(Output::Event(Event::Joiners { pair, takers: served.count() }));
        } else if let Some(taker) = served.takers.iter_mut().find(|taker| taker.node == *from) {
            // Said again: whoever is full says that again too.
            taker.full = false;
            out.push(Output::RoomChanged);
        }
    }

    pub(crate) fn handle_unjoin(&mut self, from: &NodeId, pair: &Pair, out: &mut Vec<Output<L>>) {
        let Some(link) = self.links.get_mut(from) else { return };
        link.unconfirmed.remove(pair);
        if link.joined.remove(pair) {
            self.remove_taker(from, pair, out);
        }
    }

    pub(crate) fn handle_full(&mut self, from: &NodeId, pair: &Pair, full: bool, out: &mut Vec<Output<L>>) {
        let Some(served) = self.served.get_mut(pair) else { return };
        if let Some(taker) = served.takers.iter_mut().find(|taker| taker.node == *from) {
            taker.full = full;
            out.push(Output::RoomChanged);
        }
    }

    /// The neighbour has said all its joins on its new connection: those that it did not say again are gone.
    pub(crate) fn handle_synced(&mut self, from: &NodeId, out: &mut Vec<Output<L>>) {
        let Some(link) = self.links.get_mut(from) else { return };
        for pair in std::mem::take(&mut link.unconfirmed) {
            self.handle_unjoin(from, &pair, out);
        }
    }

    fn remove_taker(&mut self, from: &NodeId, pair: &Pair, out: &mut Vec<Output<L>>) {
        let Some(served) = self.served.get_mut(pair) else { return };
        let before = served.takers.len();
        served.takers.retain(|taker| taker.node != *from);
        if served.takers.len() != before {
            out.push(Output::Event(Event::Joiners { pair: *pair, takers: served.count() }));
            out.push(Output::RoomChanged);
        }
    }

    // Joining.

    pub(crate) fn join(&mut self, pair: Pair, node: NodeId, counters: &Counters, out: &mut Vec<Output<L>>) {
        if let Some(wanted) = self.wanted.get(&pair) {
            if wanted.node == node && wanted.state != WantedState::Refused {
                return;
            }
            if wanted.node != node {
                self.leave(&pair, out);
            }
        }
        self.wanted.insert(pair, Wanted { node, state: WantedState::Waiting, full: false });
        let bucket = self.by_prefix.entry(pair.prefix()).or_default();
        if !bucket.contains(&pair) {
            if bucket.len() >= BUCKET_MAX {
                bucket.remove(0);
                counters.joins_bucket_overflow.one();
            }
            bucket.push(pair);
        }
        if node == self.me {
            let Some(served) = self.served.get_mut(&pair) else { return };
            served.local = true;
            let takers = served.count();
            self.wanted.entry(pair).and_modify(|wanted| wanted.state = WantedState::Live);
            out.push(Output::Event(Event::Joined { pair, node }));
            out.push(Output::Event(Event::Joiners { pair, takers }));
        } else if let Some(link) = self.links.get(&node) {
            out.push(Output::Send(link.link.clone(), JoinMessage::Join(pair)));
        }
    }

    pub(crate) fn unjoin(&mut self, pair: &Pair, out: &mut Vec<Output<L>>) {
        if self.wanted.contains_key(pair) {
            self.leave(pair, out);
            self.wanted.remove(pair);
            let prefix = pair.prefix();
            if let Some(bucket) = self.by_prefix.get_mut(&prefix) {
                bucket.retain(|other| other != pair);
                if bucket.is_empty() {
                    self.by_prefix.remove(&prefix);
                }
            }
        }
    }

    /// Tells the upstream that we take no more.
    fn leave(&mut self, pair: &Pair, out: &mut Vec<Output<L>>) {
        let Some(wanted) = self.wanted.get(pair) else { return };
        if wanted.node == self.me {
            if let Some(served) = self.served.get_mut(pair).filter(|served| served.local) {
                served.local = false;
                out.push(Output::Event(Event::Joiners { pair: *pair, takers: served.count() }));
            }
        } else if let Some(link) = self.links.get(&wanted.node).filter(|_| wanted.state != WantedState::Refused) {
            out.push(Output::Send(link.link.clone(), JoinMessage::Unjoin(*pair)));
        }
    }

    pub(crate) fn handle_joined(&mut self, from: &NodeId, pair: Pair, path: &[ShortId], out: &mut Vec<Output<L>>) {
        let Some(wanted) = self.wanted.get_mut(&pair).filter(|wanted| wanted.node == *from) else { return };
        if path.contains(&self.me.short()) {
            let link = self.links.get(from);
            out.extend(link.map(|link| Output::Send(link.link.clone(), JoinMessage::Unjoin(pair))));
            if wanted.state != WantedState::Refused {
                wanted.state = WantedState::Refused;
                out.push(Output::Event(Event::Unjoined { pair, node: *from, reason: UnjoinReason::Loop }));
            }
        } else if wanted.state == WantedState::Waiting {
            wanted.state = WantedState::Live;
            out.push(Output::Event(Event::Joined { pair, node: *from }));
        }
    }

    pub(crate) fn handle_unjoined(
        &mut self,
        from: &NodeId,
        pair: Pair,
        reason: UnjoinReason,
        out: &mut Vec<Output<L>>,
    ) {
        let Some(wanted) = self.wanted.get_mut(&pair).filter(|wanted| wanted.node == *from) else { return };
        if wanted.state != WantedState::Refused {
            wanted.state = WantedState::Refused;
            out.push(Output::Event(Event::Unjoined { pair, node: *from, reason }));
        }
    }

    /// This node is full for a joined pair, or no longer.
    pub(crate) fn set_full(&mut self, pair: &Pair, full: bool, out: &mut Vec<Output<L>>) {
        let Some(wanted) = self.wanted.get_mut(pair).filter(|wanted| wanted.full != full) else { return };
        wanted.full = full;
        if wanted.node == self.me {
            out.push(Output::RoomChanged);
        } else if let Some(link) = self.links.get(&wanted.node) {
            let message = if full { JoinMessage::Full(*pair) } else { JoinMessage::Room(*pair) };
            out.push(Output::Send(link.link.clone(), message));
        }
    }

    /// Has this node itself said that it is full for its own pair?
    pub(crate) fn local_full(&self, pair: &Pair) -> bool {
        self.wanted.get(pair).is_some_and(|wanted| wanted.full && wanted.node == self.me)
    }

    // Links.

    /// A neighbour has a connection, its first or another one: everything is said (again), and `Synced` after it.
    pub(crate) fn handle_link_up(&mut self, node: NodeId, link: L, out: &mut Vec<Output<L>>) {
        for (pair, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.node == node) {
            if wanted.state == WantedState::Refused {
                // A new connection may be to a restarted node; ask again.
                wanted.state = WantedState::Waiting;
            }
            out.push(Output::Send(link.clone(), JoinMessage::Join(*pair)));
            if wanted.full {
                out.push(Output::Send(link.clone(), JoinMessage::Full(*pair)));
            }
        }
        out.push(Output::Send(link.clone(), JoinMessage::Synced));
        let joined = self.links.remove(&node).map(|old| old.joined).unwrap_or_default();
        for pair in &joined {
            if let Some(served) = self.served.get_mut(pair) {
                served.takers.iter_mut().filter(|taker| taker.node == node).for_each(|t| t.link = link.clone());
            }
        }
        self.links.insert(node, LinkJoins { link, unconfirmed: joined.clone(), joined });
    }

    /// A neighbour is gone, and all joins with it.
    pub(crate) fn handle_link_down(&mut self, node: &NodeId, out: &mut Vec<Output<L>>) {
        let Some(link) = self.links.remove(node) else { return };
        for pair in &link.joined {
            self.remove_taker(node, pair, out);
        }
        for (pair, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.node == *node) {
            if wanted.state == WantedState::Live {
                let reason = UnjoinReason::LinkDown;
                out.push(Output::Event(Event::Unjoined { pair: *pair, node: *node, reason }));
            }
            wanted.state = WantedState::Waiting;
        }
    }
}
