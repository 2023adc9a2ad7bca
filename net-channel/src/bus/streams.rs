//! End-to-end streams: one that this node opens to each node it subscribes at, one from each node that subscribes here.

use std::sync::Arc;

use bytes::BytesMut;
use net_transport::{Endpoint, NodeId, RecvStream, SendStream};
use tokio::sync::{broadcast, mpsc};
use tracing::debug;

use crate::bus::hub::{Inner, PeerInput};
use crate::bus::producer::lock;
use crate::core::{MESSAGE_LEN_MAX, Message, PROTOCOL, RefusedWhy};

/// Reads one message's body.
async fn read_message(recv: &mut RecvStream) -> Option<BytesMut> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.ok()?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MESSAGE_LEN_MAX {
        debug!(len, "message too long");
        return None;
    }
    // Grown as bytes arrive, so that a length alone allocates nothing.
    let mut body = BytesMut::with_capacity(len.min(64 << 10));
    while body.len() < len {
        let chunk = recv.read_chunk(len - body.len()).await.ok()??;
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// The subscriber's end: opens the stream, sends what comes out of `outbox`, passes on what is answered.
pub(crate) async fn run_outgoing(
    endpoint: Endpoint,
    node: NodeId,
    mut outbox: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<PeerInput>,
) {
    match endpoint.open_bi(&node, PROTOCOL).await {
        Ok((mut send, mut recv)) => {
            let write = async {
                while let Some(message) = outbox.recv().await {
                    if send.write_all(&message).await.is_err() {
                        break;
                    }
                }
            };
            let read = async {
                while let Some(body) = read_message(&mut recv).await {
                    if inputs.send(PeerInput::Message { from: node, body }).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                biased;
                () = read => {}
                () = write => {}
            }
        }
        Err(error) => debug!(%node, %error, "no end-to-end stream"),
    }
    // The hub is gone when this fails, and with it everything that would have been asked again.
    let _ = inputs.send(PeerInput::Lost { node }).await;
}

/// The publisher's end: answers each message before the next is read, so that a peer that does not read its answers
/// stops being asked for more.
pub(crate) async fn run_incoming(inner: Arc<Inner>, node: NodeId, mut send: SendStream, mut recv: RecvStream) {
    let mut grants = inner.grants.subscribe();
    loop {
        tokio::select! {
            biased;
            grant = grants.recv() => match grant {
                Ok((to, grant)) => {
                    if to == node && send.write_all(&grant).await.is_err() {
                        break;
                    }
                }
                // Having missed a grant, the subscriber asks again for what it cannot open.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
            body = read_message(&mut recv) => {
                let Some(body) = body else { break };
                let Ok(message) = Message::decode(&body) else { break };
                let mut failed = false;
                for answer in answer(&inner, node, &message) {
                    if send.write_all(&answer).await.is_err() {
                        failed = true;
                        break;
                    }
                }
                if failed {
                    break;
                }
            }
        }
    }
    let producers: Vec<_> = lock(&inner.producers).values().cloned().collect();
    for producer in producers {
        if lock(&producer.publisher).handle_gone(&node) {
            producer.progress.notify_waiters();
        }
    }
}

/// What the producers of this node answer to a message.
pub(crate) fn answer(inner: &Inner, from: NodeId, message: &Message<'_>) -> Vec<Vec<u8>> {
    let Some(pair) = message.pair() else { return vec![] };
    let producer = lock(&inner.producers).get(&pair).cloned();
    let Some(producer) = producer else {
        return match *message {
            Message::Subscribe { id, .. } => vec![Message::Refused { id, why: RefusedWhy::NotHere }.encode()],
            _ => vec![],
        };
    };
    let now = tokio::time::Instant::now().into_std();
    let unix_secs = inner.environment.unix_ms() / 1000;
    let answers = lock(&producer.publisher).handle(from, message, now, unix_secs, &*producer.signer);
    producer.progress.notify_waiters();
    answers.unwrap_or_else(|error| {
        debug!(%error, "a grant could not be signed");
        vec![]
    })
}
