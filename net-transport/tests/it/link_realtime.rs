//! Realtime frames: newest wins, nothing waits, and ticks, which go like batches.

use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;
use net_transport::{Fanout, Header, Kind, Pair};

use crate::link_kit::{Node, RawPeer, eventually, frame, frame_with, linked, normal_lane, pair};

fn realtime(pair: Pair, seq: u64, len: usize) -> Bytes {
    frame_with(pair, seq, len, |header| header.set_flags(Header::REALTIME))
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
async fn realtime_frame_that_fits_goes_in_a_datagram_and_a_larger_one_on_a_stream_of_its_own() {
    let (a, mut b) = joined().await;
    for (seq, len, datagrams) in [(1, 500, 1), (2, 100_000, 1), (3, 0, 2), (4, 1 << 20, 2)] {
        assert_eq!(a.endpoint.publish(&pair(1), realtime(pair(1), seq, len)), Fanout { links: 1, skipped: 0 });
        let got = b.frame().await;
        assert_eq!((got.from, got.header().seq(), got.header().payload_len()), (a.id(), seq, len));
        assert!(got.header().is_realtime() && got.bytes.len() == 64 + len);
        assert_eq!(got.bytes.as_ptr().align_offset(16), 0);
        assert!(got.bytes[64..].iter().all(|byte| *byte == seq.to_le_bytes()[0]));
        assert_eq!(a.metrics().datagrams_sent, datagrams);
    }
    assert_eq!(a.metrics().realtime_dropped_unsent, 0);
}

#[tokio::test]
async fn flood_of_realtime_frames_drops_the_oldest_and_counts_them() {
    let (a, mut b) = joined().await;
    // Nothing is sent while this runs: it does not wait, and the runtime has one thread.
    for seq in 0..20_000 {
        assert_eq!(a.endpoint.publish(&pair(1), realtime(pair(1), seq, 936)).links, 1);
        let mut room = pin!(a.endpoint.room(&pair(1)));
        let at_once = room.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(at_once.is_ready(), "nobody waits for realtime frames");
    }
    let dropped = a.metrics().realtime_dropped_unsent;
    assert!(dropped > 19_000, "what waits is bounded: {dropped}");
    for seq in dropped..20_000 {
        assert_eq!(b.frame().await.header().seq(), seq);
    }
}

#[tokio::test]
async fn newer_frame_takes_the_place_of_a_large_one_that_was_not_sent() {
    let (a, mut b) = joined().await;
    for seq in 0..50 {
        a.endpoint.publish(&pair(1), realtime(pair(1), seq, 200_000));
    }
    assert_eq!(b.frame().await.header().seq(), 49);
    assert_eq!(a.metrics().realtime_superseded, 49);
}

#[tokio::test]
async fn own_realtime_pair_comes_out_of_the_own_inbox_newest_last() {
    let mut a = Node::start(1).await;
    a.endpoint.join(pair(1), a.id());
    a.endpoint.serve(pair(1));
    a.joined(pair(1)).await;
    for seq in 0..100 {
        assert_eq!(a.endpoint.publish(&pair(1), realtime(pair(1), seq, 100_000)).links, 1);
    }
    let dropped = a.metrics().realtime_dropped_inbox_full;
    assert!(dropped > 50, "{dropped}");
    for seq in dropped..100 {
        assert_eq!(a.frame().await.header().seq(), seq);
    }
}

#[tokio::test]
async fn realtime_frames_pass_an_inbox_that_is_not_read() {
    let (mut a, mut b) = joined().await;
    a.endpoint.serve(pair(2));
    b.endpoint.join(pair(2), a.id());
    b.joined(pair(2)).await;
    a.joiners(pair(2), 1).await;
    let mut sent = 0;
    while b.metrics().lanes_stalled == 0 {
        sent += u64::from(a.endpoint.publish(&pair(2), frame(pair(2), sent, 60_000)).links);
        tokio::task::yield_now().await;
    }
    a.endpoint.publish(&pair(1), realtime(pair(1), 7, 100));
    a.endpoint.publish(&pair(1), realtime(pair(1), 8, 100_000));
    eventually("they arrive", || b.metrics().frames_received > 0 && a.metrics().datagrams_sent == 1).await;
    // They come before what stood still, or at least before its end.
    let (mut seen, mut frames) = (Vec::new(), 0);
    while seen.len() < 2 {
        let got = b.frame().await;
        if got.header().is_realtime() { seen.push(got.header().seq()) } else { frames += 1 }
    }
    seen.sort_unstable();
    assert_eq!(seen, [7, 8]);
    assert!(frames < sent, "{frames} of {sent} came before them");
}

#[tokio::test]
async fn streams_that_carry_no_realtime_frame_are_dropped_and_counted() {
    let mut a = Node::start(1).await;
    let raw = RawPeer::link(3, &mut a).await;
    a.endpoint.join(pair(1), raw.id);
    let good = realtime(pair(1), 9, 5000);
    let mut reserved = good.to_vec();
    reserved[1] |= 0x80;
    let malformed: [Bytes; 5] = [
        good.slice(..30),
        good.slice(..4000),
        [&good[..], b"x"].concat().into(),
        frame(pair(1), 1, 5000),
        reserved.into(),
    ];
    let send = async |bytes: &[u8]| {
        let mut stream = raw.connection.open_uni().await.expect("a stream");
        stream.write_all(&[&[3], bytes].concat()).await.expect("written");
        stream.finish().expect("open");
        let _ = stream.stopped().await;
    };
    for bytes in &malformed {
        send(bytes).await;
    }
    eventually("all are counted", || a.metrics().datagrams_dropped_malformed == 5).await;
    send(&realtime(pair(2), 1, 5000)).await;
    send(&frame_with(pair(1), 1, 5000, |h| {
        h.set_flags(Header::REALTIME);
        h.set_ttl(0);
    }))
    .await;
    // On a lane others would wait for it.
    let mut lane = raw.lane(normal_lane(pair(1)), 0).await;
    lane.write_all(&good).await.expect("written");
    eventually("they are counted", || a.metrics().frames_dropped_kind == 1).await;
    assert_eq!((a.metrics().frames_dropped_unsolicited, a.metrics().frames_dropped_ttl), (1, 1));
    send(&good).await;
    assert_eq!(a.frame().await.header().seq(), 9);
    assert!(a.endpoint.is_linked(&raw.id) && a.metrics().frames_received == 1);
}

#[tokio::test]
async fn stream_that_is_reset_gives_no_frame_and_one_that_never_ends_holds_up_nobody() {
    let (a, mut b) = joined().await;
    let raw = RawPeer::link(3, &mut b).await;
    b.endpoint.join(pair(2), raw.id);
    let large = realtime(pair(2), 1, 5000);
    let mut begun = raw.connection.open_uni().await.expect("a stream");
    begun.write_all(&[&[3], &large[..3000]].concat()).await.expect("written");
    begun.reset(0x13u32.into()).expect("open");
    // More of them than are read at a time, and none goes on.
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = raw.connection.open_uni().await.expect("a stream");
        stream.write_all(&[&[3], &large[..100]].concat()).await.expect("written");
        held.push(stream);
    }
    a.endpoint.publish(&pair(1), realtime(pair(1), 5, 50_000));
    assert_eq!(b.frame().await.header().seq(), 5);
    let mut lane = raw.lane(normal_lane(pair(2)), 0).await;
    lane.write_all(&frame(pair(2), 6, 10)).await.expect("written");
    assert_eq!(b.frame().await.header().seq(), 6);
}

#[tokio::test]
async fn ticks_go_from_the_origin_to_those_who_have_joined_in_order_with_batches() {
    let (a, mut b) = joined().await;
    let tick = |seq: u64| {
        frame_with(pair(1), seq, 100, |header| {
            let mut bytes = *header.as_bytes();
            bytes[0] = bytes[0] & 0xf0 | Kind::Tick as u8;
            *header = *Header::parse(&bytes).expect("a known kind");
        })
    };
    for seq in 0..20 {
        let bytes = if seq % 2 == 0 { frame(pair(1), seq, 100) } else { tick(seq) };
        assert_eq!(a.endpoint.publish(&pair(1), bytes).links, 1);
    }
    for seq in 0..20 {
        let got = b.frame().await;
        let kind = if seq % 2 == 0 { Kind::Batch } else { Kind::Tick };
        assert_eq!((got.header().seq(), got.header().kind(), got.header().events()), (seq, kind, 0));
    }
    // Also to a subscription of this node itself, and in a datagram on a realtime channel.
    let mut a = a;
    a.endpoint.join(pair(1), a.id());
    a.joined(pair(1)).await;
    let mut newest = tick(30).to_vec();
    newest[1] = Header::REALTIME;
    a.endpoint.publish(&pair(1), newest.into());
    for node in [&mut a, &mut b] {
        let got = node.frame().await;
        assert_eq!((got.header().seq(), got.header().kind()), (30, Kind::Tick));
    }
}
