//! Boxes that translate addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::SimRng;
use super::link::nanos;

/// The addresses whose first bits are these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    ip: IpAddr,
    prefix_bits: u8,
}

impl Subnet {
    /// The addresses that share the first `prefix_bits` bits of `ip`; at most 32 or 128, more counts as that.
    #[must_use]
    pub fn new(ip: impl Into<IpAddr>, prefix_bits: u8) -> Self {
        let ip = ip.into();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        Self { ip, prefix_bits: prefix_bits.min(bits) }
    }

    /// Whether the address lies in this subnet.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => common_prefix(a.to_bits().into(), b.to_bits().into(), 32, self),
            (IpAddr::V6(a), IpAddr::V6(b)) => common_prefix(a.to_bits(), b.to_bits(), 128, self),
            _ => false,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.ip) || other.contains(self.ip)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_bits)
    }
}

fn common_prefix(a: u128, b: u128, bits: u32, subnet: &Subnet) -> bool {
    let ignored = bits - u32::from(subnet.prefix_bits);
    // A shift by all 128 bits leaves nothing to differ in.
    (a ^ b).checked_shr(ignored).unwrap_or(0) == 0
}

/// Whom a NAT box lets in, and how it maps; the terms are those of RFC 3489 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatKind {
    /// One outside port for each inside address; anybody may send to it.
    FullCone,
    /// One outside port for each inside address; only IP addresses that it has sent to get in.
    AddressRestricted,
    /// One outside port for each inside address; only addresses and ports that it has sent to get in.
    PortRestricted,
    /// Another outside port for each destination, and only that destination gets in.
    Symmetric,
}

/// How a NAT box behaves. A [`NatKind`] alone stands for a box with the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatConfig {
    /// Whom it lets in.
    pub kind: NatKind,
    /// How long a mapping, and the permission to answer, outlives the last datagram *from* inside. Default: 30 s, a
    /// common one for UDP, below the 2 minutes that RFC 4787 §4.3 asks for.
    pub lifetime: Duration,
    /// Mappings at most; what would need another is dropped. Default: 4,096.
    pub mappings_max: usize,
}

impl From<NatKind> for NatConfig {
    fn from(kind: NatKind) -> Self {
        Self { kind, lifetime: Duration::from_secs(30), mappings_max: 4096 }
    }
}

/// The inside address, and for a symmetric box the destination.
type Flow = (SocketAddr, Option<SocketAddr>);

#[derive(Debug)]
struct Nat {
    inside: Subnet,
    config: NatConfig,
    rng: SimRng,
    mappings: BTreeMap<Flow, Mapping>,
    flows: BTreeMap<u16, Flow>,
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    expires_at: u64,
    /// Who was sent to, and until when that one may answer.
    permitted: BTreeMap<SocketAddr, u64>,
}

impl Nat {
    /// The outside port for a datagram from inside.
    fn outbound(&mut self, now: u64, from: SocketAddr, to: SocketAddr) -> Option<u16> {
        let flow = (from, (self.config.kind == NatKind::Symmetric).then_some(to));
        if self.mappings.get(&flow).is_none_or(|mapping| mapping.expires_at <= now) {
            self.expire(now);
            if self.mappings.len() >= self.config.mappings_max {
                return None;
            }
            let port = self.free_port()?;
            self.flows.insert(port, flow);
            self.mappings.insert(flow, Mapping { port, expires_at: 0, permitted: BTreeMap::new() });
        }
        let mapping = self.mappings.get_mut(&flow)?;
        mapping.expires_at = now.saturating_add(nanos(self.config.lifetime));
        if mapping.permitted.len() >= PERMITTED_MAX {
            mapping.permitted.retain(|_, until| *until > now);
        }
        if mapping.permitted.len() < PERMITTED_MAX || mapping.permitted.contains_key(&to) {
            mapping.permitted.insert(to, mapping.expires_at);
        }
        Some(mapping.port)
    }

    /// The inside address of a datagram from outside, if it may come in.
    fn inbound(&self, now: u64, from: SocketAddr, port: u16) -> Option<SocketAddr> {
        let flow = self.flows.get(&port)?;
        let mapping = self.mappings.get(flow).filter(|mapping| mapping.expires_at > now)?;
        let mut permitted = mapping.permitted.iter().filter(|(_, until)| **until > now).map(|(peer, _)| peer);
        let may_enter = match self.config.kind {
            NatKind::FullCone => true,
            NatKind::AddressRestricted => permitted.any(|peer| peer.ip() == from.ip()),
            NatKind::PortRestricted | NatKind::Symmetric => permitted.any(|peer| *peer == from),
        };
        may_enter.then_some(flow.0)
    }

    fn expire(&mut self, now: u64) {
        self.mappings.retain(|_, mapping| mapping.expires_at > now);
        let mappings = &self.mappings;
        self.flows.retain(|_, flow| mappings.contains_key(flow));
    }

    /// Any port that is free, so that nobody comes to count on the next one.
    fn free_port(&mut self) -> Option<u16> {
        let count = u64::from(u16::MAX - FIRST_PORT) + 1;
        let start = self.rng.below(count);
        (0..count)
            .filter_map(|i| u16::try_from(u64::from(FIRST_PORT) + (start + i) % count).ok())
            .find(|port| !self.flows.contains_key(port))
    }
}

/// All NAT boxes, by outside address.
#[derive(Debug, Default)]
pub(super) struct Nats(BTreeMap<IpAddr, Nat>);

impl Nats {
    pub(super) fn add(&mut self, inside: Subnet, outside: IpAddr, config: NatConfig, rng: SimRng) {
        assert_eq!(inside.ip.is_ipv4(), outside.is_ipv4(), "inside and outside of a NAT are of one family");
        assert!(!inside.contains(outside), "the outside address of a NAT lies outside its subnet {inside}");
        let other = self.0.iter().find(|(ip, nat)| **ip != outside && nat.inside.overlaps(&inside));
        assert!(
            other.is_none(),
            "the subnets of two NATs do not overlap: {inside} and {}",
            other.expect("is some").1.inside
        );
        let nat = Nat { inside, config, rng, mappings: BTreeMap::new(), flows: BTreeMap::new() };
        self.0.insert(outside, nat);
    }

    /// Whether this is the outside address of a box.
    pub(super) fn is_outside(&self, ip: IpAddr) -> bool {
        self.0.contains_key(&ip)
    }

    /// Forgets all mappings of a box; tells whether there is such a box.
    pub(super) fn rebind(&mut self, outside: IpAddr) -> bool {
        let Some(nat) = self.0.get_mut(&outside) else {
            return false;
        };
        nat.mappings.clear();
        nat.flows.clear();
        true
    }

    /// The sender of a datagram as the destination sees it; nothing if it does not get that far.
    pub(super) fn outbound(&mut self, now: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let mut seen = from;
        for _ in 0..=NAT_DEPTH_MAX {
            let next =
                self.0.iter_mut().find(|(_, nat)| nat.inside.contains(seen.ip()) && !nat.inside.contains(to.ip()));
            let Some((outside, nat)) = next else {
                // Inside addresses mean nothing elsewhere.
                let hidden = |nat: &Nat| nat.inside.contains(to.ip()) && !nat.inside.contains(seen.ip());
                return (!self.0.values().any(hidden)).then_some(seen);
            };
            // Few boxes send back in what comes from inside (hairpinning, RFC 4787 §6), so these do not.
            if *outside == to.ip() {
                return None;
            }
            seen = SocketAddr::new(*outside, nat.outbound(now, seen, to)?);
        }
        None
    }

    /// Where a datagram goes in the end; nothing if a box keeps it out.
    pub(super) fn inbound(&self, now: u64, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        self.resolve(to, |nat, port| nat.inbound(now, from, port))
    }

    /// The node behind an address, whether or not it can be reached.
    pub(super) fn behind(&self, to: SocketAddr) -> IpAddr {
        self.resolve(to, |nat, port| nat.flows.get(&port).map(|flow| flow.0)).unwrap_or(to).ip()
    }

    fn resolve(&self, mut to: SocketAddr, enter: impl Fn(&Nat, u16) -> Option<SocketAddr>) -> Option<SocketAddr> {
        for _ in 0..=NAT_DEPTH_MAX {
            let Some(nat) = self.0.get(&to.ip()) else {
                return Some(to);
            };
            to = enter(nat, to.port())?;
        }
        None
    }
}

/// The first port that a box maps to.
const FIRST_PORT: u16 = 1024;

/// Peers that one mapping remembers; further ones cannot answer.
const PERMITTED_MAX: usize = 4096;

/// NAT boxes behind one another at most.
const NAT_DEPTH_MAX: usize = 4;
