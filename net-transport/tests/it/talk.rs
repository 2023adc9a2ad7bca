//! Two sessions that hand their handshake bytes to each other, without packets around them.

use std::collections::VecDeque;

use net_transport::StaticBinding;
use net_transport::crypto::{PeerIdentity, client_config, server_config, version};
use quinn_proto::crypto::{Keys, Session};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{Side, TransportError};

use crate::pair::Node;

/// The four messages, in the order in which they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    M1,
    M2,
    AuthResponder,
    AuthInitiator,
}

pub(crate) const ALL: [Message; 4] = [Message::M1, Message::M2, Message::AuthResponder, Message::AuthInitiator];

/// Type and length in front of each message.
pub(crate) const HEAD_LEN: usize = 3;

/// Transport parameters that hold a connection id and nothing else.
pub(crate) fn params() -> TransportParameters {
    TransportParameters::read(Side::Client, &mut &b"\x0f\x08\x01\x02\x03\x04\x05\x06\x07\x08"[..]).expect("parameters")
}

pub(crate) struct Talk {
    pub(crate) initiator: Party,
    pub(crate) responder: Party,
    /// Written and not yet read.
    pending: VecDeque<Vec<u8>>,
}

pub(crate) struct Party {
    pub(crate) session: Box<dyn Session>,
    /// Of the highest level so far.
    pub(crate) keys: Option<Keys>,
    /// How many levels there have been keys for.
    pub(crate) levels: usize,
}

impl Party {
    pub(crate) fn initiator(node: Node, remote: StaticBinding) -> Self {
        let (identity, _, entropy) = node.parts();
        let generation = identity.mesh().current().0;
        let session = client_config(identity, remote, entropy)
            .start_session(version(generation), "ignored", &params())
            .expect("dials");
        Self { session, keys: None, levels: 0 }
    }

    pub(crate) fn responder(node: Node, generation: u8) -> Self {
        let (identity, admission, entropy) = node.parts();
        let config = server_config(identity, admission, entropy);
        let session = config.start_session(version(generation), &params());
        Self { session, keys: None, levels: 0 }
    }

    /// Everything that the session writes now, message by message. A session that neither writes nor gets keys has not
    /// moved.
    pub(crate) fn write(&mut self) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        loop {
            let mut out = Vec::new();
            let keys = self.session.write_handshake(&mut out);
            if out.is_empty() && keys.is_none() {
                return written;
            }
            if !out.is_empty() {
                written.push(out);
            }
            if let Some(keys) = keys {
                self.keys = Some(keys);
                self.levels += 1;
            }
        }
    }

    pub(crate) fn peer(&self) -> Option<PeerIdentity> {
        self.session.peer_identity().map(|peer| *peer.downcast().expect("links know their peer"))
    }
}

impl Talk {
    pub(crate) fn new(initiator: Node, responder: Node) -> Self {
        let (remote, generation) = (*responder.keys.binding(), initiator.mesh.current().0);
        Self::between(Party::initiator(initiator, remote), Party::responder(responder, generation))
    }

    pub(crate) fn between(mut initiator: Party, responder: Party) -> Self {
        let pending = initiator.write().into();
        Self { initiator, responder, pending }
    }

    pub(crate) fn plain() -> Self {
        Self::new(Node::new(1), Node::new(2))
    }

    /// Everything up to this message, which is given and not yet read.
    pub(crate) fn until(&mut self, message: Message) -> Vec<u8> {
        for step in ALL {
            let bytes = self.next(step);
            if step == message {
                return bytes;
            }
            assert!(self.deliver(step, &[&bytes]).expect("an honest message"), "{step:?} moves its reader on");
        }
        unreachable!("every message is a step")
    }

    /// The next message, which must be this one, when all before were delivered.
    pub(crate) fn next(&mut self, message: Message) -> Vec<u8> {
        let bytes = self.pending.pop_front().expect("each message follows from the one before");
        assert_eq!(usize::from(bytes[0]), ALL.iter().position(|m| *m == message).expect("one of four") + 1);
        bytes
    }

    pub(crate) fn finish(mut self) -> Self {
        let last = self.until(Message::AuthInitiator);
        assert!(self.deliver(Message::AuthInitiator, &[&last]).expect("an honest message"));
        assert!(!self.initiator.session.is_handshaking() && !self.responder.session.is_handshaking());
        self
    }

    /// Hands bytes to the reader of a message, piece by piece. Tells whether that moved it on.
    pub(crate) fn deliver(&mut self, message: Message, pieces: &[&[u8]]) -> Result<bool, TransportError> {
        let reader = match message {
            Message::M1 | Message::AuthInitiator => &mut self.responder,
            Message::M2 | Message::AuthResponder => &mut self.initiator,
        };
        for piece in pieces {
            reader.session.read_handshake(piece)?;
        }
        let before = reader.levels;
        let written = reader.write();
        let moved = reader.levels > before || !written.is_empty();
        self.pending.extend(written);
        Ok(moved)
    }
}
