//! Frames changed in transit: by a bit, or in length.

use net_channel::BatchError;

use crate::fixture::{Fixture, builder, parents};

#[test]
fn every_flipped_bit_of_a_small_frame_is_refused() {
    let fixture = Fixture::new();
    let params = net_channel::SealParams { parents: &parents(1), ..fixture.params() };
    let frame = builder(&[b"hello"]).seal(&params).expect("it can be sealed").frame().to_vec();
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let accepted = fixture.verify(&bad);
        // ttl is the one byte that forwarders change, so the one that nothing covers.
        assert_eq!(accepted.is_ok(), bit / 8 == 3, "bit {bit}");
        if let Ok(batch) = accepted {
            assert!(batch.open(&fixture.sender_key).is_ok(), "bit {bit}: ttl does not matter to the body");
        }
    }
}

#[test]
fn every_flipped_bit_after_the_seal_is_refused_by_opening_too() {
    // A relay that could make up signatures would still need the key: what is associated with the body binds it.
    let fixture = Fixture::new();
    let good = crate::by_hand::ByHand::small(&fixture);
    for (name, change) in [
        ("seq", (|b| b.header.set_seq(1_006)) as fn(&mut crate::by_hand::ByHand)),
        ("incarnation", |b| b.header.set_incarnation(999)),
        ("subnet", |b| b.header.set_subnet([0; 4])),
        ("cap", |b| b.header.set_cap([1; 4])),
        ("flags", |b| b.flags = 2),
    ] {
        let mut changed = crate::by_hand::ByHand::small(&fixture);
        change(&mut changed);
        // The new head before the old body, signed again by the origin.
        let (head, body) = (changed.frame(&fixture), good.frame(&fixture));
        let spliced = resign(&fixture, &head[..256], &body[256..]);
        let batch = fixture.verify(&spliced).expect("the signature is right");
        assert!(batch.open(&fixture.sender_key).is_err(), "{name} is bound to the body");
    }
}

/// A frame of this head and body, with the body's hash and a signature that fits.
fn resign(fixture: &Fixture, head: &[u8], body: &[u8]) -> Vec<u8> {
    use net_identity::Signer;
    let mut head = head.to_vec();
    head[64 + 48..64 + 80].copy_from_slice(blake3::hash(body).as_bytes());
    let mut header = head[..64].to_vec();
    header[3] = 0;
    let hash = blake3::hash(&[b"net batch hash v1\0", &header[..], &head[64..64 + 128]].concat());
    let signed =
        [b"net batch v1\0", &fixture.mesh.0[..], &fixture.channel.0, fixture.origin.as_bytes(), hash.as_bytes()]
            .concat();
    head[64 + 128..64 + 192].copy_from_slice(&fixture.signer.sign(&signed).expect("a key in memory signs"));
    [head, body.to_vec()].concat()
}

#[test]
fn truncated_and_extended_frames_are_refused_at_every_length() {
    let fixture = Fixture::new();
    let params = net_channel::SealParams { parents: &parents(3), ..fixture.params() };
    let frame = builder(&[b"one", b"two"]).seal(&params).expect("it can be sealed").frame().to_vec();
    for len in 0..frame.len() {
        assert!(fixture.verify(&frame[..len]).is_err(), "{len} bytes");
    }
    let mut longer = frame.clone();
    for _ in 0..300 {
        longer.push(0);
        assert!(matches!(fixture.verify(&longer), Err(BatchError::Length { .. })), "{} bytes", longer.len());
    }
}

#[test]
fn truncated_and_extended_large_frames_are_refused_at_sampled_lengths() {
    let fixture = Fixture::new();
    let frame = builder(&[&vec![7; 1 << 20]]).seal(&fixture.params()).expect("it can be sealed").frame().to_vec();
    for len in (0..frame.len()).step_by(4_099).chain(frame.len() - 40..frame.len()) {
        assert!(fixture.verify(&frame[..len]).is_err(), "{len} bytes");
    }
    let longer = [&frame[..], &[0; 64]].concat();
    for len in frame.len() + 1..=longer.len() {
        assert!(fixture.verify(&longer[..len]).is_err(), "{len} bytes");
    }
    assert!(fixture.verify(&frame).is_ok());
}
