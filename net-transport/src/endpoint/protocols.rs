//! Streams of protocols above: who accepts which, and opening them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Endpoint;
use super::shared::Shared;
use crate::NodeId;
use crate::link::{self, PROTOCOL_LEN_MAX, RecvStream, SendStream, StreamError};
use crate::sync::lock;

/// Acceptors by the name of their protocol.
pub(crate) type Protocols = BTreeMap<String, mpsc::Sender<IncomingStream>>;

/// Protocols that are accepted at a time.
const PROTOCOLS_MAX: usize = 256;

/// A stream that a neighbour has opened for a protocol.
#[derive(Debug)]
pub struct IncomingStream {
    /// The neighbour.
    pub node: NodeId,
    /// Towards it.
    pub send: SendStream,
    /// From it.
    pub recv: RecvStream,
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The node is no neighbour.
    #[error("no link with node {0}")]
    NotLinked(NodeId),
    /// The name is empty or too long.
    #[error("a protocol's name has 1 to {PROTOCOL_LEN_MAX} bytes, this one has {0}")]
    Name(usize),
    /// The link was lost while the stream was opened.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A protocol cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolTaken {
    /// It is accepted already; drop the other acceptor first.
    #[error("protocol {0:?} is accepted already: drop the other acceptor first")]
    Taken(String),
    /// The name is empty or too long.
    #[error("a protocol's name has 1 to {PROTOCOL_LEN_MAX} bytes, this one has {0}")]
    Name(usize),
    /// Too many protocols are accepted.
    #[error("{PROTOCOLS_MAX} protocols are accepted already, which is the limit")]
    TooMany,
}

impl Endpoint {
    /// Opens a stream to a neighbour for a protocol, whose name has 1 to 64 bytes.
    ///
    /// It does not wait for the other end: that the protocol is not accepted there shows as
    /// [`StreamError::UnknownProtocol`] when the stream is read or written.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was opened then.
    ///
    /// # Cancel safety
    /// Cancel safe. It waits while as many streams are open as the neighbour allows (256).
    pub async fn open_bi(&self, node: &NodeId, protocol: &str) -> Result<(SendStream, RecvStream), OpenError> {
        if protocol.is_empty() || protocol.len() > PROTOCOL_LEN_MAX {
            return Err(OpenError::Name(protocol.len()));
        }
        let neighbour = self.shared.neighbour(node).ok_or(OpenError::NotLinked(*node))?;
        loop {
            let link = neighbour.current();
            match link::open_stream(&link, protocol).await {
                Ok(stream) => return Ok(stream),
                // Another connection has taken over meanwhile.
                Err(_) if neighbour.current().id != link.id => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Accepts the streams that neighbours open for a protocol, whose name has 1 to 64 bytes, until the acceptor is
    /// dropped.
    ///
    /// # Errors
    /// [`ProtocolTaken`] if somebody else accepts it.
    pub fn accept(&self, protocol: &str) -> Result<Acceptor, ProtocolTaken> {
        if protocol.is_empty() || protocol.len() > PROTOCOL_LEN_MAX {
            return Err(ProtocolTaken::Name(protocol.len()));
        }
        let mut protocols = lock(&self.shared.protocols);
        if protocols.get(protocol).is_some_and(|taken| !taken.is_closed()) {
            return Err(ProtocolTaken::Taken(protocol.to_owned()));
        }
        if protocols.len() >= PROTOCOLS_MAX && !protocols.contains_key(protocol) {
            return Err(ProtocolTaken::TooMany);
        }
        let (sender, streams) = mpsc::channel(self.shared.config.limits.accept_queue.max(1));
        if !self.shared.closing.is_cancelled() {
            protocols.insert(protocol.to_owned(), sender);
        }
        Ok(Acceptor { protocol: protocol.to_owned(), streams, shared: Arc::downgrade(&self.shared) })
    }
}

/// Accepts the streams of one protocol; dropping it refuses them.
pub struct Acceptor {
    protocol: String,
    streams: mpsc::Receiver<IncomingStream>,
    shared: std::sync::Weak<Shared>,
}

impl Acceptor {
    /// The next stream, or nothing when the endpoint is closed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<IncomingStream> {
        self.streams.recv().await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.streams.close();
        if let Some(shared) = self.shared.upgrade() {
            let mut protocols = lock(&shared.protocols);
            // Somebody else may have taken it in the meantime.
            if protocols.get(&self.protocol).is_some_and(mpsc::Sender::is_closed) {
                protocols.remove(&self.protocol);
            }
        }
    }
}

/// What becomes of a stream that a neighbour has opened.
pub(crate) enum Offer {
    Taken(Place),
    Unknown,
    Busy,
}

/// A place in an acceptor's queue.
pub(crate) struct Place(mpsc::OwnedPermit<IncomingStream>);

impl Place {
    pub(crate) fn send(self, stream: IncomingStream) {
        self.0.send(stream);
    }
}

impl Shared {
    /// A place for a stream of a protocol, if somebody accepts it.
    pub(crate) fn offer(&self, protocol: &str) -> Offer {
        let Some(sender) = lock(&self.protocols).get(protocol).cloned() else { return Offer::Unknown };
        match sender.try_reserve_owned() {
            Ok(permit) => Offer::Taken(Place(permit)),
            Err(mpsc::error::TrySendError::Full(_)) => Offer::Busy,
            Err(mpsc::error::TrySendError::Closed(_)) => Offer::Unknown,
        }
    }
}
