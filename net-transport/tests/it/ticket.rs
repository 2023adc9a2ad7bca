//! Tickets.

use std::net::SocketAddr;

use net_transport::{
    MeshId, NodeKeys, Peer, Psk, Seed, TICKET_ADDRESSES_MAX, TICKET_PEERS_MAX, TICKET_TEXT_LEN_MAX, Ticket, TicketError,
};
use proptest::prelude::*;

fn peer(seed: u8, addresses: Vec<SocketAddr>) -> Peer {
    Peer { binding: *NodeKeys::from_seed(&Seed::new([seed; 32])).binding(), addresses }
}

fn ticket() -> Ticket {
    Ticket {
        mesh: MeshId([1; 32]),
        generation: 3,
        psk: Psk::new([0xab; 32]),
        policy: Some((7, [2; 32])),
        peers: vec![
            peer(1, vec!["192.0.2.1:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()]),
            peer(2, vec![]),
        ],
        capability: b"capability".to_vec(),
    }
}

fn any_ticket() -> impl Strategy<Value = Ticket> {
    let address = any::<SocketAddr>().prop_map(|mut address| {
        // A flow label and a scope mean something on one machine only; postcard does not carry them.
        if let SocketAddr::V6(v6) = &mut address {
            v6.set_flowinfo(0);
            v6.set_scope_id(0);
        }
        address
    });
    let peer = (any::<u8>(), prop::collection::vec(address, 0..=TICKET_ADDRESSES_MAX))
        .prop_map(|(seed, addresses)| peer(seed, addresses));
    (
        any::<[u8; 32]>(),
        any::<u8>(),
        any::<[u8; 32]>(),
        any::<Option<(u64, [u8; 32])>>(),
        prop::collection::vec(peer, 0..4),
        prop::collection::vec(any::<u8>(), 0..300),
    )
        .prop_map(|(mesh, generation, psk, policy, peers, capability)| Ticket {
            mesh: MeshId(mesh),
            generation,
            psk: Psk::new(psk),
            policy,
            peers,
            capability,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn text_round_trips(ticket in any_ticket()) {
        let text = ticket.to_string();
        prop_assert!(text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9')));
        prop_assert_eq!(text.parse(), Ok(ticket));
    }

    #[test]
    fn changed_lost_added_and_swapped_characters_are_refused(
        ticket in any_ticket(), at in any::<prop::sample::Index>(), new in "[a-z2-7]"
    ) {
        let text = ticket.to_string();
        let at = at.index(text.len());
        let new = new.chars().next().unwrap();
        if !text[at..].starts_with(new) {
            let changed: String = text.chars().enumerate().map(|(i, c)| if i == at { new } else { c }).collect();
            prop_assert!(changed.parse::<Ticket>().is_err(), "changed at {}", at);
        }
        let lost: String = text.chars().enumerate().filter(|(i, _)| *i != at).map(|(_, c)| c).collect();
        prop_assert!(lost.parse::<Ticket>().is_err(), "lost at {}", at);
        let added = format!("{}{new}{}", &text[..at], &text[at..]);
        prop_assert!(added.parse::<Ticket>().is_err(), "added at {}", at);
        let mut swapped: Vec<char> = text.chars().collect();
        if at > 0 && swapped[at - 1] != swapped[at] {
            swapped.swap(at - 1, at);
            prop_assert!(swapped.into_iter().collect::<String>().parse::<Ticket>().is_err(), "swapped at {}", at);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", tail in "[a-z2-7]{0,200}") {
        prop_assert!(text.parse::<Ticket>().is_err());
        let text = format!("net1{tail}");
        prop_assert!(text.parse::<Ticket>().is_err());
    }
}

#[test]
fn every_character_changed_is_refused() {
    let text = ticket().to_string();
    for at in 0..text.len() {
        let new = if &text[at..=at] == "b" { "c" } else { "b" };
        let changed = format!("{}{new}{}", &text[..at], &text[at + 1..]);
        let error = changed.parse::<Ticket>().expect_err("a changed ticket");
        assert_eq!(error, if at < 4 { TicketError::Prefix } else { TicketError::Checksum }, "at {at}");
    }
}

#[test]
fn white_space_and_case_do_not_matter() {
    let text = ticket().to_string();
    let lines: Vec<&str> = (0..text.len()).step_by(60).map(|at| &text[at..text.len().min(at + 60)]).collect();
    let pasted = format!("  {}\r\n", lines.join("\r\n\t"));
    assert_eq!(pasted.parse(), Ok(ticket()));
    assert_eq!(text.to_uppercase().parse(), Ok(ticket()));
}

#[test]
fn errors_say_what_is_wrong() {
    let text = ticket().to_string();
    let error = |text: &str| text.parse::<Ticket>().expect_err("no ticket");
    assert_eq!(error(""), TicketError::Prefix);
    assert_eq!(error("https://example.org"), TicketError::Prefix);
    assert_eq!(error("net1"), TicketError::Checksum);
    assert_eq!(error(&text[1..]), TicketError::Prefix);
    assert_eq!(error(&text[..text.len() - 1]), TicketError::Checksum);
    assert_eq!(error(&format!("{}1", &text[..10])), TicketError::Character { character: '1', at: 10 });
    assert_eq!(error(&format!("{}ü{}", &text[..10], &text[10..])), TicketError::Character { character: 'ü', at: 10 });
    assert_eq!(error(&"net1".repeat(TICKET_TEXT_LEN_MAX)), TicketError::TooLong);
    assert!(error(&text[..text.len() - 1]).to_string().contains("a letter of the ticket was lost or changed"));
}

/// The text of any content, made by hand with the right checksum.
fn sealed(content: &[u8]) -> String {
    let checksum = blake3::derive_key("net ticket checksum v1", content);
    format!("net1{}", net_transport::base32_encode(&[content, &checksum[..4]].concat()))
}

#[test]
fn content_is_checked_behind_the_checksum() {
    let body = postcard::to_allocvec(&ticket()).unwrap();
    let with = |version: u8, body: &[u8]| sealed(&[&[version], body].concat()).parse::<Ticket>();
    assert_eq!(with(1, &body), Ok(ticket()));
    assert_eq!(with(1, &body), ticket().to_string().parse());
    assert_eq!(with(2, &body), Err(TicketError::Version(2)));
    assert_eq!(with(0, b""), Err(TicketError::Version(0)));
    assert_eq!(sealed(b"").parse::<Ticket>(), Err(TicketError::Content));
    assert_eq!(with(1, &[&body[..], b"abc"].concat()), Err(TicketError::TrailingBytes(3)));
    for len in 0..body.len() {
        assert_eq!(with(1, &body[..len]), Err(TicketError::Content), "{len} bytes");
    }
    // A binding that its node did not sign.
    let at = body.windows(32).position(|window| window == ticket().peers[0].node().as_bytes()).unwrap();
    let mut forged = body;
    forged[at + 40] ^= 1;
    assert_eq!(with(1, &forged), Err(TicketError::Content));
}

#[test]
fn limits_hold_when_writing_and_when_reading() {
    let refused = |ticket: Ticket, error: TicketError| {
        assert_eq!(ticket.check(), Err(error.clone()));
        assert_eq!(ticket.to_string().parse::<Ticket>(), Err(error));
    };
    let address: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let full = |peers, addresses| Ticket { peers: vec![peer(1, vec![address; addresses]); peers], ..ticket() };
    assert_eq!(full(TICKET_PEERS_MAX, TICKET_ADDRESSES_MAX).check(), Ok(()));
    refused(full(TICKET_PEERS_MAX + 1, 0), TicketError::TooManyPeers(TICKET_PEERS_MAX + 1));
    refused(full(1, TICKET_ADDRESSES_MAX + 1), TicketError::TooManyAddresses(TICKET_ADDRESSES_MAX + 1));
    refused(Ticket { capability: vec![0; TICKET_TEXT_LEN_MAX], ..ticket() }, TicketError::TooLong);
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", ticket());
    assert!(!text.contains("171") && !text.contains("abab"), "{text}");
    assert!(!text.contains("capability"), "{text}");
}
