//! Where others may dial this node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::NodeId;
use crate::dialer::ADDRESSES_MAX;

/// Addresses that neighbours see us at and that we tell others.
const OBSERVED_MAX: usize = 4;

/// The addresses of this machine's interfaces, as far as others can use them.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().filter(|interface| interface.is_oper_up()).map(|i| i.ip()).collect(),
        Err(error) => {
            tracing::warn!(%error, "the addresses of this machine cannot be read");
            Vec::new()
        }
    }
}

/// The candidates, best first: what is bound, interfaces for wildcards, what neighbours see, loopback last.
pub(crate) fn candidates(
    bound: &[SocketAddr],
    interfaces: &[IpAddr],
    observed: &BTreeMap<NodeId, SocketAddr>,
) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for address in bound {
        if address.ip().is_unspecified() {
            let usable = interfaces.iter().filter(|ip| address.is_ipv6() || ip.is_ipv4());
            all.extend(usable.filter(|ip| !link_local(ip)).map(|ip| SocketAddr::new(*ip, address.port())));
        } else {
            all.push(*address);
        }
    }
    // Seen from this machine itself we are at loopback, which is no news; and a specific address needs no observer.
    if bound.iter().any(|address| address.ip().is_unspecified()) {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for address in observed.values().filter(|address| !address.ip().is_loopback() && !link_local(&address.ip())) {
            *counts.entry(*address).or_default() += 1;
        }
        let mut seen: Vec<_> = counts.into_iter().collect();
        seen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all.extend(seen.into_iter().take(OBSERVED_MAX).map(|(address, _)| address));
    }
    let mut best = Vec::new();
    for address in all {
        if !best.contains(&address) {
            best.push(address);
        }
    }
    best.sort_by_key(|address| address.ip().is_loopback());
    best.truncate(ADDRESSES_MAX);
    best
}

/// Needs a zone to be dialled, which means nothing on another machine.
fn link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bound: &[&str], interfaces: &[&str], observed: &[&str]) -> Vec<String> {
        let bound: Vec<SocketAddr> = bound.iter().map(|a| a.parse().expect("an address")).collect();
        let interfaces: Vec<IpAddr> = interfaces.iter().map(|a| a.parse().expect("an ip")).collect();
        let observed = observed.iter().enumerate().map(|(n, address)| {
            (NodeId::from_bytes([u8::try_from(n).expect("few"); 32]), address.parse().expect("an address"))
        });
        candidates(&bound, &interfaces, &observed.collect()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wildcard_stands_for_all_interfaces_with_loopback_last() {
        let interfaces = ["127.0.0.1", "10.0.0.5", "::1", "fe80::1", "2001:db8::5"];
        let expected = ["10.0.0.5:7", "[2001:db8::5]:7", "127.0.0.1:7", "[::1]:7"];
        assert_eq!(all(&["[::]:7"], &interfaces, &[]), expected);
        assert_eq!(all(&["0.0.0.0:7"], &interfaces, &[]), ["10.0.0.5:7", "127.0.0.1:7"]);
    }

    #[test]
    fn specific_address_stands_for_itself_alone() {
        assert_eq!(all(&["127.0.0.1:7"], &["10.0.0.5"], &["198.51.100.1:9"]), ["127.0.0.1:7"]);
    }

    #[test]
    fn what_most_neighbours_see_comes_first_and_few_are_told() {
        let seen = ["198.51.100.9:1", "198.51.100.1:9", "198.51.100.1:9", "127.0.0.1:4"];
        assert_eq!(all(&["0.0.0.0:7"], &["10.0.0.5"], &seen), ["10.0.0.5:7", "198.51.100.1:9", "198.51.100.9:1"]);
        let many: Vec<String> = (1..20).map(|n| format!("198.51.100.{n}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(all(&["0.0.0.0:7"], &[], &many).len(), OBSERVED_MAX);
    }
}
