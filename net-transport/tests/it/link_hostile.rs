//! Neighbours that break the protocol, and strangers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net_transport::crypto::Entropy;
use net_transport::{Mesh, MeshId, Psk};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::link_kit::{
    DEADLINE, Node, RawPeer, about, eventually, hello, linked, mesh, pair, raw_client, raw_endpoint,
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

#[tokio::test]
async fn half_open_handshakes_of_a_member_lead_to_retry_and_harm_nobody() {
    let mut a = Node::start(1).await;
    let relay = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let (endpoint, identity) = raw_endpoint(4, mesh());
    let relay_address = relay.local_addr().expect("bound");
    let mut dials = Vec::new();
    let mut buffer = vec![0; 65_536];
    // First flights go there, and nothing comes back: each leaves a handshake half open.
    while a.metrics().handshakes_retried < 100 {
        let client = raw_client(&identity, a.peer().binding);
        dials.push(endpoint.connect_with(client, relay_address, "net").expect("an address"));
        let (len, _) = timeout(DEADLINE, relay.recv_from(&mut buffer)).await.expect("a dial comes").expect("read");
        relay.send_to(&buffer[..len], a.address()).await.expect("sent");
        tokio::task::yield_now().await;
    }
    // An honest member shows that its address is its own, and gets in.
    let mut b = Node::start(2).await;
    b.dial(&a);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
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
        // Only so that the proxy turns to its new socket; nothing depends on how long it takes.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
