//! Lanes: unidirectional streams of frames, each begun with `2 ‖ lane u8 ‖ frames sent on the lane so far u64`.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::assembler::Assembler;
use super::codes::{BAD_PRELUDE, CloseCode};
use super::stream::OpenGuard;
use super::{Link, PRELUDE_TIMEOUT, STREAM_LANE, STREAM_REALTIME, realtime};
use crate::endpoint::Shared;
use crate::group::Place;
use crate::joins::Solicited;
use crate::neighbour::Neighbour;
use crate::outbox::Lane;
use crate::sync::read;
use crate::{HEADER_LEN, Header, Kind};

/// Bytes of a lane's prelude behind its first.
const PRELUDE_LEN: usize = 9;
/// Chunks read from a stream at once.
const CHUNKS: usize = 32;
/// Fewer are a small read.
const CHUNKS_SMALL: usize = 8;
/// So many small reads one after the other say that there is not much to read.
const SMALL_READS: u32 = 64;

/// Gives each lane that has frames and no writer one, as long as this connection is the current one.
pub(super) async fn write(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) -> Infallible {
    while !link.drain.is_cancelled() {
        while let Some((lane, sent)) = neighbour.outbox.own_next() {
            let (open, out) = (link.open.open(), link.lanes_out.open());
            let (shared, neighbour, link) = (shared.clone(), neighbour.clone(), link.clone());
            shared.tasks.clone().spawn(async move {
                if let Some(send) = write_lane(&shared, &neighbour, &link, lane, sent).await {
                    // Acknowledged, so that the connection may be closed.
                    let _ = send.stopped().await;
                }
                drop((open, out));
            });
        }
        tokio::select! {
            biased;
            () = link.drain.cancelled() => {}
            () = neighbour.outbox.wants_writer.notified() => {}
        }
    }
    // Whoever writes now looks for lanes that this one has left.
    neighbour.outbox.wants_writer.notify_one();
    std::future::pending().await
}

/// Writes a lane until the connection is replaced or gone, and gives the lane up. Returns the finished stream.
async fn write_lane(
    shared: &Shared,
    neighbour: &Neighbour,
    link: &Link,
    lane: Lane,
    sent: u64,
) -> Option<quinn::SendStream> {
    let outbox = &neighbour.outbox;
    let _owned = Owned { neighbour, lane };
    let mut send = tokio::select! {
        biased;
        () = link.drain.cancelled() => return None,
        opened = link.connection.open_uni() => opened.ok()?,
    };
    // Frames of normal priority share the place of streams; control goes before all.
    let _ = send.set_priority(6 - 2 * lane.priority() as i32);
    let mut prelude = [STREAM_LANE, lane.number(), 0, 0, 0, 0, 0, 0, 0, 0];
    prelude[2..].copy_from_slice(&sent.to_le_bytes());
    let mut prelude = Some(Bytes::copy_from_slice(&prelude));
    while !link.drain.is_cancelled() {
        let Some(mut batch) = outbox.take(lane) else {
            tokio::select! {
                biased;
                () = link.drain.cancelled() => {}
                _ = link.connection.closed() => return None,
                () = outbox.ready(lane) => {}
            }
            continue;
        };
        if let Some(prelude) = prelude.take() {
            batch.chunks.insert(0, prelude);
        }
        let written = send.write_all_chunks(&mut batch.chunks).await;
        if outbox.written(lane, batch.bytes) || shared.closing.is_cancelled() {
            shared.room.changed();
        }
        if written.is_err() {
            shared.counters.frames_dropped_link_down.add(batch.frames);
            return None;
        }
    }
    if prelude.is_some() {
        // Nothing was sent on it: better no stream than an empty one.
        let _ = send.reset(0u32.into());
        return None;
    }
    let _ = send.finish();
    Some(send)
}

/// Gives a lane up when dropped.
struct Owned<'a> {
    neighbour: &'a Neighbour,
    lane: Lane,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        self.neighbour.outbox.disown(self.lane);
    }
}

/// Accepts the other end's lanes and realtime frames until the connection is gone.
pub(super) async fn accept(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) -> Option<CloseCode> {
    // At most as many tasks as streams that the transport allows.
    while let Ok(recv) = link.connection.accept_uni().await {
        let open = link.open.open();
        let (group, tasks) = (link.group.clone(), shared.tasks.clone());
        let (shared, neighbour, link) = (shared.clone(), neighbour.clone(), link.clone());
        let place = Place::default();
        group.spawn(
            place.clone(),
            tasks.track_future(async move {
                if let Err(code) = read_uni(&shared, &neighbour, &link, recv, open, &place).await {
                    shared.counters.protocol_violations.one();
                    tracing::warn!(node = %link.node, ?code, "a lane of a neighbour is out of order");
                    code.close(&link.connection);
                }
            }),
        );
    }
    std::future::pending().await
}

/// Reads a unidirectional stream to its end.
async fn read_uni(
    shared: &Arc<Shared>,
    neighbour: &Arc<Neighbour>,
    link: &Link,
    mut recv: quinn::RecvStream,
    open: OpenGuard,
    place: &Place,
) -> Result<(), CloseCode> {
    let _open = open;
    let mut rest = [0; PRELUDE_LEN];
    let prelude = async {
        let mut kind = [0];
        recv.read_exact(&mut kind).await?;
        if kind != [STREAM_REALTIME] {
            recv.read_exact(&mut rest).await?;
        }
        Ok(kind)
    };
    let kind = match timeout(PRELUDE_TIMEOUT, prelude).await {
        Ok(Ok([kind])) => kind,
        // Ended before anything was sent on it, or lost with its connection.
        Ok(Err(quinn::ReadExactError::ReadError(_))) => return Ok(()),
        Ok(Err(quinn::ReadExactError::FinishedEarly(_))) | Err(_) => {
            shared.counters.preludes_refused.one();
            let _ = recv.stop(BAD_PRELUDE.into());
            return Ok(());
        }
    };
    if kind == STREAM_REALTIME {
        realtime::read(shared, neighbour, link, recv).await;
        return Ok(());
    }
    let [number, sent @ ..] = rest;
    let lane = Lane::from_wire(number).filter(|_| kind == STREAM_LANE);
    let Some(lane) = lane.filter(|lane| link.claim_lane(*lane)) else {
        shared.counters.preludes_refused.one();
        return Err(CloseCode::PROTOCOL);
    };
    read_lane(shared, neighbour, link, recv, lane, u64::from_le_bytes(sent), place).await
}

/// Reads a lane whose prelude has come to its end.
async fn read_lane(
    shared: &Arc<Shared>,
    neighbour: &Arc<Neighbour>,
    link: &Link,
    mut recv: quinn::RecvStream,
    lane: Lane,
    sent: u64,
    place: &Place,
) -> Result<(), CloseCode> {
    let turn = tokio::select! {
        biased;
        turn = neighbour.begin_lane(link, lane, sent) => turn,
        _ = link.connection.closed() => return Ok(()),
    };
    let mut assembler = Assembler::new();
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    let mut frames = Vec::new();
    let mut load = Load::default();
    loop {
        let count = match recv.read_chunks(&mut chunks).await {
            Ok(Some(count)) => count,
            Ok(None) if assembler.inside_frame() => return Err(CloseCode::FRAMING),
            Ok(None) => return Ok(()),
            Err(quinn::ReadError::ConnectionLost(_)) => return Ok(()),
            Err(_) => return Err(CloseCode::PROTOCOL),
        };
        // While there is much to read, the driver of the connection goes on beside it.
        if let Some(much) = load.note(count) {
            place.set_apart(much);
        }
        let mut ended = 0;
        for chunk in &mut chunks[..count] {
            let chunk = std::mem::take(chunk);
            let fed = assembler.feed(&chunk, |header| admit_on_lane(shared, neighbour, header), &mut frames);
            ended += fed.map_err(|_| CloseCode::FRAMING)?;
        }
        hand_over(shared, neighbour, link, &mut frames).await;
        turn.delivered(ended);
    }
}

/// Whether a lane has much to read, by the chunks that its reads find.
#[derive(Default)]
struct Load {
    /// Small reads since the last that was not.
    small: u32,
}

impl Load {
    /// Says what a read shows: a full one that there is much, many small ones that there is not.
    fn note(&mut self, chunks: usize) -> Option<bool> {
        self.small = if chunks < CHUNKS_SMALL { self.small.saturating_add(1) } else { 0 };
        if chunks == CHUNKS { Some(true) } else { (self.small == SMALL_READS).then_some(false) }
    }
}

/// Gives frames to the inbox, waiting for room if need be.
async fn hand_over(shared: &Arc<Shared>, neighbour: &Neighbour, link: &Link, frames: &mut Vec<BytesMut>) {
    if frames.is_empty() {
        return;
    }
    let (count, bytes) = (frames.len() as u64, frames.iter().map(|frame| frame.len() as u64).sum());
    if !shared.frames.try_push(link.node, &neighbour.inbox, frames) {
        shared.counters.lanes_stalled.one();
        link.set_stalled(true);
        let pushed = shared.frames.push(link.node, &neighbour.inbox, frames).await;
        link.set_stalled(false);
        if pushed.is_err() {
            // Nobody takes frames any more; the lane is read on so that nothing else stands still.
            frames.clear();
            return;
        }
    }
    shared.counters.frames_received.add(count);
    shared.counters.bytes_received.add(bytes);
    neighbour.counters.frames_received.add(count);
    neighbour.counters.bytes_received.add(bytes);
}

/// A realtime frame has no place on a lane, where others would wait for it.
fn admit_on_lane(shared: &Shared, neighbour: &Neighbour, header: &Header) -> bool {
    if header.is_realtime() {
        shared.counters.frames_dropped_kind.one();
        neighbour.counters.frames_dropped.one();
        return false;
    }
    admit(shared, neighbour, header)
}

/// May a frame with this header from this neighbour pass? Counts the reason if not.
pub(super) fn admit(shared: &Shared, neighbour: &Neighbour, header: &Header) -> bool {
    let counters = &shared.counters;
    let cause = if header.ttl() == 0 {
        &counters.frames_dropped_ttl
    } else if !matches!(header.kind(), Kind::Batch | Kind::Tick) {
        &counters.frames_dropped_kind
    } else {
        match read(&shared.joins).solicited(&neighbour.node, &(header.channel(), header.origin())) {
            Solicited::No => &counters.frames_dropped_unsolicited,
            Solicited::WrongUpstream => &counters.frames_dropped_wrong_upstream,
            Solicited::Yes if shared.admission.check(header, &neighbour.node).is_ok() => return true,
            Solicited::Yes => &counters.frames_dropped_refused,
        }
    };
    cause.one();
    neighbour.counters.frames_dropped.one();
    false
}

/// Takes datagrams until the connection is gone.
pub(super) async fn datagrams(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) {
    while let Ok(datagram) = link.connection.read_datagram().await {
        let whole = Header::parse(&datagram).ok().filter(|h| HEADER_LEN + h.payload_len() == datagram.len());
        let Some(header) = whole else {
            shared.counters.datagrams_dropped_malformed.one();
            neighbour.counters.frames_dropped.one();
            continue;
        };
        if !admit(shared, neighbour, header) {
            continue;
        }
        if header.is_realtime() {
            realtime::take(shared, neighbour, BytesMut::from(&datagram[..]));
            continue;
        }
        let len = datagram.len() as u64;
        if shared.frames.try_push(link.node, &neighbour.inbox, &mut vec![BytesMut::from(&datagram[..])]) {
            shared.counters.frames_received.one();
            shared.counters.bytes_received.add(len);
            neighbour.counters.frames_received.one();
            neighbour.counters.bytes_received.add(len);
        } else {
            shared.counters.datagrams_dropped_inbox_full.one();
            neighbour.counters.frames_dropped.one();
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_full_read_shows_a_load_and_only_many_small_ones_show_that_it_is_over() {
        let mut load = Load::default();
        assert_eq!(load.note(CHUNKS - 1), None, "what comes in between changes nothing");
        assert_eq!(load.note(CHUNKS), Some(true));
        for round in 0..2 {
            assert!((1..SMALL_READS).all(|_| load.note(CHUNKS_SMALL - 1).is_none()), "round {round}");
            assert_eq!(load.note(CHUNKS_SMALL), None, "one that is not small begins the count again");
        }
        assert!((1..SMALL_READS).all(|_| load.note(1).is_none()));
        assert_eq!(load.note(1), Some(false));
        assert_eq!(load.note(1), None, "said once");
        assert_eq!(load.note(CHUNKS), Some(true));
    }
}
