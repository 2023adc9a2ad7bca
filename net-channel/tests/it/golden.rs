//! The bytes of version 1. They stay for ever: what was written once must be read always.

use net_channel::{Advert, BatchBuilder, Equivocation, FloorFile, Hlc, KeyGrant, SealParams, SealedBatch, Tick};
use net_transport::{Priority, Visibility};

use crate::fixture::{Fixture, TIME, builder, parents};
use crate::{advert, equivocation, grant, tick};

/// The golden bytes of this name, which `actual` must equal. `BLESS_GOLDEN=1` writes them anew: for a new format only.
fn golden(name: &str, actual: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1").join(name);
    if std::env::var_os("BLESS_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("golden files can be written");
    }
    let golden = std::fs::read(&path).expect("golden files are in the repository");
    assert!(golden == actual, "the format of {name} changed");
    golden
}

fn check(fixture: &Fixture, name: &str, sealed: &SealedBatch) -> SealedBatch {
    let batch = fixture.verify(&golden(name, sealed.frame())).expect("golden bytes verify");
    assert_eq!(batch.hash(), sealed.hash());
    batch
}

#[test]
fn golden_batch_of_one_event() {
    let fixture = Fixture::new();
    let batch = check(&fixture, "batch-small.bin", &fixture.small());
    assert_eq!(batch.open(&fixture.sender_key).expect("it opens").event(0).expect("one").payload, b"hello");
}

#[test]
fn golden_batch_under_aes() {
    let fixture = Fixture::new();
    let params = SealParams { aead: net_transport::Aead::Aes256Gcm, ..fixture.params() };
    let sealed = builder(&[b"hello"]).seal(&params).expect("it can be sealed");
    let batch = check(&fixture, "batch-aes.bin", &sealed);
    assert_eq!(batch.open(&fixture.sender_key).expect("it opens").event(0).expect("one").payload, b"hello");
}

#[test]
fn golden_first_batch_with_keys_headers_and_parents() {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    builder.push(b"", None, &[], TIME).expect("it fits");
    builder.push(b"one", Some(b"key"), &[("name", b"value"), ("n", b"")], Hlc(TIME.0 + 1)).expect("it fits");
    builder.push(&[0xee; 100], None, &[], Hlc(TIME.0 + 70_000)).expect("it fits");
    let params = SealParams {
        seq: 1_000,
        prev: net_channel::BatchHash::ZERO,
        parents: &parents(11),
        parents_cut: true,
        visibility: Visibility::Exported,
        priority: Priority::Highest,
        cap: [9, 8, 7, 6],
        ..fixture.params()
    };
    let batch = check(&fixture, "batch-first.bin", &builder.seal(&params).expect("it can be sealed"));
    assert!(batch.seal().is_first());
    let open = batch.open(&fixture.sender_key).expect("it opens");
    let event = open.event(1).expect("there are three");
    assert_eq!((event.key, event.payload, event.time.0), (Some(&b"key"[..]), &b"one"[..], TIME.0 + 1));
    assert_eq!(event.headers.value("name"), Some(&b"value"[..]));
}

#[test]
fn golden_realtime_batch() {
    let fixture = Fixture::new();
    let params = SealParams { realtime: true, ..fixture.params() };
    let sealed = builder(&[b"new", b"newer"]).seal(&params).expect("it can be sealed");
    assert!(check(&fixture, "batch-realtime.bin", &sealed).seal().is_realtime());
}

#[test]
fn golden_tick() {
    let fixture = Fixture::new();
    let frame = Tick::sign(&tick::params(&fixture)).expect("it signs");
    let tick = Tick::verify(&golden("tick.bin", &frame), &fixture.mesh, &fixture.channel, &fixture.origin);
    assert_eq!(tick.expect("golden bytes verify").last_seq, 1_005);
}

#[test]
fn golden_advert() {
    let fixture = Fixture::new();
    let bytes = advert::advert(&fixture).sign(&fixture.mesh, &fixture.signer).expect("it signs");
    let verified = Advert::verify(&golden("advert.bin", &bytes), &fixture.mesh).expect("golden bytes verify");
    assert_eq!(verified.advert(), &advert::advert(&fixture));
}

#[test]
fn golden_key_grant() {
    let fixture = Fixture::new();
    let bytes = grant::grant(&fixture).sign(&grant::subscriber(), &fixture.signer).expect("it signs");
    let golden = golden("key-grant.bin", &bytes);
    let granted = KeyGrant::verify(&golden, &grant::subscriber(), grant::NOW).expect("golden bytes verify");
    assert_eq!(granted.sender_key.key_id(), fixture.sender_key.key_id());
}

#[test]
fn golden_equivocation() {
    let fixture = Fixture::new();
    let bytes = equivocation::proof(&fixture).to_bytes();
    let proof = Equivocation::verify(&golden("equivocation.bin", &bytes), &fixture.mesh);
    assert_eq!(proof.expect("golden bytes verify").seq(), 1_005);
}

#[test]
fn golden_floor() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("floor");
    FloorFile::open(&path).expect("no file yet").raise(0x0102_0304_0506_0708).expect("it is written");
    let golden = golden("floor.bin", &std::fs::read(&path).expect("it is there"));
    net_identity::secret_file::replace(&path, &golden).expect("written");
    assert_eq!(FloorFile::open(&path).expect("golden bytes are read").floor(), 0x0102_0304_0506_0708);
}
