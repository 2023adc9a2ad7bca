//! Adverts: as they came, and signed by the origin that they name.

use net_channel::{ADVERT_LEN_MAX, Advert, ChannelName, Class};
use net_identity::EntityKey;
use net_transport::Visibility;

use crate::world::{World, flipped};

/// Where an advert has its origin.
const ORIGIN: std::ops::Range<usize> = 48..80;

/// Reads the input as an advert; and as one without its signature, which the world's origin puts under it.
pub fn run(data: &[u8]) -> bool {
    let world = World::new();
    let as_it_came = reads(&world, data);
    let mut unsigned = data.to_vec();
    if let Some(origin) = unsigned.get_mut(ORIGIN) {
        origin.copy_from_slice(world.origin.as_bytes());
    }
    let signature = world.sign(&[b"net advert v1\0", &world.mesh.0, &unsigned]);
    let signed = reads(&world, &[&unsigned[..], &signature].concat());
    as_it_came || signed
}

fn reads(world: &World, bytes: &[u8]) -> bool {
    let Ok(verified) = Advert::verify(bytes, &world.mesh) else { return false };
    let advert = verified.advert();
    assert!(bytes.len() <= ADVERT_LEN_MAX);
    assert_eq!(*verified.channel(), advert.name.hash(&world.mesh));
    assert_eq!((verified.advert_id().node, verified.advert_id().seq), (advert.node, advert.seq));
    assert!(advert.entity == advert.origin || advert.capability != [0; 32], "it speaks for another without a proof");
    if advert.origin == world.origin {
        let again = advert.sign(&world.mesh, &world.signer).expect("a key in memory signs");
        assert_eq!(again, bytes, "an advert is read differently from how it was written");
    }
    let (forged, bit) = flipped(bytes, bytes, 0..bytes.len() * 8);
    assert!(Advert::verify(&forged, &world.mesh).is_err(), "bit {bit} of an advert is not signed");
    true
}

/// Adverts of each class, open and closed, of oneself and of another; signed, and to be signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    let own = Advert {
        name: world.name.clone(),
        class: Class::Reliable,
        visibility: Visibility::Local,
        capability: [0; 32],
        origin: world.origin,
        entity: world.origin,
        node: world.origin.into(),
        seq: 1,
        closed: false,
    };
    let of_another = Advert {
        name: ChannelName::parse("a").expect("a good name"),
        class: Class::Realtime,
        visibility: Visibility::Global,
        capability: [0x77; 32],
        entity: EntityKey::from_secret(&[0x23; 32]).id(),
        node: EntityKey::from_secret(&[0x24; 32]).id().into(),
        seq: u64::MAX,
        closed: true,
        ..own.clone()
    };
    [own, of_another]
        .iter()
        .flat_map(|advert| {
            let bytes = advert.sign(&world.mesh, &world.signer).expect("a key in memory signs");
            let unsigned = bytes[..bytes.len() - 64].to_vec();
            [bytes, unsigned]
        })
        .collect()
}
