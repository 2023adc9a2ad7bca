//! Nodes of the mesh on the local network, by multicast DNS (RFC 6762, RFC 6763).
//!
//! A node announces the service `_net-mesh._udp` with two texts: a hint of its mesh, which does not give the mesh id
//! away, and its static binding, which is public. Whoever hears the hint of its own mesh dials; the handshake shows the
//! rest. Where there is no multicast, the node goes on without.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::time::Instant;

use crate::endpoint::Shared;
use crate::sync::lock;
use crate::{NodeId, Peer, StaticBinding, base32_decode, base32_encode};

const SERVICE: &str = "_net-mesh._udp.local.";
/// Text: the hint of the mesh, base32.
const TEXT_MESH: &str = "mesh";
/// Text: the binding, base32.
const TEXT_BINDING: &str = "binding";
/// Nodes found at a time.
const FOUND_MAX: usize = 256;

/// Announces this node and looks for others until the endpoint closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    if let Err(error) = announce_and_browse(&shared).await {
        tracing::warn!(%error, "no discovery on the local network: dial peers by ticket or address");
    }
}

async fn announce_and_browse(shared: &Arc<Shared>) -> Result<(), mdns_sd::Error> {
    let Some(port) = shared.discoverable_port() else {
        tracing::debug!("bound to loopback alone: not announced on the local network");
        return Ok(());
    };
    let daemon = ServiceDaemon::new()?;
    let (hint, binding) = (shared.mesh_hint(), shared.binding());
    // Names are seen by everybody on the network and tell no more than the binding does.
    let name = shared.me.to_string();
    let host = format!("net-{}.local.", shared.me.short());
    let texts = [(TEXT_MESH, base32_encode(&hint)), (TEXT_BINDING, base32_encode(&binding.to_bytes()))];
    let info = ServiceInfo::new(SERVICE, &name, &host, "", port, &texts[..])?.enable_addr_auto();
    let full_name = info.get_fullname().to_owned();
    daemon.register(info)?;
    let events = daemon.browse(SERVICE)?;
    let mut found = Found::default();
    loop {
        let event = tokio::select! {
            biased;
            () = shared.closing.cancelled() => break,
            event = events.recv_async() => event,
        };
        match event {
            Ok(ServiceEvent::ServiceResolved(service)) => {
                let Some(peer) = resolved_peer(&service, &hint).filter(|peer| peer.node() != shared.me) else {
                    continue;
                };
                let linked = |node: &NodeId| lock(&shared.state).neighbours.contains_key(node);
                let gone = found.insert(service.fullname.clone(), peer.node(), linked);
                shared.counters.mdns_found.one();
                shared.nearby(peer, gone);
            }
            Ok(ServiceEvent::ServiceRemoved(_, name)) => {
                if let Some(node) = found.remove(&name) {
                    lock(&shared.state).dialer.not_nearby(&node);
                }
            }
            Ok(_) => {}
            // Its thread has ended.
            Err(_) => break,
        }
    }
    let _ = daemon.unregister(&full_name);
    let _ = daemon.shutdown();
    Ok(())
}

/// Announcements that stand, by name.
#[derive(Debug, Default)]
struct Found {
    nodes: BTreeMap<String, (u64, NodeId)>,
    count: u64,
}

impl Found {
    /// Notes an announcement. Where there are too many, the oldest whose node is not linked is forgotten for it: it has
    /// had its chance, and whoever announces many does not keep others out. Gives the node that nobody announces now.
    fn insert(&mut self, name: String, node: NodeId, linked: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
        self.count += 1;
        let count = self.nodes.get(&name).map_or(self.count, |(count, _)| *count);
        self.nodes.insert(name, (count, node));
        if self.nodes.len() <= FOUND_MAX {
            return None;
        }
        let others = self.nodes.iter().filter(|(_, (_, other))| !linked(other));
        let oldest = others.min_by_key(|(_, (count, _))| *count).map(|(name, _)| name.clone())?;
        self.remove(&oldest)
    }

    /// An announcement ends. Gives the node that nobody announces now.
    fn remove(&mut self, name: &str) -> Option<NodeId> {
        let (_, node) = self.nodes.remove(name)?;
        // Whoever announced it under another name cannot take the announcement of the node itself back.
        (!self.nodes.values().any(|(_, other)| *other == node)).then_some(node)
    }
}

fn resolved_peer(service: &ResolvedService, hint: &[u8; 16]) -> Option<Peer> {
    let text = |key| service.txt_properties.get_property_val_str(key);
    let addresses = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    parse(hint, text(TEXT_MESH)?, text(TEXT_BINDING)?, service.port, addresses)
}

/// The peer that an announcement speaks of, if it is of this mesh and its binding verifies.
fn parse(hint: &[u8; 16], mesh: &str, binding: &str, port: u16, mut addresses: Vec<IpAddr>) -> Option<Peer> {
    if base32_decode(mesh)? != hint || port == 0 {
        return None;
    }
    let binding = StaticBinding::parse(&base32_decode(binding)?).ok()?;
    // They come in no order; IPv4 first, since a link-local IPv6 address needs a zone that is not told.
    let zoned = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    addresses.retain(|ip| !ip.is_unspecified() && !ip.is_multicast() && !zoned(ip));
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6(), *ip));
    let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    Some(Peer { binding, addresses })
}

impl Shared {
    /// A node has been found on the local network, and another is forgotten for it.
    fn nearby(&self, peer: Peer, gone: Option<NodeId>) {
        let mut state = lock(&self.state);
        if let Some(gone) = gone {
            state.dialer.not_nearby(&gone);
        }
        state.dialer.nearby(Instant::now(), peer);
        drop(state);
        self.timer_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MeshId, NodeKeys, Seed};

    #[test]
    fn announcement_is_taken_if_it_is_of_this_mesh_and_genuine() {
        let (hint, keys) = (MeshId([1; 32]).hint(), NodeKeys::from_seed(&Seed::new([1; 32])));
        let (mesh, binding) = (base32_encode(&hint), base32_encode(&keys.binding().to_bytes()));
        let addresses: Vec<IpAddr> = ["127.0.0.1", "2001:db8::1", "fe80::1", "192.0.2.1", "0.0.0.0"]
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        let peer = parse(&hint, &mesh, &binding, 7, addresses.clone()).expect("it is genuine");
        let told: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            (peer.node(), told),
            (keys.id(), vec!["192.0.2.1:7".to_owned(), "[2001:db8::1]:7".to_owned(), "127.0.0.1:7".to_owned(),])
        );
        let other = MeshId([2; 32]).hint();
        assert_eq!(parse(&other, &mesh, &binding, 7, addresses.clone()), None);
        assert_eq!(parse(&hint, &mesh, &binding, 0, addresses.clone()), None);
        assert_eq!(parse(&hint, "not base 32", &binding, 7, addresses.clone()), None);
        let mut forged = keys.binding().to_bytes();
        forged[40] ^= 1;
        assert_eq!(parse(&hint, &mesh, &base32_encode(&forged), 7, addresses.clone()), None);
        assert_eq!(parse(&hint, &mesh, &binding[..100], 7, addresses), None);
    }

    #[test]
    fn flood_of_announcements_is_bounded_and_keeps_nobody_out() {
        let node = |n: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&n.to_be_bytes());
            NodeId::from_bytes(id)
        };
        let (mut found, friend) = (Found::default(), node(7));
        let linked = |other: &NodeId| *other == friend;
        assert_eq!(found.insert("friend".to_owned(), friend, linked), None);
        let mut gone = 0;
        for n in 1000..3000 {
            gone += usize::from(found.insert(format!("flood {n}"), node(n), linked).is_some());
        }
        assert_eq!((found.nodes.len(), gone), (FOUND_MAX, 2001 - FOUND_MAX));
        // One that comes after them is taken, and the friend is still there.
        assert!(found.insert("late".to_owned(), node(8), linked).is_some());
        assert!(found.nodes.contains_key("late") && found.nodes.contains_key("friend"));
        // Who announces the friend as well cannot take its own announcement back.
        found.insert("friend (2)".to_owned(), friend, linked);
        assert_eq!(found.remove("friend (2)"), None);
        assert_eq!(found.remove("friend"), Some(friend));
    }

    #[test]
    fn texts_fit_into_dns() {
        let keys = NodeKeys::from_seed(&Seed::new([1; 32]));
        let longest = TEXT_BINDING.len() + 1 + base32_encode(&keys.binding().to_bytes()).len();
        assert!(longest < 255 && keys.id().to_string().len() < 64);
    }
}
