//! Appending and reading, on real files.

use net_redex::{Ack, Log, SyncPolicy};

use crate::support::{Origin, batches, config, stored};

#[test]
fn what_is_appended_is_read_in_order_and_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..100).map(|i: u32| origin.batch(&[&i.to_le_bytes(), b"x"])).collect();
    let log = Log::open(dir.path(), config()).expect("a new log");
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(log.append(frame).wait().expect("room"), Ack::Durable { offset: 2 * i as u64 });
    }
    let check = |log: &Log| {
        let read = batches(log);
        assert_eq!(read.len(), frames.len());
        for (batch, frame) in read.iter().zip(&frames) {
            assert_eq!(batch.frame(), stored(frame));
        }
    };
    check(&log);
    log.close().expect("closed");
    let log = Log::open(dir.path(), config()).expect("reopened");
    assert_eq!(log.recovery(), &net_redex::Recovery::default());
    assert_eq!(log.next_seq(&origin.short()), Some(origin.next_seq()));
    check(&log);
}

#[test]
fn small_segments_roll_and_read_back() {
    for sync in [SyncPolicy::Always, SyncPolicy::Group, SyncPolicy::None, SyncPolicy::Memory] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut origin = Origin::new(1);
        let payload = [7; 3000];
        let frames: Vec<_> = (0..200).map(|_| origin.batch(&[&payload])).collect();
        let config = config().sync(sync).segment_bytes(64 << 10);
        let log = Log::open(dir.path(), config.clone()).expect("a new log");
        for (i, frame) in frames.iter().enumerate() {
            let ack = log.append(frame).wait().expect("room");
            assert_eq!(
                (ack.offset(), ack.is_durable()),
                (i as u64, sync != SyncPolicy::None && sync != SyncPolicy::Memory)
            );
        }
        assert_eq!(batches(&log).len(), 200);
        assert!(log.metrics().rolls >= 9, "{:?}", log.metrics());
        log.close().expect("closed");
        if sync != SyncPolicy::Memory {
            let log = Log::open(dir.path(), config).expect("reopened");
            let read = batches(&log);
            assert!(read.iter().map(|b| b.frame().to_vec()).eq(frames.iter().map(|f| stored(f))));
        }
    }
}

#[test]
fn origins_are_known_after_retention_has_given_up_all_that_they_wrote() {
    let dir = tempfile::tempdir().expect("a directory");
    let retention = net_redex::Retention::default().events(1);
    let open = || Log::open(dir.path(), config().segment_bytes(64 << 10).retention(retention)).expect("it opens");
    let (mut gone, mut other) = (Origin::new(1), Origin::new(2));
    let log = open();
    let first = gone.batch(&[b"first"]);
    let _ack = log.append(&first).wait().expect("stored");
    for _ in 0..20 {
        let _ack = log.append(&other.batch(&[&[7; 20_000]])).wait().expect("stored");
    }
    log.tend();
    assert!(log.first_offset() > 1);
    let heads = log.next_seqs();
    drop(log);
    for _ in 0..2 {
        let log = open();
        assert_eq!((log.next_seqs(), heads.len()), (heads.clone(), 2));
        log.tend();
        log.trim(u64::MAX).expect("all of it is given up");
    }
    let log = open();
    assert_eq!(log.next_seqs(), heads);
    let indexes = std::fs::read_dir(dir.path())
        .expect("readable")
        .filter(|entry| entry.as_ref().expect("readable").file_name().to_string_lossy().ends_with(".idx"));
    assert!(indexes.count() <= 2, "the indexes of what was given up before are gone");
}
