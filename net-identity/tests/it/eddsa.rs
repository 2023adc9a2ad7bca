//! Ed25519 where implementations differ, and where a signature could be taken for another.

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use net_identity::{EntityId, EntityKey, Signer};

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).expect("hex").try_into().expect("of this length")
}

/// RFC 8032, section 7.1: TEST 1, TEST 2, TEST 3, TEST SHA(abc). Secret, public, message, signature.
const RFC_8032: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    [
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

#[test]
fn rfc_8032_vectors_sign_and_verify() {
    for [secret, public, message, signature] in RFC_8032 {
        let key = EntityKey::from_secret(&bytes(secret));
        let message = HEXLOWER.decode(message.as_bytes()).expect("hex");
        assert_eq!(HEXLOWER.encode(key.id().as_bytes()), public);
        let signed = key.sign(&message).expect("a key in memory signs");
        assert_eq!(HEXLOWER.encode(&signed), signature);
        assert!(EntityId::from_bytes(bytes(public)).verify(&message, &signed).is_ok());
    }
}

/// The vectors of "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020), table 6: message, public key,
/// signature; then what the paper gives for dalek's `verify` (our control) and for `verify_strict` (ours).
const TAMING: [(&str, &str, &str, bool, bool); 12] = [
    // 0: A and R of small order, S = 0.
    (
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
        true,
        false,
    ),
    // 1: A of small order.
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        true,
        false,
    ),
    // 2: R of small order.
    (
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
        true,
        false,
    ),
    // 3: A and R of mixed order; both equations hold.
    (
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
        true,
        true,
    ),
    // 4: mixed order; only the equation with cofactor holds.
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
        false,
        false,
    ),
    // 5: only the equation with cofactor holds, and only if (8h) is not reduced first.
    (
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
        false,
        false,
    ),
    // 6: S > L.
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
        false,
        false,
    ),
    // 7: S much larger than L.
    (
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a4734e74f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c2",
        false,
        false,
    ),
    // 8: R not canonical and of small order; the hash takes it as sent.
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
        false,
        false,
    ),
    // 9: R not canonical and of small order; the hash takes it reduced.
    (
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
        false,
        false,
    ),
    // 10: A not canonical and of small order; the hash takes it reduced.
    (
        "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        false,
        false,
    ),
    // 11: A not canonical and of small order; the hash takes it as sent.
    (
        "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
        true,
        false,
    ),
];

#[test]
fn edge_cases_of_taming_the_many_eddsas_give_the_documented_answers() {
    for (i, (message, public, signature, lenient, strict)) in TAMING.into_iter().enumerate() {
        let (message, public, signature) = (bytes::<32>(message), bytes::<32>(public), bytes::<64>(signature));
        let ours = EntityId::from_bytes(public).verify(&message, &signature).is_ok();
        assert_eq!(ours, strict, "vector {i}");
        // The control: without strictness the same bytes give the other column of the paper, so they are the vectors.
        let control = VerifyingKey::from_bytes(&public)
            .is_ok_and(|key| key.verify(&message, &Signature::from_bytes(&signature)).is_ok());
        assert_eq!(control, lenient, "control of vector {i}");
    }
}

/// All encodings of the eight points of small order, with those that are not canonical.
const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

#[test]
fn a_key_of_small_order_verifies_nothing() {
    let mut forged = 0;
    for public in SMALL_ORDER {
        let public = bytes::<32>(public);
        for r in SMALL_ORDER {
            // R of small order and S = 0: for one message in eight such a pair passes where strictness is missing.
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&bytes::<32>(r));
            for message in 0..16_u8 {
                assert!(EntityId::from_bytes(public).verify(&[message], &signature).is_err());
                forged += usize::from(
                    VerifyingKey::from_bytes(&public)
                        .is_ok_and(|key| key.verify(&[message], &Signature::from_bytes(&signature)).is_ok()),
                );
            }
        }
    }
    assert!(forged > 100, "the control: {forged} of these are forgeries to a lenient verifier");
}

#[test]
fn another_message_key_or_context_is_refused() {
    let (key, other) = (EntityKey::from_secret(&[1; 32]), EntityKey::from_secret(&[2; 32]));
    let signature = key.sign(b"net one v1\0statement").expect("a key in memory signs");
    assert!(key.id().verify(b"net one v1\0statement", &signature).is_ok());
    assert!(key.id().verify(b"net two v1\0statement", &signature).is_err());
    assert!(key.id().verify(b"net one v1\0statement.", &signature).is_err());
    assert!(other.id().verify(b"net one v1\0statement", &signature).is_err());
}

#[test]
fn every_flipped_bit_of_a_signature_is_refused() {
    let key = EntityKey::from_secret(&[1; 32]);
    let signature = key.sign(b"statement").expect("a key in memory signs");
    for bit in 0..512 {
        let mut bad = signature;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(key.id().verify(b"statement", &bad).is_err(), "bit {bit}");
    }
}

#[test]
fn node_keys_sign_as_the_entity_of_their_node() {
    let keys = net_transport::NodeKeys::from_seed(&net_transport::Seed::new([9; 32]));
    let signer: &dyn Signer = &keys;
    assert_eq!(net_transport::NodeId::from(signer.id()), keys.id());
    let signature = signer.sign(b"statement").expect("a key in memory signs");
    assert!(signer.id().verify(b"statement", &signature).is_ok());
}
