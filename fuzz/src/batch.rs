//! Batches: the frame as it came, and a frame whose body is what the origin seals, sealed and signed here.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use net_channel::{
    BATCH_EVENTS_MAX, BatchBuilder, BatchHash, EVENT_LEN_MAX, Hlc, KEY_LEN_MAX, Parent, SEAL_LEN, SealParams,
    SealedBatch, SealedView,
};
use net_transport::{HEADER_LEN, Header, Priority, ShortId, Visibility, prf};

use crate::world::{World, flipped};

/// Bytes of one parent.
const PARENT_LEN: usize = 24;

/// Reads the input as a frame; and seals and signs it, whatever it says. Accepted if either is opened.
pub fn run(data: &[u8]) -> bool {
    let world = World::new();
    let as_it_came = reads(&world, data);
    let signed = sealed(&world, data).is_some_and(|frame| reads(&world, &frame));
    as_it_came || signed
}

/// Parses, verifies, opens, and takes every event.
fn reads(world: &World, frame: &[u8]) -> bool {
    let Ok(view) = SealedView::parse(frame) else { return false };
    let verify = |frame: Vec<u8>| SealedBatch::verify(frame.into(), &world.mesh, &world.channel, &world.origin);
    let Ok(batch) = verify(frame.to_vec()) else { return false };
    let seal = batch.seal();
    assert_eq!((seal.hash(), &batch.frame()[..]), (view.hash(), frame));
    assert!((1..=BATCH_EVENTS_MAX).contains(&usize::from(seal.events())));
    assert!(seal.incarnation() <= seal.seq() && seal.is_first() == (seal.seq() == seal.incarnation()));
    let mut head = seal.to_bytes();
    head[..HEADER_LEN].copy_from_slice(seal.header().as_bytes());
    assert_eq!(head, frame[..head.len()], "a verified seal differs from its bytes");

    // Every bit is signed, but those of the ttl.
    let (forged, bit) = flipped(frame, frame, 0..frame.len() * 8);
    let ttl = seal.header().ttl();
    if verify(forged.clone()).is_ok() {
        let other = Header::parse(&forged).expect("it was verified");
        assert_ne!(other.ttl(), ttl, "bit {bit} of a batch is not signed");
        assert_eq!(other.to_signed_bytes(), seal.header().to_signed_bytes(), "bit {bit} of a batch is not signed");
    }

    let open = batch.open(&world.sender_key);
    let in_place = batch.clone().open_in_place(&world.sender_key);
    let (open, in_place) = match (open, in_place) {
        (Ok(open), Ok(in_place)) => (open, in_place),
        (open, in_place) => {
            assert_eq!(
                open.err(),
                in_place.err().map(|unopened| unopened.why),
                "one way to open is stricter than the other"
            );
            return false;
        }
    };
    assert_eq!(open.plaintext(), in_place.plaintext());
    assert_eq!(open.events().len(), usize::from(seal.events()));
    let mut len = 0;
    for (index, event) in (0..seal.events()).zip(open.events()) {
        assert_eq!(open.event(index), Some(event));
        assert_eq!(event.seq, seal.seq() + u64::from(index));
        assert!(event.time >= seal.time(), "an event before its batch");
        let key = event.key.unwrap_or_default();
        assert!(event.key != Some(&[]) && key.len() <= KEY_LEN_MAX);
        let headers: usize = event.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(headers <= event.headers.as_bytes().len(), "headers are larger than their bytes");
        let content = event.payload.len() + key.len() + event.headers.as_bytes().len();
        assert!(content <= EVENT_LEN_MAX);
        len += content;
    }
    assert!(len <= open.plaintext().len(), "events overlap");
    assert_eq!(open.event(seal.events()), None);
    true
}

/// A frame of the world's origin: the input's header and seal, and what follows them as plaintext. As
/// `docs/spec/batch.md` has it, without this project's code, which refuses to make what is malformed.
fn sealed(world: &World, data: &[u8]) -> Option<Vec<u8>> {
    let (clear, _) = data.split_at_checked(HEADER_LEN + SEAL_LEN)?;
    let mut header = *Header::parse(clear).ok()?;
    let seal = &clear[HEADER_LEN..];
    let parents_len = usize::from(seal[2]) * PARENT_LEN;
    let body_at = HEADER_LEN + (SEAL_LEN + parents_len).next_multiple_of(16);
    let (_, plaintext) = data.split_at_checked(body_at)?;
    let parents = &data[clear.len()..clear.len() + parents_len];
    header.set_channel(world.channel.prefix());
    header.set_origin(world.origin.short());
    header.set_key_id(world.sender_key.key_id().0);
    header.set_payload_len(u32::try_from(data.len() - HEADER_LEN + CHACHA20_POLY1305.tag_len()).ok()?);

    let salt = &seal[112..128];
    let key = prf(world.sender_key.expose(), "batch", &[&world.channel.0, &header.seq().to_le_bytes(), salt]);
    let commit = blake3::derive_key("net batch key commit v1", &key);
    let associated = [&header.to_signed_bytes(), &seal[..48], &commit, salt, parents].concat();
    let mut body = plaintext.to_vec();
    let cipher = if seal[1] & 4 == 0 { &CHACHA20_POLY1305 } else { &AES_256_GCM };
    LessSafeKey::new(UnboundKey::new(cipher, &key).expect("32 bytes"))
        .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&associated), &mut body)
        .expect("small");

    let seal = [&seal[..48], blake3::hash(&body).as_bytes(), &commit, salt].concat();
    let hash = blake3::hash(&[b"net batch hash v1\0", &header.to_signed_bytes()[..], &seal, parents].concat());
    let signature =
        world.sign(&[b"net batch v1\0", &world.mesh.0, &world.channel.0, world.origin.as_bytes(), hash.as_bytes()]);
    let padding = &data[clear.len() + parents_len..body_at];
    Some([header.as_bytes(), &seal[..], &signature, parents, padding, &body].concat())
}

/// Genuine batches of several shapes, and the same with the body in clear, to be sealed here.
pub fn seeds() -> Vec<Vec<u8>> {
    let world = World::new();
    let parents = [1, 2].map(|n| Parent { origin: ShortId([n; 8]), seq: 7, hash: [n; 8] });
    let params = SealParams {
        mesh: &world.mesh,
        channel: &world.channel,
        signer: &world.signer,
        sender_key: &world.sender_key,
        seq: 1_005,
        incarnation: 1_000,
        prev: BatchHash([0x44; 32]),
        parents: &[],
        parents_cut: false,
        salt: [0x55; 16],
        visibility: Visibility::Global,
        priority: Priority::Normal,
        realtime: false,
        subnet: [3, 7, 2, 0],
        aead: net_transport::Aead::ChaCha20Poly1305,
        cap: [0; 4],
    };
    let shapes = [
        (1, params),
        (1, SealParams { seq: 1_000, prev: BatchHash::ZERO, parents_cut: true, parents: &parents, ..params }),
        (2, SealParams { realtime: true, visibility: Visibility::Local, ..params }),
        (5, SealParams { parents: &parents[..1], ..params }),
        (3, SealParams { aead: net_transport::Aead::Aes256Gcm, ..params }),
    ];
    shapes
        .iter()
        .flat_map(|(events, params)| {
            let mut builder = BatchBuilder::new();
            for i in 0..*events {
                let key = (i % 2 == 1).then_some(&b"car-12"[..]);
                let headers: &[(&str, &[u8])] = if i == 0 { &[] } else { &[("unit", b"km/h"), ("n", b"")] };
                builder.push(&vec![i; usize::from(i) * 9], key, headers, Hlc(1 << 40 | u64::from(i))).expect("it fits");
            }
            let sealed = builder.seal(params).expect("it can be sealed");
            let open = sealed.open(&world.sender_key).expect("it opens");
            let clear = [&open.seal().to_bytes(), &open.plaintext()[..]].concat();
            [sealed.frame().to_vec(), clear]
        })
        .collect()
}
