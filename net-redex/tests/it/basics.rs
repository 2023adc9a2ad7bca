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
