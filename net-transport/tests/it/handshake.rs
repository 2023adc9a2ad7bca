//! The handshake of a link.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use net_transport::crypto::{
    ConnectionIds, Entropy, HandshakeError, LinkIdentity, PeerIdentity, client_config, reset_key, server_config,
    token_key, version, versions,
};
use net_transport::{Mesh, MeshId, Psk};
use quinn_proto::ConnectionError;
use quinn_proto::crypto::{PacketKey, Session};

use crate::pair::{MESH, Node, Pair, Refuse, Way, mesh, psk};
use crate::talk::{Message, Talk};

fn cause(error: &ConnectionError) -> Option<HandshakeError> {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return None,
    };
    HandshakeError::from_code(code.into())
}

#[test]
fn two_nodes_connect_and_speak() {
    let mut pair = Pair::plain();
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
    let (dialled, accepted) =
        (pair.dialled().quic.crypto_session().peer_identity(), pair.accepted().quic.crypto_session().peer_identity());
    assert_eq!(identity(dialled).node, pair.responder.identity.keys().id());
    assert_eq!(identity(accepted).node, pair.initiator.identity.keys().id());
    pair.dialled().send(b"over");
    pair.run();
    assert_eq!(pair.accepted().received, b"over");
}

/// Dials into the void: not one datagram comes back, and the dial ends by itself.
fn assert_silence(pair: &mut Pair) {
    pair.run();
    assert_eq!(pair.answers(), 0);
    assert!(pair.responder.connections.is_empty());
    assert_eq!(pair.dialled().lost, Some(ConnectionError::TimedOut));
}

#[test]
fn a_wrong_psk_meets_silence() {
    let stranger = Node { mesh: Mesh::new(MESH, 1, Psk::new([0; 32])), ..Node::new(1) };
    let mut pair = Pair::new(stranger, Node::new(2));
    pair.dial();
    assert_silence(&mut pair);
}

#[test]
fn a_wrong_static_key_meets_silence() {
    let mut pair = Pair::plain();
    pair.dial_as(*Node::new(3).keys.binding());
    assert_silence(&mut pair);
}

#[test]
fn a_generation_that_is_not_valid_meets_silence() {
    let mut pair = Pair::new(Node { mesh: mesh(9), ..Node::new(1) }, Node::new(2));
    pair.dial();
    assert_silence(&mut pair);
}

#[test]
fn strangers_get_no_answer_and_do_no_harm() {
    let mut stranger = Pair::new(Node { mesh: Mesh::new(MESH, 1, Psk::new([0; 32])), ..Node::new(1) }, Node::new(2));
    stranger.dial();
    stranger.run();
    let initial = stranger.wire[0].1.clone();
    let mut pair = Pair::plain();
    for number in 0..500_u16 {
        let mut initial = initial.clone();
        // Each with a connection id of its own, which stands behind first byte, version and length.
        initial[6..8].copy_from_slice(&number.to_le_bytes());
        pair.inject(Way::ToResponder, initial);
        // And a packet as if of a connection that was.
        let short: Vec<u8> = (0..200_u16).map(|i| ((i * 31) ^ number) as u8 & 0x7f | 0x40).collect();
        pair.inject(Way::ToResponder, short);
    }
    pair.run();
    assert_eq!(pair.answers(), 0);
    assert!(pair.responder.connections.is_empty());
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
}

#[test]
fn a_mesh_of_another_name_is_refused() {
    let other = Mesh::new(MeshId([8; 32]), 1, psk(1));
    let mut pair = Pair::new(Node { mesh: other, ..Node::new(1) }, Node::new(2));
    pair.dial();
    pair.run();
    assert_eq!(pair.dialled().lost.as_ref().and_then(cause), Some(HandshakeError::Noise));
    assert!(pair.responder.connections.is_empty());
}

#[test]
fn the_generation_before_is_accepted_until_it_is_dropped() {
    let mut pair = Pair::new(Node::new(1), Node { mesh: mesh(2).with_previous(1, psk(1)), ..Node::new(2) });
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
    // The initiator changes too, and dials with the new one.
    pair.initiator.identity.set_mesh(mesh(2).with_previous(1, psk(1)));
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
    let versions: BTreeSet<_> = pair.wire.iter().filter(|(_, d)| d[0] & 0x80 != 0).map(|(_, d)| d[4]).collect();
    assert_eq!(versions, BTreeSet::from([1, 2]));
    // The old generation ends. Links that stand do not notice; dials with it do.
    pair.responder.identity.set_mesh(mesh(2));
    pair.initiator.connections[0].send(b"still there");
    pair.run();
    assert_eq!(pair.responder.connections[0].received, b"still there");
    let before = pair.wire.len();
    pair.initiator.identity.set_mesh(mesh(1));
    pair.dial();
    pair.run();
    assert_eq!(pair.dialled().lost, Some(ConnectionError::TimedOut));
    // The two links that stood have timed out as well, saying nothing.
    assert!(pair.wire[before..].iter().all(|(way, d)| *way == Way::ToResponder || d[0] & 0x80 == 0));
}

#[test]
fn a_banned_node_is_never_reported_connected() {
    let mut pair = Pair::new(Node::new(1), Node { admission: Arc::new(Refuse), ..Node::new(2) });
    pair.dial();
    pair.run();
    assert!(!pair.accepted().connected);
    assert_eq!(pair.accepted().lost.as_ref().and_then(cause), Some(HandshakeError::NotAdmitted));
    assert_eq!(pair.dialled().lost.as_ref().and_then(cause), Some(HandshakeError::NotAdmitted));
    assert!(pair.accepted().quic.crypto_session().peer_identity().is_none());
    let one_rtt = pair.wire.iter().filter(|(way, d)| *way == Way::ToInitiator && d[0] & 0x80 == 0);
    assert_eq!(one_rtt.count(), 0, "no packet of an application's level went to it");
}

#[test]
fn a_replayed_first_flight_costs_one_answer_and_connects_nobody() {
    let mut pair = Pair::plain();
    pair.dial();
    pair.run();
    let (way, initial) = pair.wire[0].clone();
    assert!(way == Way::ToResponder && initial[0] & 0xb0 == 0x80, "the first datagram is an Initial");

    // To the same node after a restart, with its seed but other ephemeral keys.
    let mut replay = Pair::new(Node::new(3), Node { entropy_seed: [9; 32], ..Node::new(2) });
    for _ in 0..10 {
        replay.inject(Way::ToResponder, initial.clone());
    }
    replay.run();
    assert_eq!(replay.responder.connections.len(), 1);
    let link = replay.accepted();
    assert!(!link.connected);
    assert_eq!(link.lost, Some(ConnectionError::TimedOut));
    assert!(link.quic.crypto_session().peer_identity().is_none());
    let answered: usize = replay.wire.iter().map(|(_, d)| d.len()).sum();
    assert!(answered <= 3 * 10 * initial.len(), "{answered} bytes");
}

#[test]
fn lost_and_corrupted_datagrams_delay_a_handshake_and_no_more() {
    for bad in 0..6 {
        for corrupt in [false, true] {
            let mut pair = Pair::plain();
            pair.dial();
            let mut number = 0;
            pair.run_with(&mut |_, datagram| {
                number += 1;
                if number == bad + 1 {
                    let at = datagram.len() / 2;
                    datagram[at] ^= 0x10;
                    return corrupt;
                }
                true
            });
            assert!(pair.dialled().connected && pair.accepted().connected, "datagram {bad}");
        }
    }
}

fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & 0xb0 == 0xb0
}

#[test]
fn a_retry_is_followed() {
    let mut pair = Pair::new(Node::new(1), Node { retry: true, ..Node::new(2) });
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
    assert_eq!(pair.wire.iter().filter(|(_, d)| is_retry(d)).count(), 1);
}

/// Whether this is an Initial that carries the token of a Retry.
fn has_token(datagram: &[u8]) -> bool {
    let scid_at = 6 + usize::from(datagram[5]);
    datagram[0] & 0xb0 == 0x80 && datagram[scid_at + 1 + usize::from(datagram[scid_at])] != 0
}

#[test]
fn a_damaged_retry_is_ignored() {
    let mut pair = Pair::new(Node::new(1), Node { retry: true, ..Node::new(2) });
    pair.dial();
    pair.run();
    let retry = pair.wire.iter().map(|(_, d)| d).find(|d| is_retry(d)).expect("a Retry").clone();
    // The same dial again, to a responder that sends no Retry; somebody else puts one before the initiator.
    let followed = |retry: &[u8]| {
        let mut pair = Pair::plain();
        pair.dial();
        pair.carry(&mut |_, _| true);
        pair.inject(Way::ToInitiator, retry.to_vec());
        pair.run();
        let followed = pair.wire.iter().any(|(way, d)| *way == Way::ToResponder && has_token(d));
        // A Retry that is genuine and yet unexpected takes the initiator away from the responder.
        assert!(followed || pair.dialled().connected);
        followed
    };
    assert!(followed(&retry));
    for at in 0..retry.len() {
        let mut damaged = retry.clone();
        damaged[at] ^= 1;
        assert!(!followed(&damaged), "byte {at}");
    }
    for len in 0..retry.len() {
        assert!(!followed(&retry[..len]), "{len} bytes");
    }
}

#[test]
fn keys_are_updated_in_both_directions() {
    let mut pair = Pair::plain();
    pair.dial();
    pair.run();
    let mut said = Vec::new();
    for round in 0..6_u8 {
        // By turns from one end, from the other, and from both at once.
        if round % 3 != 1 {
            pair.dialled().quic.force_key_update();
        }
        if round % 3 != 0 {
            pair.accepted().quic.force_key_update();
        }
        said.push(round);
        assert_eq!((pair.dialled().send(&[round]), pair.accepted().send(&[round])), (1, 1));
        pair.run();
        assert_eq!(pair.dialled().received, said);
        assert_eq!(pair.accepted().received, said);
        // The keys before stay for a while, and no update follows before they are gone.
        pair.advance(Duration::from_secs(3));
        pair.run();
    }
}

#[test]
fn quinn_updates_keys_by_itself() {
    let keys = Talk::plain().finish().initiator.keys.unwrap();
    assert_eq!(keys.packet.local.confidentiality_limit(), 1 << 23);
    assert_eq!(keys.packet.local.integrity_limit(), 1 << 36);
    // It changes them the first time within 1,000 packets; 3 MB are more.
    let mut pair = Pair::plain();
    pair.dial();
    pair.run();
    let all: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut sent = 0;
    while sent < all.len() {
        let took = pair.dialled().send(&all[sent..]);
        sent += took;
        if !pair.carry(&mut |_, _| true) && took == 0 {
            assert!(pair.pass_time());
        }
    }
    pair.run_until(&mut |_, _| true, |pair| pair.responder.connections[0].received.len() == sent);
    assert_eq!(pair.accepted().received, all);
    assert!(pair.wire.len() > 1_000);
}

#[test]
fn each_generation_of_keys_opens_its_own_packets_alone() {
    let mut talk = Talk::plain().finish();
    let seal = |key: &dyn PacketKey| {
        let mut packet = [&b"header"[..], b"payload", &[0; 16]].concat();
        key.encrypt(7, &mut packet, 6);
        BytesMut::from(&packet[6..])
    };
    let opens = |key: &dyn PacketKey, packet: &BytesMut| key.decrypt(7, b"header", &mut packet.clone()).is_ok();
    let take = |keys: &mut Option<quinn_proto::crypto::Keys>| keys.take().expect("1-RTT keys").packet;
    let (mut i, mut r) = (take(&mut talk.initiator.keys), take(&mut talk.responder.keys));
    for _ in 0..4 {
        let (to_r, to_i) = (seal(&*i.local), seal(&*r.local));
        assert!(opens(&*r.remote, &to_r) && opens(&*i.remote, &to_i));
        assert!(!opens(&*i.remote, &to_r) && !opens(&*r.remote, &to_i), "one key a direction");
        let next = |session: &mut dyn Session| session.next_1rtt_keys().expect("1-RTT has begun");
        (i, r) = (next(&mut *talk.initiator.session), next(&mut *talk.responder.session));
        assert!(!opens(&*r.remote, &to_r) && !opens(&*i.remote, &to_i), "the generation before");
    }
}

#[test]
fn both_ends_export_the_same_secrets() {
    let talk = Talk::plain().finish();
    let export = |session: &dyn Session, label: &[u8], context: &[u8], len: usize| {
        let mut out = vec![0; len];
        session.export_keying_material(&mut out, label, context).map(|()| out)
    };
    let i = |label: &[u8], context: &[u8]| export(&*talk.initiator.session, label, context, 32).unwrap();
    let one = i(b"label", b"context");
    assert_eq!(one, export(&*talk.responder.session, b"label", b"context", 32).unwrap());
    let others = [i(b"label", b"contexu"), i(b"labem", b"context"), i(b"labelc", b"ontext"), i(b"", b"labelcontext")];
    assert!(others.iter().all(|other| *other != one));
    let another = Talk::new(Node { entropy_seed: [9; 32], ..Node::new(1) }, Node::new(2)).finish();
    assert_ne!(one, export(&*another.initiator.session, b"label", b"context", 32).unwrap(), "another link");

    let long = export(&*talk.initiator.session, b"label", b"context", 4096).unwrap();
    assert_eq!(long[..32], one);
    assert!(export(&*talk.initiator.session, b"label", b"context", 4097).is_err());
    assert!(export(&*talk.initiator.session, &[b'x'; 256], b"context", 32).is_err());
    let mut early = Talk::plain();
    early.until(Message::AuthInitiator);
    assert!(export(&*early.responder.session, b"label", b"context", 32).is_err(), "before the initiator is known");
}

#[test]
fn one_seed_gives_one_trace() {
    let trace = |seed: u8| {
        let mut pair = Pair::new(Node { entropy_seed: [seed; 32], ..Node::new(1) }, Node::new(2));
        pair.dial();
        pair.run();
        assert!(pair.accepted().connected);
        pair.wire
    };
    assert_eq!(trace(4), trace(4));
    assert_ne!(trace(4), trace(5));
}

/// The same through quinn itself, over two sockets.
#[tokio::test]
async fn quinn_connects_over_loopback() {
    let entropy = Entropy::system();
    let start = |seed: u8| {
        let node = Node::new(seed);
        let identity = Arc::new(LinkIdentity::new(node.keys, node.mesh));
        let mut config = quinn::EndpointConfig::new(reset_key(identity.keys()));
        let (keys, entropy) = (identity.keys().clone(), entropy.clone());
        let server = server_config(identity.clone(), node.admission, entropy.clone());
        let server = quinn::ServerConfig::new(server, token_key(identity.keys()));
        config
            .supported_versions(versions())
            .cid_generator(move || Box::new(ConnectionIds::new(&keys, entropy.clone())));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        (quinn::Endpoint::new(config, Some(server), socket, runtime).unwrap(), identity)
    };
    let ((a, a_identity), (b, b_identity)) = (start(1), start(2));
    let mut config =
        quinn::ClientConfig::new(client_config(a_identity.clone(), *b_identity.keys().binding(), entropy.clone()));
    config.version(version(1));
    let dialled = a.connect_with(config, b.local_addr().unwrap(), "ignored").unwrap();
    let accepted = async { b.accept().await.unwrap().await };
    let (dialled, accepted) = tokio::join!(dialled, accepted);
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(identity(dialled.peer_identity()).node, b_identity.keys().id());
    assert_eq!(identity(accepted.peer_identity()).node, a_identity.keys().id());

    let mut sender = dialled.open_uni().await.unwrap();
    sender.write_all(b"over").await.unwrap();
    sender.finish().unwrap();
    let mut receiver = accepted.accept_uni().await.unwrap();
    assert_eq!(receiver.read_to_end(16).await.unwrap(), b"over");
}

fn identity(any: Option<Box<dyn Any>>) -> PeerIdentity {
    *any.expect("the handshake is complete").downcast().expect("links know their peer")
}
