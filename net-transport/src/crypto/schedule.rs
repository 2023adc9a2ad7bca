//! The key schedule: from psk, static key and Noise split to the keys of every packet.

use quinn_proto::crypto::{self, ExportKeyingMaterialError, KeyPair, Keys};
use quinn_proto::{ConnectionId, Side};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::packet::{HeaderKey, PacketKey};
use crate::prf::prf_hasher;
use crate::{Aead, Psk, context, prf};

/// 32 secret bytes, wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn derive(&self, label: &str, context: &[&[u8]]) -> Self {
        Self(prf(&self.0, label, context))
    }

    /// `derive_key(context, a ‖ b)`.
    fn join(context: &str, a: &[u8; 32], b: &[u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(a).update(b);
        let secret = Self(*hasher.finalize().as_bytes());
        hasher.zeroize();
        secret
    }
}

/// What initiator and responder each protect their packets with.
struct Directions {
    initiator: Secret,
    responder: Secret,
}

impl Directions {
    fn on(self, side: Side) -> KeyPair<Secret> {
        match side {
            Side::Client => KeyPair { local: self.initiator, remote: self.responder },
            Side::Server => KeyPair { local: self.responder, remote: self.initiator },
        }
    }
}

fn packet_keys(aead: Aead, secrets: &KeyPair<Secret>) -> KeyPair<Box<dyn crypto::PacketKey>> {
    KeyPair {
        local: Box::new(PacketKey::new(aead, &secrets.local)),
        remote: Box::new(PacketKey::new(aead, &secrets.remote)),
    }
}

fn keys(aead: Aead, secrets: &KeyPair<Secret>) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(HeaderKey::new(aead, &secrets.local)),
            remote: Box::new(HeaderKey::new(aead, &secrets.remote)),
        },
        packet: packet_keys(aead, secrets),
    }
}

/// The key in front of everything: who does not hold the psk or does not know the responder's static key can neither
/// read nor form an Initial packet.
pub(super) struct Gate(Secret);

impl Gate {
    pub(super) fn new(psk: &Psk, responder_static: &[u8; 32]) -> Self {
        Self(Secret::join(context::LINK_GATE, psk.expose(), responder_static))
    }

    pub(super) fn initial_keys(&self, version: u32, dcid: &ConnectionId, side: Side) -> Keys {
        let version = version.to_be_bytes();
        let secret = |label| self.0.derive(label, &[&version, dcid]);
        let directions = Directions { initiator: secret("initial i"), responder: secret("initial r") };
        keys(Aead::ChaCha20Poly1305, &directions.on(side))
    }

    /// The tag over a Retry packet, given in parts; `packet` is without its tag.
    pub(super) fn retry_tag(&self, version: u32, original_dcid: &ConnectionId, packet: &[&[u8]]) -> [u8; 16] {
        let version = version.to_be_bytes();
        let len = [u8::try_from(original_dcid.len()).expect("a connection id has at most 20 bytes")];
        let mut parts: Vec<&[u8]> = vec![&version, &len, original_dcid];
        parts.extend_from_slice(packet);
        let tag = self.0.derive("retry", &parts);
        std::array::from_fn(|i| tag.expose()[i])
    }
}

/// What the Noise handshake leaves behind.
pub(super) struct Split {
    /// The handshake hash: binds signatures and keys to this handshake. Not a secret.
    pub(super) hash: [u8; 32],
    /// k1: protects what the initiator sends.
    pub(super) initiator: Secret,
    /// k2: protects what the responder sends.
    pub(super) responder: Secret,
}

impl Split {
    pub(super) fn handshake_keys(&self, side: Side) -> Keys {
        keys(Aead::ChaCha20Poly1305, &self.directions("handshake").on(side))
    }

    pub(super) fn traffic(&self, aead: Aead, side: Side) -> Traffic {
        Traffic { aead, secrets: self.directions("traffic 0").on(side) }
    }

    pub(super) fn exporter(&self) -> Exporter {
        let key = Secret::join(context::LINK_EXPORTER, self.initiator.expose(), self.responder.expose());
        Exporter { key, hash: self.hash }
    }

    fn directions(&self, label: &str) -> Directions {
        Directions {
            initiator: self.initiator.derive(label, &[&self.hash]),
            responder: self.responder.derive(label, &[&self.hash]),
        }
    }
}

/// The 1-RTT secrets of one generation.
pub(super) struct Traffic {
    aead: Aead,
    secrets: KeyPair<Secret>,
}

impl Traffic {
    /// The keys of the first generation, with the header keys that stay.
    pub(super) fn keys(&self) -> Keys {
        keys(self.aead, &self.secrets)
    }

    /// Goes one generation on, forgetting this one, and gives its packet keys.
    pub(super) fn update(&mut self) -> KeyPair<Box<dyn crypto::PacketKey>> {
        self.secrets.local = self.secrets.local.derive("key update", &[]);
        self.secrets.remote = self.secrets.remote.derive("key update", &[]);
        packet_keys(self.aead, &self.secrets)
    }
}

/// Derives secrets for other protocols from a link.
pub(super) struct Exporter {
    key: Secret,
    hash: [u8; 32],
}

/// Bytes that one export gives at most.
const EXPORT_LEN_MAX: usize = 4096;

impl Exporter {
    /// The first bytes of the extended output of `prf(exporter, label, h ‖ context)`.
    pub(super) fn export(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        if output.len() > EXPORT_LEN_MAX {
            return Err(ExportKeyingMaterialError);
        }
        let mut hasher = prf_hasher(self.key.expose(), label).ok_or(ExportKeyingMaterialError)?;
        hasher.update(&self.hash).update(context);
        hasher.finalize_xof().fill(output);
        hasher.zeroize();
        Ok(())
    }
}
