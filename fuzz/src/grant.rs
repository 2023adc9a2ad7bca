//! Key grants: as they came, and signed by the origin that they name.

use net_channel::{GrantError, KEY_GRANT_LEN, KeyGrant, SenderKey};
use net_identity::EntityKey;
use net_transport::NodeId;

use crate::world::{World, flipped};

/// Bytes before the signature.
const UNSIGNED_LEN: usize = KEY_GRANT_LEN - 64;
/// The unix second at which grants are looked at.
const NOW: u64 = 1_800_000_000;

/// Reads the input as a grant; and as one without its signature, where key id and origin are put right.
pub fn run(data: &[u8]) -> bool {
    let (world, node) = (World::new(), subscriber());
    let as_it_came = reads(&world, &node, data);
    let signed = data.first_chunk::<UNSIGNED_LEN>().is_some_and(|unsigned| {
        let mut unsigned = *unsigned;
        let key = unsigned[88..].try_into().expect("32 bytes");
        unsigned[4..8].copy_from_slice(&SenderKey::new(key).key_id().0);
        unsigned[40..72].copy_from_slice(world.origin.as_bytes());
        let signature = world.sign(&[b"net key grant v1\0", node.as_bytes(), &unsigned]);
        reads(&world, &node, &[&unsigned[..], &signature, &data[UNSIGNED_LEN..]].concat())
    });
    as_it_came || signed
}

fn reads(world: &World, node: &NodeId, bytes: &[u8]) -> bool {
    let verified = KeyGrant::verify(bytes, node, NOW);
    if let Err(GrantError::Expired { not_after }) = verified {
        assert!(not_after < NOW, "a grant is over before its time");
        assert!(KeyGrant::verify(bytes, node, not_after).is_ok(), "a grant is over before its time");
    }
    let Ok(grant) = verified else { return false };
    assert_eq!(bytes.len(), KEY_GRANT_LEN);
    if grant.origin == world.origin {
        let again = grant.sign(node, &world.signer).expect("a key in memory signs");
        assert_eq!(again[..], *bytes, "a grant is read differently from how it was written");
    }
    let other = NodeId::from_bytes([9; 32]);
    assert!(KeyGrant::verify(bytes, &other, NOW).is_err(), "a grant serves another node");
    let (forged, bit) = flipped(bytes, bytes, 0..bytes.len() * 8);
    assert!(KeyGrant::verify(&forged, node, NOW).is_err(), "bit {bit} of a grant is not signed");
    true
}

fn subscriber() -> NodeId {
    EntityKey::from_secret(&[0x66; 32]).id().into()
}

/// A grant with an end and one without, signed, and to be signed.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    [(1_000, NOW + 3_600), (0, u64::MAX)]
        .into_iter()
        .flat_map(|(first_seq, not_after)| {
            let sender_key = world.sender_key.clone();
            let grant = KeyGrant { channel: world.channel, origin: world.origin, first_seq, not_after, sender_key };
            let bytes = grant.sign(&subscriber(), &world.signer).expect("a key in memory signs").to_vec();
            let unsigned = bytes[..UNSIGNED_LEN].to_vec();
            [bytes, unsigned]
        })
        .collect()
}
