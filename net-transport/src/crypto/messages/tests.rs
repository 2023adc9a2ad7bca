use super::*;
use crate::Seed;

fn keys(seed: u8) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new([seed; 32]))
}

const HASH: [u8; 32] = [0x11; 32];
const OTHER_HASH: [u8; 32] = [0x12; 32];

#[test]
fn the_responder_is_known_by_its_signature() {
    let (node, other) = (keys(1), keys(2));
    let body = auth_responder(&node, &HASH);
    assert_eq!(check_responder(&body, node.binding(), &HASH), Ok(()));
    assert_eq!(check_responder(&body, other.binding(), &HASH), Err(HandshakeError::Identity), "another node");
    assert_eq!(check_responder(&body, node.binding(), &OTHER_HASH), Err(HandshakeError::Identity), "replayed");
    let forged = [&node.binding().to_bytes()[..], &auth_responder(&other, &HASH)[BINDING_LEN..]].concat();
    assert_eq!(check_responder(&forged, node.binding(), &HASH), Err(HandshakeError::Identity), "signed by another");
}

#[test]
fn the_initiator_is_known_by_its_signature() {
    let (node, responder, third) = (keys(1), keys(2), keys(3));
    let check = |body: &[u8], responder: &NodeKeys, hash| check_initiator(body, &responder.id(), hash);
    let body = auth_initiator(&node, b"credential", &responder.id(), &HASH);
    let (binding, credential) = check(&body, &responder, &HASH).unwrap();
    assert_eq!((binding, &credential[..]), (*node.binding(), &b"credential"[..]));
    assert_eq!(check(&body, &third, &HASH), Err(HandshakeError::Identity), "meant for another responder");
    assert_eq!(check(&body, &responder, &OTHER_HASH), Err(HandshakeError::Identity), "replayed");
    let stolen = [&third.binding().to_bytes()[..], &body[BINDING_LEN..]].concat();
    assert_eq!(check(&stolen, &responder, &HASH), Err(HandshakeError::Identity), "another's binding");
    let bare = auth_initiator(&node, b"", &responder.id(), &HASH);
    let added = [&bare[..BINDING_LEN], b"credential", &bare[BINDING_LEN..]].concat();
    assert_eq!(check(&added, &responder, &HASH), Err(HandshakeError::Identity), "a credential slipped in");
}

#[test]
fn a_signature_does_not_serve_in_the_other_role() {
    let (a, b) = (keys(1), keys(2));
    // Without a credential both bodies have one form, so only the signed text tells them apart.
    let as_responder = auth_responder(&b, &HASH);
    assert_eq!(check_initiator(&as_responder, &a.id(), &HASH), Err(HandshakeError::Identity));
    assert_eq!(check_initiator(&as_responder, &b.id(), &HASH), Err(HandshakeError::Identity));
    let as_initiator = auth_initiator(&a, b"", &b.id(), &HASH);
    assert_eq!(as_initiator.len(), as_responder.len());
    assert_eq!(check_responder(&as_initiator, a.binding(), &HASH), Err(HandshakeError::Identity));
}

#[test]
fn short_bodies_are_malformed() {
    let (node, responder) = (keys(1), keys(2));
    let (a_r, a_i) = (auth_responder(&node, &HASH), auth_initiator(&node, b"", &responder.id(), &HASH));
    for len in 0..AUTH_LEN {
        assert!(check_responder(&a_r[..len], node.binding(), &HASH).is_err(), "{len}");
        assert!(check_initiator(&a_i[..len], &responder.id(), &HASH).is_err(), "{len}");
    }
    assert_eq!(check_responder(&[&a_r[..], &[0]].concat(), node.binding(), &HASH), Err(HandshakeError::Malformed));
}

#[test]
fn the_inbox_takes_one_message_in_any_pieces_and_nothing_more() {
    let mut framed = Vec::new();
    frame(MessageType::M2, b"body", &mut framed).unwrap();
    assert_eq!(framed, b"\x02\x04\x00body");
    for cut in 0..framed.len() {
        let mut inbox = Inbox::new(MessageType::M2);
        assert_eq!(inbox.push(&framed[..cut]), Ok(None));
        assert_eq!(inbox.push(&framed[cut..]), Ok(Some(b"body".to_vec())));
        assert_eq!(inbox.push(b"!"), Err(HandshakeError::Malformed));
    }
    assert_eq!(Inbox::new(MessageType::M1).push(&framed), Err(HandshakeError::Malformed));
    assert_eq!(Inbox::new(MessageType::M2).push(&[&framed[..], b"!"].concat()), Err(HandshakeError::Malformed));
}

#[test]
fn the_longest_body_is_4096() {
    let mut framed = Vec::new();
    frame(MessageType::M1, &[7; BODY_LEN_MAX], &mut framed).unwrap();
    assert_eq!(Inbox::new(MessageType::M1).push(&framed), Ok(Some(vec![7; BODY_LEN_MAX])));
    assert_eq!(frame(MessageType::M1, &[7; BODY_LEN_MAX + 1], &mut framed), Err(HandshakeError::Malformed));
    // Refused as soon as the length is there, before anything is gathered.
    assert_eq!(Inbox::new(MessageType::M1).push(&[1, 0x01, 0x10]), Err(HandshakeError::Malformed));
    assert_eq!(Inbox::new(MessageType::M1).push(&[1, 0x00, 0x10]), Ok(None));
}

#[test]
fn codes_of_errors_are_told_apart() {
    for error in HandshakeError::ALL {
        assert_eq!(HandshakeError::from_code(error.code()), Some(error));
    }
    assert_eq!(HandshakeError::from_code(0x100), None);
    assert_eq!(HandshakeError::from_code(0x16d), None, "quinn's own: transport parameters missing");
}

/// The signed texts of `docs/spec/link.md`, put together by hand.
#[test]
fn signatures_are_over_exactly_these_bytes() {
    let (i, r) = (keys(1), keys(2));
    let a_r = auth_responder(&r, &HASH);
    let text = [&b"net link auth\0\x02"[..], r.id().as_bytes(), &[0; 32], &HASH].concat();
    assert_eq!(a_r, [&r.binding().to_bytes()[..], &r.sign(&text)].concat());

    let signed = [&i.binding().to_bytes()[..], b"credential"].concat();
    let text =
        [&b"net link auth\0\x01"[..], i.id().as_bytes(), r.id().as_bytes(), &HASH, blake3::hash(&signed).as_bytes()]
            .concat();
    assert_eq!(auth_initiator(&i, b"credential", &r.id(), &HASH), [&signed[..], &i.sign(&text)].concat());
}
