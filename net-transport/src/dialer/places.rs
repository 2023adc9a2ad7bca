//! Where a node may be, by who says so: a pure value.
//!
//! What the owner says, what the node itself has signed and what anybody may claim on the local network are kept apart,
//! each in a bounded list of its own, so that no source displaces another. The address that worked last comes first.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::ADDRESSES_MAX;
use crate::{Peer, StaticBinding};

/// Addresses tried in one dial.
const TRIED_MAX: usize = 8;
/// Addresses that an announcement on the local network may name.
#[cfg(feature = "mdns")]
const NEARBY_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Places {
    binding: StaticBinding,
    worked: Option<SocketAddr>,
    owner: Vec<SocketAddr>,
    record: Vec<SocketAddr>,
    nearby: Vec<SocketAddr>,
}

impl Places {
    pub(super) fn new(binding: StaticBinding) -> Self {
        Self { binding, worked: None, owner: Vec::new(), record: Vec::new(), nearby: Vec::new() }
    }

    pub(super) fn set_owner(&mut self, peer: Peer) {
        (self.binding, self.owner) = (peer.binding, first(peer.addresses, ADDRESSES_MAX));
    }

    pub(super) fn set_record(&mut self, peer: Peer) {
        (self.binding, self.record) = (peer.binding, first(peer.addresses, ADDRESSES_MAX));
    }

    #[cfg(feature = "mdns")]
    pub(super) fn set_nearby(&mut self, peer: Peer) {
        (self.binding, self.nearby) = (peer.binding, first(peer.addresses, NEARBY_MAX));
    }

    pub(super) fn forget_record(&mut self) {
        self.record.clear();
    }

    #[cfg(feature = "mdns")]
    pub(super) fn forget_nearby(&mut self) {
        self.nearby.clear();
    }

    /// A dial of this address has led to the node.
    pub(super) fn set_worked(&mut self, address: SocketAddr) {
        self.worked = Some(address);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.worked.is_none() && [&self.owner, &self.record, &self.nearby].iter().all(|list| list.is_empty())
    }

    /// Did the owner name it, or has it worked?
    pub(super) fn is_trusted(&self, address: &SocketAddr) -> bool {
        self.worked == Some(*address) || self.owner.contains(address)
    }

    /// What to dial: what worked, then in turn one of each list, which begins elsewhere in each round, so that all are
    /// tried in the end.
    pub(super) fn to_dial(&self, round: u32) -> Peer {
        let mut lists = [&self.owner, &self.record, &self.nearby].map(|list| rotated(list, round));
        let mut addresses: Vec<SocketAddr> = self.worked.into_iter().collect();
        while addresses.len() < TRIED_MAX && lists.iter().any(|list| !list.is_empty()) {
            for next in lists.iter_mut().filter_map(VecDeque::pop_front) {
                if addresses.len() < TRIED_MAX && !addresses.contains(&next) {
                    addresses.push(next);
                }
            }
        }
        Peer { binding: self.binding, addresses }
    }

    /// What is worth remembering: not what anybody may claim.
    pub(super) fn known(&self) -> Peer {
        let mut addresses: Vec<SocketAddr> = self.worked.into_iter().collect();
        for address in self.owner.iter().chain(&self.record) {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        Peer { binding: self.binding, addresses }
    }
}

fn first(mut addresses: Vec<SocketAddr>, max: usize) -> Vec<SocketAddr> {
    addresses.truncate(max);
    addresses
}

fn rotated(list: &[SocketAddr], round: u32) -> VecDeque<SocketAddr> {
    let mut list: VecDeque<_> = list.iter().copied().collect();
    if !list.is_empty() {
        // Two of each list have their turn at least, even where all three are long.
        let by = 2 * round as usize % list.len();
        list.rotate_left(by);
    }
    list
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{NodeKeys, Seed};

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn peer(ports: std::ops::Range<u16>) -> Peer {
        let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
        Peer { binding: *keys.binding(), addresses: ports.map(address).collect() }
    }

    fn ports(peer: &Peer) -> Vec<u16> {
        peer.addresses.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn address_that_worked_comes_first_and_each_source_has_its_turn() {
        let mut places = Places::new(peer(0..0).binding);
        places.set_owner(peer(1..4));
        places.set_record(peer(11..14));
        places.set_worked(address(99));
        assert_eq!(ports(&places.to_dial(0)), [99, 1, 11, 2, 12, 3, 13]);
        assert_eq!(ports(&places.to_dial(1)), [99, 3, 13, 1, 11, 2, 12]);
        assert_eq!(ports(&places.known()), [99, 1, 2, 3, 11, 12, 13]);
    }

    #[test]
    fn every_address_of_full_lists_is_tried_in_the_end() {
        let mut places = Places::new(peer(0..0).binding);
        places.set_owner(peer(100..140));
        places.set_record(peer(200..240));
        let tried: BTreeSet<u16> = (0..8).flat_map(|round| ports(&places.to_dial(round))).collect();
        assert_eq!(tried.len(), 2 * ADDRESSES_MAX);
        assert!((0..8).all(|round| places.to_dial(round).addresses.len() <= TRIED_MAX));
    }

    #[cfg(feature = "mdns")]
    #[test]
    fn announcements_on_the_local_network_displace_nothing_and_are_not_remembered() {
        let mut places = Places::new(peer(0..0).binding);
        places.set_owner(peer(1..3));
        for flood in 1..100 {
            places.set_nearby(peer(flood * 100..flood * 100 + 50));
        }
        assert_eq!(ports(&places.to_dial(0)), [1, 9900, 2, 9901, 9902, 9903]);
        assert_eq!(ports(&places.known()), [1, 2]);
        places.forget_nearby();
        assert_eq!(ports(&places.to_dial(0)), [1, 2]);
    }
}
