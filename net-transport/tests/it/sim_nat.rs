//! NAT boxes of a simulated network.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use net_transport::sim::{self, NatConfig, NatKind, SimNet, SimSocket, Subnet};
use tokio::time::timeout;

use crate::sim_links::{address, assert_all_accounted_for};

const KINDS: [NatKind; 4] =
    [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted, NatKind::Symmetric];

const OUTSIDE_A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 0, 0, 1));
const OUTSIDE_B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(2, 0, 0, 1));

fn home(net: &SimNet, first: u8, kind: impl Into<NatConfig>) -> (IpAddr, Arc<SimSocket>) {
    let outside = IpAddr::from([first, 0, 0, 1]);
    net.nat(Subnet::new([192, 168, first, 0], 24), outside, kind);
    (outside, net.socket((IpAddr::from([192, 168, first, 2]), 4000).into()).unwrap())
}

async fn received(socket: &SimSocket) -> Option<SocketAddr> {
    let received = timeout(Duration::from_secs(1), socket.recv_from()).await.ok()?;
    Some(received.unwrap().1)
}

/// Where `to` sees a datagram of `from` come from.
async fn seen(from: &SimSocket, to: &SimSocket) -> Option<SocketAddr> {
    from.send_to(b"hello", to.address()).unwrap();
    received(to).await
}

async fn enters(from: &SimSocket, to: SocketAddr, inside: &SimSocket) -> bool {
    from.send_to(b"hello", to).unwrap();
    received(inside).await.is_some()
}

#[test]
fn each_kind_lets_in_whom_it_should() {
    // The one sent to, another port of it, another address; and whether a second destination sees the same port.
    let expected = [
        (NatKind::FullCone, [true, true, true], true),
        (NatKind::AddressRestricted, [true, true, false], true),
        (NatKind::PortRestricted, [true, false, false], true),
        (NatKind::Symmetric, [true, false, false], false),
    ];
    for (kind, lets_in, same_port) in expected {
        sim::run(1, |net| async move {
            let (outside, inside) = home(&net, 1, kind);
            let peers = ["9.0.0.1:1", "9.0.0.1:2", "9.0.0.2:1"].map(|text| net.socket(address(text)).unwrap());
            let unsolicited = SocketAddr::new(outside, inside.address().port());
            assert!(!enters(&peers[0], unsolicited, &inside).await, "{kind:?} has no mapping yet");
            assert!(!enters(&peers[0], inside.address(), &inside).await, "inside addresses mean nothing outside");

            let mapped = seen(&inside, &peers[0]).await.unwrap();
            assert_eq!(mapped.ip(), outside);
            for (peer, lets_in) in peers.iter().zip(lets_in) {
                assert_eq!(enters(peer, mapped, &inside).await, lets_in, "{kind:?} and {}", peer.address());
            }
            let second = seen(&inside, &peers[2]).await.unwrap();
            assert_eq!(second == mapped, same_port, "{kind:?}");
            assert!(enters(&peers[2], second, &inside).await, "{kind:?} lets answers in");
            assert_all_accounted_for(net.faults());
        });
    }
}

/// Both learn their outside address from a third, tell each other, and send there; whoever hears something answers to
/// where it came from. This is what a mesh does to connect two nodes directly.
async fn punch(a: &SimSocket, b: &SimSocket, third: &SimSocket) -> bool {
    let mut towards_b = seen(b, third).await.unwrap();
    let mut towards_a = seen(a, third).await.unwrap();
    let (mut a_heard, mut b_heard) = (false, false);
    for _ in 0..4 {
        a.send_to(b"punch", towards_b).unwrap();
        b.send_to(b"punch", towards_a).unwrap();
        for (socket, towards, heard) in [(a, &mut towards_b, &mut a_heard), (b, &mut towards_a, &mut b_heard)] {
            if let Some(from) = received(socket).await {
                (*towards, *heard) = (from, true);
            }
        }
    }
    a_heard && b_heard
}

#[test]
fn holes_can_be_punched_except_by_symmetric_against_restricted_ports() {
    for a_kind in KINDS {
        for b_kind in KINDS {
            let hopeless = |a, b| a == NatKind::Symmetric && b >= NatKind::PortRestricted;
            let expected = !hopeless(a_kind, b_kind) && !hopeless(b_kind, a_kind);
            let punched = sim::run(1, |net| async move {
                let ((_, a), (_, b)) = (home(&net, 1, a_kind), home(&net, 2, b_kind));
                let third = net.socket(address("9.0.0.1:1")).unwrap();
                let punched = punch(&a, &b, &third).await;
                assert_all_accounted_for(net.faults());
                punched
            });
            assert_eq!(punched, expected, "{a_kind:?} and {b_kind:?}");
        }
    }
}

#[test]
fn nodes_behind_one_box_reach_each_other_inside_only() {
    sim::run(1, |net| async move {
        let (_, a) = home(&net, 1, NatKind::FullCone);
        let b = net.socket(address("192.168.1.3:4000")).unwrap();
        assert_eq!(seen(&a, &b).await, Some(a.address()));
        let third = net.socket(address("9.0.0.1:1")).unwrap();
        let mapped = seen(&b, &third).await.unwrap();
        assert!(enters(&third, mapped, &b).await);
        assert!(!enters(&a, mapped, &b).await, "it does not send back what comes from inside");
    });
}

#[test]
fn a_rebind_changes_the_outside_port_and_ends_the_old_one() {
    sim::run(1, |net| async move {
        let (outside, inside) = home(&net, 1, NatKind::FullCone);
        let peer = net.socket(address("9.0.0.1:1")).unwrap();
        let before = seen(&inside, &peer).await.unwrap();
        assert_eq!(seen(&inside, &peer).await, Some(before), "a mapping stays");
        assert!(net.rebind(outside) && !net.rebind(peer.address().ip()));
        assert!(!enters(&peer, before, &inside).await);
        let after = seen(&inside, &peer).await.unwrap();
        assert_ne!(after, before);
        assert!(enters(&peer, after, &inside).await);
        assert_eq!(net.faults().rebinds, 1);
    });
}

#[test]
fn a_mapping_outlives_silence_no_longer_than_its_lifetime() {
    for kind in KINDS {
        sim::run(1, |net| async move {
            let lifetime = Duration::from_secs(30);
            let (_, inside) = home(&net, 1, NatConfig { lifetime, ..kind.into() });
            let peer = net.socket(address("9.0.0.1:1")).unwrap();
            let mapped = seen(&inside, &peer).await.unwrap();
            for _ in 0..3 {
                tokio::time::sleep(lifetime - Duration::from_secs(5)).await;
                assert_eq!(seen(&inside, &peer).await, Some(mapped), "a keep-alive from inside keeps it");
                assert!(enters(&peer, mapped, &inside).await);
            }
            tokio::time::sleep(lifetime).await;
            assert!(!enters(&peer, mapped, &inside).await, "{kind:?}");
            assert_ne!(seen(&inside, &peer).await, Some(mapped));
        });
    }
}

#[test]
fn a_box_that_is_full_drops() {
    sim::run(1, |net| async move {
        let (_, inside) = home(&net, 1, NatConfig { mappings_max: 3, ..NatKind::Symmetric.into() });
        let peers: Vec<_> = (1..=5).map(|i| net.socket(address(&format!("9.0.0.{i}:1"))).unwrap()).collect();
        let mut reached = 0;
        for peer in &peers {
            reached += usize::from(seen(&inside, peer).await.is_some());
        }
        assert_eq!((reached, net.faults().dropped_nat), (3, 2));
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(seen(&inside, &peers[4]).await.is_some(), "what has expired makes room");
    });
}

#[test]
fn boxes_stand_behind_boxes() {
    sim::run(1, |net| async move {
        let carrier = Subnet::new([100, 64, 0, 0], 10);
        net.nat(carrier, OUTSIDE_A, NatKind::PortRestricted);
        net.nat(Subnet::new([192, 168, 0, 0], 24), [100, 64, 0, 7].into(), NatKind::PortRestricted);
        let inside = net.socket(address("192.168.0.2:4000")).unwrap();
        let neighbour = net.socket(address("100.64.0.8:4000")).unwrap();
        let peer = net.socket(address("9.0.0.1:1")).unwrap();
        let mapped = seen(&inside, &peer).await.unwrap();
        assert_eq!(mapped.ip(), OUTSIDE_A);
        assert!(enters(&peer, mapped, &inside).await);
        assert_eq!(seen(&inside, &neighbour).await.unwrap().ip(), IpAddr::from([100, 64, 0, 7]));
        assert!(!enters(&neighbour, inside.address(), &inside).await);
    });
}

#[test]
fn partitions_and_crashes_concern_the_node_behind_its_box() {
    sim::run(1, |net| async move {
        let (_, inside) = home(&net, 2, NatKind::FullCone);
        let peer = net.socket(address("9.0.0.1:1")).unwrap();
        let mapped = seen(&inside, &peer).await.unwrap();
        assert_eq!(mapped.ip(), OUTSIDE_B);
        net.partition(&[&[inside.address().ip()]]);
        assert!(!enters(&peer, mapped, &inside).await && seen(&inside, &peer).await.is_none());
        net.heal();
        peer.send_to(b"in flight", mapped).unwrap();
        net.crash(inside.address().ip());
        assert_eq!((net.faults().dropped_partition, net.faults().dropped_crash), (2, 1));
    });
}

#[test]
fn nonsense_is_refused() {
    let refuses = |set: fn(SimNet)| {
        std::panic::catch_unwind(|| sim::run(1, |net| async move { set(net) })).expect_err("it is refused");
    };
    refuses(|net| net.nat(Subnet::new([10, 0, 0, 0], 8), [10, 0, 0, 1].into(), NatKind::FullCone));
    refuses(|net| net.nat(Subnet::new([10, 0, 0, 0], 8), "fe80::1".parse().unwrap(), NatKind::FullCone));
    refuses(|net| {
        net.nat(Subnet::new([10, 0, 0, 0], 8), OUTSIDE_A, NatKind::FullCone);
        net.nat(Subnet::new([10, 1, 0, 0], 16), OUTSIDE_B, NatKind::FullCone);
    });
    sim::run(1, |net| async move {
        net.nat(Subnet::new([10, 0, 0, 0], 8), OUTSIDE_A, NatKind::FullCone);
        let error = net.socket(SocketAddr::new(OUTSIDE_A, 1)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn subnets_contain_what_shares_their_prefix() {
    for (ip, bits, other, contains) in [
        ("10.1.2.3", 8, "10.200.0.1", true),
        ("10.1.2.3", 16, "10.200.0.1", false),
        ("10.1.2.3", 0, "255.0.0.1", true),
        ("10.1.2.3", 32, "10.1.2.3", true),
        ("10.1.2.3", 32, "10.1.2.2", false),
        ("10.1.2.3", 0, "::1", false),
        ("fd00::", 8, "fdff::1", true),
        ("fd00::", 8, "fe00::1", false),
        ("::", 0, "ffff::", true),
    ] {
        let subnet = Subnet::new(ip.parse::<IpAddr>().unwrap(), bits);
        assert_eq!(subnet.contains(other.parse().unwrap()), contains, "{subnet} and {other}");
    }
}
