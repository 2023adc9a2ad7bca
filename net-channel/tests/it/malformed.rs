//! Batches with one thing wrong, signed by their origin all the same.

use net_channel::{BatchError, ChannelHash, OpenBatch, OpenError, SealError};
use net_identity::{EntityId, EntityKey};
use net_transport::{Header, HeaderError, Kind, MeshId, ShortId};

use crate::by_hand::{ByHand, plaintext, record};
use crate::fixture::{Fixture, builder, parents};

/// What a batch with this change is refused for.
fn refused(change: impl FnOnce(&mut ByHand)) -> BatchError {
    let fixture = Fixture::new();
    let mut batch = ByHand::small(&fixture);
    change(&mut batch);
    batch.verify(&fixture).expect_err("it must be refused")
}

/// What opening a batch with this plaintext gives.
fn opened(events: u16, plaintext: Vec<u8>) -> Result<OpenBatch, OpenError> {
    let fixture = Fixture::new();
    let mut batch = ByHand::small(&fixture);
    batch.header.set_events(events);
    batch.plaintext = plaintext;
    batch.open(&fixture)
}

fn parent(origin: ShortId, seq: u64) -> Vec<u8> {
    [&origin.0[..], &seq.to_le_bytes(), &[7; 8]].concat()
}

#[test]
fn control_nothing_wrong_is_accepted() {
    let fixture = Fixture::new();
    let open = ByHand::small(&fixture).open(&fixture).expect("nothing is wrong");
    assert_eq!(open.event(0).expect("there is one").payload, b"hello");
}

#[test]
fn parent_of_the_own_origin_is_refused_whether_before_or_after() {
    let own = Fixture::new().origin.short();
    for seq in [1, 1_004, 1_005, 1_006, u64::MAX] {
        assert_eq!(refused(|b| b.parents = parent(own, seq)), BatchError::Parent { index: 0 });
    }
    let fixture = Fixture::new();
    let own = net_channel::Parent { origin: own, seq: 1_004, hash: [0; 8] };
    let error = builder(&[b"x"]).seal(&net_channel::SealParams { parents: &[own], ..fixture.params() });
    assert!(matches!(error, Err(SealError::Parent(_))));
}

#[test]
fn parents_out_of_order_repeated_or_with_a_seq_that_no_event_has_are_refused() {
    let (a, b) = (ShortId([1; 8]), ShortId([2; 8]));
    let fixture = Fixture::new();
    let mut good = ByHand::small(&fixture);
    good.parents = [parent(a, 5), parent(b, 3)].concat();
    assert_eq!(good.verify(&fixture).expect("in order").seal().parents().len(), 2);
    assert_eq!(refused(|batch| batch.parents = [parent(b, 3), parent(a, 5)].concat()), BatchError::Parent { index: 1 });
    assert_eq!(refused(|batch| batch.parents = [parent(a, 3), parent(a, 5)].concat()), BatchError::Parent { index: 1 });
    for seq in [0, u64::MAX] {
        assert_eq!(refused(|batch| batch.parents = parent(a, seq)), BatchError::Parent { index: 0 });
    }
}

#[test]
fn parents_255_are_carried_and_256_are_not_sealed() {
    let fixture = Fixture::new();
    let all = parents(255);
    let params = net_channel::SealParams { parents: &all, parents_cut: true, ..fixture.params() };
    let sealed = builder(&[b"hello"]).seal(&params).expect("255 are permitted");
    let batch = fixture.verify(sealed.frame()).expect("and accepted");
    assert_eq!(batch.seal().parents().len(), 255);
    assert!(batch.seal().parents_cut());
    assert!(batch.seal().parents().is_sorted_by_key(|p| p.origin));
    let open = batch.open(&fixture.sender_key).expect("and it opens");
    assert_eq!(open.event(0).expect("there is one").payload, b"hello");

    let more = [&all[..], &[net_channel::Parent { origin: ShortId([0xff; 8]), seq: 1, hash: [0; 8] }]].concat();
    let params = net_channel::SealParams { parents: &more, ..fixture.params() };
    assert!(matches!(builder(&[b"hello"]).seal(&params), Err(SealError::TooManyParents(256))));
}

#[test]
fn a_count_of_parents_that_lies_is_refused() {
    let three = || [1, 2, 3].map(|i| parent(ShortId([i; 8]), 5)).concat();
    for count in [0, 1, 2, 4, 255] {
        // The body starts elsewhere then: at bytes that are no padding, or beyond the frame, or of another hash.
        let error = refused(|b| {
            b.parents = three();
            b.parents_count = Some(count);
        });
        let expected = matches!(
            error,
            BatchError::Reserved | BatchError::Length { .. } | BatchError::Parent { .. } | BatchError::BodyHash
        );
        assert!(expected, "{count}: {error:?}");
    }
}

#[test]
fn seq_0_and_the_last_seqs_are_refused() {
    let with = |seq, incarnation| {
        refused(|b| {
            b.header.set_seq(seq);
            b.header.set_incarnation(incarnation);
            b.flags = u8::from(seq == incarnation);
        })
    };
    for (seq, incarnation) in [(0, 0), (5, 0), (u64::MAX, 1), (u64::MAX, u64::MAX), (5, 6), (5, u64::MAX)] {
        assert_eq!(with(seq, incarnation), BatchError::Seq { seq, incarnation });
    }
    // The last seq that one event may have: after it there is still a number for the next.
    let fixture = Fixture::new();
    let mut last = ByHand::small(&fixture);
    last.header.set_seq(u64::MAX - 1);
    assert_eq!(last.verify(&fixture).expect("the last").seal().next_seq(), u64::MAX);
    for (seq, incarnation) in [(0, 0), (5, 0), (5, 6), (u64::MAX, 1)] {
        let params = net_channel::SealParams { seq, incarnation, ..fixture.params() };
        assert!(matches!(builder(&[b"x"]).seal(&params), Err(SealError::Seq { .. })), "{seq} in {incarnation}");
    }
}

#[test]
fn seq_at_the_end_leaves_no_room_for_a_second_event() {
    assert_eq!(
        refused(|b| {
            b.header.set_seq(u64::MAX - 1);
            b.header.set_events(2);
            b.plaintext = plaintext(&[record(b"a", b"", b"", 0), record(b"b", b"", b"", 0)]);
        }),
        BatchError::Seq { seq: u64::MAX - 1, incarnation: 1_000 }
    );
}

#[test]
fn events_0_and_more_than_4096_are_refused() {
    assert_eq!(refused(|b| b.header.set_events(0)), BatchError::Events(0));
    assert_eq!(refused(|b| b.header.set_events(4_097)), BatchError::Events(4_097));
    assert_eq!(refused(|b| b.header.set_events(u16::MAX)), BatchError::Events(u16::MAX));
    let error = net_channel::BatchBuilder::new().seal(&Fixture::new().params()).expect_err("nothing to seal");
    assert!(matches!(error, SealError::Empty));
}

#[test]
fn a_body_too_short_for_its_events_is_refused_before_the_signature() {
    let error = refused(|b| b.header.set_events(4_096));
    assert!(matches!(error, BatchError::Length { .. }), "{error:?}");
}

#[test]
fn a_first_flag_that_disagrees_is_refused() {
    assert_eq!(refused(|b| b.flags = 1), BatchError::First);
    assert_eq!(refused(|b| b.header.set_incarnation(1_005)), BatchError::First);
}

#[test]
fn reserved_bits_bytes_and_padding_are_refused() {
    for bit in 3..8 {
        assert_eq!(refused(|b| b.flags = 1 << bit), BatchError::Reserved);
    }
    for i in 0..5 {
        assert_eq!(refused(|b| b.zero[i] = 1), BatchError::Reserved);
    }
    let with_padding = |b: &mut ByHand| {
        b.parents = parent(ShortId([1; 8]), 5);
        b.padding = 1;
    };
    assert_eq!(refused(with_padding), BatchError::Reserved);
}

#[test]
fn unknown_versions_are_refused() {
    for format in [0, 2, 255] {
        assert_eq!(refused(|b| b.format = format), BatchError::Format(format));
    }
    let fixture = Fixture::new();
    let mut frame = fixture.small().frame().to_vec();
    frame[0] = 0x21;
    assert_eq!(fixture.verify(&frame).map(|_| ()), Err(BatchError::Header(HeaderError::Version(2))));
}

#[test]
fn a_clear_batch_is_refused() {
    assert_eq!(refused(|b| b.header.set_flags(0)), BatchError::Clear);
    assert_eq!(refused(|b| b.header.set_flags(Header::REALTIME)), BatchError::Clear);
}

#[test]
fn a_realtime_batch_has_no_parents() {
    let realtime = Header::SEALED | Header::REALTIME;
    let with_parent = |b: &mut ByHand| {
        b.header.set_flags(realtime);
        b.parents = parent(ShortId([1; 8]), 5);
    };
    assert_eq!(refused(with_parent), BatchError::RealtimeParents);
    let fixture = Fixture::new();
    let mut good = ByHand::small(&fixture);
    good.header.set_flags(realtime);
    assert!(good.verify(&fixture).expect("realtime").seal().is_realtime());
    let params = net_channel::SealParams { realtime: true, parents: &parents(1), ..fixture.params() };
    assert!(matches!(builder(&[b"x"]).seal(&params), Err(SealError::RealtimeParents)));
}

#[test]
fn frames_of_other_kinds_or_for_one_node_are_no_batches() {
    for kind in [Kind::Tunnel, Kind::Rpc, Kind::Control, Kind::Unicast, Kind::Tick] {
        let fixture = Fixture::new();
        let mut frame = fixture.small().frame().to_vec();
        frame[0] = 1 << 4 | kind as u8;
        assert_eq!(fixture.verify(&frame).map(|_| ()), Err(BatchError::Kind(kind)));
    }
    assert_eq!(refused(|b| b.header.set_dest(ShortId([1; 8]))), BatchError::Destination);
}

#[test]
fn a_length_that_lies_is_refused() {
    for error in [-16, -1, 1, 16, 1_000] {
        assert!(matches!(refused(|b| b.len_error = error), BatchError::Length { .. }), "{error}");
    }
}

#[test]
fn replay_into_another_channel_mesh_or_origin_is_refused() {
    let fixture = Fixture::new();
    let frame = fixture.small().frame().clone();
    let verify = |mesh: &MeshId, channel: &ChannelHash, origin: &EntityId| {
        net_channel::SealedBatch::verify(frame.clone(), mesh, channel, origin).map(|_| ())
    };
    assert_eq!(verify(&fixture.mesh, &fixture.channel, &fixture.origin), Ok(()));
    let mut other_channel = fixture.channel;
    other_channel.0[0] ^= 1;
    assert_eq!(verify(&fixture.mesh, &other_channel, &fixture.origin), Err(BatchError::Channel));
    // A channel whose hash begins alike, which the header cannot tell apart: the signature can.
    other_channel = fixture.channel;
    other_channel.0[31] ^= 1;
    assert_eq!(verify(&fixture.mesh, &other_channel, &fixture.origin), Err(BatchError::Signature));
    assert_eq!(verify(&MeshId([0x12; 32]), &fixture.channel, &fixture.origin), Err(BatchError::Signature));
    let other = EntityKey::from_secret(&[9; 32]).id();
    assert_eq!(verify(&fixture.mesh, &fixture.channel, &other), Err(BatchError::Origin));
}

#[test]
fn a_body_of_another_batch_is_refused() {
    let fixture = Fixture::new();
    let other = builder(&[b"olleh"]).seal(&fixture.params()).expect("it can be sealed");
    let small = fixture.small();
    let spliced = [&small.frame()[..256], &other.frame()[256..]].concat();
    assert_eq!(fixture.verify(&spliced).map(|_| ()), Err(BatchError::BodyHash));
}

#[test]
fn an_unknown_key_id_is_told_apart_from_a_wrong_key() {
    let fixture = Fixture::new();
    let mut batch = ByHand::small(&fixture);
    batch.header.set_key_id([1, 2, 3, 4]);
    let unknown = OpenError::UnknownKey(net_channel::KeyId([1, 2, 3, 4]));
    assert_eq!(batch.open(&fixture).map(|_| ()), Err(unknown));
}

#[test]
fn a_wrong_commitment_does_not_open() {
    let fixture = Fixture::new();
    let mut batch = ByHand::small(&fixture);
    batch.key_commit = Some([9; 32]);
    assert_eq!(batch.open(&fixture).map(|_| ()), Err(OpenError::WrongKey));
}

#[test]
fn a_wrong_salt_does_not_open() {
    let fixture = Fixture::new();
    let mut batch = ByHand::small(&fixture);
    batch.salt_shown = Some([0x56; 16]);
    assert_eq!(batch.open(&fixture).map(|_| ()), Err(OpenError::WrongKey), "another salt is another key");
    // And where the commitment is made to agree, the body does not.
    let seq = 1_005_u64.to_le_bytes();
    let key = net_transport::prf(fixture.sender_key.expose(), "batch", &[&fixture.channel.0, &seq, &[0x56; 16]]);
    batch.key_commit = Some(blake3::derive_key("net batch key commit v1", &key));
    assert_eq!(batch.open(&fixture).map(|_| ()), Err(OpenError::Body));
}

#[test]
fn a_count_that_differs_from_the_records_does_not_open() {
    let records: Vec<_> = (0..3).map(|i| record(&[i; 40], b"", b"", 0)).collect();
    assert_eq!(opened(3, plaintext(&records)).expect("three are three").events().len(), 3);
    for events in [1, 2, 4, 5] {
        let error = opened(events, plaintext(&records)).expect_err("the count lies");
        assert!(matches!(error, OpenError::Malformed { .. }), "{events}: {error:?}");
    }
}

#[test]
fn a_lying_offset_table_does_not_open() {
    let records: Vec<_> = (0..3).map(|i| record(&[i; 40], b"", b"", 0)).collect();
    let good = plaintext(&records);
    let table_at = good.len() - 12;
    for (entry, offset) in [(0, 8_u32), (0, 56), (1, 0), (1, 57), (1, 48), (2, 56), (2, 104), (2, u32::MAX), (2, 168)] {
        let mut bad = good.clone();
        bad[table_at + 4 * entry..][..4].copy_from_slice(&offset.to_le_bytes());
        let error = opened(3, bad).expect_err("the table lies");
        assert_eq!(error, OpenError::Malformed { record: u16::try_from(entry).expect("small") }, "{offset}");
    }
}

#[test]
fn records_that_lie_about_lengths_do_not_open() {
    let good = record(b"12345678", b"key", b"", 0);
    for (at, value) in [
        (0, u32::MAX.to_le_bytes()),
        (0, 0_u32.to_le_bytes()),
        (0, 7_u32.to_le_bytes()),
        (0, 500_u32.to_le_bytes()),
        (4, [0, 0, 0, 0]),
        (4, [255, 255, 0, 0]),
        (4, [3, 0, 1, 0]),
        (4, [3, 0, 255, 255]),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value);
        let error = opened(1, plaintext(&[bad])).expect_err("the lengths lie");
        assert!(matches!(error, OpenError::Malformed { .. }), "{value:?} at {at}");
    }
}

#[test]
fn record_flags_padding_keys_and_headers_are_checked() {
    for flag in 0..32 {
        let bad = plaintext(&[record(b"x", b"", b"", 1 << flag)]);
        assert_eq!(opened(1, bad).map(|_| ()), Err(OpenError::Malformed { record: 0 }));
    }
    let mut bad = record(b"x", b"", b"", 0);
    bad[23] = 1;
    assert_eq!(opened(1, plaintext(&[bad])).map(|_| ()), Err(OpenError::Malformed { record: 0 }), "padding");
    assert!(opened(1, plaintext(&[record(b"x", &[1; 1_024], b"", 0)])).is_ok());
    let bad = plaintext(&[record(b"x", &[1; 1_025], b"", 0)]);
    assert_eq!(opened(1, bad).map(|_| ()), Err(OpenError::Malformed { record: 0 }), "a key too large");
    assert!(opened(1, plaintext(&[record(b"x", b"", &[1, 1, 0, b'n', b'v'], 0)])).is_ok());
    for headers in [&[1][..], &[1, 1, 0, b'n'], &[0, 0, 0], &[1, 0, 0, 0xff], &[1, 0, 0, b'n', 0]] {
        let bad = plaintext(&[record(b"x", b"", headers, 0)]);
        assert_eq!(opened(1, bad).map(|_| ()), Err(OpenError::Malformed { record: 0 }), "{headers:?}");
    }
    let bytes = plaintext(&[record(b"a", b"", b"", 0), record(b"b", b"", b"", 0)]);
    let spaced = [&bytes[..24], &[0; 8], &bytes[24..]].concat();
    assert!(matches!(opened(2, spaced), Err(OpenError::Malformed { .. })), "bytes between records");
}

#[test]
fn an_event_larger_than_the_limit_does_not_open() {
    let at_limit = plaintext(&[record(&vec![7; 1 << 20], b"", b"", 0)]);
    assert!(opened(1, at_limit).is_ok());
    let beyond = plaintext(&[record(&vec![7; (1 << 20) + 1], b"", b"", 0)]);
    assert_eq!(opened(1, beyond).map(|_| ()), Err(OpenError::Malformed { record: 0 }));
}
