//! Tickets: the text, and what stands behind its checksum.

use std::net::SocketAddr;

use net_transport::{MeshId, NodeKeys, Peer, Psk, Seed, Ticket, base32_encode};

/// Reads the input as text; and as the content of a ticket whose checksum is right. Accepted if either is.
pub fn run(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data).is_ok_and(reads);
    let content = reads(&with_checksum(data));
    text || content
}

/// A ticket that is read is written and read again as the same.
fn reads(text: &str) -> bool {
    let Ok(ticket) = text.parse::<Ticket>() else { return false };
    assert!(ticket.check().is_ok(), "a ticket was read that may not be written");
    let written = ticket.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&ticket), "a ticket is read differently from how it was written");
    true
}

/// The text of a ticket that holds this version and content.
fn with_checksum(content: &[u8]) -> String {
    let sum = blake3::derive_key("net ticket checksum v1", content);
    format!("net1{}", base32_encode(&[content, &sum[..4]].concat()))
}

/// As text and as content: a ticket with nothing optional, and one with everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let peer = |n: u8, addresses: &[&str]| Peer {
        binding: *NodeKeys::from_seed(&Seed::new([n; 32])).binding(),
        addresses: addresses.iter().map(|text| text.parse::<SocketAddr>().expect("an address")).collect(),
    };
    let least = Ticket {
        mesh: MeshId([1; 32]),
        generation: 0,
        psk: Psk::new([2; 32]),
        policy: None,
        peers: Vec::new(),
        capability: Vec::new(),
    };
    let full = Ticket {
        generation: 255,
        policy: Some((u64::MAX, [3; 32])),
        peers: vec![peer(4, &["192.0.2.1:7000", "[2001:db8::1]:65535"]), peer(5, &[])],
        capability: vec![6; 40],
        ..least.clone()
    };
    [least, full]
        .iter()
        .flat_map(|ticket| {
            let text = ticket.to_string();
            let bytes = net_transport::base32_decode(&text["net1".len()..]).expect("just written");
            [text.into_bytes(), bytes[..bytes.len() - 4].to_vec()]
        })
        .collect()
}
