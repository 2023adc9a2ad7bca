//! What a log tells of itself, and giving up its beginning on request.

use std::sync::atomic::{AtomicBool, Ordering};

use net_redex::{AppendError, EventItem, Log, LogConfig, Start, SyncPolicy};

use crate::support::{Origin, config};

/// A log of so many batches of two events, about three a segment, and who made them.
fn filled(sync: SyncPolicy, batches: u8) -> (tempfile::TempDir, Log, Origin) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config().segment_bytes(LogConfig::SEGMENT_BYTES_MIN).sync(sync);
    let log = Log::open(dir.path(), config).expect("a new log");
    let mut origin = Origin::new(1);
    for i in 0..batches {
        let frame = origin.batch(&[&[i; 9_000], &[i; 9_000]]);
        let _ack = log.append(&frame).wait().expect("room");
    }
    (dir, log, origin)
}

fn offsets(log: &Log) -> Vec<u64> {
    log.read(Start::Earliest)
        .expect("readable")
        .filter_map(|found| match found.expect("readable") {
            net_redex::Found::Batch(batch) => Some(batch.offset()),
            _ => None,
        })
        .collect()
}

#[test]
fn segments_follow_each_other_and_hold_everything() {
    let (dir, log, origin) = filled(SyncPolicy::Group, 10);
    let segments = log.segments().expect("readable");
    assert!(segments.len() >= 3, "{segments:?}");
    assert_eq!((segments[0].base, segments.last().expect("one").next_offset), (0, 20));
    assert!(segments.windows(2).all(|pair| pair[0].next_offset == pair[1].base && pair[0].last <= pair[1].last));
    let sealed: Vec<bool> = segments.iter().map(|s| s.sealed).collect();
    assert!(sealed[..sealed.len() - 1].iter().all(|s| *s) && !sealed[sealed.len() - 1], "the last one is written");
    for segment in &segments {
        let file = std::fs::metadata(dir.path().join(format!("{:016x}.seg", segment.base))).expect("its file").len();
        assert_eq!(segment.file_bytes, file);
        assert!(segment.bytes <= file && segment.bytes > 4096 && segment.begun <= segment.last.expect("not empty"));
    }
    assert_eq!(log.next_seqs(), [(origin.short(), origin.next_seq())]);
    log.close().expect("closed");
    let reader = Log::open(dir.path(), config().read_only()).expect("readable");
    let again = reader.segments().expect("readable");
    let places =
        |all: &[net_redex::SegmentInfo]| all.iter().map(|s| (s.base, s.next_offset, s.bytes)).collect::<Vec<_>>();
    assert_eq!(places(&again), places(&segments), "whoever only looks sees the same");
}

#[test]
fn empty_log_has_one_empty_segment() {
    let (_dir, log, _) = filled(SyncPolicy::Group, 0);
    let segments = log.segments().expect("readable");
    assert_eq!((segments.len(), segments[0].base, segments[0].next_offset, segments[0].last), (1, 0, 0, None));
    assert_eq!(log.next_seqs(), []);
    assert_eq!(log.trim(u64::MAX).expect("nothing to do"), 0);
}

#[test]
fn trim_gives_up_whole_segments_before_the_offset_and_readers_are_told() {
    for sync in [SyncPolicy::Group, SyncPolicy::None] {
        let (dir, log, origin) = filled(sync, 10);
        let segments = log.segments().expect("readable");
        let second = segments[1];
        let mut behind = log.events(Start::Earliest).expect("readable");
        assert_eq!(log.trim(second.next_offset - 1).expect("room"), second.base, "a segment goes whole or stays");
        assert_eq!(log.first_offset(), second.base);
        assert!(matches!(behind.next_item(), Ok(Some(EventItem::Trimmed { first })) if first == second.base));
        assert_eq!(offsets(&log).first(), Some(&second.base));
        assert!(!dir.path().join(format!("{:016x}.seg", 0)).exists());
        assert_eq!(log.segments().expect("readable"), segments[1..]);
        log.close().expect("closed");
        let log = Log::open(dir.path(), config()).expect("still a log");
        assert_eq!((log.first_offset(), log.next_offset()), (second.base, 20));
        assert_eq!(log.next_seqs(), [(origin.short(), origin.next_seq())]);
        assert_eq!(log.verify(&[origin.key.id()], &[]).expect("readable").faults, []);
    }
}

#[test]
fn trim_of_everything_leaves_an_empty_log_that_goes_on_where_it_stood() {
    for sync in [SyncPolicy::Group, SyncPolicy::None, SyncPolicy::Memory] {
        let (dir, log, mut origin) = filled(sync, 10);
        assert_eq!(log.trim(20).expect("room"), 20);
        assert_eq!((offsets(&log), log.segments().expect("readable").len()), (vec![], 1));
        let frame = origin.batch(&[b"after"]);
        assert_eq!(log.append(&frame).wait().expect("room").offset(), 20, "an offset is never used twice");
        if sync == SyncPolicy::Memory {
            continue;
        }
        log.close().expect("closed");
        let log = Log::open(dir.path(), config()).expect("still a log");
        assert_eq!((offsets(&log), log.recovery().holes.len()), (vec![20], 0));
        assert_eq!(log.verify(&[origin.key.id()], &[]).expect("readable").faults, []);
    }
}

#[test]
fn trim_is_refused_by_a_log_that_is_only_looked_at_and_by_one_that_is_closed() {
    let (dir, log, _) = filled(SyncPolicy::Group, 10);
    let other = log.clone();
    log.close().expect("closed");
    assert!(matches!(other.trim(20), Err(AppendError::Closed)));
    let reader = Log::open(dir.path(), config().read_only()).expect("readable");
    assert!(matches!(reader.trim(20), Err(AppendError::ReadOnly)));
    assert_eq!(offsets(&reader).len(), 10);
}

#[test]
fn log_beside_a_writer_says_so() {
    let (dir, log, _) = filled(SyncPolicy::Group, 1);
    assert!(!log.recovery().beside_writer);
    let open = || Log::open(dir.path(), config().read_only()).expect("readable");
    let beside = || open().recovery().beside_writer;
    assert!(beside());
    let file_bytes = |log: &Log| log.segments().expect("readable")[0].file_bytes;
    assert_eq!(file_bytes(&open()), file_bytes(&log), "the file, not what is looked at");
    log.close().expect("closed");
    assert!(!beside());
}

#[test]
fn keys_of_the_ring_are_named_and_only_with_its_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let origin = Origin::new(1);
    let log = Log::open(dir.path(), config().ring_secret([5; 32])).expect("a new log");
    assert_eq!(log.key_ids(), Some(vec![]));
    log.add_key(origin.key.id(), 0, origin.sender_key.clone()).expect("room");
    let names = vec![(origin.short(), origin.sender_key.key_id())];
    assert_eq!(log.key_ids(), Some(names.clone()));
    assert_eq!(log.origin(&origin.short()), Some(origin.key.id()));
    assert_eq!(log.origin(&Origin::new(2).short()), None);
    log.close().expect("closed");
    let open = |config: LogConfig| Log::open(dir.path(), config.read_only()).expect("readable").key_ids();
    assert_eq!(open(config()), None);
    assert_eq!(open(config().ring_secret([5; 32])), Some(names));
}

#[test]
fn verification_tells_how_far_it_has_come() {
    let (_dir, log, origin) = filled(SyncPolicy::Group, 10);
    let mut told = Vec::new();
    let report = log.verify_with_progress(&[origin.key.id()], &[], |bytes| told.push(bytes)).expect("readable");
    let segments = log.segments().expect("readable");
    let records: u64 = segments.iter().map(|s| s.bytes - 4096).sum();
    assert_eq!((report.batches, told.len(), told.last()), (10, 10, Some(&records)));
    assert!(told.is_sorted());
}

#[test]
fn those_who_look_never_keep_a_writer_out() {
    let (dir, log, _) = filled(SyncPolicy::Group, 1);
    log.close().expect("closed");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(Log::open(dir.path(), config().read_only()).is_ok());
                }
            });
        }
        let opened = (0..300).try_for_each(|_| Log::open(dir.path(), config().without_threads()).map(drop));
        done.store(true, Ordering::Relaxed);
        opened.expect("only looked at by others");
    });
}
