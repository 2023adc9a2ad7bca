//! Neighbours that break the protocol, and strangers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use net_transport::crypto::{self, Entropy, LinkIdentity};
use net_transport::{Mesh, MeshId, PeerState, Psk};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::link_kit::{
    DEADLINE, Node, RawPeer, about, eventually, hello, keys, linked, mesh, pair, raw_client, raw_endpoint,
};

#[tokio::test]
async fn control_message_over_the_limit_ends_the_connection() {
    let mut a = Node::start(1).await;
    let mut raw = RawPeer::link(3, &mut a).await;
    raw.control.0.write_all(&4097u16.to_le_bytes()).await.expect("written");
    assert_eq!(raw.closed().await, 4);
    assert_eq!(a.metrics().protocol_violations, 1);
}

#[tokio::test]
async fn malformed_control_messages_end_the_connection() {
    let bad: [&[u8]; 7] = [
        &[],
        &[77],
        // A hello has its place at the beginning.
        &hello(1)[3..],
        &[&about(3, pair(1))[..], b"x"].concat(),
        &about(3, pair(1))[..60],
        // Paths of no id, and of half an id.
        &[&about(4, pair(1))[..], &[0]].concat(),
        &[&about(4, pair(1))[..], &[4, 1, 2, 3, 4]].concat(),
    ];
    let mut a = Node::start(1).await;
    for body in bad {
        let mut raw = RawPeer::link(3, &mut a).await;
        raw.say(body).await;
        assert_eq!(raw.closed().await, 4, "{body:?}");
        a.link_down(raw.id).await;
    }
}

#[tokio::test]
async fn control_stream_that_is_reset_ends_the_connection() {
    let mut a = Node::start(1).await;
    let mut raw = RawPeer::link(3, &mut a).await;
    raw.control.0.reset(0u32.into()).expect("open");
    assert_eq!(raw.closed().await, 4);
}

#[tokio::test(start_paused = true)]
async fn connection_without_a_hello_is_closed_in_time() {
    let a = Node::start(1).await;
    let (connection, _endpoint, _) = RawPeer::connect(3, &a).await;
    let closed = timeout(DEADLINE, connection.closed()).await.expect("it is closed");
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 6u32.into()));
    assert_eq!(a.links(), (0, 0));
}

#[tokio::test]
async fn connections_that_are_drained_are_few_however_often_a_member_dials() {
    let mut a = Node::start(1).await;
    let raw = RawPeer::link(3, &mut a).await;
    // Each takes over from the one before, which never gets empty: its control stream is not ended.
    let mut held = Vec::new();
    for dial in 2..30 {
        held.push(raw.another(3, dial, &a).await);
        assert!(a.links().1 <= 8, "{:?}", a.links());
    }
    eventually("all but the last few are closed", || a.links() == (1, 8)).await;
    assert_eq!(raw.closed().await, 9);
    let open = held.iter().filter(|(connection, ..)| connection.close_reason().is_none()).count();
    assert!(open >= 9, "the current one and those that are drained: {open}");
    assert_eq!(a.metrics().drains_cut, 28 - 8);
    assert!(a.endpoint.is_linked(&raw.id));
}

#[tokio::test]
async fn wrong_hellos_are_refused() {
    let good = hello(1);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let a = Node::start(1).await;
    // Another kind of stream, too long, another message, version 0, no number of a dial, cut.
    for bad in [with(0, 1), with(2, 0xff), with(3, 3), with(4, 0), with(13, 0), good[..20].to_vec()] {
        let (connection, _endpoint, _) = RawPeer::connect(3, &a).await;
        let (mut send, _recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&bad).await.expect("written");
        send.finish().expect("open");
        let closed = timeout(DEADLINE, connection.closed()).await.expect("it is closed");
        assert!(
            matches!(&closed, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 6u32.into()),
            "{closed}"
        );
    }
}

#[tokio::test]
async fn wrong_preludes_of_lanes_end_the_connection() {
    let mut a = Node::start(1).await;
    for prelude in [[1, 0, 0, 0, 0, 0, 0, 0, 0, 0], [2, 32, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let raw = RawPeer::link(3, &mut a).await;
        let mut lane = raw.connection.open_uni().await.expect("a stream");
        lane.write_all(&prelude).await.expect("written");
        assert_eq!(raw.closed().await, 4);
        a.link_down(raw.id).await;
    }
    // The same lane twice on one connection.
    let raw = RawPeer::link(3, &mut a).await;
    let _first = raw.lane(5, 0).await;
    let _second = raw.lane(5, 0).await;
    assert_eq!(raw.closed().await, 4);
}

#[tokio::test]
async fn frame_cut_short_ends_the_connection() {
    let mut a = Node::start(1).await;
    let raw = RawPeer::link(3, &mut a).await;
    let mut lane = raw.lane(0, 0).await;
    lane.write_all(&crate::link_kit::frame(pair(1), 0, 100)[..90]).await.expect("written");
    lane.finish().expect("open");
    assert_eq!(raw.closed().await, 5);
}

#[tokio::test]
async fn streams_without_a_prelude_do_not_hold_up_others() {
    let (a, mut b) = linked(1, 2).await;
    let mut acceptor = b.endpoint.accept("x").expect("free");
    let raw = RawPeer::link(3, &mut b).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let (mut send, recv) = raw.connection.open_bi().await.expect("a stream");
        send.write_all(&[1]).await.expect("written");
        held.push((send, recv));
    }
    let mut lanes = Vec::new();
    for _ in 0..40 {
        let mut lane = raw.connection.open_uni().await.expect("a stream");
        lane.write_all(&[2]).await.expect("written");
        lanes.push(lane);
    }
    // Other neighbours do not notice.
    let (mut send, _recv) = a.endpoint.open_bi(&b.id(), "x").await.expect("linked");
    send.write_all(b"x").await.expect("written");
    acceptor.next().await.expect("a stream");
    // And the slow ones are refused after a while.
    eventually("refusals", || b.metrics().preludes_refused >= 72).await;
    assert!(b.endpoint.is_linked(&raw.id));
}

#[tokio::test]
async fn strangers_get_no_answer_to_anything() {
    let (a, b) = linked(1, 2).await;
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let entropy = Entropy::seeded([3; 32]);
    let mut datagram = [0; 1400];
    for n in 0..10_000u32 {
        entropy.fill(&mut datagram).expect("seeded");
        let len = match n % 5 {
            // Random; QUIC v1; our version with a short id; our version; a short header.
            0 => usize::from(datagram[0]) * 5,
            1 => {
                datagram[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
                1200
            }
            2 => {
                datagram[..6].copy_from_slice(&[0xc0, 0x4e, 0x45, 0x54, 1, 4]);
                1200
            }
            3 => {
                let generation = datagram[7];
                datagram[..6].copy_from_slice(&[0xc0, 0x4e, 0x45, 0x54, generation, 8]);
                1300
            }
            _ => {
                datagram[0] = 0x40 | datagram[0] & 0x3f;
                1400
            }
        };
        stranger.send_to(&datagram[..len], a.address()).await.expect("sent");
        if n % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    // The service is unharmed: what comes after them is answered.
    let mut acceptor = a.endpoint.accept("x").expect("free");
    let (mut send, _recv) = b.endpoint.open_bi(&a.id(), "x").await.expect("linked");
    send.write_all(b"x").await.expect("written");
    acceptor.next().await.expect("a stream");
    assert_eq!(stranger.try_recv_from(&mut datagram).map_err(|e| e.kind()), Err(std::io::ErrorKind::WouldBlock));
    assert!(a.metrics().datagrams_dropped_foreign > 3000, "{:?}", a.metrics());
}

#[tokio::test]
async fn five_hundred_initials_without_the_psk_get_no_answer() {
    let mut a = Node::start(1).await;
    let relay = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    // Proper dials of our protocol, by somebody who has the static key but another psk, through a socket that shows what
    // comes back.
    let wrong = Mesh::new(MeshId([7; 32]), 1, Psk::new([9; 32]));
    let (endpoint, identity) = raw_endpoint(4, wrong);
    let relay_address = relay.local_addr().expect("bound");
    let mut dials = Vec::new();
    let (mut buffer, dialler): (_, SocketAddr) = (vec![0; 65_536], endpoint.local_addr().expect("bound"));
    // Of packets under another key three quarters fall to their reserved bits, and the rest to their seal. One dial for
    // each datagram: five hundred at once overflow the buffers of a slow machine's sockets, and are not seen at all.
    let mut forwarded = 0;
    while forwarded < 500 || a.metrics().handshakes_failed < 50 {
        let client = raw_client(&identity, a.peer().binding);
        dials.push(endpoint.connect_with(client, relay_address, "net").expect("an address"));
        let (len, from) = timeout(DEADLINE, relay.recv_from(&mut buffer)).await.expect("dials come").expect("read");
        assert_eq!(from, dialler, "nothing is answered");
        relay.send_to(&buffer[..len], a.address()).await.expect("sent");
        forwarded += 1;
        tokio::task::yield_now().await;
    }
    // The service is unharmed.
    let mut b = Node::start(2).await;
    b.dial(&a);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    while let Ok((_, from)) = relay.try_recv_from(&mut buffer) {
        assert_eq!(from, dialler, "nothing is answered");
    }
    assert_eq!(a.metrics().handshakes_retried, 0);
}

/// First flights of a member, each as good as one of a node that goes on: made without sockets, and forgotten at once.
struct FirstFlights {
    endpoint: quinn_proto::Endpoint,
    client: quinn::ClientConfig,
    to: SocketAddr,
}

impl FirstFlights {
    fn new(n: u8, to: &Node) -> Self {
        let identity = Arc::new(LinkIdentity::new(keys(n), mesh()));
        let mut config = quinn::EndpointConfig::new(crypto::reset_key(identity.keys()));
        config.supported_versions(crypto::versions());
        let endpoint = quinn_proto::Endpoint::new(Arc::new(config), None, true, None);
        Self { endpoint, client: raw_client(&identity, to.peer().binding), to: to.address() }
    }

    fn next(&mut self) -> Vec<u8> {
        let now = Instant::now();
        let connecting = self.endpoint.connect(now, self.client.clone(), self.to, "net");
        let (handle, mut connection) = connecting.expect("an address");
        let mut datagram = Vec::new();
        let transmit = connection.poll_transmit(now, 1, &mut datagram).expect("it speaks first");
        datagram.truncate(transmit.size);
        self.endpoint.handle_event(handle, quinn_proto::EndpointEvent::drained());
        datagram
    }
}

#[tokio::test]
async fn ten_thousand_half_open_handshakes_of_a_member_lead_to_retry_and_harm_nobody() {
    let mut a = Node::start(1).await;
    let mut flights = FirstFlights::new(4, &a);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let mut sent = 0;
    // What a full socket buffer drops is no handshake: it goes on until as many were seen.
    while a.metrics().handshakes_retried < 10_000 {
        socket.send_to(&flights.next(), a.address()).await.expect("sent");
        sent += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(a.links(), (0, 0));
    println!("{sent} first flights, of which all but the first 64 that are open at a time are sent away");
    // An honest member shows that its address is its own, and gets in.
    let mut b = Node::start(2).await;
    b.dial(&a);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
}

#[tokio::test]
async fn peer_that_never_reads_its_lanes_costs_bounded_memory_and_holds_up_nobody() {
    let (mut a, mut b) = linked(1, 2).await;
    let mut raw = RawPeer::link(3, &mut a).await;
    a.endpoint.serve(pair(1));
    b.endpoint.join(pair(1), a.id());
    b.joined(pair(1)).await;
    raw.say(&about(3, pair(1))).await;
    a.joiners(pair(1), 2).await;
    // It accepts no stream: what it takes is what its windows hold.
    let frames = 600;
    let publisher = {
        let a = a.endpoint.clone();
        tokio::spawn(async move {
            let mut skipped = 0;
            for seq in 0..frames {
                a.room(&pair(1)).await;
                skipped += a.publish(&pair(1), crate::link_kit::frame(pair(1), seq, 60_000)).skipped;
            }
            skipped
        })
    };
    for seq in 0..frames {
        assert_eq!(b.frame().await.header().seq(), seq, "who reads gets all");
    }
    assert!(publisher.await.expect("it published") > 400, "who does not read misses what its queue does not hold");
    let queued = a.endpoint.peers().into_iter().filter_map(|peer| match peer.state {
        PeerState::Linked { queued_bytes, frames_skipped, .. } => Some((peer.node, queued_bytes, frames_skipped)),
        _ => None,
    });
    let (_, bytes, skipped) = queued.into_iter().find(|(node, ..)| *node == raw.id).expect("it is still linked");
    assert!(bytes <= (4 << 20) + 60_064, "{bytes} bytes wait");
    assert_eq!(skipped, a.metrics().frames_skipped_slow + a.metrics().frames_skipped_queue_full);
    a.slow(pair(1), raw.id).await;
}

#[tokio::test]
async fn neighbour_that_floods_frames_does_not_starve_another() {
    let (mut a, b) = linked(1, 2).await;
    let raw = RawPeer::link(3, &mut a).await;
    b.endpoint.serve(pair(100));
    a.endpoint.join(pair(100), b.id());
    a.joined(pair(100)).await;
    // Eight lanes that never have enough.
    let mut floods = Vec::new();
    for n in 0..8 {
        a.endpoint.join(pair(n), raw.id);
        let mut lane = raw.lane(crate::link_kit::normal_lane(pair(n)), 0).await;
        floods.push(tokio::spawn(async move {
            for seq in 0.. {
                if lane.write_all(&crate::link_kit::frame(pair(n), seq, 1000)).await.is_err() {
                    return;
                }
            }
        }));
    }
    eventually("the inbox is full", || a.metrics().lanes_stalled > 0).await;
    for seq in 0..100 {
        assert_eq!(b.endpoint.publish(&pair(100), crate::link_kit::frame(pair(100), seq, 1000)).links, 1);
    }
    // It has room for them, although nothing has been read.
    let of_b = || {
        a.endpoint.peers().into_iter().find_map(|peer| match peer.state {
            PeerState::Linked { frames_received, .. } if peer.node == b.id() => Some(frames_received),
            _ => None,
        })
    };
    eventually("they are in the inbox", || of_b() == Some(100)).await;
    let (mut honest, mut flood) = (0, 0);
    while honest < 100 {
        if a.frame().await.from == b.id() { honest += 1 } else { flood += 1 }
    }
    assert!(flood <= 101, "each has its turn: {flood} frames of the flood before a hundred others");
    floods.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn neighbour_that_floods_control_messages_does_not_starve_another() {
    let (mut a, mut b) = linked(1, 2).await;
    let raw = RawPeer::link(3, &mut a).await;
    a.endpoint.serve(pair(1));
    let flood = tokio::spawn(async move {
        // Joins, unjoins, fullness, and adverts that nobody believes, as fast as they go.
        let mut bytes = Vec::new();
        for body in [about(3, pair(1)), about(7, pair(1)), about(5, pair(1)), about(3, pair(9)), vec![2, 1, 9]] {
            bytes.extend(u16::try_from(body.len()).expect("short").to_le_bytes());
            bytes.extend(body);
        }
        let bytes = bytes.repeat(100);
        let (mut send, mut recv) = raw.control;
        let read = tokio::spawn(async move { while let Ok(Some(_)) = recv.read_chunk(1 << 20, true).await {} });
        while send.write_all(&bytes).await.is_ok() {}
        read.abort();
    });
    eventually("it floods", || a.metrics().control_messages_received > 5000).await;
    let drain = tokio::spawn(async move {
        // The layer above takes events; or nobody would be heard.
        loop {
            a.event("something", |_| Some(())).await;
        }
    });
    b.endpoint.join(pair(1), keys(1).id());
    b.joined(pair(1)).await;
    flood.abort();
    drain.abort();
}

#[tokio::test]
async fn forged_seqs_pass_as_they_are_and_change_nothing() {
    let mut a = Node::start(1).await;
    let raw = RawPeer::link(3, &mut a).await;
    a.endpoint.join(pair(1), raw.id);
    let mut lane = raw.lane(crate::link_kit::normal_lane(pair(1)), 0).await;
    // Links keep no window: who has verified the signature decides.
    for seq in [1 << 63, u64::MAX, 0, 1, 1 << 63] {
        lane.write_all(&crate::link_kit::frame(pair(1), seq, 10)).await.expect("written");
        assert_eq!(a.frame().await.header().seq(), seq);
    }
}

#[tokio::test]
async fn link_survives_a_change_of_address_without_loss() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    let proxy = Arc::new(Proxy::start(b.address()).await);
    let address = proxy.front.local_addr().expect("bound");
    a.endpoint.add_peer(net_transport::Peer { binding: b.peer().binding, addresses: vec![address] });
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    a.endpoint.serve(pair(1));
    b.endpoint.join(pair(1), a.id());
    b.joined(pair(1)).await;
    for seq in 0..3000u64 {
        if seq % 1000 == 500 {
            proxy.move_on().await;
        }
        a.endpoint.room(&pair(1)).await;
        assert_eq!(a.endpoint.publish(&pair(1), crate::link_kit::frame(pair(1), seq, 2000)).links, 1);
        assert_eq!(b.frame().await.header().seq(), seq);
    }
    assert_eq!((a.metrics().links_down, b.metrics().links_down), (0, 0));
    assert_eq!((a.metrics().links_switched, b.metrics().links_switched), (0, 0));
}

/// A NAT that changes its mind: relays between one node and another, from a port that changes.
struct Proxy {
    front: Arc<UdpSocket>,
    back: tokio::sync::watch::Sender<Arc<UdpSocket>>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Self {
        let bind = || async { Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("loopback")) };
        let front = bind().await;
        let (back, mut changed) = tokio::sync::watch::channel(bind().await);
        let relay = front.clone();
        tokio::spawn(async move {
            let mut client = None;
            let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                let out = changed.borrow_and_update().clone();
                tokio::select! {
                    biased;
                    moved = changed.changed() => if moved.is_err() { return },
                    Ok((len, from)) = relay.recv_from(&mut there) => {
                        client = Some(from);
                        let _ = out.send_to(&there[..len], to).await;
                    }
                    Ok(len) = out.recv(&mut here) => {
                        if let Some(client) = client {
                            let _ = relay.send_to(&here[..len], client).await;
                        }
                    }
                }
            }
        });
        Self { front, back }
    }

    async fn move_on(&self) {
        let next = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("loopback"));
        self.back.send_replace(next);
        // Only so that the proxy turns to its new socket soon; nothing depends on when it does.
        tokio::task::yield_now().await;
    }
}
