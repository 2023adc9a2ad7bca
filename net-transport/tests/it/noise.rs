//! Noise NKpsk0 once more, from primitives and the Noise specification alone, for insiders and recorders in tests.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest as _};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) type Key = [u8; 32];

fn hash(parts: &[&[u8]]) -> Key {
    let mut hasher = Blake2s256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// RFC 2104 over BLAKE2s, whose blocks have 64 bytes.
fn hmac(key: &Key, data: &[u8]) -> Key {
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    hash(&[&pad(0x5c), &hash(&[&pad(0x36), data])])
}

/// HKDF of the Noise specification, section 4.3.
fn hkdf(chaining_key: &Key, input: &[u8]) -> [Key; 3] {
    let temp = hmac(chaining_key, input);
    let one = hmac(&temp, &[1]);
    let two = hmac(&temp, &[&one[..], &[2]].concat());
    let three = hmac(&temp, &[&two[..], &[3]].concat());
    [one, two, three]
}

/// ChaCha20-Poly1305 with any nonce.
pub(crate) fn seal(key: &Key, nonce: [u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut text = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut text).unwrap();
    text
}

pub(crate) fn open(key: &Key, nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut text = sealed.to_vec();
    let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut text).ok()?;
    Some(plain.to_vec())
}

/// An X25519 key, with or without its secret.
#[derive(Clone)]
pub(crate) struct Point {
    secret: Option<StaticSecret>,
    pub(crate) public: Key,
}

impl Point {
    pub(crate) fn secret(bytes: Key) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret).to_bytes();
        Self { secret: Some(secret), public }
    }

    pub(crate) fn public_only(public: Key) -> Self {
        Self { secret: None, public }
    }

    /// The shared secret; all zero without a secret, as a low-order point gives it.
    pub(crate) fn dh(&self, other: &Key) -> Key {
        self.secret.as_ref().map_or([0; 32], |secret| secret.diffie_hellman(&PublicKey::from(*other)).to_bytes())
    }
}

/// The symmetric state. The caller brings the results of Diffie-Hellman, right or wrong.
#[derive(Clone)]
pub(crate) struct Noise {
    pub(crate) chaining_key: Key,
    pub(crate) hash: Key,
    key: Key,
}

const NAME: &[u8] = b"Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s";

impl Noise {
    pub(crate) fn new(prologue: &[u8], responder_static: &Key) -> Self {
        let name = hash(&[NAME]);
        let mut noise = Self { chaining_key: name, hash: name, key: [0; 32] };
        noise.mix_hash(prologue);
        noise.mix_hash(responder_static);
        noise
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    pub(crate) fn mix_key(&mut self, input: &[u8]) {
        [self.chaining_key, self.key, _] = hkdf(&self.chaining_key, input);
    }

    fn mix_psk(&mut self, psk: &Key) {
        let [chaining_key, mixed, key] = hkdf(&self.chaining_key, psk);
        self.chaining_key = chaining_key;
        self.mix_hash(&mixed);
        self.key = key;
    }

    fn mix_ephemeral(&mut self, public: &Key) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    /// `-> psk, e, es`.
    pub(crate) fn write_m1(&mut self, psk: &Key, e: &Point, es: &Key, payload: &[u8]) -> Vec<u8> {
        self.mix_psk(psk);
        self.mix_ephemeral(&e.public);
        self.mix_key(es);
        // A fresh key each time, so the nonce is always zero.
        let sealed = seal(&self.key, [0; 12], &self.hash, payload);
        self.mix_hash(&sealed);
        [&e.public[..], &sealed].concat()
    }

    /// Reads M1 with a guess of `es`. The payload comes out if the guess was right; the hash goes on in any case, since
    /// it takes only what was sent.
    pub(crate) fn read_m1(&mut self, psk: &Key, es: &Key, m1: &[u8]) -> Option<Vec<u8>> {
        self.mix_psk(psk);
        self.mix_ephemeral(m1[..32].try_into().unwrap());
        self.mix_key(es);
        self.read_payload(&m1[32..])
    }

    /// `<- e, ee`, the same way.
    pub(crate) fn read_m2(&mut self, ee: &Key, m2: &[u8]) -> Option<Vec<u8>> {
        self.mix_ephemeral(m2[..32].try_into().unwrap());
        self.mix_key(ee);
        self.read_payload(&m2[32..])
    }

    fn read_payload(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let plain = open(&self.key, [0; 12], &self.hash, sealed);
        self.mix_hash(sealed);
        plain
    }

    /// k1 and k2.
    pub(crate) fn split(&self) -> (Key, Key) {
        let [k1, k2, _] = hkdf(&self.chaining_key, &[]);
        (k1, k2)
    }
}
