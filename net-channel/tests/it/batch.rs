//! Batches: what is sealed opens again, and everything else is refused.

use net_channel::{BatchBuilder, OpenError};

use crate::fixture::{Fixture, TIME, builder};

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
fn another_key_opens_nothing() {
    let fixture = Fixture::new();
    let other = net_channel::SenderKey::new([9; 32]);
    let error = fixture.small().open(&other).expect_err("it is another key");
    assert_eq!(error, OpenError::UnknownKey(fixture.sender_key.key_id()));
    assert!(BatchBuilder::new().is_empty());
}
