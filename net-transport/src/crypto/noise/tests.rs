use super::*;

/// `Noise_NKpsk0_25519_ChaChaPoly_BLAKE2s` of the vectors of cacophony (github.com/centromere/cacophony,
/// `vectors/cacophony.txt`), as snow ships them too.
mod vector {
    pub(super) const PROLOGUE: &str = "4a6f686e2047616c74";
    pub(super) const PSK: &str = "54686973206973206d7920417573747269616e20706572737065637469766521";
    pub(super) const INIT_EPHEMERAL: &str = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a";
    pub(super) const INIT_REMOTE_STATIC: &str = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";
    pub(super) const RESP_STATIC: &str = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893";
    pub(super) const RESP_EPHEMERAL: &str = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b";
    pub(super) const HANDSHAKE_HASH: &str = "6bd69bd4066f41f32e47134976f5bf01606f7a4a0e04369fe61158b06f3a144e";
    /// Payload and ciphertext, by turns from initiator and responder; the first two are the handshake.
    pub(super) const MESSAGES: [(&str, &str); 6] = [
        (
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c794427635ede06947b2d3acd77a36788aaaf\
             17e9f5a8ac252e560fb421ba161a2cf8",
        ),
        (
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843d682eb9cf4fee6816c8c8cfd34c15774\
             321e234e3a426d7cfd3f13e5e84d04",
        ),
        ("462e20412e20486179656b", "b6645684db57679aa08f0b3352d58f32ec7f1e1a02083d5bd54277"),
        ("4361726c204d656e676572", "473a9a4109eba0939e934640d318984df8d0900aa922f0195a09ad"),
        ("4a65616e2d426170746973746520536179", "c8c44a16fff728f83e61272382149feadd3eb0ee1bab6313f84c72fe1581225236"),
        (
            "457567656e2042f6686d20766f6e2042617765726b",
            "21354f87158ac5e357529e87e8c84cfcdb49c8a080550c8f908d05ef7ea82ca525e3d1398e",
        ),
    ];
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn hex32(text: &str) -> [u8; 32] {
    hex(text).try_into().unwrap()
}

#[test]
fn the_published_vector_comes_out() {
    let (prologue, psk) = (hex(vector::PROLOGUE), Psk::new(hex32(vector::PSK)));
    let (e_i, e_r) = (hex(vector::INIT_EPHEMERAL), hex(vector::RESP_EPHEMERAL));
    let (static_public, static_secret) = (hex(vector::INIT_REMOTE_STATIC), hex(vector::RESP_STATIC));
    let entropy = Entropy::seeded([0; 32]);
    let mut initiator = Handshake(Box::new(
        builder(&prologue, &psk, &entropy)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&e_i)
            .remote_public_key(&static_public)
            .unwrap()
            .build_initiator()
            .unwrap(),
    ));
    let mut responder = Handshake(Box::new(
        builder(&prologue, &psk, &entropy)
            .unwrap()
            .fixed_ephemeral_key_for_testing_only(&e_r)
            .local_private_key(&static_secret)
            .unwrap()
            .build_responder()
            .unwrap(),
    ));
    let [(p1, m1), (p2, m2), rest @ ..] = vector::MESSAGES;
    assert_eq!(initiator.write(&hex(p1)).unwrap(), hex(m1));
    assert_eq!(responder.read(&hex(m1)).unwrap(), hex(p1));
    assert_eq!(responder.write(&hex(p2)).unwrap(), hex(m2));
    assert_eq!(initiator.read(&hex(m2)).unwrap(), hex(p2));
    let (i, r) = (initiator.finish().unwrap(), responder.finish().unwrap());
    for split in [&i, &r] {
        assert_eq!(split.hash, hex32(vector::HANDSHAKE_HASH));
    }
    // The vector goes on with transport messages, which tell the keys of the split: k1 first, then k2, by turns.
    for (turn, (payload, message)) in rest.into_iter().enumerate() {
        let (key, same) = if turn % 2 == 0 { (&i.initiator, &r.initiator) } else { (&i.responder, &r.responder) };
        assert_eq!(key.expose(), same.expose());
        let mut cipher = ChaChaPoly::default();
        cipher.set(key.expose());
        let mut out = vec![0; payload.len() / 2 + TAG_LEN];
        assert_eq!(cipher.encrypt(turn as u64 / 2, &[], &hex(payload), &mut out), out.len());
        assert_eq!(out, hex(message));
    }
}

/// u-coordinates of small order on the curve and its twist, and the encodings of them above the prime.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn low_order_points_are_refused() {
    let entropy = Entropy::seeded([1; 32]);
    let mut dh = CheckedX25519::default();
    dh.generate(&mut Rng(entropy.clone())).unwrap();
    for point in LOW_ORDER {
        for top_bit in [0, 0x80] {
            let mut point = hex32(point);
            point[31] |= top_bit;
            assert_eq!(dh.dh(&point, &mut [0; 32]), Err(snow::Error::Dh), "{point:02x?}");
            let psk = Psk::new([2; 32]);
            let mut noise = Handshake::initiator(b"", &psk, &point, &entropy).unwrap();
            assert_eq!(noise.write(b""), Err(snow::Error::Dh), "as a static key");
        }
    }
    let mut other = CheckedX25519::default();
    other.generate(&mut Rng(entropy)).unwrap();
    let (mut a, mut b) = ([0; 32], [0; 32]);
    dh.dh(other.pubkey(), &mut a).unwrap();
    other.dh(dh.pubkey(), &mut b).unwrap();
    assert_eq!(a, b);
}

#[test]
fn there_are_no_keys_before_the_end() {
    let entropy = Entropy::seeded([1; 32]);
    let noise = Handshake::initiator(b"", &Psk::new([2; 32]), &[9; 32], &entropy).unwrap();
    assert!(noise.finish().is_none());
}
