//! The control stream: hellos, and then what both ends have to tell each other.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use super::control::{CONTROL_QUEUE_BYTES, CONTROL_VERSION, Hello, MESSAGE_LEN_MAX, Message, parse_path, parse_reason};
use super::{CloseCode, DRAIN_TIMEOUT, Link, STREAM_CONTROL};
use crate::directory::Item;
use crate::endpoint::Shared;
use crate::neighbour::Neighbour;
use crate::sync::lock;
use crate::{NodeId, UnjoinReason};

/// Before everything else.
const CONTROL_PRIORITY: i32 = 16;
/// Bytes read from a control stream at once.
const READ_BYTES: usize = 64 << 10;

type Greeted = (quinn::SendStream, quinn::RecvStream, Hello, Hello);

/// Opens or accepts the control stream and exchanges hellos: mine, theirs. An error without a connection error means
/// that the other end did not say a proper hello.
pub(crate) async fn hello(
    shared: &Shared,
    connection: &quinn::Connection,
    node: &NodeId,
    dial: Option<u64>,
) -> Result<Greeted, Option<quinn::ConnectionError>> {
    let lost = |connection: &quinn::Connection| connection.close_reason();
    let (mut send, mut recv, mine, theirs);
    if let Some(dial) = dial {
        (send, recv) = connection.open_bi().await.map_err(Some)?;
        mine = shared.hello(node, dial, connection.remote_address());
        write_hello(&mut send, &mine, true).await.map_err(|_| lost(connection))?;
        theirs = read_hello(&mut recv, false).await.ok_or_else(|| lost(connection))?;
    } else {
        (send, recv) = connection.accept_bi().await.map_err(Some)?;
        theirs = read_hello(&mut recv, true).await.ok_or_else(|| lost(connection))?;
        mine = shared.hello(node, 0, connection.remote_address());
        write_hello(&mut send, &mine, false).await.map_err(|_| lost(connection))?;
    }
    // The number of a dial belongs to the end that dialled, and to no other.
    if theirs.version == 0 || (theirs.dial == 0) != dial.is_some() {
        return Err(None);
    }
    let _ = send.set_priority(CONTROL_PRIORITY);
    Ok((send, recv, mine, theirs))
}

async fn write_hello(send: &mut quinn::SendStream, hello: &Hello, first: bool) -> Result<(), quinn::WriteError> {
    let mut bytes = if first { vec![STREAM_CONTROL] } else { Vec::new() };
    Message::Hello(*hello).encode(&mut bytes);
    send.write_all(&bytes).await
}

async fn read_hello(recv: &mut quinn::RecvStream, first: bool) -> Option<Hello> {
    let mut kind = [STREAM_CONTROL];
    if first {
        recv.read_exact(&mut kind).await.ok()?;
    }
    let mut len = [0; 2];
    recv.read_exact(&mut len).await.ok()?;
    let len = usize::from(u16::from_le_bytes(len));
    if kind != [STREAM_CONTROL] || len > MESSAGE_LEN_MAX {
        return None;
    }
    let mut body = vec![0; len];
    recv.read_exact(&mut body).await.ok()?;
    match Message::parse(&body) {
        Ok(Message::Hello(hello)) => Some(hello),
        _ => None,
    }
}

impl Shared {
    fn hello(&self, node: &NodeId, dial: u64, observed: std::net::SocketAddr) -> Hello {
        let state = lock(&self.state);
        Hello {
            version: CONTROL_VERSION,
            boot: self.boot,
            dial,
            dials: state.dialer.begun(),
            linked: state.neighbours.contains_key(node),
            observed: crate::socket::canonical(observed).into(),
        }
    }
}

/// Says what there is to say until the connection is replaced; then waits until it is empty.
pub(super) async fn speak(
    shared: &Arc<Shared>,
    neighbour: &Arc<Neighbour>,
    link: &Arc<Link>,
    mut send: quinn::SendStream,
) -> CloseCode {
    let mut bytes = Vec::with_capacity(MESSAGE_LEN_MAX);
    while !link.drain.is_cancelled() {
        bytes.clear();
        let Ok(mut count) = link.control.take(&mut bytes) else { return CloseCode::CONTROL_OVERFLOW };
        count += directory_items(shared, neighbour, link, &mut bytes);
        if bytes.is_empty() {
            tokio::select! {
                biased;
                () = link.drain.cancelled() => {}
                () = link.control.ready.notified() => {}
            }
            continue;
        }
        shared.counters.control_messages_sent.add(count);
        let written = tokio::select! {
            biased;
            written = send.write_all(&bytes) => written,
            // A peer that reads nothing while it asks for more and more.
            () = link.control.overflowed.notified() => return CloseCode::CONTROL_OVERFLOW,
        };
        match written {
            Ok(()) => {}
            // The task ends with the connection.
            Err(quinn::WriteError::ConnectionLost(_)) => return std::future::pending().await,
            // This stream is not to be stopped.
            Err(_) => return CloseCode::PROTOCOL,
        }
        // Memory that a burst took is given back.
        bytes.shrink_to(MESSAGE_LEN_MAX);
    }
    let emptied = async {
        link.open.zero().await;
        let _ = send.finish();
        let _ = send.stopped().await;
        link.remote_done.cancelled().await;
        // All that the other end has sent is here by now, if not yet taken: the branches of the task take it first.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        link.open.zero().await;
    };
    if timeout(DRAIN_TIMEOUT, emptied).await.is_err() {
        shared.counters.drains_cut.one();
        return CloseCode::DRAIN_CUT;
    }
    CloseCode::DRAINED
}

/// Appends what the directory has for the neighbour, up to about 64 KiB.
fn directory_items(shared: &Shared, neighbour: &Neighbour, link: &Link, bytes: &mut Vec<u8>) -> u64 {
    let mut count = 0;
    while bytes.len() < CONTROL_QUEUE_BYTES - MESSAGE_LEN_MAX {
        match shared.poll_send(neighbour, link) {
            Some(Item::Record { age_ms, record }) => Message::Record { age_ms, record: &record }.encode(bytes),
            Some(Item::Advert(advert)) => Message::Advert(&advert).encode(bytes),
            None => break,
        }
        count += 1;
    }
    count
}

/// Reads what the other end says until the connection has to be closed.
pub(super) async fn listen(
    shared: &Arc<Shared>,
    neighbour: &Arc<Neighbour>,
    link: &Arc<Link>,
    mut recv: quinn::RecvStream,
) -> CloseCode {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(len) = buffer.first_chunk().map(|len| usize::from(u16::from_le_bytes(*len))) {
            if len > MESSAGE_LEN_MAX {
                return CloseCode::PROTOCOL;
            }
            if buffer.len() < 2 + len {
                break;
            }
            buffer.advance(2);
            let body = buffer.split_to(len);
            shared.counters.control_messages_received.one();
            let Ok(message) = Message::parse(&body) else { return CloseCode::PROTOCOL };
            // Back-pressure: who does not take events is told no more.
            shared.events.room().await;
            if !handle(shared, neighbour, link, message) {
                return CloseCode::PROTOCOL;
            }
        }
        match recv.read_chunk(READ_BYTES, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) if buffer.is_empty() => break,
            Ok(None) => return CloseCode::PROTOCOL,
            // The task ends with the connection; a reset has no place here.
            Err(quinn::ReadError::ConnectionLost(_)) => std::future::pending().await,
            Err(_) => return CloseCode::PROTOCOL,
        }
    }
    // The other end has nothing more to say here: it drains, and so do we.
    link.remote_done.cancel();
    link.drain.cancel();
    std::future::pending().await
}

/// Does what a message says, if this connection still speaks for its node; false if the message has no place.
fn handle(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>, message: Message<'_>) -> bool {
    let from = &link.node;
    match message {
        Message::Hello(_) => return false,
        Message::Record { age_ms, record } => shared.handle_record(neighbour, link, age_ms, record),
        Message::Advert(bytes) => shared.handle_advert(neighbour, link, bytes),
        Message::Join(pair) => {
            shared.with_joins_of(neighbour, link, |joins, counters, out| joins.handle_join(from, pair, counters, out));
        }
        Message::Joined { pair, path } => {
            let Ok(path) = parse_path(path) else { return false };
            shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_joined(from, pair, &path, out));
        }
        Message::Unjoin(pair) => {
            shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_unjoin(from, &pair, out));
        }
        Message::Unjoined { pair, reason } => {
            // A reason that this build does not know is a reason all the same.
            let reason = parse_reason(reason).unwrap_or(UnjoinReason::NotServed);
            shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_unjoined(from, pair, reason, out));
        }
        Message::Full(pair) => {
            shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_full(from, &pair, true, out));
        }
        Message::Room(pair) => {
            shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_full(from, &pair, false, out));
        }
        Message::Synced => shared.with_joins_of(neighbour, link, |joins, _, out| joins.handle_synced(from, out)),
    }
    true
}
