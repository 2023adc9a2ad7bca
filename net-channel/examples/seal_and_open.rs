//! A producer seals a batch; a relay checks it without a key; a subscriber is granted the key and reads it.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use net_channel::{
    BatchBuilder, ChannelName, HlcClock, KeyGrant, SealParams, SealedBatch, SealedView, SenderKey, first_seq,
    random_salt,
};
use net_identity::EntityKey;
use net_transport::MeshId;

fn main() -> Result<(), Box<dyn Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let (unix_ms, unix_ns) = (u64::try_from(now.as_millis())?, u64::try_from(now.as_nanos())?);
    let mesh = MeshId([7; 32]);
    let channel = ChannelName::parse("quakes/ak")?.hash(&mesh);

    // The producer: a key of its own, a fresh sender key, a new incarnation.
    let (origin, sender_key, mut clock) = (EntityKey::generate(), SenderKey::generate(), HlcClock::new());
    let incarnation = first_seq(unix_ns, 0, 0)?;
    let mut builder = BatchBuilder::new();
    for text in ["2.4 near Anchorage", "1.1 near Fairbanks", "5.0 off Kodiak"] {
        builder.push(text.as_bytes(), None, &[("unit", b"magnitude")], clock.tick(unix_ms))?;
    }
    let sealed = builder.seal(&SealParams::first(&mesh, &channel, &origin, &sender_key, incarnation, random_salt()))?;
    println!("sealed {} events into {} bytes", sealed.seal().events(), sealed.frame().len());

    // A relay: no key, and still it knows who sent this.
    let seal = SealedView::parse(sealed.frame())?.verify(&mesh, &channel, &origin.id())?;
    println!("a relay sees batch {} of {}", seal.hash(), seal.origin());

    // The subscriber: a grant that names its node, and then the events.
    let subscriber = EntityKey::generate().id().into();
    let grant =
        KeyGrant { channel, origin: origin.id(), first_seq: incarnation, not_after: now.as_secs() + 3_600, sender_key };
    let granted = KeyGrant::verify(&grant.sign(&subscriber, &origin)?, &subscriber, now.as_secs())?;
    let received = SealedBatch::verify(sealed.frame().clone(), &mesh, &channel, &granted.origin)?;
    for event in received.open(&granted.sender_key)?.events() {
        println!("{} {}", event.time, String::from_utf8_lossy(event.payload));
    }
    Ok(())
}
