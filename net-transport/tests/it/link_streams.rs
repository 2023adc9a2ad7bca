//! Streams of protocols of one's own.

use net_transport::{OpenError, ProtocolTaken, StreamError};

use crate::link_kit::{DEADLINE, eventually, linked};

#[tokio::test]
async fn stream_carries_bytes_both_ways() {
    let (a, b) = linked(1, 2).await;
    let mut acceptor = b.endpoint.accept("echo").expect("free");
    let echo = tokio::spawn(async move {
        let mut incoming = acceptor.next().await.expect("a stream");
        let bytes = incoming.recv.read_to_end(1 << 20).await.expect("read");
        incoming.send.write_all(&bytes).await.expect("written");
        incoming.node
    });
    let (mut send, mut recv) = a.endpoint.open_bi(&b.id(), "echo").await.expect("linked");
    let bytes = vec![5; 300_000];
    send.write_all(&bytes).await.expect("written");
    send.finish().expect("open");
    assert_eq!(recv.read_to_end(1 << 20).await.expect("read"), bytes);
    assert_eq!(echo.await.expect("echoed"), a.id());
}

#[tokio::test]
async fn unknown_protocol_is_refused_by_name() {
    let (a, b) = linked(1, 2).await;
    let (_send, mut recv) = a.endpoint.open_bi(&b.id(), "nobody/1").await.expect("linked");
    let read = tokio::time::timeout(DEADLINE, recv.read_to_end(10)).await.expect("an answer");
    assert_eq!(read, Err(StreamError::UnknownProtocol));
    assert_eq!(b.metrics().streams_refused_unknown, 1);
    // The same after the acceptor is gone.
    drop(b.endpoint.accept("brief").expect("free"));
    let (_send, mut recv) = a.endpoint.open_bi(&b.id(), "brief").await.expect("linked");
    assert_eq!(recv.read_to_end(10).await, Err(StreamError::UnknownProtocol));
}

#[tokio::test]
async fn acceptor_that_is_busy_refuses_further_streams() {
    let (a, b) = linked(1, 2).await;
    let acceptor = b.endpoint.accept("slow").expect("free");
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(a.endpoint.open_bi(&b.id(), "slow").await.expect("linked"));
    }
    eventually("the queue is full", || b.metrics().streams_accepted == 64).await;
    let (_send, mut recv) = a.endpoint.open_bi(&b.id(), "slow").await.expect("linked");
    assert_eq!(recv.read_to_end(10).await, Err(StreamError::Busy));
    drop(acceptor);
}

#[tokio::test]
async fn names_are_checked_and_belong_to_one_acceptor() {
    let (a, b) = linked(1, 2).await;
    let long = "x".repeat(65);
    assert_eq!(a.endpoint.open_bi(&b.id(), &long).await.err(), Some(OpenError::Name(65)));
    assert_eq!(a.endpoint.open_bi(&b.id(), "").await.err(), Some(OpenError::Name(0)));
    assert_eq!(a.endpoint.accept(&long).err(), Some(ProtocolTaken::Name(65)));
    let stranger = net_transport::NodeId::from_bytes([1; 32]);
    assert_eq!(a.endpoint.open_bi(&stranger, "x").await.err(), Some(OpenError::NotLinked(stranger)));
    let acceptor = a.endpoint.accept("x").expect("free");
    assert_eq!(a.endpoint.accept("x").err(), Some(ProtocolTaken::Taken("x".to_owned())));
    drop(acceptor);
    assert!(a.endpoint.accept("x").is_ok());
}

#[tokio::test]
async fn codes_of_the_protocol_reach_the_other_end() {
    let (a, b) = linked(1, 2).await;
    let mut acceptor = b.endpoint.accept("x").expect("free");
    let (mut send, mut recv) = a.endpoint.open_bi(&b.id(), "x").await.expect("linked");
    send.write_all(b"x").await.expect("written");
    let mut incoming = acceptor.next().await.expect("a stream");
    // Ours to give: not one of the transport's own codes.
    incoming.send.reset(0x10).expect("open");
    incoming.recv.stop(77).expect("open");
    assert_eq!(recv.read_to_end(10).await, Err(StreamError::Ended(0x10)));
    assert_eq!(send.stopped().await, Err(StreamError::Ended(77)));
}

#[tokio::test]
async fn stream_ends_with_the_link() {
    let (a, mut b) = linked(1, 2).await;
    let mut acceptor = b.endpoint.accept("x").expect("free");
    let (mut send, mut recv) = a.endpoint.open_bi(&b.id(), "x").await.expect("linked");
    send.write_all(b"x").await.expect("written");
    let _incoming = acceptor.next().await.expect("a stream");
    b.endpoint.close().await;
    let read = recv.read_to_end(10).await;
    assert!(matches!(&read, Err(StreamError::LinkLost(why)) if why == "the node has left"), "{read:?}");
    assert!(acceptor.next().await.is_none());
    assert_eq!(b.passed(|_| false), 0);
}
