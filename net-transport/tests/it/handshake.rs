//! The handshake of a link.

use std::any::Any;
use std::sync::Arc;

use net_transport::crypto::{
    ConnectionIds, Entropy, LinkIdentity, PeerIdentity, client_config, reset_key, server_config, token_key, version,
    versions,
};

use crate::pair::{Node, Pair};

#[test]
fn two_nodes_connect_and_speak() {
    let mut pair = Pair::plain();
    pair.dial();
    pair.run();
    assert!(pair.dialled().connected && pair.accepted().connected);
    pair.dialled().send(b"over");
    pair.run();
    assert_eq!(pair.accepted().received, b"over");
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
