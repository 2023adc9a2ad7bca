//! Batches: what is sealed opens again, within the limits.

use bytes::Bytes;
use net_channel::{
    BATCH_BODY_LEN_MAX, BatchBuilder, EVENT_LEN_MAX, Headers, Hlc, OpenError, PushError, SealError, SealParams,
    SealedBatch, SealedView,
};
use net_identity::{EntityId, SignError, Signer};
use proptest::prelude::*;

use crate::fixture::{Fixture, TIME, builder, parents};

#[test]
fn a_sealed_batch_verifies_and_opens() {
    let fixture = Fixture::new();
    let mut builder = builder(&[b"one", b"", b"three"]);
    builder.push(b"four", Some(b"key"), &[("name", b"value"), ("n", b"")], TIME).expect("it fits");
    let sealed = builder.seal(&fixture.params()).expect("it can be sealed");
    assert!(builder.is_empty());

    let batch = fixture.verify(sealed.frame()).expect("it verifies");
    assert_eq!(batch.hash(), sealed.hash());
    let open = batch.open(&fixture.sender_key).expect("it opens");
    let payloads: Vec<_> = open.events().map(|e| e.payload).collect();
    assert_eq!(payloads, [&b"one"[..], b"", b"three", b"four"]);
    let last = open.event(3).expect("there are four");
    assert_eq!((last.key, last.seq), (Some(&b"key"[..]), 1_008));
    assert_eq!(last.headers.iter().collect::<Vec<_>>(), [("name", &b"value"[..]), ("n", b"")]);
    assert_eq!(open.event(1).expect("there are four").time.0, TIME.0 + 1);
    assert_eq!(open.event(4), None);
    let in_place = batch.open_in_place(&fixture.sender_key).expect("it opens");
    assert_eq!(in_place.plaintext(), open.plaintext());
}

#[test]
fn what_the_seal_says_is_what_was_given() {
    let fixture = Fixture::new();
    let given = parents(12);
    let params = SealParams { seq: 1_000, parents: &given, parents_cut: true, cap: [1, 2, 3, 4], ..fixture.params() };
    let sealed = builder(&[b"a", b"b"]).seal(&params).expect("it can be sealed");
    let batch = fixture.verify(sealed.frame()).expect("it verifies");
    let seal = batch.seal();
    assert_eq!((seal.seq(), seal.last_seq(), seal.next_seq(), seal.events()), (1_000, 1_001, 1_002, 2));
    assert_eq!((seal.incarnation(), seal.is_first(), seal.is_realtime()), (1_000, true, false));
    assert_eq!((seal.prev(), seal.time(), seal.origin()), (params.prev, TIME, fixture.origin));
    assert_eq!(seal.header().cap(), [1, 2, 3, 4]);
    assert_eq!(seal.key_id(), fixture.sender_key.key_id());
    assert!(seal.parents_cut());
    let mut sorted = given.clone();
    sorted.sort();
    assert_eq!(seal.parents()[..], sorted);
    assert_eq!(seal.hash(), sealed.seal().hash());
    assert_eq!(seal.hash(), SealedView::parse(sealed.frame()).expect("it parses").hash());
    let head = seal.to_bytes();
    assert_eq!(head[4..], sealed.frame()[4..head.len()], "all but ttl");
}

#[test]
fn another_key_opens_nothing() {
    let fixture = Fixture::new();
    let other = net_channel::SenderKey::new([9; 32]);
    let error = fixture.small().open(&other).expect_err("it is another key");
    assert_eq!(error, OpenError::UnknownKey(fixture.sender_key.key_id()));
}

#[test]
fn the_plaintext_does_not_stand_in_the_frame() {
    let fixture = Fixture::new();
    let payload = b"nobody but a subscriber may read this";
    let frame = builder(&[payload]).seal(&fixture.params()).expect("it can be sealed").frame().clone();
    assert!(!frame.windows(8).any(|w| payload.windows(8).any(|p| p == w)));
}

#[test]
fn an_event_of_1_mib_passes_and_one_byte_more_is_too_large() {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    let (payload, key) = (vec![7; EVENT_LEN_MAX - 8], b"key");
    let headers = Headers::new(&[("h", b"v")]).expect("small");
    assert_eq!(builder.push_encoded(&payload, Some(key), &headers, TIME), Ok(0));
    assert!(builder.is_full());
    let sealed = builder
        .seal(&SealParams { parents: &parents(255), ..fixture.params() })
        .expect("the largest event with all parents fits into a frame");
    let open = fixture.verify(sealed.frame()).expect("it verifies").open(&fixture.sender_key).expect("it opens");
    assert_eq!(open.event(0).expect("there is one").payload, payload);

    let longer = vec![7; EVENT_LEN_MAX - 7];
    let error = PushError::TooLarge { len: EVENT_LEN_MAX + 1, limit: EVENT_LEN_MAX };
    assert_eq!(builder.push_encoded(&longer, Some(key), &headers, TIME), Err(error));
    assert!(builder.is_empty(), "what is refused leaves nothing behind");
}

#[test]
fn keys_and_headers_have_limits_of_their_own() {
    let mut builder = BatchBuilder::new();
    assert_eq!(builder.push(b"", Some(&[1; 1_024]), &[], TIME), Ok(0));
    assert_eq!(builder.push(b"", Some(&[1; 1_025]), &[], TIME), Err(PushError::KeyTooLarge { len: 1_025 }));
    assert_eq!(builder.push(b"", Some(b""), &[], TIME), Err(PushError::EmptyKey));
    assert!(matches!(builder.push(b"", None, &[("", b"")], TIME), Err(PushError::Headers(_))));
    assert!(matches!(builder.push(b"", None, &[("n", &[0; 16 << 10])], TIME), Err(PushError::Headers(_))));
    assert_eq!(builder.events(), 1);
}

#[test]
fn a_batch_ends_at_4096_events() {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    for i in 0..4_096 {
        assert!(!builder.is_full());
        assert_eq!(builder.push(b"", None, &[], TIME), Ok(i));
    }
    assert!(builder.is_full());
    assert_eq!(builder.push(b"", None, &[], TIME), Err(PushError::Full));
    let sealed = builder.seal(&fixture.params()).expect("it can be sealed");
    let open = fixture.verify(sealed.frame()).expect("it verifies").open(&fixture.sender_key).expect("it opens");
    assert_eq!(open.events().len(), 4_096);
    assert_eq!(open.events().last().expect("there are many").seq, 1_005 + 4_095);
}

#[test]
fn a_batch_ends_at_512_kib_and_one_larger_event_goes_alone() {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    while builder.push(&[7; 1_000], None, &[], TIME).is_ok() {}
    assert!(builder.len_bytes() <= BATCH_BODY_LEN_MAX && builder.len_bytes() + 1_020 > BATCH_BODY_LEN_MAX);
    assert!(!builder.is_full(), "a smaller event would still fit");
    assert!(builder.push(&[7; 100], None, &[], TIME).is_ok());
    let expected = builder.len_bytes();
    let sealed = builder.seal(&fixture.params()).expect("it can be sealed");
    assert_eq!(sealed.frame().len(), 64 + 192 + expected);

    assert_eq!(builder.push(&[7; BATCH_BODY_LEN_MAX], None, &[], TIME), Ok(0));
    assert!(builder.is_full());
    assert_eq!(builder.push(b"", None, &[], TIME), Err(PushError::Full));
}

#[test]
fn events_further_apart_than_a_delta_holds_go_into_two_batches() {
    let mut builder = BatchBuilder::new();
    builder.push(b"a", None, &[], TIME).expect("it fits");
    assert_eq!(builder.push(b"b", None, &[], Hlc(TIME.0 + u64::from(u32::MAX) + 1)), Err(PushError::Full));
    builder.push(b"b", None, &[], Hlc(TIME.0 + u64::from(u32::MAX))).expect("the last that fits");
    builder.push(b"c", None, &[], Hlc(TIME.0 - 1)).expect("a time that falls back counts as the first");
    let fixture = Fixture::new();
    let open = builder.seal(&fixture.params()).expect("sealed").open(&fixture.sender_key).expect("it opens");
    let times: Vec<_> = open.events().map(|e| e.time.0 - TIME.0).collect();
    assert_eq!(times, [0, u64::from(u32::MAX), 0]);
}

/// Signs nothing until it is told to.
struct Agent<'a> {
    fixture: &'a Fixture,
    there: bool,
}

impl Signer for Agent<'_> {
    fn id(&self) -> EntityId {
        self.fixture.origin
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        if self.there { self.fixture.signer.sign(message) } else { Err(SignError::Refused("locked".into())) }
    }
}

#[test]
fn a_signer_that_fails_costs_no_event() {
    let fixture = Fixture::new();
    for parents in [parents(0), parents(3), parents(200)] {
        let params = SealParams { parents: &parents, ..fixture.params() };
        let mut builder = builder(&[b"one", b"two"]);
        let absent = Agent { fixture: &fixture, there: false };
        let error = builder.seal(&SealParams { signer: &absent, ..params }).expect_err("nobody signs");
        assert!(matches!(error, SealError::Sign(_)));
        builder.push(b"three", None, &[], TIME).expect("it goes on");
        let there = Agent { fixture: &fixture, there: true };
        let sealed = builder.seal(&SealParams { signer: &there, salt: [1; 16], ..params }).expect("it is signed now");
        let open = fixture.verify(sealed.frame()).expect("it verifies").open(&fixture.sender_key).expect("it opens");
        let payloads: Vec<_> = open.events().map(|e| e.payload).collect();
        assert_eq!(payloads, [&b"one"[..], b"two", b"three"]);
    }
}

#[test]
fn small_frames_do_not_keep_large_buffers() {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    while builder.push(&[7; 64], None, &[], TIME).is_ok() {}
    let large = builder.seal(&fixture.params()).expect("it can be sealed");
    builder.push(b"small", None, &[], TIME).expect("it fits");
    let small = builder.seal(&fixture.params()).expect("it can be sealed");
    assert!(large.frame().len() > 60_000);
    let (_, frame) = small.into_parts();
    let owned = frame.try_into_mut().expect("nobody else holds it");
    assert!(owned.capacity() < 2 * owned.len() + 1_024, "{} bytes for {}", owned.capacity(), owned.len());
}

#[test]
fn opened_bodies_are_aligned_wherever_the_frame_lay() {
    let fixture = Fixture::new();
    let sealed = builder(&[b"12345", b"6789"]).seal(&fixture.params()).expect("it can be sealed");
    for shift in 0..16 {
        let mut buffer = vec![0; shift];
        buffer.extend_from_slice(sealed.frame());
        let frame = Bytes::from(buffer).slice(shift..);
        let batch = SealedBatch::verify(frame, &fixture.mesh, &fixture.channel, &fixture.origin).expect("it verifies");
        for open in
            [batch.open(&fixture.sender_key), batch.open_in_place(&fixture.sender_key).map_err(|unopened| unopened.why)]
        {
            let open = open.expect("it opens");
            assert_eq!(open.plaintext().as_ptr().addr() % 16, 0, "shift {shift}");
            assert!(open.events().all(|e| e.payload.as_ptr().addr() % 8 == 0));
        }
    }
}

#[test]
fn opening_in_place_leaves_other_holders_their_ciphertext() {
    let fixture = Fixture::new();
    let sealed = fixture.small();
    let (kept, before) = (sealed.frame().clone(), sealed.frame().to_vec());
    let open = sealed.open_in_place(&fixture.sender_key).expect("it opens");
    assert_eq!(open.event(0).expect("there is one").payload, b"hello");
    assert_eq!(kept, before);
    assert!(fixture.verify(&kept).is_ok());
}

type Pushed = (Vec<u8>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

fn event() -> impl Strategy<Value = Pushed> {
    (
        prop::collection::vec(any::<u8>(), 0..300),
        prop::option::of(prop::collection::vec(any::<u8>(), 1..40)),
        prop::collection::vec(("[a-zü]{1,9}", prop::collection::vec(any::<u8>(), 0..20)), 0..3),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_events_round_trip(
        events in prop::collection::vec(event(), 1..50),
        parent_count in 0_u8..30,
        offset in 0_u64..1_000,
    ) {
        let fixture = Fixture::new();
        let parents = parents(parent_count);
        let mut builder = BatchBuilder::new();
        for (payload, key, headers) in &events {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
            builder.push(payload, key.as_deref(), &headers, TIME).expect("they fit");
        }
        let params = SealParams { seq: 1_000 + offset, parents: &parents, ..fixture.params() };
        let sealed = builder.seal(&params).expect("it can be sealed");
        let open = fixture.verify(sealed.frame()).expect("it verifies")
            .open_in_place(&fixture.sender_key).expect("it opens");
        let opened: Vec<Pushed> = open.events().map(|e| (
            e.payload.to_vec(),
            e.key.map(<[u8]>::to_vec),
            e.headers.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect(),
        )).collect();
        prop_assert_eq!(opened, events);
        prop_assert_eq!(open.seal().parents().len(), usize::from(parent_count));
    }

    #[test]
    fn bytes_that_are_no_frame_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let fixture = Fixture::new();
        prop_assert!(fixture.verify(&bytes).is_err());
        let mut begun = fixture.small().frame()[..256].to_vec();
        begun.extend(&bytes);
        prop_assert!(fixture.verify(&begun).is_err());
    }
}
