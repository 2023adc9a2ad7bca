//! Whom to dial, and when: a pure value.
//!
//! Peers that the owner named are kept and redialled for ever; introduced ones as long as their record lives. Of two
//! nodes that are introduced to each other the one with the smaller id dials at once and the other waits a second, so
//! that their dials rarely cross.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::{NodeId, Peer, StaticBinding};

mod places;
mod reach;

use places::Places;
use reach::Reach;

/// Pause after the first failed dial; doubled with each further one.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between dials.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long the node with the larger id leaves the first dial to the other.
pub(crate) const COURTESY: Duration = Duration::from_secs(1);
/// Dials at a time.
pub(crate) const DIALS_MAX: usize = 16;
/// Peers that the owner may name.
const KEPT_MAX: usize = 4096;
/// Addresses of one peer.
pub(crate) const ADDRESSES_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Dialer {
    me: NodeId,
    targets: BTreeMap<NodeId, Target>,
    /// Dials ever begun, to anyone: each has a number of its own.
    begun: u64,
    reach: Reach,
}

#[derive(Debug)]
struct Target {
    places: Places,
    /// The owner named it.
    kept: bool,
    /// Its record is alive.
    introduced: bool,
    /// It has been found on the local network.
    nearby: bool,
    linked: bool,
    dialing: bool,
    failures: u32,
    /// Not before this.
    next: Instant,
    last_error: Option<String>,
}

/// How things stand with a node that is not linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) dialing: bool,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) next: Instant,
}

impl Dialer {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, targets: BTreeMap::new(), begun: 0, reach: Reach::default() }
    }

    /// The owner names a peer: it is dialled now and kept. False if there are too many.
    pub(crate) fn keep(&mut self, now: Instant, peer: Peer) -> bool {
        let node = peer.node();
        if node == self.me {
            return true;
        }
        let kept = self.targets.values().filter(|target| target.kept).count();
        if kept >= KEPT_MAX && !self.targets.get(&node).is_some_and(|target| target.kept) {
            return false;
        }
        let target = self.targets.entry(node).or_insert_with(|| Target::new(peer.binding, now));
        target.kept = true;
        target.next = now;
        target.places.set_owner(peer);
        true
    }

    /// A live record says where a node can be dialled.
    pub(crate) fn introduce(&mut self, now: Instant, peer: Peer) {
        self.learn(now, peer, |target, peer| {
            target.introduced = true;
            target.places.set_record(peer);
        });
    }

    /// A node has been found on the local network.
    #[cfg(feature = "mdns")]
    pub(crate) fn nearby(&mut self, now: Instant, peer: Peer) {
        self.learn(now, peer, |target, peer| {
            target.nearby = true;
            target.places.set_nearby(peer);
        });
    }

    /// A node is on the local network no longer.
    #[cfg(feature = "mdns")]
    pub(crate) fn not_nearby(&mut self, node: &NodeId) {
        if let Some(target) = self.targets.get_mut(node) {
            target.nearby = false;
            target.places.forget_nearby();
        }
        self.tidy(node);
    }

    fn learn(&mut self, now: Instant, peer: Peer, note: impl FnOnce(&mut Target, Peer)) {
        let node = peer.node();
        if node == self.me {
            return;
        }
        let courtesy = if self.me < node { Duration::ZERO } else { COURTESY };
        let target = self.targets.entry(node).or_insert_with(|| Target::new(peer.binding, now + courtesy));
        if !target.named() {
            target.next = now + courtesy;
        }
        note(target, peer);
    }

    /// A node's record has run out.
    pub(crate) fn gone(&mut self, node: &NodeId) {
        if let Some(target) = self.targets.get_mut(node) {
            target.introduced = false;
            target.places.forget_record();
        }
        self.tidy(node);
    }

    /// A connection with a node stands; `at` is where this end has dialled it.
    pub(crate) fn linked(&mut self, now: Instant, binding: StaticBinding, at: Option<SocketAddr>) {
        let target = self.targets.entry(binding.node()).or_insert_with(|| Target::new(binding, now));
        if let Some(at) = at {
            target.places.set_worked(at);
        }
        target.linked = true;
        target.failures = 0;
        target.last_error = None;
    }

    /// A node is no neighbour any more; it is dialled again after a short pause. `random` spreads the pause.
    pub(crate) fn unlinked(&mut self, now: Instant, node: &NodeId, why: String, random: u64) {
        if let Some(target) = self.targets.get_mut(node) {
            target.linked = false;
            target.last_error = Some(why);
            target.next = now + pause(0, random);
        }
        self.tidy(node);
    }

    /// A dial has ended without a link.
    pub(crate) fn failed(&mut self, now: Instant, node: &NodeId, error: String, random: u64) {
        if let Some(target) = self.targets.get_mut(node) {
            target.dialing = false;
            target.next = now + pause(target.failures, random);
            target.failures = target.failures.saturating_add(1);
            target.last_error = Some(error);
        }
        self.tidy(node);
    }

    /// A dial has ended with a link, its own or another.
    pub(crate) fn succeeded(&mut self, node: &NodeId) {
        if let Some(target) = self.targets.get_mut(node) {
            target.dialing = false;
        }
        self.tidy(node);
    }

    /// The number of the last dial that was begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// The next peer to dial now, and the number of the dial, if there is room for another neighbour.
    pub(crate) fn poll_dial(&mut self, now: Instant, links_max: usize) -> Option<(Peer, u64)> {
        if !self.may_dial(links_max) {
            return None;
        }
        let due = |target: &Target| target.wanted() && target.next <= now;
        // Those that the owner named come first.
        let (_, target) = self.targets.iter_mut().filter(|(_, target)| due(target)).max_by_key(|(_, t)| t.kept)?;
        target.dialing = true;
        self.begun += 1;
        Some((target.places.to_dial(target.failures), self.begun))
    }

    /// May a dial of this node go to this address now? Whoever does not answer is not asked often, unless the owner named
    /// the address, or it has worked.
    pub(crate) fn may_try(&mut self, now: Instant, node: &NodeId, address: SocketAddr) -> bool {
        self.targets.get(node).is_some_and(|target| target.places.is_trusted(&address))
            || self.reach.may_dial(now, address.ip())
    }

    /// Somebody who knows the psk has answered there.
    pub(crate) fn answered(&mut self, node: &NodeId, address: SocketAddr) {
        if !self.targets.get(node).is_some_and(|target| target.places.is_trusted(&address)) {
            self.reach.answered(address.ip());
        }
    }

    /// A dial to a neighbour, to renew its connection: who it is, and the number of the dial.
    pub(crate) fn redial(&mut self, node: &NodeId) -> Option<(Peer, u64)> {
        let target = self.targets.get_mut(node).filter(|target| !target.dialing)?;
        target.dialing = true;
        self.begun += 1;
        Some((target.places.to_dial(0), self.begun))
    }

    fn may_dial(&self, links_max: usize) -> bool {
        let dialing = self.targets.values().filter(|target| target.dialing).count();
        let taken = self.targets.values().filter(|target| target.dialing || target.linked).count();
        dialing < DIALS_MAX && taken < links_max
    }

    /// When there is someone to dial again.
    pub(crate) fn poll_timeout(&self, links_max: usize) -> Option<Instant> {
        if !self.may_dial(links_max) {
            return None;
        }
        self.targets.values().filter(|target| target.wanted()).map(|target| target.next).min()
    }

    /// Peers worth remembering: those that the owner named, and neighbours.
    pub(crate) fn known(&self) -> Vec<Peer> {
        let known = self.targets.values().filter(|target| target.kept || target.linked);
        known.map(|target| target.places.known()).filter(|peer| !peer.addresses.is_empty()).collect()
    }

    /// How things stand with those that are not linked.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (NodeId, Standing)> {
        self.targets.iter().filter(|(_, target)| !target.linked).map(|(node, target)| {
            let Target { dialing, failures, ref last_error, next, .. } = *target;
            (*node, Standing { dialing, failures, last_error: last_error.clone(), next })
        })
    }

    fn tidy(&mut self, node: &NodeId) {
        let over = |target: &Target| !target.named() && !target.linked && !target.dialing;
        if self.targets.get(node).is_some_and(over) {
            self.targets.remove(node);
        }
    }
}

impl Target {
    fn new(binding: StaticBinding, next: Instant) -> Self {
        let (kept, introduced, nearby, linked, dialing) = (false, false, false, false, false);
        let places = Places::new(binding);
        Self { places, kept, introduced, nearby, linked, dialing, failures: 0, next, last_error: None }
    }

    /// Somebody or something says that it should be a neighbour.
    fn named(&self) -> bool {
        self.kept || self.introduced || self.nearby
    }

    fn wanted(&self) -> bool {
        self.named() && !self.linked && !self.dialing && !self.places.is_empty()
    }
}

/// 100 ms doubling to 30 s, of which a random part between a half and the whole is waited.
fn pause(failures: u32, random: u64) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1 << failures.min(20)).min(BACKOFF_MAX);
    let half = whole / 2;
    half + half.mul_f64((random % 1024) as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeKeys, Seed};

    const LINKS_MAX: usize = 3;

    /// Peers in the order of their ids; the dialler is the one in the middle.
    fn peers() -> (NodeId, Vec<Peer>) {
        let mut keys: Vec<NodeKeys> = (0..21).map(|n| NodeKeys::from_seed(&Seed::new([n; 32]))).collect();
        keys.sort_by_key(NodeKeys::id);
        let me = keys.remove(10).id();
        let addresses = vec!["127.0.0.1:1".parse().expect("an address")];
        (me, keys.iter().map(|keys| Peer { binding: *keys.binding(), addresses: addresses.clone() }).collect())
    }

    fn node(dial: Option<(Peer, u64)>) -> Option<NodeId> {
        dial.map(|(peer, _)| peer.node())
    }

    #[test]
    fn kept_peer_is_dialled_at_once_and_again_with_back_off() {
        let (me, peers) = peers();
        let mut now = Instant::now();
        let mut dialer = Dialer::new(me);
        let peer = peers[0].clone();
        assert!(dialer.keep(now, peer.clone()));
        let mut pauses = Vec::new();
        for n in 1..12 {
            assert_eq!(dialer.poll_dial(now, LINKS_MAX), Some((peer.clone(), n)));
            assert_eq!(dialer.poll_dial(now, LINKS_MAX), None);
            dialer.failed(now, &peer.node(), "nobody there".to_owned(), 1023);
            let next = dialer.poll_timeout(LINKS_MAX).expect("it is kept");
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses[..3], [99, 199, 399]);
        assert_eq!(pauses[10], 29_985);
    }

    #[test]
    fn smaller_id_dials_an_introduced_node_at_once_and_the_larger_waits() {
        let (me, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(me);
        dialer.introduce(now, peers[0].clone());
        assert_eq!(dialer.poll_dial(now, LINKS_MAX), None);
        assert_eq!(dialer.poll_timeout(LINKS_MAX), Some(now + COURTESY));
        dialer.introduce(now, peers[15].clone());
        assert_eq!(node(dialer.poll_dial(now, LINKS_MAX)), Some(peers[15].node()));
        // A refreshed record does not put it off.
        dialer.introduce(now + COURTESY / 2, peers[0].clone());
        assert_eq!(node(dialer.poll_dial(now + COURTESY, LINKS_MAX)), Some(peers[0].node()));
    }

    #[test]
    fn no_more_are_dialled_than_may_be_neighbours() {
        let (me, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(me);
        for peer in &peers[11..16] {
            dialer.keep(now, peer.clone());
        }
        for _ in 0..LINKS_MAX {
            assert!(dialer.poll_dial(now, LINKS_MAX).is_some());
        }
        assert_eq!((dialer.poll_dial(now, LINKS_MAX), dialer.poll_timeout(LINKS_MAX)), (None, None));
        let linked = peers[15].node();
        dialer.succeeded(&linked);
        dialer.linked(now, peers[15].binding, None);
        assert_eq!(dialer.poll_dial(now, LINKS_MAX), None);
        dialer.unlinked(now, &linked, "gone".to_owned(), 0);
        assert_eq!(node(dialer.poll_dial(now, LINKS_MAX)), Some(peers[12].node()));
    }

    #[test]
    fn introduced_node_is_forgotten_with_its_record_and_a_kept_one_never() {
        let (me, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(me);
        for n in [11, 12] {
            dialer.introduce(now, peers[n].clone());
        }
        dialer.keep(now, peers[12].clone());
        for n in [11, 12] {
            dialer.gone(&peers[n].node());
        }
        assert_eq!(dialer.standings().map(|(node, _)| node).collect::<Vec<_>>(), [peers[12].node()]);
        assert_eq!(dialer.known(), [peers[12].clone()]);
    }

    #[test]
    fn dials_are_numbered_and_a_neighbour_can_be_dialled_anew() {
        let (me, peers) = peers();
        let now = Instant::now();
        let (mut dialer, peer) = (Dialer::new(me), peers[11].clone());
        dialer.introduce(now, peer.clone());
        assert_eq!(dialer.poll_dial(now, LINKS_MAX).map(|(_, n)| n), Some(1));
        dialer.succeeded(&peer.node());
        dialer.linked(now, peer.binding, Some(peer.addresses[0]));
        dialer.gone(&peer.node());
        assert_eq!(dialer.redial(&peer.node()).map(|(_, n)| n), Some(2));
        assert_eq!(dialer.redial(&peer.node()), None);
        assert_eq!(dialer.begun(), 2);
    }

    #[test]
    fn own_id_is_never_dialled() {
        let (_, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(peers[3].node());
        dialer.keep(now, peers[3].clone());
        dialer.introduce(now, peers[3].clone());
        assert_eq!(dialer.poll_dial(now, LINKS_MAX), None);
    }

    #[test]
    fn records_that_name_a_victim_send_it_few_dials() {
        let (me, peers) = peers();
        let mut now = Instant::now();
        let mut dialer = Dialer::new(me);
        let victim = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut dials = 0;
        // Twenty records, each with as many ports of the victim as it may name, for ten minutes.
        for _ in 0..600 {
            for peer in &peers {
                let addresses = (1..100).map(victim).collect();
                dialer.introduce(now, Peer { binding: peer.binding, addresses });
            }
            while let Some((peer, _)) = dialer.poll_dial(now, 64) {
                let node = peer.node();
                dials += peer.addresses.iter().filter(|address| dialer.may_try(now, &node, **address)).count();
                dialer.failed(now, &node, "nobody there".to_owned(), 0);
            }
            now += Duration::from_secs(1);
        }
        assert!((300..=320).contains(&dials), "16 at once and one each two seconds: {dials}");
    }

    #[test]
    fn victims_host_is_still_dialled_where_its_owner_or_experience_says_so() {
        let (me, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(me);
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (kept, worked) = (&peers[11], &peers[12]);
        dialer.keep(now, Peer { binding: kept.binding, addresses: vec![at(1)] });
        dialer.introduce(now, Peer { binding: worked.binding, addresses: vec![at(2)] });
        dialer.linked(now, worked.binding, Some(at(2)));
        for port in 100..200 {
            dialer.may_try(now, &peers[13].node(), at(port));
        }
        assert!(!dialer.may_try(now, &peers[13].node(), at(1)), "all dials of that host are used up");
        assert!(!dialer.may_try(now, &kept.node(), at(2)));
        assert!(dialer.may_try(now, &kept.node(), at(1)) && dialer.may_try(now, &worked.node(), at(2)));
    }

    #[cfg(feature = "mdns")]
    #[test]
    fn stranger_on_the_local_network_does_not_displace_addresses_that_work() {
        let (me, peers) = peers();
        let now = Instant::now();
        let mut dialer = Dialer::new(me);
        let at = |port| SocketAddr::from(([192, 0, 2, 1], port));
        dialer.keep(now, Peer { binding: peers[11].binding, addresses: vec![at(1)] });
        let (_, first) = dialer.poll_dial(now, LINKS_MAX).expect("it is kept");
        dialer.linked(now, peers[11].binding, Some(at(7)));
        dialer.succeeded(&peers[11].node());
        for n in 1..100 {
            let addresses = (n * 100..n * 100 + 50).map(at).collect();
            dialer.nearby(now, Peer { binding: peers[11].binding, addresses });
        }
        dialer.unlinked(now, &peers[11].node(), "lost".to_owned(), 0);
        let (peer, second) = dialer.poll_dial(now + BACKOFF_MIN, LINKS_MAX).expect("it is kept");
        assert_eq!(peer.addresses[..2], [at(7), at(1)]);
        assert_eq!((peer.addresses.len(), second - first), (6, 1));
        assert_eq!(dialer.known()[0].addresses, [at(7), at(1)]);
    }
}
