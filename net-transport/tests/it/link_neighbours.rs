//! How neighbours find each other, lose each other and come back.

use std::future::poll_fn;
use std::task::Poll;

use net_transport::{Event, Mesh, MeshId, PeerState, Psk};

use crate::link_kit::{DEADLINE, Node, RawPeer, advert, eventually, keys, linked, loopback, mesh};

#[tokio::test]
async fn node_that_is_dialled_becomes_a_neighbour_on_both_sides() {
    let (a, b) = linked(1, 2).await;
    assert!(a.endpoint.is_linked(&b.id()) && b.endpoint.is_linked(&a.id()));
    let peers = a.endpoint.peers();
    assert!(matches!(&peers[..], [peer] if peer.node == b.id()
        && matches!(peer.state, PeerState::Linked { dialed: true, draining: 0, .. })));
    assert_eq!(a.endpoint.known_peers(), [b.peer()]);
}

#[tokio::test]
async fn node_can_be_dialled_before_it_is_there() {
    let mut a = Node::start(1).await;
    // A port that was free a moment ago.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound");
    let mut b = keys(2);
    let peer = net_transport::Peer { binding: *b.binding(), addresses: vec![port] };
    a.endpoint.add_peer(peer);
    let dialling = || a.endpoint.peers().iter().any(|p| matches!(p.state, PeerState::Dialing { now: true, .. }));
    eventually("a dial", dialling).await;
    b = keys(2);
    let mut b = Node::of(b, mesh(), net_transport::EndpointConfig::listen_on(port)).await;
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
}

#[tokio::test]
async fn nodes_link_over_ipv6_and_over_a_dual_stack_socket() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("not tested: this machine has no IPv6");
        return;
    }
    let on = |address: &str| net_transport::EndpointConfig::listen_on(address.parse().expect("an address"));
    let mut a = Node::with(1, on("[::1]:0")).await;
    let mut b = Node::with(2, on("[::]:0")).await;
    let mut c = Node::with(3, on("127.0.0.1:0")).await;
    let port = b.address().port();
    let at = |ip: &str| net_transport::Peer {
        binding: b.peer().binding,
        addresses: vec![format!("{ip}:{port}").parse().expect("an address")],
    };
    a.endpoint.add_peer(at("[::1]"));
    c.endpoint.add_peer(at("127.0.0.1"));
    a.link_up(b.id()).await;
    c.link_up(b.id()).await;
    b.link_up(a.id()).await;
    b.link_up(c.id()).await;
    let at_c = b.endpoint.peers().into_iter().find(|peer| peer.node == c.id()).expect("linked");
    assert!(matches!(at_c.state, PeerState::Linked { address, .. } if address.is_ipv4()), "{at_c:?}");
}

#[tokio::test]
async fn dials_that_cross_leave_one_link_on_both_sides() {
    for round in 0..8u8 {
        let (mut a, mut b) = (Node::start(round).await, Node::start(round + 100).await);
        a.dial(&b);
        b.dial(&a);
        a.link_up(b.id()).await;
        b.link_up(a.id()).await;
        // Both dials end, with a link or beside one, and what was too much is gone.
        eventually("one link", || {
            let quiet = |n: &Node| n.links() == (1, 0) && n.metrics().dials >= 1;
            quiet(&a) && quiet(&b)
        })
        .await;
        let down = |node: &mut Node| node.passed(|event| matches!(event, Event::LinkDown { .. }));
        assert_eq!((down(&mut a), down(&mut b)), (0, 0), "round {round}");
        let (mut send, _recv) = {
            let mut acceptor = b.endpoint.accept("echo").expect("free");
            let opened = a.endpoint.open_bi(&b.id(), "echo").await.expect("linked");
            acceptor.next().await.expect("a stream");
            opened
        };
        send.finish().expect("open");
    }
}

#[tokio::test]
async fn restarted_peer_takes_the_place_of_its_former_self_at_once() {
    let (mut a, b) = linked(1, 2).await;
    // The same node elsewhere, while its former self still answers.
    let mut again = Node::start(2).await;
    again.dial(&a);
    a.link_down(b.id()).await;
    a.link_up(b.id()).await;
    again.link_up(a.id()).await;
    eventually("one link", || a.links() == (1, 0)).await;
    assert_eq!(a.metrics().links_down, 1);
    drop(b);
}

/// A simulation of whole nodes found that what a restarted node was to be told could go to its former self.
#[tokio::test]
async fn restarted_peer_is_told_everything_while_there_is_news_for_its_former_self() {
    const KEYS: u8 = 50;
    for round in 0..8 {
        let mut a = Node::start(1).await;
        let id = a.id();
        for key in 0..KEYS {
            a.endpoint.advertise([key; 32], advert(id, key, 1)).expect("small");
        }
        let RawPeer { control: (_send, mut recv), connection: _former, .. } = RawPeer::link(2, &mut a).await;
        let former = tokio::spawn(async move { while let Ok(Some(_)) = recv.read_chunk(usize::MAX, true).await {} });
        let endpoint = a.endpoint.clone();
        let news = tokio::spawn(async move {
            loop {
                endpoint.advertise([KEYS; 32], advert(id, KEYS, 1)).expect("small");
                // Not tokio's yield, which lets what comes from the network go first: this comes between any two others.
                let mut yielded = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            }
        });
        let mut again = Node::start(2).await;
        again.dial(&a);
        again.link_up(id).await;
        for key in 0..KEYS {
            let told = |e: &Event| matches!(e, Event::Advert { key: k, .. } if *k == [key; 32]).then_some(());
            again.event(&format!("advert {key} in round {round}"), told).await;
        }
        news.abort();
        former.await.expect("it ends with its connection");
    }
}

#[tokio::test]
async fn lost_peer_is_dialled_until_it_is_back_on_its_port() {
    let (mut a, mut b) = linked(1, 2).await;
    let address = b.address();
    b.endpoint.close().await;
    a.link_down(b.id()).await;
    let failing = || a.endpoint.peers().iter().any(|p| matches!(p.state, PeerState::Dialing { now: true, .. }));
    eventually("a dial", failing).await;
    drop(b);
    b = Node::with(2, net_transport::EndpointConfig::listen_on(address)).await;
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
}

#[tokio::test]
async fn three_nodes_introduced_by_one_become_a_triangle() {
    let (mut a, mut b, mut c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    b.dial(&a);
    c.dial(&a);
    b.link_up(c.id()).await;
    c.link_up(b.id()).await;
    a.link_up(b.id()).await;
    a.link_up(c.id()).await;
    for node in [&a, &b, &c] {
        eventually("two links", || node.links() == (2, 0)).await;
    }
    // A ticket names the neighbours as well.
    eventually("a full ticket", || a.endpoint.ticket().peers.len() == 3).await;
}

#[tokio::test]
async fn adverts_reach_all_nodes_once_and_go_with_their_node() {
    let (a, mut b) = linked(1, 2).await;
    let bytes = advert(a.id(), 5, 1);
    a.endpoint.advertise([5; 32], bytes.clone()).expect("small");
    let of = |id| {
        move |event: &Event| match event {
            Event::Advert { node, key, bytes } if *node == id => Some((*key, bytes.clone())),
            _ => None,
        }
    };
    let id = a.id();
    assert_eq!(b.event("an advert", of(id)).await, ([5; 32], bytes.clone()));
    let mut c = Node::start(3).await;
    c.dial(&b);
    assert_eq!(c.event("an advert", of(id)).await, ([5; 32], bytes));
    // A newer one, which both have from a and from each other.
    c.link_up(a.id()).await;
    a.endpoint.advertise([5; 32], advert(id, 5, 2)).expect("small");
    for node in [&mut b, &mut c] {
        node.event("an advert", of(id)).await;
    }
    a.endpoint.close().await;
    for node in [&mut b, &mut c] {
        node.event("adverts gone", |e| matches!(e, Event::AdvertsGone { node } if *node == id).then_some(())).await;
        assert_eq!(node.passed(|e| matches!(e, Event::Advert { .. })), 0);
    }
}

#[tokio::test]
async fn more_neighbours_than_allowed_are_refused_with_the_reason() {
    let mut config = loopback();
    config.links_max = 1;
    let mut a = Node::with(1, config).await;
    let mut b = Node::start(2).await;
    b.dial(&a);
    b.link_up(a.id()).await;
    a.link_up(b.id()).await;
    // No introductions: it is refused before it is told of anyone.
    let c = Node::start(3).await;
    c.dial(&a);
    eventually("a refusal", || {
        c.endpoint.peers().iter().any(|peer| {
            matches!(&peer.state, PeerState::Dialing { last_error: Some(error), failures, .. }
                if error.contains("as many neighbours") && *failures > 0)
        })
    })
    .await;
    assert_eq!(a.links(), (1, 0));
    assert!(a.metrics().links_refused_full > 0);
    // With the place free it gets in.
    b.endpoint.close().await;
    a.link_up(c.id()).await;
}

#[tokio::test]
async fn node_of_another_mesh_or_psk_gets_no_link() {
    let a = Node::start(1).await;
    let other_psk = Node::of(keys(2), Mesh::new(MeshId([7; 32]), 1, Psk::new([9; 32])), loopback()).await;
    let other_mesh = Node::of(keys(3), Mesh::new(MeshId([6; 32]), 1, Psk::new([8; 32])), loopback()).await;
    for node in [&other_psk, &other_mesh] {
        node.dial(&a);
        eventually("a failure", || node.metrics().dials_failed > 0).await;
        assert_eq!(node.links(), (0, 0));
    }
    assert_eq!(a.links(), (0, 0));
}

#[tokio::test]
async fn dropped_endpoint_ends_its_inbox_and_its_links() {
    let (a, mut b) = linked(1, 2).await;
    let Node { endpoint, mut frames, .. } = a;
    let id = endpoint.id();
    drop(endpoint);
    let end = tokio::time::timeout(DEADLINE, frames.recv()).await.expect("it ends");
    assert!(end.is_none());
    b.link_down(id).await;
}

/// Do datagrams to the group of multicast DNS come back on this machine?
#[cfg(feature = "mdns")]
async fn multicast_works() -> bool {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    let try_it = async {
        let socket = tokio::net::UdpSocket::bind((any, 0)).await.ok()?;
        socket.join_multicast_v4(group, any).ok()?;
        let port = socket.local_addr().ok()?.port();
        socket.send_to(b"here", (group, port)).await.ok()?;
        let mut buffer = [0; 4];
        socket.recv_from(&mut buffer).await.ok()
    };
    matches!(tokio::time::timeout(std::time::Duration::from_secs(2), try_it).await, Ok(Some(_)))
}

#[cfg(feature = "mdns")]
#[tokio::test]
async fn nodes_find_each_other_on_the_local_network() {
    if !multicast_works().await {
        let why = "this machine has no network with multicast";
        crate::left_out::left_out("nodes_find_each_other_on_the_local_network", why, "connect it to a network");
        return;
    }
    let on = net_transport::EndpointConfig::default;
    let mut a = Node::with(1, on()).await;
    let mut b = Node::with(2, on()).await;
    let _other_mesh = Node::of(keys(3), Mesh::new(MeshId([6; 32]), 1, Psk::new([8; 32])), on()).await;
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    assert_eq!((a.links(), b.links()), ((1, 0), (1, 0)));
}
