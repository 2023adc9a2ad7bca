//! Realtime frames: in datagrams, or each on a unidirectional stream of its own, `3 ‖ frame`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::codes::{BAD_PRELUDE, SUPERSEDED};
use super::lanes::admit;
use super::{Link, STREAM_REALTIME};
use crate::endpoint::Shared;
use crate::neighbour::Neighbour;
use crate::{HEADER_LEN, Header};

/// Streams of realtime frames that are written at a time.
const STREAMS_MAX: usize = 8;
/// Streams of realtime frames of one connection that are read at a time.
pub(super) const READ_MAX: usize = 8;
/// A frame that takes longer than this is worth nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends what waits, as long as this connection is the current one.
pub(super) async fn write(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) -> Infallible {
    tokio::select! {
        biased;
        () = link.drain.cancelled() => {}
        () = write_datagrams(shared, neighbour, link) => {}
        () = write_large(shared, neighbour, link) => {}
    }
    // Whoever sends now looks for what this one has left.
    neighbour.realtime.datagram.notify_one();
    neighbour.realtime.large.notify_one();
    std::future::pending().await
}

/// Ends when the connection is gone.
async fn write_datagrams(shared: &Shared, neighbour: &Neighbour, link: &Link) {
    loop {
        let Some(frame) = neighbour.realtime.next_datagram() else {
            neighbour.realtime.datagram.notified().await;
            continue;
        };
        match link.connection.send_datagram_wait(frame).await {
            Ok(()) => shared.counters.datagrams_sent.one(),
            // The path holds less than when it was queued; the next one knows.
            Err(quinn::SendDatagramError::TooLarge) => shared.counters.realtime_dropped_unsent.one(),
            Err(_) => {
                shared.counters.realtime_dropped_unsent.one();
                return;
            }
        }
    }
}

/// Ends when the connection is gone.
async fn write_large(shared: &Arc<Shared>, neighbour: &Arc<Neighbour>, link: &Arc<Link>) {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    while let Ok(permit) = streams.clone().acquire_owned().await {
        let (pair, frame, newer) = loop {
            match neighbour.realtime.next_large() {
                Some(next) => break next,
                None => neighbour.realtime.large.notified().await,
            }
        };
        let open = link.open.open();
        let (neighbour, link) = (neighbour.clone(), link.clone());
        shared.tasks.spawn(async move {
            write_one(&link, frame, &newer).await;
            neighbour.realtime.sent(&pair, &newer);
            drop((permit, open));
        });
    }
}

/// Sends a frame on a stream of its own, until it has arrived or a newer one is there.
async fn write_one(link: &Link, frame: Bytes, newer: &CancellationToken) {
    let opened = tokio::select! {
        biased;
        () = newer.cancelled() => return,
        opened = link.connection.open_uni() => opened,
    };
    let Ok(mut send) = opened else { return };
    if let Ok(header) = Header::parse(&frame) {
        // Just before lanes of the same priority.
        let _ = send.set_priority(7 - 2 * header.priority() as i32);
    }
    let mut chunks = [Bytes::from_static(&[STREAM_REALTIME]), frame];
    let whole = async {
        send.write_all_chunks(&mut chunks).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    let superseded = tokio::select! {
        biased;
        () = newer.cancelled() => true,
        _ = whole => false,
    };
    if superseded {
        // It may have arrived in the same instant.
        let _ = send.reset(SUPERSEDED.into());
    }
}

/// Reads the frame of a stream whose first byte has come.
pub(super) async fn read(shared: &Arc<Shared>, neighbour: &Neighbour, link: &Link, mut recv: quinn::RecvStream) {
    let Ok(_permit) = link.realtime_in.acquire().await else { return };
    match timeout(READ_TIMEOUT, read_frame(shared, neighbour, &mut recv)).await {
        Ok(Ok(frame)) => take(shared, neighbour, frame),
        Ok(Err(NoFrame::NotWanted)) => _ = recv.stop(SUPERSEDED.into()),
        Ok(Err(NoFrame::Superseded)) => shared.counters.realtime_superseded.one(),
        Ok(Err(NoFrame::Malformed)) | Err(_) => {
            shared.counters.datagrams_dropped_malformed.one();
            neighbour.counters.frames_dropped.one();
            let _ = recv.stop(BAD_PRELUDE.into());
        }
    }
}

/// Why a stream gave no frame.
enum NoFrame {
    /// Counted already, or lost with its connection.
    NotWanted,
    /// The other end has a newer one.
    Superseded,
    Malformed,
}

async fn read_frame(shared: &Shared, neighbour: &Neighbour, recv: &mut quinn::RecvStream) -> Result<BytesMut, NoFrame> {
    let ended = |error| match error {
        quinn::ReadExactError::ReadError(quinn::ReadError::Reset(_)) => NoFrame::Superseded,
        quinn::ReadExactError::ReadError(_) => NoFrame::NotWanted,
        quinn::ReadExactError::FinishedEarly(_) => NoFrame::Malformed,
    };
    let mut bytes = BytesMut::zeroed(HEADER_LEN);
    recv.read_exact(&mut bytes).await.map_err(ended)?;
    let header = Header::parse(&bytes).ok().filter(|header| header.is_realtime()).ok_or(NoFrame::Malformed)?;
    let len = HEADER_LEN + header.payload_len();
    if !admit(shared, neighbour, header) {
        return Err(NoFrame::NotWanted);
    }
    // An allocation of its own, as for frames of lanes.
    let mut frame = BytesMut::zeroed(len);
    frame[..HEADER_LEN].copy_from_slice(&bytes);
    recv.read_exact(&mut frame[HEADER_LEN..]).await.map_err(ended)?;
    match recv.read_chunk(1, true).await {
        Ok(None) => Ok(frame),
        Ok(Some(_)) => Err(NoFrame::Malformed),
        Err(quinn::ReadError::Reset(_)) => Err(NoFrame::Superseded),
        Err(_) => Err(NoFrame::NotWanted),
    }
}

/// Gives a realtime frame to the inbox; the oldest go when there are too many.
pub(super) fn take(shared: &Shared, neighbour: &Neighbour, frame: BytesMut) {
    let bytes = frame.len() as u64;
    shared.counters.frames_received.one();
    shared.counters.bytes_received.add(bytes);
    neighbour.counters.frames_received.one();
    neighbour.counters.bytes_received.add(bytes);
    let dropped = shared.frames.push_realtime(neighbour.node, frame);
    shared.counters.realtime_dropped_inbox_full.add(dropped as u64);
}
