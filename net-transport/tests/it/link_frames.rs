//! Frames of joined pairs: from the origin's node to whoever joined, and to nobody else.

use std::time::Duration;

use net_transport::{DatagramError, Event, Fanout, UnjoinReason};

use crate::link_kit::{Node, RawPeer, about, eventually, frame, frame_with, linked, loopback, normal_lane, pair};

fn unjoined(event: &Event) -> Option<UnjoinReason> {
    match event {
        Event::Unjoined { reason, .. } => Some(*reason),
        _ => None,
    }
}

/// Two nodes, and a pair of the first that the second has joined.
async fn joined() -> (Node, Node) {
    let (mut a, mut b) = linked(1, 2).await;
    a.endpoint.serve(pair(1));
    b.endpoint.join(pair(1), a.id());
    b.joined(pair(1)).await;
    a.joiners(pair(1), 1).await;
    (a, b)
}

#[tokio::test]
async fn frames_of_a_joined_pair_come_in_order_and_aligned() {
    let (a, mut b) = joined().await;
    for seq in 0..1000 {
        let len = if seq % 100 == 7 { 200_000 } else { (seq as usize * 37) % 900 };
        a.endpoint.room(&pair(1)).await;
        assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), seq, len)), Fanout { links: 1, skipped: 0 });
    }
    for seq in 0..1000 {
        let got = b.frame().await;
        assert_eq!((got.from, got.header().seq()), (a.id(), seq));
        assert_eq!(got.bytes.len(), 64 + got.header().payload_len());
        assert_eq!(got.bytes.as_ptr().align_offset(16), 0);
        assert!(got.bytes[64..].iter().all(|byte| *byte == seq.to_le_bytes()[0]));
    }
    assert_eq!((a.metrics().frames_sent, b.metrics().frames_received), (1000, 1000));
}

#[tokio::test]
async fn join_before_the_link_and_before_the_other_serves() {
    let (mut a, mut b) = (Node::start(1).await, Node::start(2).await);
    b.endpoint.join(pair(1), a.id());
    b.endpoint.join(pair(2), a.id());
    a.endpoint.serve(pair(1));
    b.dial(&a);
    b.joined(pair(1)).await;
    assert_eq!(b.event("a refusal", unjoined).await, UnjoinReason::NotServed);
    a.link_up(b.id()).await;
    a.endpoint.serve(pair(2));
    b.endpoint.join(pair(2), a.id());
    b.joined(pair(2)).await;
}

#[tokio::test]
async fn unjoined_pair_is_published_to_nobody() {
    let (mut a, b) = joined().await;
    b.endpoint.unjoin(&pair(1));
    a.joiners(pair(1), 0).await;
    assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), 0, 10)), Fanout::default());
    assert_eq!(a.endpoint.joiners(&pair(1)), 0);
}

#[tokio::test]
async fn joins_end_with_the_link_and_are_made_again() {
    let (mut a, mut b) = joined().await;
    let address = b.address();
    b.endpoint.close().await;
    a.joiners(pair(1), 0).await;
    drop(b);
    b = Node::with(2, net_transport::EndpointConfig::listen_on(address)).await;
    b.endpoint.join(pair(1), a.id());
    b.joined(pair(1)).await;
    a.endpoint.close().await;
    assert_eq!(b.event("unjoined", unjoined).await, UnjoinReason::LinkDown);
}

#[tokio::test]
async fn unserve_ends_the_joins_of_others() {
    let (a, mut b) = joined().await;
    a.endpoint.unserve(&pair(1));
    assert_eq!(b.event("unjoined", unjoined).await, UnjoinReason::NotServed);
}

#[tokio::test]
async fn own_pair_comes_out_of_the_own_inbox() {
    let mut a = Node::start(1).await;
    a.endpoint.join(pair(1), a.id());
    a.endpoint.serve(pair(1));
    a.joined(pair(1)).await;
    assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), 5, 10)), Fanout { links: 1, skipped: 0 });
    let got = a.frame().await;
    assert_eq!((got.from, got.header().seq()), (a.id(), 5));
    a.endpoint.set_full(&pair(1), true);
    assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), 6, 10)), Fanout { links: 0, skipped: 1 });
}

#[tokio::test]
async fn frames_that_nobody_asked_for_are_dropped_and_counted() {
    let mut a = Node::start(1).await;
    let mut b = Node::start(2).await;
    b.dial(&a);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    let raw = RawPeer::link(3, &mut a).await;
    // pair 1 is joined at b, pair 2 at raw, pair 3 not at all.
    b.endpoint.serve(pair(1));
    a.endpoint.join(pair(1), b.id());
    a.joined(pair(1)).await;
    a.endpoint.join(pair(2), raw.id);
    let mut lane = raw.lane(0, 0).await;
    let tick = |h: &mut net_transport::Header| *h = kind(h, net_transport::Kind::Tick);
    let frames = [
        frame(pair(1), 1, 10),
        frame(pair(3), 2, 10),
        frame_with(pair(2), 3, 10, |h| h.set_ttl(0)),
        frame_with(pair(2), 4, 10, |h| *h = kind(h, net_transport::Kind::Rpc)),
        frame_with(pair(2), 5, 10, |h| *h = kind(h, net_transport::Kind::Control)),
        frame_with(pair(2), 6, 10, |h| *h = kind(h, net_transport::Kind::Tunnel)),
        frame_with(pair(2), 7, 10, |h| *h = kind(h, net_transport::Kind::Unicast)),
        frame_with(pair(2), 8, 10, |h| h.set_cap([0xff; 4])),
        frame(pair(2), 9, 10),
        frame_with(pair(2), 10, 0, tick),
    ];
    for bytes in &frames {
        lane.write_all(bytes).await.expect("written");
    }
    assert_eq!(a.frame().await.header().seq(), 9);
    assert_eq!(a.frame().await.header().seq(), 10);
    let m = a.metrics();
    assert_eq!(m.frames_dropped_wrong_upstream, 1);
    assert_eq!(m.frames_dropped_unsolicited, 1);
    assert_eq!(m.frames_dropped_ttl, 1);
    assert_eq!(m.frames_dropped_kind, 4);
    assert_eq!(m.frames_dropped_refused, 1);
    assert_eq!(m.frames_received, 2);
}

/// The same header with another kind.
fn kind(header: &net_transport::Header, kind: net_transport::Kind) -> net_transport::Header {
    let mut bytes = *header.as_bytes();
    bytes[0] = bytes[0] & 0xf0 | kind as u8;
    *net_transport::Header::parse(&bytes).expect("a known kind")
}

#[tokio::test]
async fn every_flipped_header_bit_is_survived() {
    let mut a = Node::start(1).await;
    let good = frame(pair(1), 1, 8);
    for bit in 0..512 {
        let raw = RawPeer::link(3, &mut a).await;
        a.endpoint.join(pair(1), raw.id);
        let mut lane = raw.lane(normal_lane(pair(1)), 0).await;
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        lane.write_all(&bad).await.expect("written");
        lane.finish().expect("open");
        // Whatever it is taken for, the node goes on and never panics; framing that is lost ends the connection.
        match net_transport::Header::parse(&bad) {
            Err(_) => assert_eq!(raw.closed().await, 5, "bit {bit}"),
            Ok(header) if header.payload_len() > 8 => assert_eq!(raw.closed().await, 5, "bit {bit}"),
            Ok(header) if header.payload_len() < 8 => assert_eq!(raw.closed().await, 5, "bit {bit}"),
            Ok(_) => lane.stopped().await.map(|_| ()).unwrap_or(()),
        }
        raw.connection.close(0u32.into(), b"");
        a.link_down(raw.id).await;
        while a.frames.try_recv().is_some() {}
    }
}

#[tokio::test]
async fn datagrams_come_out_of_the_inbox_if_their_pair_is_joined() {
    let (a, mut b) = joined().await;
    a.endpoint.send_datagram(&b.id(), frame(pair(2), 1, 10)).expect("linked");
    a.endpoint.send_datagram(&b.id(), frame(pair(1), 2, 1000)).expect("linked");
    assert_eq!(b.frame().await.header().seq(), 2);
    assert_eq!(b.metrics().frames_dropped_unsolicited, 1);
    let too_large = a.endpoint.send_datagram(&b.id(), frame(pair(1), 2, 60_000));
    assert!(matches!(too_large, Err(DatagramError::TooLarge { len: 60_064, .. })), "{too_large:?}");
    let cut = frame(pair(1), 2, 10).slice(..70);
    assert_eq!(a.endpoint.send_datagram(&b.id(), cut), Err(DatagramError::NotAFrame));
    let stranger = net_transport::NodeId::from_bytes([1; 32]);
    assert_eq!(a.endpoint.send_datagram(&stranger, frame(pair(1), 2, 10)), Err(DatagramError::NotLinked(stranger)));
}

#[tokio::test]
async fn malformed_datagrams_are_dropped_and_counted() {
    let mut a = Node::start(1).await;
    let raw = RawPeer::link(3, &mut a).await;
    a.endpoint.join(pair(1), raw.id);
    let good = frame(pair(1), 9, 20);
    for bad in [good.slice(..10), good.slice(..70), [&good[..], b"x"].concat().into()] {
        raw.connection.send_datagram(bad).expect("it fits");
    }
    raw.connection.send_datagram(good).expect("it fits");
    assert_eq!(a.frame().await.header().seq(), 9);
    assert_eq!(a.metrics().datagrams_dropped_malformed, 3);
}

#[tokio::test]
async fn unread_inbox_holds_up_frames_alone_and_stays_bounded() {
    let mut config = loopback();
    config.limits.inbox_bytes = 4 << 20;
    let mut a = Node::start(1).await;
    let mut b = Node::with(2, config).await;
    a.dial(&b);
    a.link_up(b.id()).await;
    // Pairs on all lanes of normal priority: together more than a connection's window.
    for n in 0..8 {
        a.endpoint.serve(pair(n));
        b.endpoint.join(pair(n), a.id());
        b.joined(pair(n)).await;
    }
    let mut sent = [0u64; 8];
    let mut skipped = false;
    for round in 0..400 {
        for n in 0..8u8 {
            let fanout = a.endpoint.publish(&pair(n), frame(pair(n), sent[usize::from(n)], 60_000));
            sent[usize::from(n)] += u64::from(fanout.links);
            skipped |= fanout.skipped > 0;
        }
        if skipped {
            break;
        }
        assert!(round < 399, "the queue is never full");
        tokio::task::yield_now().await;
    }
    // The lanes stand; the queue fills to its limit and not further.
    eventually("lanes stand", || b.metrics().lanes_stalled >= 8).await;
    while a.endpoint.publish(&pair(0), frame(pair(0), sent[0], 60_000)).links == 1 {
        sent[0] += 1;
        tokio::task::yield_now().await;
    }
    assert!(b.metrics().bytes_received <= (4 << 20));
    // Everything else goes on: streams, control messages in both directions.
    let mut acceptor = b.endpoint.accept("echo").expect("free");
    let (mut send, _recv) = a.endpoint.open_bi(&b.id(), "echo").await.expect("linked");
    send.write_all(b"hello").await.expect("written");
    send.finish().expect("open");
    let mut incoming = acceptor.next().await.expect("a stream");
    assert_eq!(incoming.recv.read_to_end(100).await.expect("read"), b"hello");
    a.endpoint.serve(pair(20));
    b.endpoint.join(pair(20), a.id());
    b.joined(pair(20)).await;
    // And nothing that was queued is lost when it is read at last.
    let mut next = [0u64; 8];
    while next != sent {
        let got = b.frame().await;
        let n = got.bytes[0..64][8] as usize;
        assert_eq!(got.header().seq(), next[n], "order of pair {n}");
        next[n] += 1;
    }
}

#[tokio::test]
async fn order_and_completeness_hold_while_connections_are_replaced() {
    let mut config = loopback();
    config.limits.renew_after = Duration::from_millis(20);
    let (mut a, mut b) = (Node::with(1, config.clone()).await, Node::with(2, config).await);
    a.dial(&b);
    a.link_up(b.id()).await;
    b.link_up(a.id()).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        from.endpoint.serve(pair(from.id().as_bytes()[0]));
        to.endpoint.join(pair(from.id().as_bytes()[0]), from.id());
    }
    let (pa, pb) = (pair(a.id().as_bytes()[0]), pair(b.id().as_bytes()[0]));
    a.joined(pb).await;
    b.joined(pa).await;
    let (ea, eb) = (a.endpoint.clone(), b.endpoint.clone());
    let publish = |endpoint: net_transport::Endpoint, pair| {
        tokio::spawn(async move {
            let mut seq = 0;
            while endpoint.metrics().links_switched < 12 {
                endpoint.room(&pair).await;
                assert_eq!(endpoint.publish(&pair, frame(pair, seq, 700)).links, 1);
                seq += 1;
                if seq % 64 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            seq
        })
    };
    let (from_a, from_b) = (publish(ea, pa), publish(eb, pb));
    let read = |mut node: Node, from: tokio::task::JoinHandle<u64>| async move {
        let mut next = 0;
        let mut last = None;
        let mut from = Some(from);
        while last != Some(next) {
            tokio::select! {
                biased;
                frame = node.frame() => {
                    assert_eq!(frame.header().seq(), next);
                    next += 1;
                }
                sent = async { from.as_mut().expect("still publishing").await }, if from.is_some() => {
                    last = Some(sent.expect("it published"));
                    from = None;
                }
            }
        }
        (node, next)
    };
    let ((b, from_a), (a, from_b)) = tokio::join!(read(b, from_a), read(a, from_b));
    assert!(from_a > 0 && from_b > 0);
    for mut node in [a, b] {
        assert_eq!(node.passed(|event| matches!(event, Event::LinkDown { .. } | Event::Unjoined { .. })), 0);
        assert_eq!(node.metrics().frames_dropped_link_down, 0);
    }
}

#[tokio::test]
async fn producer_waits_for_its_only_subscriber() {
    let (a, mut b) = joined().await;
    let total = 3000u64;
    let publisher = {
        let a = a.endpoint.clone();
        tokio::spawn(async move {
            for seq in 0..total {
                a.room(&pair(1)).await;
                assert_eq!(a.publish(&pair(1), frame(pair(1), seq, 16_000)), Fanout { links: 1, skipped: 0 });
            }
        })
    };
    for seq in 0..total {
        assert_eq!(b.frame().await.header().seq(), seq);
    }
    publisher.await.expect("nothing was skipped");
}

#[tokio::test]
async fn slow_subscriber_does_not_hold_up_another() {
    let (mut a, mut b) = joined().await;
    let mut slow = RawPeer::link(3, &mut a).await;
    slow.say(&about(3, pair(1))).await;
    a.joiners(pair(1), 2).await;
    slow.say(&about(7, pair(1))).await;
    let first = || a.endpoint.publish(&pair(1), frame(pair(1), 0, 10));
    eventually("it is told full", || first().skipped == 1).await;
    // It is waited for once, and not again: the other one has room.
    for _ in 0..50 {
        a.endpoint.room(&pair(1)).await;
    }
    assert_eq!(first(), Fanout { links: 1, skipped: 1 });
    slow.say(&about(8, pair(1))).await;
    eventually("it has room", || first().skipped == 0).await;
    b.frame().await;
}

#[tokio::test]
async fn room_comes_at_once_when_nobody_has_joined() {
    let a = Node::start(1).await;
    a.endpoint.room(&pair(1)).await;
    a.endpoint.serve(pair(1));
    a.endpoint.room(&pair(1)).await;
}

#[tokio::test]
async fn full_is_told_upstream() {
    let (a, b) = joined().await;
    b.endpoint.set_full(&pair(1), true);
    let publish = || a.endpoint.publish(&pair(1), frame(pair(1), 0, 10));
    eventually("it is told full", || publish().skipped == 1).await;
    let waiting = tokio::spawn({
        let a = a.endpoint.clone();
        async move { a.room(&pair(1)).await }
    });
    b.endpoint.set_full(&pair(1), false);
    waiting.await.expect("room comes");
    assert_eq!(publish().links, 1);
    assert!(a.metrics().frames_skipped_told_full > 0);
}

#[tokio::test]
async fn closing_sends_what_is_queued() {
    let (a, mut b) = joined().await;
    for seq in 0..100 {
        assert_eq!(a.endpoint.publish(&pair(1), frame(pair(1), seq, 20_000)).links, 1);
    }
    a.endpoint.close().await;
    for seq in 0..100 {
        assert_eq!(b.frame().await.header().seq(), seq);
    }
    b.link_down(a.id()).await;
}
