use super::*;
use crate::Seed;

fn keys(seed: u8) -> NodeKeys {
    NodeKeys::from_seed(&Seed::new([seed; 32]))
}

#[test]
fn a_node_knows_its_connection_ids_after_a_restart_and_no_others() {
    let mut before = ConnectionIds::new(&keys(1), Entropy::system());
    let after = ConnectionIds::new(&keys(1), Entropy::system());
    let other = ConnectionIds::new(&keys(2), Entropy::system());
    let id = before.generate_cid();
    assert_eq!(id.len(), before.cid_len());
    assert_ne!(id, before.generate_cid());
    assert!(after.validate(&id).is_ok());
    assert!(other.validate(&id).is_err());
    for bit in 0..CONNECTION_ID_LEN * 8 {
        let mut bytes: [u8; CONNECTION_ID_LEN] = (&*id).try_into().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(after.validate(&ConnectionId::new(&bytes)).is_err(), "bit {bit}");
    }
    for len in 0..CONNECTION_ID_LEN {
        assert!(after.validate(&ConnectionId::new(&id[..len])).is_err(), "{len} bytes");
    }
    assert!(after.validate(&ConnectionId::new(&[&id[..], &[0; 4]].concat())).is_err());
}

#[test]
fn a_reset_key_signs_and_verifies() {
    let key = reset_key(&keys(1));
    let mut signature = vec![0; key.signature_len()];
    key.sign(b"id", &mut signature);
    assert!(key.verify(b"id", &signature).is_ok());
    assert!(key.verify(b"ie", &signature).is_err());
    assert!(key.verify(b"id", &signature[1..]).is_err());
    assert!(reset_key(&keys(2)).verify(b"id", &signature).is_err());
    signature[0] ^= 1;
    assert!(key.verify(b"id", &signature).is_err());
}

#[test]
fn a_token_opens_with_its_key_alone() {
    let mut sealed = b"address".to_vec();
    token_key(&keys(1)).aead_from_hkdf(b"random").seal(&mut sealed, b"").unwrap();
    let open = |seed, random: &[u8], sealed: &[u8]| {
        let mut data = sealed.to_vec();
        token_key(&keys(seed)).aead_from_hkdf(random).open(&mut data, b"").map(|plain| plain.to_vec())
    };
    assert_eq!(open(1, b"random", &sealed).unwrap(), b"address");
    assert!(open(2, b"random", &sealed).is_err());
    assert!(open(1, b"randon", &sealed).is_err());
    assert!(open(1, b"random", &sealed[1..]).is_err());
    assert!(open(1, b"random", &[]).is_err());
}
