//! Handshake messages that are damaged, out of place, stolen or forged.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};
use net_transport::crypto::{
    BODY_LEN_MAX, CREDENTIAL_LEN_MAX, Entropy, HandshakeError, LinkIdentity, client_config, server_config, version,
};
use net_transport::{Mesh, MeshId, NodeKeys, Seed, StaticBinding};
use quinn_proto::{ConnectError, ConnectionId, TransportError};

use crate::noise::{Noise, Point};
use crate::pair::{MESH, Node, Refuse, mesh, psk};
use crate::talk::{ALL, HEAD_LEN, Message, Party, Talk, params};

fn cause(error: &TransportError) -> HandshakeError {
    HandshakeError::from_code(error.code.into()).expect("a code of the handshake")
}

/// A talk where this message is damaged before it is read. Tells the reader's error, or nothing if it waits on.
fn damaged(message: Message, damage: impl FnOnce(&mut Vec<u8>)) -> Option<HandshakeError> {
    let mut talk = Talk::plain();
    let mut bytes = talk.until(message);
    damage(&mut bytes);
    match talk.deliver(message, &[&bytes]) {
        Err(error) => {
            // What has failed stays failed.
            assert!(talk.deliver(message, &[&bytes]).is_err(), "{message:?} again");
            Some(cause(&error))
        }
        Ok(moved) => {
            assert!(!moved, "{message:?} was taken, damaged as it is");
            None
        }
    }
}

#[test]
fn every_flipped_bit_of_every_message_fails_the_handshake() {
    for message in ALL {
        let len = Talk::plain().until(message).len();
        for bit in 0..len * 8 {
            let error = damaged(message, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            // A longer length than there are bytes is the one flip that shows only when nothing more comes.
            assert!(error.is_some() || (8..24).contains(&bit), "{message:?} bit {bit}");
        }
    }
}

#[test]
fn truncated_messages_are_waited_for() {
    for message in ALL {
        let len = Talk::plain().until(message).len();
        for short in 0..len {
            assert_eq!(damaged(message, |bytes| bytes.truncate(short)), None, "{message:?} cut to {short}");
        }
        // The same with a length that fits: a whole message, only shorter.
        for short in HEAD_LEN..len {
            let error = damaged(message, |bytes| {
                bytes.truncate(short);
                let body = u16::try_from(short - HEAD_LEN).unwrap();
                bytes[1..3].copy_from_slice(&body.to_le_bytes());
            });
            assert!(error.is_some(), "{message:?} of {short} bytes");
        }
    }
}

#[test]
fn no_byte_may_follow_a_message_at_its_level() {
    for message in ALL {
        assert_eq!(damaged(message, |bytes| bytes.push(0)), Some(HandshakeError::Malformed));
        // A longer body is another message, and not the one that was signed or sealed.
        let error = damaged(message, |bytes| {
            bytes.push(0);
            let body = u16::try_from(bytes.len() - HEAD_LEN).unwrap();
            bytes[1..3].copy_from_slice(&body.to_le_bytes());
        });
        assert!(error.is_some(), "{message:?}");
        // Another CRYPTO frame of the same packet, before anything was written.
        let mut talk = Talk::plain();
        let bytes = talk.until(message);
        assert!(talk.deliver(message, &[&bytes, b"x"]).is_err(), "{message:?}");
    }
}

#[test]
fn bytes_of_one_level_do_not_reach_the_next() {
    // M1 and then what would be the initiator's authentication, all in Initial packets.
    let mut talk = Talk::plain();
    let m1 = talk.until(Message::M1);
    let a_i = Talk::plain().until(Message::AuthInitiator);
    assert!(talk.deliver(Message::M1, &[&[&m1[..], &a_i].concat()]).is_err());
    // M2 and the responder's authentication together.
    let mut talk = Talk::plain();
    let m2 = talk.until(Message::M2);
    let a_r = Talk::plain().until(Message::AuthResponder);
    assert!(talk.deliver(Message::M2, &[&m2, &a_r]).is_err());
}

#[test]
fn oversized_messages_are_refused_at_their_length() {
    for message in ALL {
        for len in [BODY_LEN_MAX + 1, usize::from(u16::MAX)] {
            let error = damaged(message, |bytes| {
                bytes.truncate(HEAD_LEN);
                bytes[1..3].copy_from_slice(&u16::try_from(len).unwrap().to_le_bytes());
            });
            assert_eq!(error, Some(HandshakeError::Malformed), "{message:?} of {len}");
        }
        // A flood in one piece.
        assert_eq!(
            damaged(message, |bytes| bytes.resize(HEAD_LEN + BODY_LEN_MAX + 1, 0)),
            Some(HandshakeError::Malformed)
        );
    }
}

#[test]
fn messages_may_drip_byte_by_byte() {
    let mut talk = Talk::plain();
    for message in ALL {
        let bytes = talk.next(message);
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert!(!talk.deliver(message, &[std::slice::from_ref(byte)]).unwrap(), "{message:?} moved too early");
        }
        assert!(talk.deliver(message, &[std::slice::from_ref(last)]).unwrap(), "{message:?} is complete");
    }
    assert!(talk.responder.peer().is_some() && !talk.responder.session.is_handshaking());
}

#[test]
fn unknown_and_misplaced_types_are_refused() {
    for (at, message) in ALL.into_iter().enumerate() {
        for kind in (0..=u8::MAX).filter(|kind| usize::from(*kind) != at + 1) {
            let error = damaged(message, |bytes| {
                bytes.truncate(1);
                bytes[0] = kind;
            });
            assert_eq!(error, Some(HandshakeError::Malformed), "{message:?} as type {kind}");
        }
    }
}

#[test]
fn nothing_is_read_once_the_handshake_is_over() {
    let mut talk = Talk::plain().finish();
    assert!(talk.initiator.session.read_handshake(b"x").is_err());
    assert!(talk.responder.session.read_handshake(b"x").is_err());
    assert!(talk.initiator.session.next_1rtt_keys().is_some(), "the link goes on; quinn closes it or not");
}

/// A binding of `keys` over a static key that is not theirs.
fn claim(seed: u8, noise_public: [u8; 32]) -> StaticBinding {
    let seed = Seed::new([seed; 32]);
    let signing = SigningKey::from_bytes(&blake3::derive_key("net 2026 node ed25519 v1", seed.expose()));
    let node = signing.verifying_key().to_bytes();
    let signature = signing.sign(&[b"net static binding v1\0", &node[..], &noise_public].concat()).to_bytes();
    StaticBinding::parse(&[&node[..], &noise_public, &signature].concat()).expect("signed by its node")
}

#[test]
fn a_node_that_claims_anothers_static_key_is_refused() {
    // Node 3 says that node 2's static key is its own, and whoever dials it there reaches node 2.
    let responder = Node::new(2);
    let claimed = claim(3, *responder.keys.binding().noise_public());
    assert_eq!(claimed.node(), Node::new(3).keys.id());
    let mut talk = Talk::between(Party::initiator(Node::new(1), claimed), Party::responder(responder, 1));
    let a_r = talk.until(Message::AuthResponder);
    let error = talk.deliver(Message::AuthResponder, &[&a_r]).expect_err("node 2 is not node 3");
    assert_eq!(cause(&error), HandshakeError::Identity);
    assert!(talk.initiator.peer().is_none());
}

#[test]
fn authentication_of_another_handshake_is_refused() {
    for message in [Message::AuthResponder, Message::AuthInitiator] {
        let recorded = Talk::plain().until(message);
        let again = Node { entropy_seed: [9; 32], ..Node::new(1) };
        let mut talk = Talk::new(again, Node::new(2));
        talk.until(message);
        let error = talk.deliver(message, &[&recorded]).expect_err("signed for another handshake");
        assert_eq!(cause(&error), HandshakeError::Identity, "{message:?}");
    }
}

#[test]
fn a_reflected_authentication_is_refused() {
    // Whoever holds the psk can be the initiator of the Noise handshake; it then sends back what the responder says.
    let mut talk = Talk::plain();
    let mut reflected = talk.until(Message::AuthResponder);
    reflected[0] = 4;
    let error = talk.deliver(Message::AuthInitiator, &[&reflected]).expect_err("the responder's own words");
    assert_eq!(cause(&error), HandshakeError::Identity);
    assert!(talk.responder.peer().is_none());
    // The other way round: an initiator that hears itself.
    let mut talk = Talk::new(Node::new(1), Node::new(1));
    let a_r = talk.until(Message::AuthResponder);
    assert!(talk.deliver(Message::AuthResponder, &[&a_r]).unwrap(), "a node may dial itself; links do not");
    let mut a_i = talk.next(Message::AuthInitiator);
    a_i[0] = 3;
    let mut victim = Talk::new(Node::new(1), Node::new(1));
    victim.until(Message::AuthResponder);
    let error = victim.deliver(Message::AuthResponder, &[&a_i]).expect_err("a signature of the other role");
    assert_eq!(cause(&error), HandshakeError::Identity);
}

#[test]
fn a_banned_node_gets_no_keys() {
    let mut talk = Talk::new(Node::new(1), Node { admission: Arc::new(Refuse), ..Node::new(2) });
    let a_i = talk.until(Message::AuthInitiator);
    let error = talk.deliver(Message::AuthInitiator, &[&a_i]).expect_err("banned");
    assert_eq!(cause(&error), HandshakeError::NotAdmitted);
    assert!(talk.responder.peer().is_none() && talk.responder.session.is_handshaking());
    assert!(talk.responder.write().is_empty());
    assert_eq!(talk.responder.levels, 1, "handshake keys and no more");
}

#[test]
fn the_credential_arrives_and_the_longest_fits() {
    let credential = vec![7; CREDENTIAL_LEN_MAX];
    let talk = Talk::new(Node { credential: credential.clone().into(), ..Node::new(1) }, Node::new(2)).finish();
    let peer = talk.responder.peer().unwrap();
    assert_eq!((peer.node, &peer.credential[..]), (Node::new(1).keys.id(), &credential[..]));
    assert_eq!(peer.binding, *Node::new(1).keys.binding());
    let peer = talk.initiator.peer().unwrap();
    assert_eq!((peer.node, peer.credential.len()), (Node::new(2).keys.id(), 0));

    let identity = LinkIdentity::new(Node::new(1).keys, mesh(1));
    assert!(identity.set_credential(vec![7; CREDENTIAL_LEN_MAX + 1].into()).is_err());
    assert!(identity.credential().is_empty());
}

#[test]
fn a_low_order_ephemeral_is_refused() {
    // An insider makes a perfect M1 whose ephemeral key is a low-order point, so `es` is zero whoever holds what.
    let responder = Node::new(2);
    let static_key = *responder.keys.binding().noise_public();
    let m1 = |e: Point| {
        let mut parameters = vec![0];
        params().write(&mut parameters);
        let prologue = [&b"net link v1\0"[..], &version(1).to_be_bytes(), &MESH.0].concat();
        let mut noise = Noise::new(&prologue, &static_key);
        let body = noise.write_m1(psk(1).expose(), &e, &e.dh(&static_key), &parameters);
        [&[1][..], &u16::try_from(body.len()).unwrap().to_le_bytes(), &body].concat()
    };
    let mut honest = Party::responder(Node::new(2), 1);
    honest.session.read_handshake(&m1(Point::secret([5; 32]))).expect("the insider knows how to make an M1");
    assert_eq!(honest.write().len(), 2);

    let mut low_order = [[0; 32]; 2];
    low_order[1][0] = 1;
    for point in low_order {
        let mut victim = Party::responder(Node::new(2), 1);
        let error = victim.session.read_handshake(&m1(Point::public_only(point))).expect_err("low order");
        assert_eq!(cause(&error), HandshakeError::Noise);
        assert!(victim.write().is_empty());
    }
}

#[test]
fn a_static_key_of_low_order_cannot_be_dialled() {
    let (identity, _, entropy) = Node::new(1).parts();
    let config = client_config(identity, claim(3, [0; 32]), entropy);
    let error = config.start_session(version(1), "", &params()).err();
    assert!(matches!(error, Some(ConnectError::InvalidServerName(_))), "{error:?}");
}

#[test]
fn a_mesh_of_another_name_is_another_handshake() {
    let other = Mesh::new(MeshId([8; 32]), 1, psk(1));
    let mut talk = Talk::new(Node::new(1), Node { mesh: other, ..Node::new(2) });
    let m1 = talk.until(Message::M1);
    let error = talk.deliver(Message::M1, &[&m1]).expect_err("another mesh");
    assert_eq!(cause(&error), HandshakeError::Noise);
}

#[test]
fn only_versions_with_a_valid_psk_are_supported() {
    let (identity, admission, entropy) = Node { mesh: mesh(2).with_previous(1, psk(1)), ..Node::new(2) }.parts();
    let server = server_config(identity.clone(), admission, entropy.clone());
    let dcid = ConnectionId::new(&[1; 16]);
    for generation in 0..=u8::MAX {
        let supported = server.initial_keys(version(generation), &dcid).is_ok();
        assert_eq!(supported, matches!(generation, 1 | 2), "{generation}");
    }
    for other in [0, 1, 0xff00_001d, 0x4e45_5500 | 1, 0x4e45_0001] {
        assert!(server.initial_keys(other, &dcid).is_err(), "{other:#x}");
    }
    identity.set_mesh(mesh(2));
    assert!(server.initial_keys(version(1), &dcid).is_err(), "24 hours later");
    // quinn takes no refusal at these two; they must not panic, and must not help anybody.
    assert_eq!(server.retry_tag(version(1), &dcid, b"packet"), [0; 16]);
    let mut session = server.start_session(version(1), &params());
    let m1 = Talk::plain().until(Message::M1);
    let error = session.read_handshake(&m1).expect_err("no psk, no handshake");
    assert_eq!(cause(&error), HandshakeError::Generation);

    let dialer = client_config(identity, *Node::new(1).keys.binding(), entropy);
    for unknown in [version(1), 1] {
        let error = dialer.clone().start_session(unknown, "", &params()).err();
        assert!(matches!(error, Some(ConnectError::UnsupportedVersion)), "{error:?}");
    }
}

#[test]
fn what_is_not_transport_parameters_is_refused() {
    let responder = Node::new(2);
    let static_key = *responder.keys.binding().noise_public();
    let prologue = [&b"net link v1\0"[..], &version(1).to_be_bytes(), &MESH.0].concat();
    let e = Point::secret([5; 32]);
    let body = Noise::new(&prologue, &static_key).write_m1(psk(1).expose(), &e, &e.dh(&static_key), b"\0\xff\xff");
    let m1 = [&[1][..], &u16::try_from(body.len()).unwrap().to_le_bytes(), &body].concat();
    let mut session = Party::responder(responder, 1);
    assert!(session.session.read_handshake(&m1).is_err());
    assert!(session.write().is_empty());
}

#[test]
fn no_secret_shows_in_debug() {
    let keys = NodeKeys::from_seed(&Seed::new([0xab; 32]));
    let identity = LinkIdentity::new(keys, mesh(1));
    let text = format!("{identity:?} {:?}", Entropy::seeded([0xab; 32]));
    assert!(!text.contains("171") && !text.contains("ab, ab") && !text.contains("psk"), "{text}");
}
