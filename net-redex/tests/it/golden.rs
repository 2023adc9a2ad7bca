//! The bytes of format version 1. They never change: a log of today opens for ever.
//!
//! `NET_BLESS=1` writes them where there are none yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net_identity::EntityKey;
use net_redex::{Clock, Entropy, EventItem, Log, LogConfig, Start};

const FILES: [&str; 4] = ["MANIFEST", "keys", "0000000000000000.seg", "0000000000000000.idx"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1")
}

/// A log that is the same each time it is made: two segments, the first of them sealed.
fn make(dir: &Path) {
    let (time, random) = (AtomicU64::new(1_000_000), AtomicU64::new(1));
    let config = LogConfig::default()
        .segment_bytes(64 << 10)
        .ring_secret([9; 32])
        .aead(net_transport::Aead::ChaCha20Poly1305)
        .without_threads()
        .clock(Clock::new(move || time.fetch_add(1000, Ordering::Relaxed)))
        .entropy(Entropy::new(move |bytes| {
            let n = random.fetch_add(1, Ordering::Relaxed).to_le_bytes();
            bytes.iter_mut().zip(n.iter().cycle()).for_each(|(byte, n)| *byte = *n);
        }));
    let log = Log::open(dir, config).expect("a new log");
    let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
    for i in 0..3_u8 {
        let _ack = writer.append(&vec![i; 25_000]).expect("written");
    }
}

#[test]
fn version_1_is_written_as_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    make(dir.path());
    for name in FILES {
        let made = std::fs::read(dir.path().join(name)).expect("made");
        let path = golden().join(name);
        if std::env::var_os("NET_BLESS").is_some() && !path.exists() {
            std::fs::create_dir_all(golden()).expect("writable");
            std::fs::write(&path, &made).expect("writable");
        }
        let expected = std::fs::read(&path).expect("in the repository");
        let differs = made.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((made.len(), differs), (expected.len(), None), "{name}");
    }
}

#[test]
fn version_1_is_read_as_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in FILES {
        std::fs::copy(golden().join(name), dir.path().join(name)).expect("copied");
    }
    let log = Log::open(dir.path(), LogConfig::default().ring_secret([9; 32]).read_only()).expect("it opens");
    let mut payloads = Vec::new();
    for item in log.events(Start::Earliest).expect("readable") {
        if let EventItem::Event(event) = item.expect("readable") {
            payloads.push((event.payload().len(), event.payload()[0]));
        }
    }
    assert_eq!(payloads, [(25_000, 0), (25_000, 1)]);
    assert_eq!(
        log.verify(&[], &[]).expect("readable").faults.len(),
        1,
        "the second segment is not here, and is missed"
    );
    let end = log.recovery().holes.first().expect("the floor is beyond");
    assert_eq!(end.offsets, 2..3);
}
