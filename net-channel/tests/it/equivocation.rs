//! Equivocation: what proves it, and what does not.

use net_channel::{EQUIVOCATION_LEN_MAX, Equivocation, EquivocationError, SealParams, VerifiedSeal};
use net_identity::EntityKey;
use net_transport::MeshId;

use crate::fixture::{Fixture, builder, parents};

fn seal(params: &SealParams<'_>, payloads: &[&[u8]]) -> VerifiedSeal {
    builder(payloads).seal(params).expect("it can be sealed").seal().clone()
}

/// 1,005 to 1,006 and, otherwise, 1,006.
pub(crate) fn proof(fixture: &Fixture) -> Equivocation {
    let params = fixture.params();
    let one = seal(&SealParams { parents: &parents(1), ..params }, &[b"a", b"b"]);
    let other = seal(&SealParams { seq: 1_006, ..params }, &[b"c"]);
    Equivocation::between(&fixture.mesh, &one, &other).expect("they contradict each other")
}

#[test]
fn a_proof_convinces_anyone() {
    let fixture = Fixture::new();
    let bytes = proof(&fixture).to_bytes();
    let checked = Equivocation::verify(&bytes, &fixture.mesh).expect("it proves it");
    assert_eq!((checked.origin(), checked.channel()), (fixture.origin, &fixture.channel));
    assert_eq!((checked.incarnation(), checked.seq()), (1_000, 1_005));
    assert_eq!(checked.to_bytes(), bytes);
}

#[test]
fn the_two_have_one_order_whoever_finds_them() {
    let fixture = Fixture::new();
    let proof = proof(&fixture);
    let (first, second) = proof.seals();
    let swapped = Equivocation::between(&fixture.mesh, second, first).expect("still a contradiction");
    assert_eq!(swapped.to_bytes(), proof.to_bytes());
    let wrong_order = [&proof.to_bytes()[..104], &second.to_bytes(), &first.to_bytes()].concat();
    assert!(matches!(Equivocation::verify(&wrong_order, &fixture.mesh), Err(EquivocationError::Malformed)));
}

#[test]
fn what_can_both_be_true_is_no_proof() {
    let fixture = Fixture::new();
    let params = fixture.params();
    let one = seal(&params, &[b"a", b"b"]);
    let other = EntityKey::from_secret(&[9; 32]);
    let channel = net_channel::ChannelHash([3; 32]);
    for (why, seal) in [
        ("the same", one.clone()),
        ("after", seal(&SealParams { seq: 1_007, ..params }, &[b"c"])),
        ("before", seal(&SealParams { seq: 1_004, ..params }, &[b"c"])),
        ("another incarnation", seal(&SealParams { incarnation: 1_001, ..params }, &[b"c"])),
        ("another origin", seal(&SealParams { signer: &other, ..params }, &[b"c"])),
        ("another channel", seal(&SealParams { channel: &channel, ..params }, &[b"c"])),
    ] {
        assert!(Equivocation::between(&fixture.mesh, &one, &seal).is_none(), "{why}");
        assert!(Equivocation::between(&fixture.mesh, &seal, &one).is_none(), "{why}");
    }
    // And made by hand: two that both are true, in the order of the format.
    let after = seal(&SealParams { seq: 1_007, ..params }, &[b"c"]);
    let (first, second) = if one.hash() < after.hash() { (&one, &after) } else { (&after, &one) };
    let start = &proof(&fixture).to_bytes()[..104];
    let bytes = [start, &first.to_bytes(), &second.to_bytes()].concat();
    assert!(matches!(Equivocation::verify(&bytes, &fixture.mesh), Err(EquivocationError::NoContradiction)));
    let twice = [start, &one.to_bytes(), &one.to_bytes()].concat();
    assert!(matches!(Equivocation::verify(&twice, &fixture.mesh), Err(EquivocationError::NoContradiction)));
}

#[test]
fn every_overlap_is_found() {
    let fixture = Fixture::new();
    let params = fixture.params();
    let long = seal(&params, &[b"0", b"1", b"2", b"3"]);
    for (seq, overlaps) in [(1_003, false), (1_004, true), (1_006, true), (1_008, true), (1_009, false)] {
        let short = seal(&SealParams { seq, ..params }, &[b"x", b"y"]);
        assert_eq!(Equivocation::between(&fixture.mesh, &long, &short).is_some(), overlaps, "{seq}");
    }
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let fixture = Fixture::new();
    let bytes = proof(&fixture).to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Equivocation::verify(&bad, &fixture.mesh).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Equivocation::verify(&bytes[..len], &fixture.mesh).is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(Equivocation::verify(&longer, &fixture.mesh), Err(EquivocationError::Malformed)));
    assert!(matches!(Equivocation::verify(&bytes, &MeshId([0; 32])), Err(EquivocationError::Mesh)));
}

#[test]
fn the_largest_proof_is_within_its_limit() {
    let fixture = Fixture::new();
    let params = SealParams { parents: &parents(255), ..fixture.params() };
    let (one, other) = (seal(&params, &[b"a"]), seal(&params, &[b"b"]));
    let proof = Equivocation::between(&fixture.mesh, &one, &other).expect("they contradict each other");
    assert_eq!(proof.to_bytes().len(), EQUIVOCATION_LEN_MAX);
    assert!(Equivocation::verify(&proof.to_bytes(), &fixture.mesh).is_ok());
}
