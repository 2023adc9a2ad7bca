//! The bytes of the handshake: framing, and the messages that prove who is who.

use bytes::Bytes;
use quinn_proto::{TransportError, TransportErrorCode};

use crate::{BINDING_LEN, NodeId, NodeKeys, StaticBinding, context};

/// Bytes of a handshake message behind its head, at most.
pub const BODY_LEN_MAX: usize = 4096;

/// Type and length in front of each message.
const HEAD_LEN: usize = 3;
const SIGNATURE_LEN: usize = 64;

/// What A_I holds besides the credential.
pub(super) const AUTH_LEN: usize = BINDING_LEN + SIGNATURE_LEN;

/// Why a handshake failed. Both ends learn it as a QUIC transport error `0x100 + code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A message has the wrong type, length or form, or bytes follow it.
    #[error("a handshake message is malformed")]
    Malformed,
    /// The Noise message does not decrypt.
    #[error("the noise handshake failed: check that both nodes are of the same mesh")]
    Noise,
    /// The peer's binding or signature does not prove that it is the expected node.
    #[error("a node did not prove that it is the one it should be")]
    Identity,
    /// The responder's policy does not admit the initiator.
    #[error("the responder does not admit the initiator")]
    NotAdmitted,
    /// The psk generation of this handshake is not valid any more.
    #[error("the psk of this generation is not valid any more")]
    Generation,
    /// No ephemeral key could be made.
    #[error("the operating system gives no random bytes")]
    Entropy,
}

impl HandshakeError {
    const ALL: [Self; 6] =
        [Self::Malformed, Self::Noise, Self::Identity, Self::NotAdmitted, Self::Generation, Self::Entropy];

    /// The QUIC transport error code that stands for it.
    #[must_use]
    pub fn code(self) -> u64 {
        TransportErrorCode::crypto(self.alert()).into()
    }

    /// What a QUIC transport error code stands for, if for anything of the handshake.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }

    fn alert(self) -> u8 {
        match self {
            Self::Malformed => 1,
            Self::Noise => 2,
            Self::Identity => 3,
            Self::NotAdmitted => 4,
            Self::Generation => 5,
            Self::Entropy => 6,
        }
    }
}

impl From<HandshakeError> for TransportError {
    fn from(error: HandshakeError) -> Self {
        Self { code: TransportErrorCode::crypto(error.alert()), frame: None, reason: error.to_string() }
    }
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        if error == snow::Error::Rng { Self::Entropy } else { Self::Noise }
    }
}

/// The message types, in the order in which they pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageType {
    M1 = 1,
    M2 = 2,
    AuthResponder = 3,
    AuthInitiator = 4,
}

/// Appends `type ‖ len ‖ body`.
pub(super) fn frame(message: MessageType, body: &[u8], out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let len = u16::try_from(body.len()).ok().filter(|len| usize::from(*len) <= BODY_LEN_MAX);
    let len = len.ok_or(HandshakeError::Malformed)?;
    out.push(message as u8);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Gathers the one message of a level, however it is cut into pieces.
pub(super) struct Inbox {
    expected: MessageType,
    bytes: Vec<u8>,
}

impl Inbox {
    pub(super) fn new(expected: MessageType) -> Self {
        Self { expected, bytes: Vec::new() }
    }

    /// Takes bytes, and gives the body once it is complete.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`] for another type, a length over [`BODY_LEN_MAX`] and bytes behind the message, as
    /// soon as they show.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HandshakeError> {
        if self.bytes.len() + bytes.len() > HEAD_LEN + BODY_LEN_MAX {
            return Err(HandshakeError::Malformed);
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.first().is_some_and(|first| *first != self.expected as u8) {
            return Err(HandshakeError::Malformed);
        }
        let [_, low, high, body @ ..] = self.bytes.as_slice() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        if len > BODY_LEN_MAX || body.len() > len {
            return Err(HandshakeError::Malformed);
        }
        Ok((body.len() == len).then(|| body.to_vec()))
    }
}

const ROLE_INITIATOR: u8 = 1;
const ROLE_RESPONDER: u8 = 2;

fn responder_text(node: &NodeId, hash: &[u8; 32]) -> Vec<u8> {
    [context::LINK_AUTH.as_bytes(), &[ROLE_RESPONDER], node.as_bytes(), &[0; 32], hash].concat()
}

fn initiator_text(node: &NodeId, responder: &NodeId, hash: &[u8; 32], signed: &[u8]) -> Vec<u8> {
    let signed = blake3::hash(signed);
    [context::LINK_AUTH.as_bytes(), &[ROLE_INITIATOR], node.as_bytes(), responder.as_bytes(), hash, signed.as_bytes()]
        .concat()
}

/// A_R: `binding ‖ signature`.
pub(super) fn auth_responder(keys: &NodeKeys, hash: &[u8; 32]) -> Vec<u8> {
    let signature = keys.sign(&responder_text(&keys.id(), hash));
    [&keys.binding().to_bytes()[..], &signature].concat()
}

/// Checks that A_R comes from the node that was dialled, and that the static key of this handshake is that node's.
pub(super) fn check_responder(body: &[u8], expected: &StaticBinding, hash: &[u8; 32]) -> Result<(), HandshakeError> {
    let (binding, signature) = body.split_at_checked(BINDING_LEN).ok_or(HandshakeError::Malformed)?;
    let signature: &[u8; SIGNATURE_LEN] = signature.try_into().map_err(|_| HandshakeError::Malformed)?;
    let binding = StaticBinding::parse(binding).map_err(|_| HandshakeError::Identity)?;
    if binding.node() != expected.node() || binding.noise_public() != expected.noise_public() {
        return Err(HandshakeError::Identity);
    }
    binding.node().verify(&responder_text(&binding.node(), hash), signature).map_err(|_| HandshakeError::Identity)
}

/// A_I: `binding ‖ credential ‖ signature`.
pub(super) fn auth_initiator(keys: &NodeKeys, credential: &[u8], responder: &NodeId, hash: &[u8; 32]) -> Vec<u8> {
    let mut body = [&keys.binding().to_bytes()[..], credential].concat();
    let signature = keys.sign(&initiator_text(&keys.id(), responder, hash, &body));
    body.extend_from_slice(&signature);
    body
}

/// Checks A_I as `responder`, and gives the binding and the credential. Whether the node is admitted is not asked here.
pub(super) fn check_initiator(
    body: &[u8],
    responder: &NodeId,
    hash: &[u8; 32],
) -> Result<(StaticBinding, Bytes), HandshakeError> {
    let (signed, signature) = body.split_last_chunk::<SIGNATURE_LEN>().ok_or(HandshakeError::Malformed)?;
    let (binding, credential) = signed.split_at_checked(BINDING_LEN).ok_or(HandshakeError::Malformed)?;
    let binding = StaticBinding::parse(binding).map_err(|_| HandshakeError::Identity)?;
    let text = initiator_text(&binding.node(), responder, hash, signed);
    binding.node().verify(&text, signature).map_err(|_| HandshakeError::Identity)?;
    Ok((binding, Bytes::copy_from_slice(credential)))
}

#[cfg(test)]
mod tests;
