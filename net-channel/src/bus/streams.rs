//! End-to-end streams: one that this node opens to each node it subscribes at, one from each node that subscribes here.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use net_transport::{NodeId, RecvStream, SendStream};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::EQUIVOCATION_LEN_MAX;
use crate::bus::events::NodeEvent;
use crate::bus::hub::{Command, Inner, PeerInput};
use crate::bus::producer::{Producer, lock};
use crate::core::{MESSAGE_LEN_MAX, Message, PROTOCOL, RefusedWhy, Start};

/// The most bytes of one message of a subscriber: none of them carries batches, and a proof has two seals.
const REQUEST_LEN_MAX: usize = EQUIVOCATION_LEN_MAX + 64;
/// How long a message may take once it has begun.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads one message's body of at most `len_max` bytes.
async fn read_message(recv: &mut RecvStream, len_max: usize) -> Option<BytesMut> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.ok()?;
    let len = u32::from_le_bytes(len) as usize;
    if len > len_max {
        debug!(len, "message too long");
        return None;
    }
    // Grown as bytes arrive, so that a length alone allocates nothing.
    let mut body = BytesMut::with_capacity(len.min(64 << 10));
    let read = async {
        while body.len() < len {
            let chunk = recv.read_chunk(len - body.len()).await.ok()??;
            body.extend_from_slice(&chunk);
        }
        Some(())
    };
    timeout(MESSAGE_TIMEOUT, read).await.ok()??;
    Some(body)
}

/// Reads requests one after the other. Reading is not cancel-safe, so it is a task of its own.
async fn read_requests(mut recv: RecvStream, requests: mpsc::Sender<BytesMut>) {
    while let Some(body) = read_message(&mut recv, REQUEST_LEN_MAX).await {
        if requests.send(body).await.is_err() {
            return;
        }
    }
}

/// The subscriber's end: opens the stream, sends what comes out of `outbox`, passes on what is answered.
pub(crate) async fn run_outgoing(
    inner: Arc<Inner>,
    node: NodeId,
    mut outbox: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<PeerInput>,
) {
    match inner.endpoint.open_bi(&node, PROTOCOL).await {
        Ok((mut send, mut recv)) => {
            let write = async {
                while let Some(message) = outbox.recv().await {
                    if send.write_all(&message).await.is_err() {
                        break;
                    }
                }
            };
            let read = async {
                while let Some(body) = read_message(&mut recv, MESSAGE_LEN_MAX).await {
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
    // First, so that the hub knows by its end of the outbox whether this is the stream that it has.
    drop(outbox);
    // The hub is gone when this fails, and with it everything that would have been asked again.
    let _ = inputs.send(PeerInput::Lost { node }).await;
}

/// Both ends of what a node says to itself.
pub(crate) async fn run_local(inner: Arc<Inner>, mut outbox: mpsc::Receiver<Vec<u8>>, inputs: mpsc::Sender<PeerInput>) {
    let me = inner.endpoint.id();
    let mut replies = Replies::Local(me, inputs);
    let mut grants = inner.grants.subscribe();
    let run = async {
        loop {
            let goes_on = tokio::select! {
                biased;
                grant = grants.recv() => match grant {
                    Ok((to, grant)) if to == me => replies.send(grant.to_vec()).await,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => true,
                    Err(broadcast::error::RecvError::Closed) => false,
                },
                message = outbox.recv() => match message {
                    Some(message) => {
                        let message = Message::decode(&message[4..]).expect("this node just encoded it");
                        respond(&inner, me, &message, &mut replies).await
                    }
                    None => false,
                },
            };
            if !goes_on {
                return;
            }
        }
    };
    inner.cancel.run_until_cancelled(run).await;
}

/// Where answers go.
enum Replies {
    Stream(SendStream),
    Local(NodeId, mpsc::Sender<PeerInput>),
}

impl Replies {
    /// Says whether somebody takes them.
    async fn send(&mut self, message: Vec<u8>) -> bool {
        match self {
            Self::Stream(stream) => stream.write_all(&message).await.is_ok(),
            Self::Local(from, inputs) => {
                let body = BytesMut::from(&message[4..]);
                inputs.send(PeerInput::Message { from: *from, body }).await.is_ok()
            }
        }
    }
}

/// The publisher's end: answers each message before the next is read, so that a peer that does not read its answers
/// stops being asked for more.
pub(crate) async fn run_incoming(inner: Arc<Inner>, node: NodeId, send: SendStream, recv: RecvStream) {
    let Some(_open) = OpenStream::new(inner.clone(), node) else { return };
    let (sender, mut requests) = mpsc::channel(1);
    inner.tasks.spawn({
        let cancel = inner.cancel.clone();
        async move { cancel.run_until_cancelled(read_requests(recv, sender)).await }
    });
    let mut grants = inner.grants.subscribe();
    let mut replies = Replies::Stream(send);
    loop {
        tokio::select! {
            biased;
            grant = grants.recv() => match grant {
                Ok((to, grant)) => {
                    if to == node && !replies.send(grant.to_vec()).await {
                        break;
                    }
                }
                // Having missed a grant, the subscriber asks again for what it cannot open.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
            body = requests.recv() => {
                let Some(body) = body else { break };
                let Ok(message) = Message::decode(&body) else { break };
                if matches!(message, Message::Equivocation { .. }) {
                    let now = Instant::now();
                    tokio::time::sleep_until(now + inner.served.request(&node, now.into_std())).await;
                    // The hub is gone when the node was closed; then nobody here wants to know.
                    let _ = inner.commands.send(Command::Proof { from: node, body }).await;
                    continue;
                }
                if matches!(message, Message::Subscribe { .. } | Message::Fetch { .. }) {
                    let now = Instant::now();
                    tokio::time::sleep_until(now + inner.served.request(&node, now.into_std())).await;
                }
                if !respond(&inner, node, &message, &mut replies).await {
                    break;
                }
            }
        }
    }
}

/// Counts the streams of a node: it is gone when the last one ends, not when an old one does.
struct OpenStream {
    inner: Arc<Inner>,
    node: NodeId,
}

impl OpenStream {
    /// Nothing if the node has as many as it may have.
    fn new(inner: Arc<Inner>, node: NodeId) -> Option<Self> {
        if !inner.served.open_stream(node) {
            inner.events.send(NodeEvent::StreamRefused { node });
            return None;
        }
        Some(Self { inner, node })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if !self.inner.served.close_stream(&self.node) {
            return;
        }
        let producers: Vec<_> = lock(&self.inner.producers).values().cloned().collect();
        for producer in producers {
            if lock(&producer.publisher).handle_gone(&self.node) {
                producer.progress.notify_waiters();
            }
        }
    }
}

/// Answers a message, and says whether the answers are taken.
async fn respond(inner: &Arc<Inner>, from: NodeId, message: &Message<'_>, replies: &mut Replies) -> bool {
    let Some(pair) = message.pair() else { return true };
    let producer = lock(&inner.producers).get(&pair).cloned();
    let Some(producer) = producer else {
        return match *message {
            Message::Subscribe { id, .. } => {
                replies.send(Message::Refused { id, why: RefusedWhy::NotHere }.encode()).await
            }
            _ => true,
        };
    };
    match *message {
        Message::Subscribe { id, start, .. } => {
            let Some(start) = producer.look_up(start, inner.environment.unix_ms()).await else {
                // It is asked again after a while.
                return replies.send(Message::Refused { id, why: RefusedWhy::NotHere }.encode()).await;
            };
            let message = Message::Subscribe { id, pair, start };
            for answer in answer(inner, from, &producer, &message) {
                if !replies.send(answer).await {
                    return false;
                }
            }
        }
        Message::Fetch { id, ref ranges, len_max, .. } => {
            let fetch = lock(&producer.publisher).fetch(&from, id, ranges, len_max);
            let Some(mut fetch) = fetch else { return true };
            if producer.look_up(Start::Earliest, 0).await.is_none() {
                return true;
            }
            while let Some(answer) = producer.next_answer(&mut fetch).await {
                if !replies.send(answer).await {
                    return false;
                }
            }
        }
        Message::Stored { range, .. } => {
            producer.note_stored(&from, range);
            producer.progress.notify_waiters();
        }
        _ => {
            for answer in answer(inner, from, &producer, message) {
                if !replies.send(answer).await {
                    return false;
                }
            }
        }
    }
    true
}

/// What a producer of this node answers to a message that needs no log.
fn answer(inner: &Inner, from: NodeId, producer: &Producer, message: &Message<'_>) -> Vec<Vec<u8>> {
    let too_many = |id| {
        inner.served.subscription_refused();
        inner.events.send(NodeEvent::SubscriptionRefused { node: from });
        vec![Message::Refused { id, why: RefusedWhy::TooMany }.encode()]
    };
    if let Message::Subscribe { id, .. } = *message
        && !inner.served.may_subscribe(&from)
    {
        return too_many(id);
    }
    let now = Instant::now().into_std();
    let unix_secs = inner.environment.unix_ms() / 1000;
    let (answers, before, after) = {
        let mut publisher = lock(&producer.publisher);
        let before = publisher.subscriptions_of(&from);
        let answers = publisher.handle(from, message, now, unix_secs, &*producer.signer);
        (answers, before, publisher.subscriptions_of(&from))
    };
    inner.served.subscriptions_changed(&from, before, after);
    if let (Message::Subscribe { id, .. }, Ok(answers)) = (message, &answers)
        && let [only] = &answers[..]
        && matches!(Message::decode(&only[4..]), Ok(Message::Refused { why: RefusedWhy::TooMany, .. }))
    {
        return too_many(*id);
    }
    producer.progress.notify_waiters();
    answers.unwrap_or_else(|error| {
        debug!(%error, "a grant could not be signed");
        vec![]
    })
}
