//! The Noise handshake: snow's state machine over our own choice of primitives.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest as _};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::Entropy;
use super::schedule::{Secret, Split};
use crate::Psk;

pub(super) const PATTERN: &str = "Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";

/// What a Noise message adds to its payload: an ephemeral key and a tag.
const OVERHEAD: usize = 32 + TAG_LEN;
const TAG_LEN: usize = 16;

/// One handshake, of which [`Handshake::finish`] gives the keys once both messages have passed.
pub(super) struct Handshake(Box<HandshakeState>);

impl Handshake {
    pub(super) fn initiator(
        prologue: &[u8],
        psk: &Psk,
        remote: &[u8; 32],
        entropy: &Entropy,
    ) -> Result<Self, snow::Error> {
        let state = builder(prologue, psk, entropy)?.remote_public_key(remote)?.build_initiator()?;
        Ok(Self(Box::new(state)))
    }

    pub(super) fn responder(
        prologue: &[u8],
        psk: &Psk,
        local: &StaticSecret,
        entropy: &Entropy,
    ) -> Result<Self, snow::Error> {
        let state = builder(prologue, psk, entropy)?.local_private_key(local.as_bytes())?.build_responder()?;
        Ok(Self(Box::new(state)))
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, snow::Error> {
        let mut message = vec![0; payload.len() + OVERHEAD];
        let len = self.0.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, snow::Error> {
        let mut payload = vec![0; message.len()];
        let len = self.0.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The keys of both directions, once both messages have been written or read; nothing before.
    pub(super) fn finish(mut self) -> Option<Split> {
        if !self.0.is_handshake_finished() {
            return None;
        }
        let hash = self.0.get_handshake_hash().try_into().ok()?;
        let (mut k1, mut k2) = self.0.dangerously_get_raw_split();
        let split = Split { hash, initiator: Secret::new(k1), responder: Secret::new(k2) };
        k1.zeroize();
        k2.zeroize();
        // snow wipes nothing by itself; this at least takes its copy of the psk away.
        let _ = self.0.set_psk(0, &[0; 32]);
        Some(split)
    }
}

fn builder<'a>(prologue: &'a [u8], psk: &'a Psk, entropy: &Entropy) -> Result<Builder<'a>, snow::Error> {
    Builder::with_resolver(PATTERN.parse()?, Box::new(Resolver(entropy.clone())))
        .prologue(prologue)?
        .psk(0, psk.expose())
}

/// X25519 that checks, aws-lc's ChaCha20-Poly1305 as for packets, BLAKE2s, and the caller's randomness.
struct Resolver(Entropy);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Rng(self.0.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(CheckedX25519::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::new(Blake2s::default()) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as Box<dyn Cipher>)
    }
}

struct Rng(Entropy);

impl Random for Rng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest).map_err(|_| snow::Error::Rng)
    }
}

/// X25519 that refuses an all-zero result, which a low-order point gives whatever the secret is (RFC 7748 §6.1).
struct CheckedX25519 {
    secret: StaticSecret,
    public: [u8; 32],
}

impl Default for CheckedX25519 {
    fn default() -> Self {
        Self { secret: StaticSecret::from([0; 32]), public: [0; 32] }
    }
}

impl Dh for CheckedX25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(privkey);
        self.secret = StaticSecret::from(*bytes);
        self.public = PublicKey::from(&self.secret).to_bytes();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *bytes)?;
        self.set(&*bytes);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        // snow hands over its whole buffer, which has room for longer keys.
        let pubkey: [u8; 32] = pubkey.get(..32).and_then(|key| key.try_into().ok()).ok_or(snow::Error::Dh)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(pubkey));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out.get_mut(..32).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

/// ChaCha20-Poly1305 with the nonce of Noise: four zero bytes, then the counter, little-endian.
#[derive(Default)]
struct ChaChaPoly(Option<LessSafeKey>);

impl ChaChaPoly {
    fn key(&self) -> &LessSafeKey {
        self.0.as_ref().expect("snow sets a key before it uses a cipher")
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key has 32 bytes");
        self.0 = Some(LessSafeKey::new(key));
    }

    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let tag = self
            .key()
            .seal_in_place_separate_tag(nonce(counter), Aad::from(authtext), text)
            .expect("a message is far below the limit of the cipher");
        rest[..TAG_LEN].copy_from_slice(tag.as_ref());
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, counter: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let mut text = ciphertext.to_vec();
        let plain = self
            .key()
            .open_in_place(nonce(counter), Aad::from(authtext), &mut text)
            .map_err(|_| snow::Error::Decrypt)?;
        out.get_mut(..plain.len()).ok_or(snow::Error::Decrypt)?.copy_from_slice(plain);
        Ok(plain.len())
    }
}

#[derive(Default)]
struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[cfg(test)]
mod tests;
