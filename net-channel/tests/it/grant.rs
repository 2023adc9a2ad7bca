//! Key grants: for one subscriber, from the origin, for a time.

use net_channel::{CLOCK_SKEW_S, GrantError, KEY_GRANT_LEN, KeyGrant, SenderKey};
use net_identity::EntityKey;
use net_transport::NodeId;

use crate::fixture::Fixture;

pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) fn grant(fixture: &Fixture) -> KeyGrant {
    KeyGrant {
        channel: fixture.channel,
        origin: fixture.origin,
        first_seq: 1_000,
        not_after: NOW + 3_600,
        sender_key: fixture.sender_key.clone(),
    }
}

pub(crate) fn subscriber() -> NodeId {
    EntityKey::from_secret(&[0x66; 32]).id().into()
}

#[test]
fn a_grant_gives_its_subscriber_the_key() {
    let fixture = Fixture::new();
    let bytes = grant(&fixture).sign(&subscriber(), &fixture.signer).expect("it signs");
    assert_eq!(bytes.len(), KEY_GRANT_LEN);
    let granted = KeyGrant::verify(&bytes, &subscriber(), NOW).expect("it is for this node");
    assert_eq!((granted.channel, granted.origin), (fixture.channel, fixture.origin));
    assert_eq!((granted.first_seq, granted.not_after), (1_000, NOW + 3_600));
    assert!(fixture.small().open(&granted.sender_key).is_ok());
}

#[test]
fn a_grant_for_another_node_is_refused() {
    let fixture = Fixture::new();
    let bytes = grant(&fixture).sign(&subscriber(), &fixture.signer).expect("it signs");
    let other = EntityKey::from_secret(&[0x67; 32]).id().into();
    assert_eq!(KeyGrant::verify(&bytes, &other, NOW).map(|_| ()), Err(GrantError::Signature));
}

#[test]
fn a_grant_of_somebody_else_is_refused() {
    let fixture = Fixture::new();
    let forger = EntityKey::from_secret(&[0x68; 32]);
    let forged = KeyGrant { origin: forger.id(), ..grant(&fixture) };
    let mut bytes = forged.sign(&subscriber(), &forger).expect("it signs").to_vec();
    // The forger puts the origin's name on what it signed.
    bytes[40..72].copy_from_slice(fixture.origin.as_bytes());
    assert_eq!(KeyGrant::verify(&bytes, &subscriber(), NOW).map(|_| ()), Err(GrantError::Signature));
}

#[test]
fn a_grant_ends() {
    let fixture = Fixture::new();
    let bytes = grant(&fixture).sign(&subscriber(), &fixture.signer).expect("it signs");
    let last = NOW + 3_600 + CLOCK_SKEW_S;
    assert!(KeyGrant::verify(&bytes, &subscriber(), last).is_ok());
    let ended = GrantError::Expired { not_after: NOW + 3_600 };
    assert_eq!(KeyGrant::verify(&bytes, &subscriber(), last + 1).map(|_| ()), Err(ended));
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let fixture = Fixture::new();
    let bytes = grant(&fixture).sign(&subscriber(), &fixture.signer).expect("it signs").to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(KeyGrant::verify(&bad, &subscriber(), 0).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(matches!(KeyGrant::verify(&bytes[..len], &subscriber(), 0), Err(GrantError::Malformed)));
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(KeyGrant::verify(&longer, &subscriber(), 0), Err(GrantError::Malformed)));
}

#[test]
fn a_key_under_a_wrong_id_is_refused() {
    let fixture = Fixture::new();
    let mut bytes = grant(&fixture).sign(&subscriber(), &fixture.signer).expect("it signs").to_vec();
    bytes[4] ^= 1;
    assert!(matches!(KeyGrant::verify(&bytes, &subscriber(), NOW), Err(GrantError::KeyId(_))));
}

#[test]
fn keys_do_not_show_in_debug() {
    let grant = KeyGrant { sender_key: SenderKey::new([0xab; 32]), ..grant(&Fixture::new()) };
    let text = format!("{grant:?}");
    assert!(!text.contains("171") && !text.contains("abab"), "{text}");
}
