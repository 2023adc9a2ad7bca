//! Typed payloads.

use bytes::Bytes;
use net_channel::{Codec, CodecError, Postcard};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reading {
    sensor: String,
    value: f64,
}

fn reading() -> Reading {
    Reading { sensor: "north".into(), value: -3.5 }
}

fn round_trip<C: Codec<Reading>>() {
    let mut out = b"before".to_vec();
    C::encode(&reading(), &mut out).expect("it can be encoded");
    assert_eq!(&out[..6], b"before", "it is appended");
    let payload = Bytes::from(out).slice(6..);
    assert_eq!(C::decode(&payload).expect("it can be decoded"), reading());
    assert!(matches!(C::decode(&payload.slice(..payload.len() - 1)), Err(CodecError::Decode(_))));
    assert!(matches!(C::decode(&Bytes::new()), Err(CodecError::Decode(_))));
}

#[test]
fn postcard_round_trips_and_takes_no_trailing_bytes() {
    round_trip::<Postcard>();
    let mut out = Vec::new();
    Postcard::encode(&reading(), &mut out).expect("it can be encoded");
    out.push(0);
    let decoded: Result<Reading, _> = Postcard::decode(&out.into());
    assert!(matches!(decoded, Err(CodecError::Decode(_))));
}

#[cfg(feature = "json")]
#[test]
fn json_round_trips() {
    round_trip::<net_channel::Json>();
    let decoded: Reading =
        net_channel::Json::decode(&Bytes::from_static(br#"{"sensor":"a","value":1}"#)).expect("JSON");
    assert_eq!(decoded.value, 1.0);
}

#[cfg(feature = "rkyv")]
mod archive {
    use net_channel::{Codec, CodecError, Rkyv};

    use crate::fixture::{Fixture, builder};

    #[derive(Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    struct Point {
        x: u64,
        name: String,
    }

    fn point() -> Point {
        Point { x: 1 << 40, name: "a name that is longer than what lies inline".into() }
    }

    #[test]
    fn rkyv_is_read_in_place_from_an_opened_batch() {
        let fixture = Fixture::new();
        let mut payload = Vec::new();
        Rkyv::encode(&point(), &mut payload).expect("it can be encoded");
        let sealed = builder(&[b"odd", &payload]).seal(&fixture.params()).expect("it can be sealed");
        let open = sealed.open(&fixture.sender_key).expect("it opens");
        let event = open.event(1).expect("there are two");
        let place = Rkyv::with_archived::<ArchivedPoint, _>(event.payload, |archived| {
            assert_eq!(archived.x, 1 << 40);
            std::ptr::from_ref(archived).addr()
        })
        .expect("it is one");
        let payload_place = event.payload.as_ptr().addr();
        assert!((payload_place..payload_place + event.payload.len()).contains(&place), "nothing was copied");
        let decoded: Point = Rkyv::decode(&open.slice(event.payload)).expect("it is one");
        assert_eq!(decoded, point());
    }

    #[test]
    fn rkyv_copies_where_the_payload_is_not_aligned_and_refuses_what_is_none() {
        let mut payload = vec![0];
        Rkyv::encode(&point(), &mut payload).expect("it can be encoded");
        let payload = bytes::Bytes::from(payload);
        for start in [0, 1] {
            let aligned = payload.slice(1..).to_vec();
            let shifted = [&vec![0; start][..], &aligned].concat();
            let decoded: Point = Rkyv::decode(&bytes::Bytes::from(shifted).slice(start..)).expect("wherever it lies");
            assert_eq!(decoded, point());
        }
        let decoded: Result<Point, _> = Rkyv::decode(&payload.slice(1..6));
        assert!(matches!(decoded, Err(CodecError::Decode(_))));
    }
}
