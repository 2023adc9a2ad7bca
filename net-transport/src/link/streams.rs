//! Streams of protocols: `1 ‖ length of the name u8 ‖ name`, then what the protocol likes.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::codes::{BAD_PRELUDE, BUSY, UNKNOWN_PROTOCOL};
use super::stream::{OpenGuard, RecvStream, SendStream, StreamError};
use super::{Link, PRELUDE_TIMEOUT, STREAM_PROTOCOL};
use crate::NodeId;
use crate::endpoint::{IncomingStream, Offer, Shared};

/// Bytes of a protocol's name at most.
pub(crate) const PROTOCOL_LEN_MAX: usize = 64;
/// Streams of one connection whose prelude has not come yet.
const PENDING_MAX: usize = 32;
/// Where streams stand among lanes: with frames of normal priority.
const STREAM_PRIORITY: i32 = 2;

/// Opens a stream for a protocol, whose name has been checked.
pub(crate) async fn open(link: &Link, protocol: &str) -> Result<(SendStream, RecvStream), StreamError> {
    let (send_open, recv_open) = (link.open.open(), link.open.open());
    let (send, recv) = link.connection.open_bi().await?;
    let _ = send.set_priority(STREAM_PRIORITY);
    let mut send = SendStream::new(send, send_open);
    let len = u8::try_from(protocol.len()).expect("at most 64 bytes");
    let prelude = [&[STREAM_PROTOCOL, len], protocol.as_bytes()].concat();
    send.write_all(&prelude).await?;
    Ok((send, RecvStream::new(recv, recv_open)))
}

/// Accepts streams until the connection is gone.
pub(super) async fn accept(shared: &Arc<Shared>, link: &Arc<Link>) {
    let pending = Arc::new(Semaphore::new(PENDING_MAX));
    while let Ok(permit) = pending.clone().acquire_owned().await {
        let Ok((send, recv)) = link.connection.accept_bi().await else { break };
        let guards = (link.open.open(), link.open.open());
        let (shared, node) = (shared.clone(), link.node);
        shared.tasks.clone().spawn(async move {
            accept_one(&shared, node, send, recv, guards).await;
            drop(permit);
        });
    }
    std::future::pending().await
}

async fn accept_one(
    shared: &Shared,
    node: NodeId,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
    (send_open, recv_open): (OpenGuard, OpenGuard),
) {
    let refused = match timeout(PRELUDE_TIMEOUT, read_prelude(&mut recv)).await {
        Ok(Some(protocol)) => {
            let _ = send.set_priority(STREAM_PRIORITY);
            match shared.offer(&protocol) {
                Offer::Taken(place) => {
                    shared.counters.streams_accepted.one();
                    let (send, recv) = (SendStream::new(send, send_open), RecvStream::new(recv, recv_open));
                    place.send(IncomingStream { node, send, recv });
                    return;
                }
                Offer::Unknown => {
                    shared.counters.streams_refused_unknown.one();
                    UNKNOWN_PROTOCOL
                }
                Offer::Busy => {
                    shared.counters.streams_refused_busy.one();
                    BUSY
                }
            }
        }
        Ok(None) | Err(_) => {
            shared.counters.preludes_refused.one();
            BAD_PRELUDE
        }
    };
    let _ = send.reset(refused.into());
    let _ = recv.stop(refused.into());
}

async fn read_prelude(recv: &mut quinn::RecvStream) -> Option<String> {
    let mut head = [0; 2];
    recv.read_exact(&mut head).await.ok()?;
    let [kind, len] = head;
    if kind != STREAM_PROTOCOL || len == 0 || usize::from(len) > PROTOCOL_LEN_MAX {
        return None;
    }
    let mut name = vec![0; usize::from(len)];
    recv.read_exact(&mut name).await.ok()?;
    String::from_utf8(name).ok()
}
