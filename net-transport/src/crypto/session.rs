//! The state machine that quinn drives: one per connection and end.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use quinn_proto::crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError};

use super::messages::{
    HandshakeError, Inbox, MessageType, auth_initiator, auth_responder, check_initiator, check_responder, frame,
};
use super::noise::Handshake;
use super::schedule::{Exporter, Gate, Split, Traffic};
use super::{Entropy, LinkIdentity};
use crate::{Admission, Aead, MeshId, NodeId, Psk, StaticBinding, context};

/// Who is at the other end of a link, proved by the handshake: what `peer_identity()` of a connection holds.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Its static key, with the proof.
    pub binding: StaticBinding,
    /// What it presented when it dialled us; empty if we dialled it.
    pub credential: Bytes,
}

/// Where a handshake stands. Each state either reads or writes: a byte that arrives while nothing is expected is an
/// error, and that is what keeps bytes of one encryption level out of the message of the next.
///
/// ```text
/// initiator  SendM1 → ReadM2 → InitiatorUpgrade → ReadAuthResponder → SendAuthInitiator → Done
/// responder  ReadM1 → SendM2 → SendAuthResponder → ReadAuthInitiator → ResponderUpgrade → Done
/// ```
enum State {
    SendM1 { noise: Handshake, m1: Vec<u8> },
    ReadM2 { noise: Handshake, inbox: Inbox },
    InitiatorUpgrade { split: Split },
    ReadAuthResponder { split: Split, inbox: Inbox },
    SendAuthInitiator { split: Split, body: Vec<u8> },

    ReadM1 { noise: Handshake, inbox: Inbox },
    SendM2 { split: Split, m2: Vec<u8> },
    SendAuthResponder { split: Split },
    ReadAuthInitiator { split: Split, inbox: Inbox },
    ResponderUpgrade { split: Split },

    Done { traffic: Traffic, exporter: Exporter },
    Failed(HandshakeError),
}

enum Role {
    Initiator { remote: StaticBinding },
    Responder { admission: Arc<dyn Admission>, params: Vec<u8> },
}

pub(super) struct LinkSession {
    identity: Arc<LinkIdentity>,
    role: Role,
    version: u32,
    gate: Gate,
    state: State,
    peer_params: Option<TransportParameters>,
    /// What this end prefers, and once the other has said so, what both do.
    aead: Aead,
    peer: Option<PeerIdentity>,
}

/// What both ends mix in and never send.
fn prologue(version: u32, mesh: MeshId) -> Vec<u8> {
    [context::LINK_PROLOGUE.as_bytes(), &version.to_be_bytes(), &mesh.0].concat()
}

/// What each end says in its Noise message: `cipher it prefers u8 ‖ transport parameters`.
fn encode(aead: Aead, params: &TransportParameters) -> Vec<u8> {
    let mut bytes = vec![aead as u8];
    params.write(&mut bytes);
    bytes
}

impl LinkSession {
    pub(super) fn initiator(
        identity: Arc<LinkIdentity>,
        remote: StaticBinding,
        mesh: MeshId,
        psk: &Psk,
        version: u32,
        params: &TransportParameters,
        entropy: &Entropy,
    ) -> Result<Self, HandshakeError> {
        let static_key = remote.noise_public();
        let mut noise = Handshake::initiator(&prologue(version, mesh), psk, static_key, entropy)?;
        let m1 = noise.write(&encode(identity.aead(), params))?;
        Ok(Self {
            aead: identity.aead(),
            gate: Gate::new(psk, static_key),
            identity,
            role: Role::Initiator { remote },
            version,
            state: State::SendM1 { noise, m1 },
            peer_params: None,
            peer: None,
        })
    }

    /// A responder; without a psk one that fails at the first byte, since quinn takes no refusal here.
    pub(super) fn responder(
        identity: Arc<LinkIdentity>,
        admission: Arc<dyn Admission>,
        mesh: MeshId,
        psk: Option<&Psk>,
        version: u32,
        params: &TransportParameters,
        entropy: &Entropy,
    ) -> Self {
        let keys = identity.keys();
        let noise = psk
            .ok_or(HandshakeError::Generation)
            .and_then(|psk| Ok(Handshake::responder(&prologue(version, mesh), psk, keys.noise_secret(), entropy)?));
        let state = match noise {
            Ok(noise) => State::ReadM1 { noise, inbox: Inbox::new(MessageType::M1) },
            Err(error) => State::Failed(error),
        };
        // A key that nobody else holds stands in for a psk that is gone.
        let nobody = Psk::new(keys.derive(context::RESET_KEY));
        let gate = Gate::new(psk.unwrap_or(&nobody), keys.binding().noise_public());
        let role = Role::Responder { admission, params: encode(identity.aead(), params) };
        Self { gate, aead: identity.aead(), identity, role, version, state, peer_params: None, peer: None }
    }

    fn side(&self) -> Side {
        match self.role {
            Role::Initiator { .. } => Side::Client,
            Role::Responder { .. } => Side::Server,
        }
    }

    /// Takes bytes in a state that reads, and gives the next state.
    fn read(&mut self, state: State, bytes: &[u8]) -> Result<State, TransportError> {
        match state {
            State::ReadM1 { mut noise, mut inbox } => {
                let Some(body) = inbox.push(bytes)? else {
                    return Ok(State::ReadM1 { noise, inbox });
                };
                self.read_params(&noise.read(&body).map_err(HandshakeError::from)?)?;
                let Role::Responder { params, .. } = &self.role else {
                    return Err(HandshakeError::Malformed.into());
                };
                let m2 = noise.write(params).map_err(HandshakeError::from)?;
                Ok(State::SendM2 { split: noise.finish().ok_or(HandshakeError::Noise)?, m2 })
            }
            State::ReadM2 { mut noise, mut inbox } => {
                let Some(body) = inbox.push(bytes)? else {
                    return Ok(State::ReadM2 { noise, inbox });
                };
                self.read_params(&noise.read(&body).map_err(HandshakeError::from)?)?;
                Ok(State::InitiatorUpgrade { split: noise.finish().ok_or(HandshakeError::Noise)? })
            }
            State::ReadAuthResponder { split, mut inbox } => {
                let Some(body) = inbox.push(bytes)? else {
                    return Ok(State::ReadAuthResponder { split, inbox });
                };
                let body = self.meet_responder(&body, &split)?;
                Ok(State::SendAuthInitiator { split, body })
            }
            State::ReadAuthInitiator { split, mut inbox } => {
                let Some(body) = inbox.push(bytes)? else {
                    return Ok(State::ReadAuthInitiator { split, inbox });
                };
                self.meet_initiator(&body, &split)?;
                Ok(State::ResponderUpgrade { split })
            }
            State::Failed(error) => Err(error.into()),
            _ => Err(HandshakeError::Malformed.into()),
        }
    }

    /// Links are under AES-256-GCM if both ends prefer it.
    fn read_params(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let (theirs, mut bytes) = match bytes {
            [0, params @ ..] => (Aead::ChaCha20Poly1305, params),
            [1, params @ ..] => (Aead::Aes256Gcm, params),
            _ => return Err(HandshakeError::Malformed.into()),
        };
        if self.aead != theirs {
            self.aead = Aead::ChaCha20Poly1305;
        }
        self.peer_params = Some(TransportParameters::read(self.side(), &mut bytes)?);
        Ok(())
    }

    /// Checks A_R and gives A_I.
    fn meet_responder(&mut self, body: &[u8], split: &Split) -> Result<Vec<u8>, TransportError> {
        let Role::Initiator { remote } = &self.role else {
            return Err(HandshakeError::Malformed.into());
        };
        check_responder(body, remote, &split.hash)?;
        self.peer = Some(PeerIdentity { node: remote.node(), binding: *remote, credential: Bytes::new() });
        Ok(auth_initiator(self.identity.keys(), &self.identity.credential(), &remote.node(), &split.hash))
    }

    /// Checks A_I, and asks whether this node is admitted.
    fn meet_initiator(&mut self, body: &[u8], split: &Split) -> Result<(), TransportError> {
        let Role::Responder { admission, .. } = &self.role else {
            return Err(HandshakeError::Malformed.into());
        };
        let (binding, credential) = check_initiator(body, &self.identity.keys().id(), &split.hash)?;
        let node = binding.node();
        admission.member(&node, &credential).map_err(|_| HandshakeError::NotAdmitted)?;
        self.peer = Some(PeerIdentity { node, binding, credential });
        Ok(())
    }

    /// Writes what is due in a state that writes, and gives the keys of the next level and the next state.
    fn write(&self, state: State, out: &mut Vec<u8>) -> Result<(State, Option<Keys>), HandshakeError> {
        let side = self.side();
        Ok(match state {
            State::SendM1 { noise, m1 } => {
                frame(MessageType::M1, &m1, out)?;
                (State::ReadM2 { noise, inbox: Inbox::new(MessageType::M2) }, None)
            }
            State::InitiatorUpgrade { split } => {
                let keys = split.handshake_keys(side);
                (State::ReadAuthResponder { split, inbox: Inbox::new(MessageType::AuthResponder) }, Some(keys))
            }
            State::SendAuthInitiator { split, body } => {
                frame(MessageType::AuthInitiator, &body, out)?;
                done(&split, self.aead, side)
            }
            State::SendM2 { split, m2 } => {
                frame(MessageType::M2, &m2, out)?;
                let keys = split.handshake_keys(side);
                (State::SendAuthResponder { split }, Some(keys))
            }
            // The responder could have its 1-RTT keys by now. It gets them when the initiator has proved who it is:
            // no byte of an application goes to a node that is not admitted.
            State::SendAuthResponder { split } => {
                frame(MessageType::AuthResponder, &auth_responder(self.identity.keys(), &split.hash), out)?;
                (State::ReadAuthInitiator { split, inbox: Inbox::new(MessageType::AuthInitiator) }, None)
            }
            State::ResponderUpgrade { split } => done(&split, self.aead, side),
            state => (state, None),
        })
    }
}

fn done(split: &Split, aead: Aead, side: Side) -> (State, Option<Keys>) {
    let traffic = split.traffic(aead, side);
    let keys = traffic.keys();
    (State::Done { traffic, exporter: split.exporter() }, Some(keys))
}

/// Stands in while a state is being replaced; a session that kept it would refuse everything.
const IN_BETWEEN: State = State::Failed(HandshakeError::Malformed);

impl crypto::Session for LinkSession {
    fn initial_keys(&self, dcid: &ConnectionId, side: Side) -> Keys {
        self.gate.initial_keys(self.version, dcid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer_identity()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.peer.clone().map(|peer| Box::new(peer) as Box<dyn Any>)
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        !matches!(self.state, State::Done { .. })
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if matches!(self.state, State::Done { .. }) {
            return Err(HandshakeError::Malformed.into());
        }
        let knew = self.peer.is_some();
        let state = std::mem::replace(&mut self.state, IN_BETWEEN);
        self.state = self.read(state, buf)?;
        Ok(!knew && self.peer.is_some())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer_params)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let state = std::mem::replace(&mut self.state, IN_BETWEEN);
        match self.write(state, buf) {
            Ok((state, keys)) => {
                self.state = state;
                keys
            }
            // A message that is too long: nothing is sent, and the first byte that arrives ends the connection.
            Err(error) => {
                self.state = State::Failed(error);
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        match &mut self.state {
            State::Done { traffic, .. } => Some(traffic.update()),
            _ => None,
        }
    }

    fn is_valid_retry(&self, original_dcid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((token, tag)) = payload.split_last_chunk::<16>() else {
            return false;
        };
        let expected = self.gate.retry_tag(self.version, original_dcid, &[header, token]);
        // One comparison of two integers, so the time does not tell how far a guess was right.
        u128::from_le_bytes(*tag) == u128::from_le_bytes(expected)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        match &self.state {
            State::Done { exporter, .. } => exporter.export(output, label, context),
            _ => Err(ExportKeyingMaterialError),
        }
    }
}
