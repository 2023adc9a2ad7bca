//! Packet protection: an [`Aead`] over the payload, a mask of the same cipher over the header.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN, Nonce, UnboundKey, quic};
use bytes::BytesMut;
use quinn_proto::crypto::{self, CryptoError};

use super::schedule::Secret;
use crate::Aead;

/// Packets after which quinn changes the keys: what AES-GCM stands with packets of any size (RFC 9001 §6.6 and B.1.1).
/// ChaCha20-Poly1305 would stand far more; old packets are worth more to whoever gets at a key, so a key does not live long.
const PACKETS_PER_KEY: u64 = 1 << 23;

/// Forged packets after which a connection ends: the bound of ChaCha20-Poly1305, below that of AES-GCM (RFC 9001 §6.6).
const FORGERIES_MAX: u64 = 1 << 36;

/// One direction's packet key.
pub(super) struct PacketKey {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl PacketKey {
    pub(super) fn new(aead: Aead, secret: &Secret) -> Self {
        let iv = secret.derive("iv", &[]);
        Self::from_parts(aead, &secret.derive("key", &[]), std::array::from_fn(|i| iv.expose()[i]))
    }

    fn from_parts(aead: Aead, key: &Secret, iv: [u8; 12]) -> Self {
        let algorithm = match aead {
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Aead::Aes256Gcm => &AES_256_GCM,
        };
        let key = UnboundKey::new(algorithm, key.expose()).expect("a key has 32 bytes");
        Self { key: LessSafeKey::new(key), iv }
    }

    /// The IV xor the packet number, the number at the right end in network order (RFC 9001 §5.3).
    fn nonce(&self, packet: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(packet.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl crypto::PacketKey for PacketKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (header, rest) = buf.split_at_mut(header_len);
        let (payload, tag_room) = rest.split_at_mut(rest.len() - MAX_TAG_LEN);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(packet), Aad::from(header), payload)
            .expect("a packet is far below the limit of the cipher");
        tag_room.copy_from_slice(tag.as_ref());
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let plain =
            self.key.open_in_place(self.nonce(packet), Aad::from(header), payload.as_mut()).map_err(|_| CryptoError)?;
        let len = plain.len();
        payload.truncate(len);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        MAX_TAG_LEN
    }

    fn confidentiality_limit(&self) -> u64 {
        PACKETS_PER_KEY
    }

    fn integrity_limit(&self) -> u64 {
        FORGERIES_MAX
    }
}

/// One direction's header mask (RFC 9001 §5.4.1, §5.4.3 and §5.4.4).
pub(super) struct HeaderKey(quic::HeaderProtectionKey);

impl HeaderKey {
    pub(super) fn new(aead: Aead, secret: &Secret) -> Self {
        Self::from_key(aead, &secret.derive("hp", &[]))
    }

    fn from_key(aead: Aead, key: &Secret) -> Self {
        let algorithm = match aead {
            Aead::ChaCha20Poly1305 => &quic::CHACHA20,
            Aead::Aes256Gcm => &quic::AES_256,
        };
        Self(quic::HeaderProtectionKey::new(algorithm, key.expose()).expect("a key has 32 bytes"))
    }

    /// The mask of the sample, which starts four bytes behind the packet number whatever that number's length is.
    fn mask(&self, pn_offset: usize, packet: &[u8]) -> [u8; 5] {
        let at = pn_offset + 4;
        packet
            .get(at..at + self.0.algorithm().sample_len())
            .and_then(|sample| self.0.new_mask(sample).ok())
            .expect("quinn hands over only packets that are long enough for the sample")
    }
}

/// Bits of the first byte that are masked: the lower four of a long header, the lower five of a short one.
fn masked_bits(first: u8) -> u8 {
    if first & 0x80 == 0 { 0x1f } else { 0x0f }
}

/// Masks or unmasks the packet number, whose length the *clear* first byte tells.
fn mask_number(clear_first: u8, pn_offset: usize, packet: &mut [u8], mask: &[u8; 5]) {
    let len = usize::from(clear_first & 0x03) + 1;
    for (byte, mask) in packet[pn_offset..pn_offset + len].iter_mut().zip(&mask[1..]) {
        *byte ^= mask;
    }
}

impl crypto::HeaderKey for HeaderKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        let mask = self.mask(pn_offset, packet);
        packet[0] ^= mask[0] & masked_bits(packet[0]);
        mask_number(packet[0], pn_offset, packet, &mask);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        let mask = self.mask(pn_offset, packet);
        mask_number(packet[0], pn_offset, packet, &mask);
        packet[0] ^= mask[0] & masked_bits(packet[0]);
    }

    fn sample_size(&self) -> usize {
        self.0.algorithm().sample_len()
    }
}

#[cfg(test)]
mod tests;
