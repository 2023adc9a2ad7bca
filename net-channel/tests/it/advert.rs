//! Adverts: signed by their origin, for one mesh.

use net_channel::{ADVERT_LEN_MAX, Advert, AdvertError, ChannelName, Class, NameError};
use net_identity::{EntityKey, Signer};
use net_transport::{MeshId, Visibility};
use proptest::prelude::*;

use crate::fixture::Fixture;

pub(crate) fn advert(fixture: &Fixture) -> Advert {
    Advert {
        name: fixture.name.clone(),
        class: Class::Reliable,
        visibility: Visibility::ParentVisible,
        capability: [0x77; 32],
        origin: fixture.origin,
        entity: EntityKey::from_secret(&[0x23; 32]).id(),
        node: EntityKey::from_secret(&[0x24; 32]).id().into(),
        seq: 1_800_000_000_000,
        closed: true,
    }
}

/// Signs bytes that may be no advert.
fn resign(fixture: &Fixture, unsigned: &[u8]) -> Vec<u8> {
    let message = [b"net advert v1\0", &fixture.mesh.0[..], unsigned].concat();
    [unsigned, &fixture.signer.sign(&message).expect("a key in memory signs")].concat()
}

#[test]
fn an_advert_round_trips() {
    let fixture = Fixture::new();
    let bytes = advert(&fixture).sign(&fixture.mesh, &fixture.signer).expect("it signs");
    let verified = Advert::verify(&bytes, &fixture.mesh).expect("it verifies");
    assert_eq!(verified.advert(), &advert(&fixture));
    assert_eq!(verified.channel(), &fixture.channel);
    assert_eq!(resign(&fixture, &bytes[..bytes.len() - 64]), bytes, "the control of the helper");
}

#[test]
fn the_id_is_one_for_each_channel_and_origin() {
    let fixture = Fixture::new();
    let id = |advert: Advert, signer: &EntityKey| {
        let bytes = advert.sign(&fixture.mesh, signer).expect("it signs");
        Advert::verify(&bytes, &fixture.mesh).expect("it verifies").advert_id()
    };
    let base = id(advert(&fixture), &fixture.signer);
    assert_eq!((base.node, base.seq), (advert(&fixture).node, 1_800_000_000_000));
    let newer = Advert { seq: 1_800_000_000_001, closed: false, ..advert(&fixture) };
    assert_eq!(id(newer, &fixture.signer).key, base.key);
    let other_name = Advert { name: ChannelName::parse("a").expect("good"), ..advert(&fixture) };
    assert_ne!(id(other_name, &fixture.signer).key, base.key);
    let other = EntityKey::from_secret(&[9; 32]);
    assert_ne!(id(Advert { origin: other.id(), ..advert(&fixture) }, &other).key, base.key);
}

#[test]
fn the_longest_advert_is_within_its_limit() {
    let fixture = Fixture::new();
    let name = ChannelName::parse(&"a".repeat(255)).expect("at the limit");
    let bytes = Advert { name, ..advert(&fixture) }.sign(&fixture.mesh, &fixture.signer).expect("it signs");
    assert_eq!(bytes.len(), ADVERT_LEN_MAX);
    assert!(Advert::verify(&bytes, &fixture.mesh).is_ok());
}

#[test]
fn an_advert_of_another_mesh_or_signer_is_refused() {
    let fixture = Fixture::new();
    let bytes = advert(&fixture).sign(&fixture.mesh, &fixture.signer).expect("it signs");
    assert_eq!(Advert::verify(&bytes, &MeshId([0; 32])), Err(AdvertError::Signature));
    let mut stolen = bytes.clone();
    stolen[48..80].copy_from_slice(EntityKey::from_secret(&[9; 32]).id().as_bytes());
    assert_eq!(Advert::verify(&stolen, &fixture.mesh), Err(AdvertError::Signature));
}

#[test]
fn another_entity_needs_a_capability() {
    let fixture = Fixture::new();
    let verify = |advert: Advert| {
        let bytes = advert.sign(&fixture.mesh, &fixture.signer).expect("it signs");
        Advert::verify(&bytes, &fixture.mesh).map(|_| ())
    };
    let none = Advert { capability: [0; 32], ..advert(&fixture) };
    assert_eq!(verify(none.clone()), Err(AdvertError::Entity));
    assert_eq!(verify(Advert { entity: fixture.origin, ..none }), Ok(()));
}

#[test]
fn fields_out_of_range_are_refused_even_when_signed() {
    let fixture = Fixture::new();
    let bytes = advert(&fixture).sign(&fixture.mesh, &fixture.signer).expect("it signs");
    let unsigned = &bytes[..bytes.len() - 64];
    for (at, value) in [(0, 0), (0, 2), (1, 2), (2, 4), (3, 2), (3, 0x81), (4, 25), (4, 27), (4, 255), (5, 1), (7, 1)] {
        let mut bad = unsigned.to_vec();
        bad[at] = value;
        assert_eq!(
            Advert::verify(&resign(&fixture, &bad), &fixture.mesh),
            Err(AdvertError::Malformed),
            "{value} at {at}"
        );
    }
    let mut bad = unsigned.to_vec();
    bad[144] = b' ';
    let error = AdvertError::Name(NameError::Byte { at: 0, byte: b' ' });
    assert_eq!(Advert::verify(&resign(&fixture, &bad), &fixture.mesh), Err(error));
    bad[144] = 0xff;
    assert_eq!(Advert::verify(&resign(&fixture, &bad), &fixture.mesh), Err(AdvertError::Malformed));
    let nameless = [&unsigned[..4], &[0], &unsigned[5..144]].concat();
    assert_eq!(Advert::verify(&resign(&fixture, &nameless), &fixture.mesh), Err(AdvertError::Name(NameError::Empty)));
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let fixture = Fixture::new();
    let bytes = advert(&fixture).sign(&fixture.mesh, &fixture.signer).expect("it signs");
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Advert::verify(&bad, &fixture.mesh).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Advert::verify(&bytes[..len], &fixture.mesh).is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Advert::verify(&longer, &fixture.mesh), Err(AdvertError::Malformed));
}

proptest! {
    #[test]
    fn bytes_that_are_no_advert_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Advert::verify(&bytes, &MeshId([0; 32])).is_err());
    }
}
