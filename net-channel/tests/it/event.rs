//! Events as an application sees them.

use net_channel::{Dot, EventBatch, Hlc, Parent, SealParams};
use net_identity::EntityKey;

use crate::fixture::{Fixture, TIME, builder, parents};

#[test]
fn an_event_shows_what_was_published() {
    let fixture = Fixture::new();
    let params = SealParams { parents: &parents(2), ..fixture.params() };
    let mut builder = builder(&[b"one"]);
    builder.push(b"two", Some(b"k"), &[("n", b"v")], Hlc(TIME.0 + 9)).expect("it fits");
    let sealed = builder.seal(&params).expect("it can be sealed");
    let entity = EntityKey::from_secret(&[7; 32]).id();
    let batch = EventBatch::new(fixture.name.clone(), entity, sealed.open(&fixture.sender_key).expect("it opens"));
    let events: Vec<_> = batch.events().collect();
    assert_eq!(events.len(), 2);
    let event = &events[1];
    assert_eq!(event.channel(), &fixture.name);
    assert_eq!((event.origin(), event.entity()), (fixture.origin, entity));
    assert_eq!(event.dot(), Dot { origin: fixture.origin, seq: 1_006 });
    assert_eq!((event.key(), event.payload()), (Some(&b"k"[..]), &b"two"[..]));
    assert_eq!(event.headers().value("n"), Some(&b"v"[..]));
    assert_eq!(event.time(), Hlc(TIME.0 + 9));
    assert_eq!(event.parents().len(), 2);
    let parent = Parent { origin: fixture.origin.short(), seq: 1_006, hash: sealed.hash().short() };
    assert_eq!(event.as_parent(), parent);
    assert_eq!((events[0].key(), events[0].headers().is_empty()), (None, true));
    assert!(!event.late() && !event.time_suspect());
    assert!(event.clone().with_late(true).late() && event.clone().with_time_suspect(true).time_suspect());
    assert!(batch.event(2).is_none());
}

#[test]
fn payload_bytes_share_the_batch_and_outlive_the_event() {
    let fixture = Fixture::new();
    let sealed = builder(&[b"one", b""]).seal(&fixture.params()).expect("it can be sealed");
    let open = sealed.open(&fixture.sender_key).expect("it opens");
    let batch = EventBatch::new(fixture.name.clone(), fixture.origin, open);
    let (first, second) = (batch.event(0).expect("there are two"), batch.event(1).expect("there are two"));
    let (place, bytes) = (first.payload().as_ptr(), first.payload_bytes());
    assert_eq!(bytes.as_ptr(), place, "nothing is copied");
    assert!(second.payload_bytes().is_empty());
    drop((first, second, batch));
    assert_eq!(&bytes[..], b"one");
}
