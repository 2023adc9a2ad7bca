//! Ticks: what an origin says of its own last event.

use net_channel::{BatchHash, ChannelHash, TICK_LEN, Tick, TickError, TickParams};
use net_identity::{EntityKey, Signer};
use net_transport::{Header, MeshId, Priority, ShortId, Visibility};

use crate::fixture::Fixture;

pub(crate) fn params(fixture: &Fixture) -> TickParams<'_> {
    TickParams {
        mesh: &fixture.mesh,
        channel: &fixture.channel,
        signer: &fixture.signer,
        last_seq: 1_005,
        last_hash: BatchHash([0x88; 32]),
        incarnation: 1_000,
        unix_ms: 1_800_000_000_123,
        visibility: Visibility::Global,
        priority: Priority::Normal,
        subnet: [3, 7, 2, 0],
        cap: [0; 4],
    }
}

fn verify(fixture: &Fixture, frame: &[u8]) -> Result<Tick, TickError> {
    Tick::verify(frame, &fixture.mesh, &fixture.channel, &fixture.origin)
}

#[test]
fn a_tick_round_trips() {
    let fixture = Fixture::new();
    let frame = Tick::sign(&params(&fixture)).expect("it signs");
    assert_eq!(frame.len(), TICK_LEN);
    let tick = verify(&fixture, &frame).expect("it verifies");
    let expected = Tick {
        origin: fixture.origin,
        last_seq: 1_005,
        last_hash: BatchHash([0x88; 32]),
        incarnation: 1_000,
        unix_ms: 1_800_000_000_123,
    };
    assert_eq!(tick, expected);
}

#[test]
fn a_forged_tick_is_refused() {
    let fixture = Fixture::new();
    let forger = EntityKey::from_secret(&[9; 32]);
    let mut frame = Tick::sign(&TickParams { signer: &forger, ..params(&fixture) }).expect("it signs").to_vec();
    assert_eq!(verify(&fixture, &frame), Err(TickError::Origin));
    // The forger puts the origin's short id into the header.
    frame[16..24].copy_from_slice(&fixture.origin.short().0);
    assert_eq!(verify(&fixture, &frame), Err(TickError::Signature));
}

#[test]
fn a_tick_of_another_channel_or_mesh_is_refused() {
    let fixture = Fixture::new();
    let frame = Tick::sign(&params(&fixture)).expect("it signs");
    let verify = |mesh, channel| Tick::verify(&frame, &mesh, &channel, &fixture.origin);
    assert_eq!(verify(MeshId([0; 32]), fixture.channel), Err(TickError::Signature));
    assert_eq!(verify(fixture.mesh, ChannelHash([0; 32])), Err(TickError::Channel));
    let mut alike = fixture.channel;
    alike.0[31] ^= 1;
    assert_eq!(verify(fixture.mesh, alike), Err(TickError::Signature));
}

#[test]
fn seqs_that_cannot_be_are_refused() {
    let fixture = Fixture::new();
    for (last_seq, incarnation) in [(0, 0), (5, 0), (5, 6), (u64::MAX, 1)] {
        let frame = Tick::sign(&TickParams { last_seq, incarnation, ..params(&fixture) }).expect("it signs");
        assert_eq!(verify(&fixture, &frame), Err(TickError::Seq { seq: last_seq, incarnation }));
    }
}

#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let fixture = Fixture::new();
    let frame = Tick::sign(&params(&fixture)).expect("it signs").to_vec();
    for bit in 0..frame.len() * 8 {
        let mut bad = frame.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verify(&fixture, &bad).is_ok(), bit / 8 == 3, "bit {bit}");
    }
    for len in 0..frame.len() {
        assert!(verify(&fixture, &frame[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(verify(&fixture, &[&frame[..], &[0]].concat()), Err(TickError::Malformed));
}

#[test]
fn fields_that_a_tick_does_not_have_are_refused_even_when_signed() {
    let fixture = Fixture::new();
    let frame = Tick::sign(&params(&fixture)).expect("it signs").to_vec();
    let resigned = |header: Header, payload: &[u8]| {
        let signed = [
            b"net tick v1\0",
            &fixture.mesh.0[..],
            &fixture.channel.0,
            fixture.origin.as_bytes(),
            &header.to_signed_bytes(),
            payload,
        ]
        .concat();
        let signature = fixture.signer.sign(&signed).expect("a key in memory signs");
        [&header.as_bytes()[..], payload, &signature].concat()
    };
    let header = *Header::parse(&frame).expect("a header");
    let payload = &frame[64..112];
    assert_eq!(resigned(header, payload), frame, "the control of the helper");
    let changes: [fn(&mut Header); 6] = [
        |h| h.set_events(1),
        |h| h.set_flags(Header::SEALED),
        |h| h.set_flags(Header::REALTIME),
        |h| h.set_key_id([1; 4]),
        |h| h.set_dest(ShortId([1; 8])),
        |h| h.set_payload_len(111),
    ];
    for change in changes {
        let mut bad = header;
        change(&mut bad);
        assert_eq!(verify(&fixture, &resigned(bad, payload)), Err(TickError::Malformed));
    }
    for at in 0..8 {
        let mut bad = payload.to_vec();
        bad[at] ^= 2;
        assert_eq!(verify(&fixture, &resigned(header, &bad)), Err(TickError::Malformed));
    }
}

#[test]
fn a_batch_is_no_tick_and_a_tick_no_batch() {
    let fixture = Fixture::new();
    assert_eq!(verify(&fixture, fixture.small().frame()), Err(TickError::Malformed));
    assert!(fixture.verify(&Tick::sign(&params(&fixture)).expect("it signs")).is_err());
}
