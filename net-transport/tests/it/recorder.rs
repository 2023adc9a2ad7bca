//! What somebody reads who recorded everything, with this key or that. The key schedule is written once more here, from
//! `docs/spec/link.md`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey, quic};
use net_transport::crypto::{CONNECTION_ID_LEN, Entropy, version};
use net_transport::{Aead, NodeKeys};

use crate::noise::{Key, Noise, Point, open};
use crate::pair::{MESH, Node, Pair, Way, psk};

const SECRET_TEXT: &[u8] = b"what only the two ends may read";
const AFTER_UPDATE: &[u8] = b"what was said with the next keys";

fn prf(key: &Key, label: &str, context: &[&[u8]]) -> Key {
    let mut input = vec![u8::try_from(label.len()).unwrap()];
    input.extend_from_slice(label.as_bytes());
    input.extend_from_slice(&context.concat());
    *blake3::keyed_hash(key, &input).as_bytes()
}

/// One block of ChaCha20 (RFC 8439 §2.3), for header masks.
fn chacha20_block(key: &Key, counter: u32, nonce: &[u8]) -> [u8; 64] {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    for i in 0..8 {
        start[4 + i] = word(&key[4 * i..4 * i + 4]);
    }
    for i in 0..3 {
        start[13 + i] = word(&nonce[4 * i..4 * i + 4]);
    }
    let mut state: [u32; 16] = start;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (x, y, z, turn) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            state[x] = state[x].wrapping_add(state[y]);
            state[z] = (state[z] ^ state[x]).rotate_left(turn);
        }
    };
    for _ in 0..10 {
        for i in 0..4 {
            quarter(i, i + 4, i + 8, i + 12);
        }
        for i in 0..4 {
            quarter(i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12);
        }
    }
    let mut block = [0; 64];
    for i in 0..16 {
        block[4 * i..4 * i + 4].copy_from_slice(&state[i].wrapping_add(start[i]).to_le_bytes());
    }
    block
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Initial,
    Handshake,
    OneRtt,
}

/// A packet as it was on the wire.
struct Packet {
    way: Way,
    level: Level,
    dcid: Vec<u8>,
    bytes: Vec<u8>,
    number_at: usize,
}

fn varint(bytes: &[u8], at: &mut usize) -> usize {
    let len = 1 << (bytes[*at] >> 6);
    let value = bytes[*at..*at + len].iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
    *at += len;
    value & !(0b11 << (8 * len - 2))
}

/// RFC 9000 §17.
fn packets(wire: &[(Way, Vec<u8>)]) -> Vec<Packet> {
    let mut packets = Vec::new();
    for (way, datagram) in wire {
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            if rest[0] & 0x80 == 0 {
                let (dcid, number_at) = (rest[1..=CONNECTION_ID_LEN].to_vec(), 1 + CONNECTION_ID_LEN);
                packets.push(Packet { way: *way, level: Level::OneRtt, dcid, bytes: rest.to_vec(), number_at });
                break;
            }
            assert_eq!(rest[1..5], version(1).to_be_bytes());
            let mut at = 6 + usize::from(rest[5]);
            let dcid = rest[6..at].to_vec();
            at += 1 + usize::from(rest[at]);
            let level = match rest[0] >> 4 & 3 {
                0 => {
                    at += varint(rest, &mut at);
                    Level::Initial
                }
                2 => Level::Handshake,
                other => panic!("packet of type {other}"),
            };
            let len = varint(rest, &mut at);
            let (packet, next) = rest.split_at(at + len);
            packets.push(Packet { way: *way, level, dcid, bytes: packet.to_vec(), number_at: at });
            rest = next;
        }
    }
    packets
}

impl Packet {
    /// The payload, if this is the secret it was protected with. `header_secret` is that of the first generation.
    fn open_with(&self, secret: &Key, header_secret: &Key) -> Option<Vec<u8>> {
        let (hp, sample) = (prf(header_secret, "hp", &[]), self.sample());
        let mask = chacha20_block(&hp, u32::from_le_bytes(sample[..4].try_into().unwrap()), &sample[4..]);
        self.unmasked(secret, &mask, open)
    }

    /// The same under AES-256-GCM, whose mask is the encrypted sample (RFC 9001 §5.4.3).
    fn open_aes(&self, secret: &Key) -> Option<Vec<u8>> {
        let hp = quic::HeaderProtectionKey::new(&quic::AES_256, &prf(secret, "hp", &[])).unwrap();
        self.unmasked(secret, &hp.new_mask(self.sample()).unwrap(), |key, nonce, header, payload| {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
            let mut payload = payload.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            let plain = key.open_in_place(nonce, Aad::from(header), &mut payload).ok()?;
            Some(plain.to_vec())
        })
    }

    fn sample(&self) -> &[u8] {
        &self.bytes[self.number_at + 4..self.number_at + 20]
    }

    fn unmasked(
        &self,
        secret: &Key,
        mask: &[u8],
        open: impl Fn(&Key, [u8; 12], &[u8], &[u8]) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let (key, iv) = (prf(secret, "key", &[]), prf(secret, "iv", &[]));
        let mut packet = self.bytes.clone();
        packet[0] ^= mask[0] & if packet[0] & 0x80 == 0 { 0x1f } else { 0x0f };
        let number_len = usize::from(packet[0] & 3) + 1;
        let (header, payload) = packet.split_at_mut(self.number_at + number_len);
        let mut number: u64 = 0;
        for (byte, mask) in header[self.number_at..].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
            // The recordings are so short that no number is cut on the wire.
            number = number << 8 | u64::from(*byte);
        }
        let mut nonce: [u8; 12] = iv[..12].try_into().unwrap();
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        open(&key, nonce, header, payload)
    }

    fn open(&self, secret: &Key) -> Option<Vec<u8>> {
        self.open_with(secret, secret)
    }
}

/// The CRYPTO bytes of a payload that holds nothing but frames of a handshake (RFC 9000 §19).
fn crypto_bytes(payload: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < payload.len() {
        let kind = varint(payload, &mut at);
        match kind {
            0 | 1 => {}
            2 | 3 => {
                let [_, _, ranges, _] = std::array::from_fn(|_| varint(payload, &mut at));
                for _ in 0..2 * ranges + if kind == 3 { 3 } else { 0 } {
                    varint(payload, &mut at);
                }
            }
            6 => {
                let (offset, len) = (varint(payload, &mut at), varint(payload, &mut at));
                out.resize(out.len().max(offset + len), 0);
                out[offset..offset + len].copy_from_slice(&payload[at..at + len]);
                at += len;
            }
            other => panic!("frame of type {other} in an Initial packet"),
        }
    }
}

/// A recorded link, and what its recorder knows: the psk and every public key.
struct Recorder {
    packets: Vec<Packet>,
    psk: Key,
    initiator: NodeKeys,
    responder: NodeKeys,
    m1: Vec<u8>,
    m2: Vec<u8>,
    /// What both ends exported with label and context "a" and "b".
    exported: Vec<u8>,
}

/// What the Noise handshake leads to.
struct Keys {
    hash: Key,
    k1: Key,
    k2: Key,
}

impl Recorder {
    /// Records a link on which both ends speak, and once more after a key update.
    fn of(update: bool) -> Self {
        Self::between(Node::new(1), Node::new(2), update)
    }

    fn between(initiator: Node, responder: Node, update: bool) -> Self {
        let mut pair = Pair::new(initiator, responder);
        pair.dial();
        pair.run();
        pair.dialled().send(SECRET_TEXT);
        pair.accepted().send(SECRET_TEXT);
        pair.run();
        if update {
            pair.dialled().quic.force_key_update();
            pair.dialled().send(AFTER_UPDATE);
            pair.run();
            pair.accepted().send(AFTER_UPDATE);
            pair.run();
        }
        assert!(pair.accepted().received.starts_with(SECRET_TEXT) && pair.dialled().received.starts_with(SECRET_TEXT));
        let mut exported = vec![0; 100];
        pair.dialled().quic.crypto_session().export_keying_material(&mut exported, b"a", b"b").unwrap();
        let mut recorder = Self {
            exported,
            packets: packets(&pair.wire),
            psk: *psk(1).expose(),
            initiator: Node::new(1).keys,
            responder: Node::new(2).keys,
            m1: Vec::new(),
            m2: Vec::new(),
        };
        (recorder.m1, recorder.m2) = recorder.read_initials();
        recorder
    }

    fn static_key(&self) -> Key {
        *self.responder.binding().noise_public()
    }

    /// The gate and the Initial keys need the psk and public things only, and give M1 and M2.
    fn read_initials(&self) -> (Vec<u8>, Vec<u8>) {
        let gate = blake3::derive_key("net link v1 gate", &[self.psk, self.static_key()].concat());
        let dcid = &self.packets[0].dcid;
        let (mut m1, mut m2) = (Vec::new(), Vec::new());
        for packet in self.packets.iter().filter(|packet| packet.level == Level::Initial) {
            let (label, out) = match packet.way {
                Way::ToResponder => ("initial i", &mut m1),
                Way::ToInitiator => ("initial r", &mut m2),
            };
            let secret = prf(&gate, label, &[&version(1).to_be_bytes(), dcid]);
            crypto_bytes(&packet.open(&secret).expect("the recorder reads Initial packets"), out);
        }
        for (message, kind) in [(&m1, 1), (&m2, 2)] {
            assert_eq!(message[0], kind);
            assert_eq!(usize::from(u16::from_le_bytes([message[1], message[2]])), message.len() - 3);
        }
        (m1[3..].to_vec(), m2[3..].to_vec())
    }

    fn noise(&self) -> Noise {
        Noise::new(&[&b"net link v1\0"[..], &version(1).to_be_bytes(), &MESH.0].concat(), &self.static_key())
    }

    /// Where Noise leads with these results of Diffie-Hellman, and whether each message opened on the way.
    fn derive(&self, es: &Key, ee: &Key) -> (Keys, bool, bool) {
        let mut noise = self.noise();
        let m1 = noise.read_m1(&self.psk, es, &self.m1).is_some();
        let m2 = noise.read_m2(ee, &self.m2).is_some();
        let (k1, k2) = noise.split();
        (Keys { hash: noise.hash, k1, k2 }, m1, m2)
    }

    /// How many packets behind the Initial ones open with these keys, and how many there are.
    fn read(&self, keys: &Keys) -> (usize, usize) {
        let later: Vec<_> = self.packets.iter().filter(|packet| packet.level != Level::Initial).collect();
        let opened = later.iter().filter(|packet| {
            let key = if packet.way == Way::ToResponder { &keys.k1 } else { &keys.k2 };
            let label = if packet.level == Level::Handshake { "handshake" } else { "traffic 0" };
            packet.open(&prf(key, label, &[&keys.hash])).is_some()
        });
        (opened.count(), later.len())
    }

    /// The ephemeral secret that belongs to a public key, out of everything that a seeded source gave.
    fn ephemeral(seed: Key, public: &[u8]) -> Point {
        let mut stream = [0; 512];
        Entropy::seeded(seed).fill(&mut stream).unwrap();
        let mut points = stream.windows(32).map(|window| Point::secret(window.try_into().unwrap()));
        points.find(|point| point.public[..] == *public).expect("it came from this source")
    }

    fn initiator_ephemeral(&self) -> Point {
        Self::ephemeral(Node::new(1).entropy_seed, &self.m1[..32])
    }
}

fn key(bytes: &[u8]) -> Key {
    bytes.try_into().unwrap()
}

#[test]
fn the_initiators_ephemeral_secret_opens_everything() {
    let recorder = Recorder::of(false);
    let e = recorder.initiator_ephemeral();
    let (es, ee) = (e.dh(&recorder.static_key()), e.dh(&key(&recorder.m2[..32])));
    let (keys, m1, m2) = recorder.derive(&es, &ee);
    assert!(m1 && m2);
    let (opened, all) = recorder.read(&keys);
    assert_eq!(opened, all);
    for way in [Way::ToResponder, Way::ToInitiator] {
        let secret = prf(if way == Way::ToResponder { &keys.k1 } else { &keys.k2 }, "traffic 0", &[&keys.hash]);
        let mut one_rtt = recorder.packets.iter().filter(|p| p.way == way && p.level == Level::OneRtt);
        let found = one_rtt.any(|p| {
            let payload = p.open(&secret).expect("it opened before");
            payload.windows(SECRET_TEXT.len()).any(|window| window == SECRET_TEXT)
        });
        assert!(found, "{way:?}");
    }
}

/// The cipher is told in the payloads of M1 and M2, which the handshake hash covers.
#[test]
fn links_are_under_aes_where_both_ends_prefer_it() {
    let node = |n, aead| Node { aead, ..Node::new(n) };
    let (chacha, aes) = (Aead::ChaCha20Poly1305, Aead::Aes256Gcm);
    for (of_i, of_r) in [(chacha, chacha), (chacha, aes), (aes, chacha), (aes, aes)] {
        let recorder = Recorder::between(node(1, of_i), node(2, of_r), false);
        let e = recorder.initiator_ephemeral();
        let keys = recorder.derive(&e.dh(&recorder.static_key()), &e.dh(&key(&recorder.m2[..32]))).0;
        let one_rtt = recorder.packets.iter().filter(|packet| packet.level == Level::OneRtt);
        let mut count = 0;
        for packet in one_rtt {
            let secret =
                prf(if packet.way == Way::ToResponder { &keys.k1 } else { &keys.k2 }, "traffic 0", &[&keys.hash]);
            let both = of_i == aes && of_r == aes;
            assert_eq!((packet.open_aes(&secret).is_some(), packet.open(&secret).is_some()), (both, !both));
            count += 1;
        }
        assert!(count > 4, "{count} packets");
    }
}

#[test]
fn psk_and_all_public_keys_open_nothing_behind_the_initials() {
    let recorder = Recorder::of(false);
    let (e_i, e_r) = (key(&recorder.m1[..32]), key(&recorder.m2[..32]));
    let gate = blake3::derive_key("net link v1 gate", &[recorder.psk, recorder.static_key()].concat());
    let known: Vec<Key> = vec![
        [0; 32],
        recorder.psk,
        MESH.0,
        gate,
        e_i,
        e_r,
        recorder.static_key(),
        *recorder.initiator.binding().noise_public(),
        *recorder.initiator.id().as_bytes(),
        *recorder.responder.id().as_bytes(),
    ];
    // All that Noise needs and the recorder lacks are two results of Diffie-Hellman. Nothing it knows stands in.
    for es in &known {
        for ee in &known {
            let (keys, m1, m2) = recorder.derive(es, ee);
            assert!(!m1 && !m2);
            assert_eq!(recorder.read(&keys).0, 0);
        }
    }
    // The handshake hash is made of what was sent and of the psk: the recorder computes it, as the insider does. So
    // keys must not come from it, nor from a chaining key without Diffie-Hellman, nor from anything else that is known.
    let (mut noise, nothing) = (recorder.noise(), [0; 32]);
    noise.read_m1(&recorder.psk, &nothing, &recorder.m1);
    let after_m1 = noise.chaining_key;
    noise.read_m2(&nothing, &recorder.m2);
    let e = recorder.initiator_ephemeral();
    let insider = recorder.derive(&e.dh(&recorder.static_key()), &e.dh(&e_r)).0;
    assert_eq!(noise.hash, insider.hash);
    let exporter = blake3::derive_key("net link v1 exporter", &[noise.hash, noise.hash].concat());
    let candidates = [known, vec![noise.hash, noise.chaining_key, after_m1, exporter]].concat();
    for k1 in &candidates {
        for k2 in &candidates {
            let guess = Keys { hash: noise.hash, k1: *k1, k2: *k2 };
            assert_eq!(recorder.read(&guess).0, 0);
        }
    }
    assert!(!candidates.contains(&insider.k1) && !candidates.contains(&insider.k2));
}

#[test]
fn static_secrets_stolen_later_open_nothing_behind_the_initials() {
    let recorder = Recorder::of(false);
    let (e_i, e_r) = (key(&recorder.m1[..32]), key(&recorder.m2[..32]));
    let stolen = |keys: &NodeKeys| Point::secret(keys.noise_secret().to_bytes());
    let (of_i, of_r) = (stolen(&recorder.initiator), stolen(&recorder.responder));
    let es = of_r.dh(&e_i);
    for ee in [of_r.dh(&e_r), of_i.dh(&e_r), of_i.dh(&e_i), es, [0; 32]] {
        let (keys, m1, m2) = recorder.derive(&es, &ee);
        assert!(m1, "the payload of M1 is protected by the responder's static key, as Noise says");
        assert!(!m2);
        assert_eq!(recorder.read(&keys).0, 0);
    }
}

#[test]
fn exported_secrets_come_from_the_split() {
    let recorder = Recorder::of(false);
    let e = recorder.initiator_ephemeral();
    let keys = recorder.derive(&e.dh(&recorder.static_key()), &e.dh(&key(&recorder.m2[..32]))).0;
    let exporter = blake3::derive_key("net link v1 exporter", &[keys.k1, keys.k2].concat());
    let mut expected = vec![0; recorder.exported.len()];
    let mut hasher = blake3::Hasher::new_keyed(&exporter);
    hasher.update(&[&[1][..], b"a", &keys.hash, b"b"].concat()).finalize_xof().fill(&mut expected);
    assert_eq!(recorder.exported, expected);
}

#[test]
fn the_tag_of_a_retry_comes_from_the_gate() {
    let mut pair = Pair::new(Node::new(1), Node { retry: true, ..Node::new(2) });
    pair.dial();
    pair.run();
    let original_dcid = &pair.wire[0].1[6..6 + usize::from(pair.wire[0].1[5])];
    let (_, retry) = pair.wire.iter().find(|(_, datagram)| datagram[0] & 0xb0 == 0xb0).expect("a Retry");
    let (packet, tag) = retry.split_last_chunk::<16>().unwrap();
    let static_key = *Node::new(2).keys.binding().noise_public();
    let gate = blake3::derive_key("net link v1 gate", &[*psk(1).expose(), static_key].concat());
    let expected = prf(&gate, "retry", &[&version(1).to_be_bytes(), &[16], original_dcid, packet]);
    assert_eq!(tag[..], expected[..16]);
}

#[test]
fn a_key_update_goes_on_from_the_secret_before() {
    let recorder = Recorder::of(true);
    let e = recorder.initiator_ephemeral();
    let keys = recorder.derive(&e.dh(&recorder.static_key()), &e.dh(&key(&recorder.m2[..32]))).0;
    for (way, key) in [(Way::ToResponder, keys.k1), (Way::ToInitiator, keys.k2)] {
        let first = prf(&key, "traffic 0", &[&keys.hash]);
        let next = prf(&first, "key update", &[]);
        let mut generations = [Vec::new(), Vec::new()];
        for packet in recorder.packets.iter().filter(|p| p.way == way && p.level == Level::OneRtt) {
            let opened = [packet.open(&first), packet.open_with(&next, &first)];
            assert!(opened[0].is_some() != opened[1].is_some(), "one generation opens it");
            for (text, opened) in generations.iter_mut().zip(opened) {
                text.extend(opened.unwrap_or_default());
            }
        }
        for (text, said) in generations.iter().zip([SECRET_TEXT, AFTER_UPDATE]) {
            assert!(text.windows(said.len()).any(|window| window == said), "{way:?}");
        }
    }
}
