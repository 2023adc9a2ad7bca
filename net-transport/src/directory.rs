//! Who is in the mesh, where, and what they advertise: a pure value.
//!
//! At this stage a node introduces its neighbours to each other: it passes on the records and adverts of itself and of
//! its neighbours, one hop. Records are refreshed each 20 s and live for 60 s, those of neighbours as long as the link;
//! adverts live as long as their node's record. Time, the wall clock and what is to be sent are arguments and results; there is no clock and no socket here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::config::Limits;
use crate::metrics::Counters;
use crate::{AdvertId, Event, MeshId, NodeId, NodeKeys, Peer, StaticBinding};

pub(crate) mod record;
#[cfg(test)]
mod tests;

use record::{NodeRecord, UnverifiedRecord};

/// A record older than this is neither sent nor taken.
pub(crate) const RECORD_AGE_MAX: Duration = Duration::from_secs(60);
/// How often a node signs its record anew.
pub(crate) const RECORD_REFRESH: Duration = Duration::from_secs(20);
/// How long the seq of a record is remembered, so that nothing returns from the dead.
pub(crate) const SEQ_REMEMBERED: Duration = Duration::from_secs(3600);
/// Bytes of one advert at most.
pub const ADVERT_LEN_MAX: usize = 1024;
/// The part of the tables of nodes and adverts that may come by way of one neighbour is one in so many.
const SHARE: usize = 4;
/// Nodes whose seq is remembered.
const REMEMBERED_MAX: usize = 65_536;
/// What a hop adds to the age of a record, so that it grows on every way.
const HOP_AGE: Duration = Duration::from_millis(1);

/// What has to be done after a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Event(Event),
    /// A node can be dialled.
    Introduced(Peer),
    /// A node's record has run out.
    Gone(NodeId),
    /// There may be something to send.
    Wake,
}

/// Something to send to a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Record { age_ms: u32, record: Bytes },
    Advert(Bytes),
}

/// A record that is worth checking.
#[derive(Debug)]
pub(crate) struct News {
    /// The binding of its node that is known, which need not be checked again.
    pub(crate) known: Option<StaticBinding>,
}

/// Why an own advert is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdvertError {
    /// Too large.
    #[error("an advert of {0} bytes, the limit is {ADVERT_LEN_MAX}")]
    TooLong(usize),
    /// Too many.
    #[error("{0} adverts of this node, which is the limit")]
    TooMany(usize),
}

#[derive(Debug)]
pub(crate) struct Directory {
    keys: NodeKeys,
    me: NodeId,
    mesh: MeshId,
    limits: Limits,
    own: NodeRecord,
    own_bytes: Bytes,
    own_born: Instant,
    own_adverts: BTreeMap<[u8; 32], Bytes>,
    nodes: BTreeMap<NodeId, Node>,
    /// Adverts of all other nodes.
    adverts: usize,
    /// What came by way of whom.
    brought: BTreeMap<NodeId, Brought>,
    /// Hashes of all adverts that are held: one that comes again need not be checked again.
    hashes: HashSet<[u8; 16]>,
    links: BTreeMap<NodeId, Link>,
    remembered: BTreeMap<NodeId, (u64, Instant)>,
    forget: BTreeSet<(Instant, NodeId)>,
}

#[derive(Debug)]
struct Node {
    record: NodeRecord,
    bytes: Bytes,
    /// When its author signed it, by this node's clock.
    born: Instant,
    /// Who introduced it first.
    via: NodeId,
    adverts: BTreeMap<[u8; 32], Advert>,
}

#[derive(Debug)]
struct Advert {
    seq: u64,
    bytes: Bytes,
    hash: [u8; 16],
}

/// What has not been sent to a neighbour yet.
#[derive(Debug, Default)]
struct Link {
    records: BTreeSet<NodeId>,
    adverts: BTreeSet<(NodeId, [u8; 32])>,
}

/// What is in the directory by way of one node: itself, those that it introduced, and the adverts of all of them.
#[derive(Debug, Default)]
struct Brought {
    nodes: usize,
    adverts: usize,
}

impl Directory {
    pub(crate) fn new(
        now: Instant,
        unix_ms: u64,
        keys: NodeKeys,
        mesh: MeshId,
        boot: [u8; 8],
        subnet: [u8; 4],
        limits: Limits,
    ) -> Self {
        let own = NodeRecord { binding: *keys.binding(), boot, seq: unix_ms, addresses: Vec::new(), subnet };
        let own_bytes = own.sign(&keys, &mesh);
        Self {
            me: keys.id(),
            keys,
            mesh,
            limits,
            own,
            own_bytes,
            own_born: now,
            own_adverts: BTreeMap::new(),
            nodes: BTreeMap::new(),
            adverts: 0,
            brought: BTreeMap::new(),
            hashes: HashSet::new(),
            links: BTreeMap::new(),
            remembered: BTreeMap::new(),
            forget: BTreeSet::new(),
        }
    }

    /// Linked neighbours that could introduce others, with what is known of them.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = Peer> {
        self.links
            .keys()
            .filter_map(|node| self.nodes.get(node))
            .map(|node| Peer { binding: node.record.binding, addresses: node.record.addresses.clone() })
    }

    // This node.

    /// Tells others where this node can be dialled.
    pub(crate) fn set_addresses(
        &mut self,
        now: Instant,
        unix_ms: u64,
        addresses: Vec<SocketAddr>,
        out: &mut Vec<Output>,
    ) {
        if self.own.addresses != addresses {
            self.own.addresses = addresses;
            self.refresh(now, unix_ms, out);
        }
    }

    fn refresh(&mut self, now: Instant, unix_ms: u64, out: &mut Vec<Output>) {
        self.own.seq = unix_ms.max(self.own.seq.saturating_add(1));
        self.own_bytes = self.own.sign(&self.keys, &self.mesh);
        self.own_born = now;
        let me = self.me;
        self.links.values_mut().for_each(|link| {
            link.records.insert(me);
        });
        out.push(Output::Wake);
    }

    pub(crate) fn advertise(&mut self, key: [u8; 32], bytes: Bytes, out: &mut Vec<Output>) -> Result<(), AdvertError> {
        if bytes.len() > ADVERT_LEN_MAX {
            return Err(AdvertError::TooLong(bytes.len()));
        }
        if self.own_adverts.len() >= self.limits.adverts_per_node && !self.own_adverts.contains_key(&key) {
            return Err(AdvertError::TooMany(self.own_adverts.len()));
        }
        self.own_adverts.insert(key, bytes);
        let me = self.me;
        self.links.values_mut().for_each(|link| {
            link.adverts.insert((me, key));
        });
        out.push(Output::Wake);
        Ok(())
    }

    // Links.

    /// A neighbour has a connection, its first or another one: it is told everything (again).
    pub(crate) fn handle_link_up(&mut self, node: NodeId, out: &mut Vec<Output>) {
        self.links.remove(&node);
        let mut link = Link::default();
        link.records.insert(self.me);
        link.adverts.extend(self.own_adverts.keys().map(|key| (self.me, *key)));
        for (other, known) in self.links.keys().filter_map(|other| Some((other, self.nodes.get(other)?))) {
            link.records.insert(*other);
            link.adverts.extend(known.adverts.keys().map(|key| (*other, *key)));
        }
        if let Some(known) = self.nodes.get(&node) {
            for other in self.links.values_mut() {
                other.records.insert(node);
                other.adverts.extend(known.adverts.keys().map(|key| (node, *key)));
            }
        }
        self.links.insert(node, link);
        out.push(Output::Wake);
    }

    pub(crate) fn handle_link_down(&mut self, node: &NodeId) {
        self.links.remove(node);
        for link in self.links.values_mut() {
            link.records.remove(node);
            link.adverts.retain(|(of, _)| of != node);
        }
    }

    /// A neighbour has said that it leaves: its record is worth nothing from now on, unless it is of another life.
    pub(crate) fn handle_left(&mut self, node: &NodeId, boot: [u8; 8], out: &mut Vec<Output>) {
        if self.nodes.get(node).is_some_and(|known| known.record.boot == boot) {
            self.remove(node, out);
        }
    }

    /// A neighbour was restarted: what its earlier self has advertised holds no more, also if its new record came first.
    pub(crate) fn handle_restart(&mut self, node: NodeId, out: &mut Vec<Output>) {
        self.forget_adverts(node, out);
    }

    /// The next thing to send to a neighbour.
    pub(crate) fn poll_send(&mut self, to: &NodeId, now: Instant) -> Option<Item> {
        let link = self.links.get_mut(to)?;
        while let Some(node) = link.records.pop_first() {
            let (record, born) = match self.nodes.get(&node) {
                Some(known) => (&known.bytes, known.born),
                None if node == self.me => (&self.own_bytes, self.own_born),
                None => continue,
            };
            let age = now.duration_since(born) + HOP_AGE;
            if age < RECORD_AGE_MAX {
                let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
                return Some(Item::Record { age_ms, record: record.clone() });
            }
        }
        while let Some((node, key)) = link.adverts.pop_first() {
            let bytes = if node == self.me {
                self.own_adverts.get(&key)
            } else {
                self.nodes.get(&node).and_then(|known| known.adverts.get(&key)).map(|advert| &advert.bytes)
            };
            if let Some(bytes) = bytes {
                return Some(Item::Advert(bytes.clone()));
            }
        }
        None
    }

    /// A record came from a neighbour. Is it news? Then its signature is worth checking, which takes long and needs
    /// nothing of the directory but the binding that is known.
    pub(crate) fn is_news(
        &mut self,
        from: &NodeId,
        age_ms: u32,
        record: &UnverifiedRecord<'_>,
        counters: &Counters,
    ) -> Option<News> {
        let node = record.node;
        if self.remembered.get(&node).is_some_and(|(seq, _)| *seq == record.seq()) {
            // What it has told us it need not be told.
            self.links.entry(*from).and_modify(|link| {
                link.records.remove(&node);
            });
        }
        if !self.finds_place(from, age_ms, node, record.seq(), counters) {
            return None;
        }
        Some(News { known: self.nodes.get(&node).map(|known| known.record.binding) })
    }

    fn finds_place(&self, from: &NodeId, age_ms: u32, node: NodeId, seq: u64, counters: &Counters) -> bool {
        let age = Duration::from_millis(u64::from(age_ms));
        let known = self.remembered.get(&node).is_some_and(|(known, _)| *known >= seq);
        if node == self.me || age >= RECORD_AGE_MAX || known || !self.links.contains_key(from) {
            counters.records_dropped_stale.one();
            return false;
        }
        let stranger = !self.nodes.contains_key(&node) && node != *from && !self.links.contains_key(&node);
        let brought = self.brought.get(from).map_or(0, |brought| brought.nodes);
        if stranger && (self.nodes.len() >= self.limits.nodes || brought >= self.limits.nodes / SHARE) {
            counters.records_dropped_limit.one();
            return false;
        }
        true
    }

    /// A record that came from a neighbour has been verified.
    pub(crate) fn handle_record(
        &mut self,
        now: Instant,
        from: &NodeId,
        age_ms: u32,
        (record, bytes): (NodeRecord, Bytes),
        counters: &Counters,
        out: &mut Vec<Output>,
    ) {
        let node = record.binding.node();
        // Another may have overtaken it while its signature was checked.
        if !self.finds_place(from, age_ms, node, record.seq, counters) {
            return;
        }
        counters.records_taken.one();
        self.remember(now, node, record.seq);
        // A clock may be younger than the record.
        let born = now.checked_sub(Duration::from_millis(u64::from(age_ms))).unwrap_or(now);
        self.insert(node, record, bytes, born, *from, out);
    }

    fn insert(
        &mut self,
        node: NodeId,
        record: NodeRecord,
        bytes: Bytes,
        born: Instant,
        from: NodeId,
        out: &mut Vec<Output>,
    ) {
        let peer = Peer { binding: record.binding, addresses: record.addresses.clone() };
        if let Some(known) = self.nodes.get_mut(&node) {
            let restarted = known.record.boot != record.boot;
            (known.record, known.bytes, known.born) = (record, bytes, born);
            let (via, adverts) = (known.via, known.adverts.len());
            if from == node && via != node {
                // It has come itself, and does not depend on who spoke of it first.
                known.via = node;
                self.give_back(via, 1, adverts);
                self.charge(node, 1, adverts);
            }
            if restarted {
                // What its earlier self has advertised holds no more.
                self.forget_adverts(node, out);
            }
        } else {
            self.charge(from, 1, 0);
            self.nodes.insert(node, Node { record, bytes, born, via: from, adverts: BTreeMap::new() });
        }
        if self.links.contains_key(&node) {
            for (_, link) in self.links.iter_mut().filter(|(to, _)| **to != from && **to != node) {
                link.records.insert(node);
            }
            out.push(Output::Wake);
        }
        out.push(Output::Introduced(peer));
    }

    fn remember(&mut self, now: Instant, node: NodeId, seq: u64) {
        let until = now + SEQ_REMEMBERED;
        if let Some((_, old)) = self.remembered.insert(node, (seq, until)) {
            self.forget.remove(&(old, node));
        }
        self.forget.insert((until, node));
        if self.remembered.len() > REMEMBERED_MAX
            && let Some((_, oldest)) = self.forget.pop_first()
        {
            self.remembered.remove(&oldest);
        }
    }

    /// Is this very advert held already? Then it need not be checked again.
    pub(crate) fn holds_advert(&self, bytes: &[u8]) -> bool {
        self.hashes.contains(&advert_hash(bytes))
    }

    /// An advert that the admission has accepted came from a neighbour.
    pub(crate) fn handle_advert(
        &mut self,
        from: &NodeId,
        id: &AdvertId,
        bytes: &[u8],
        counters: &Counters,
        out: &mut Vec<Output>,
    ) {
        if id.node == self.me {
            return counters.adverts_dropped_stale.one();
        }
        let Some(known) = self.nodes.get_mut(&id.node) else {
            return counters.adverts_dropped_unknown_node.one();
        };
        if bytes.len() > ADVERT_LEN_MAX {
            return counters.adverts_dropped_invalid.one();
        }
        // A neighbour speaks for itself: what others say of it could fill its quota with channels it never had.
        if from != &id.node && self.links.contains_key(&id.node) {
            return counters.adverts_dropped_stale.one();
        }
        let old = known.adverts.get(&id.key);
        if old.is_some_and(|old| old.seq >= id.seq) {
            return counters.adverts_dropped_stale.one();
        }
        let brought = self.brought.entry(known.via).or_default();
        let full = known.adverts.len() >= self.limits.adverts_per_node
            || brought.adverts >= self.limits.adverts / SHARE
            || self.adverts >= self.limits.adverts;
        if old.is_none() && full {
            return counters.adverts_dropped_limit.one();
        }
        counters.adverts_taken.one();
        let (hash, bytes) = (advert_hash(bytes), Bytes::copy_from_slice(bytes));
        self.hashes.insert(hash);
        match known.adverts.insert(id.key, Advert { seq: id.seq, bytes: bytes.clone(), hash }) {
            Some(old) => {
                self.hashes.remove(&old.hash);
            }
            None => {
                self.adverts += 1;
                brought.adverts += 1;
            }
        }
        if self.links.contains_key(&id.node) {
            for (_, link) in self.links.iter_mut().filter(|(to, _)| *to != from && **to != id.node) {
                link.adverts.insert((id.node, id.key));
            }
            out.push(Output::Wake);
        }
        out.push(Output::Event(Event::Advert { node: id.node, key: id.key, bytes }));
    }

    // Time.

    pub(crate) fn poll_timeout(&self) -> Instant {
        let expiry = self.mortal().map(|(_, node)| node.born + RECORD_AGE_MAX).min();
        let refresh = self.own_born + RECORD_REFRESH;
        expiry.map_or(refresh, |expiry| expiry.min(refresh))
    }

    /// The nodes whose records run out. A neighbour's does not: it lives, and would not say its adverts again.
    fn mortal(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(|(id, _)| !self.links.contains_key(*id))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, unix_ms: u64, out: &mut Vec<Output>) {
        if self.own_born + RECORD_REFRESH <= now {
            self.refresh(now, unix_ms, out);
        }
        let expired: Vec<_> =
            self.mortal().filter(|(_, node)| node.born + RECORD_AGE_MAX <= now).map(|(id, _)| *id).collect();
        for node in expired {
            self.remove(&node, out);
        }
        while let Some((_, node)) = self.forget.first().copied().filter(|(until, _)| *until <= now) {
            self.forget.pop_first();
            self.remembered.remove(&node);
        }
    }

    fn remove(&mut self, node: &NodeId, out: &mut Vec<Output>) {
        self.forget_adverts(*node, out);
        let Some(known) = self.nodes.remove(node) else { return };
        self.give_back(known.via, 1, 0);
        out.push(Output::Gone(*node));
    }

    fn forget_adverts(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let Some(known) = self.nodes.get_mut(&node).filter(|known| !known.adverts.is_empty()) else { return };
        let (via, adverts) = (known.via, std::mem::take(&mut known.adverts));
        self.adverts -= adverts.len();
        self.give_back(via, 0, adverts.len());
        for advert in adverts.values() {
            self.hashes.remove(&advert.hash);
        }
        out.push(Output::Event(Event::AdvertsGone { node }));
    }

    fn charge(&mut self, via: NodeId, nodes: usize, adverts: usize) {
        let brought = self.brought.entry(via).or_default();
        brought.nodes += nodes;
        brought.adverts += adverts;
    }

    fn give_back(&mut self, via: NodeId, nodes: usize, adverts: usize) {
        let Some(brought) = self.brought.get_mut(&via) else { return };
        brought.nodes -= nodes;
        brought.adverts -= adverts;
        if brought.nodes == 0 {
            self.brought.remove(&via);
        }
    }
}

fn advert_hash(bytes: &[u8]) -> [u8; 16] {
    let hash = blake3::hash(bytes);
    std::array::from_fn(|i| hash.as_bytes()[i])
}
