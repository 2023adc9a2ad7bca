//! Writers, key ring, compaction, retention, positions, tails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_channel::Cursor;
use net_identity::EntityKey;
use net_redex::{
    AppendError, Clock, EventItem, Found, Log, LogConfig, NewEvent, OpenError, Retention, SealedWhy, Start, SyncPolicy,
    WriterError,
};
use net_transport::Pair;

use crate::support::{Origin, batches, config, read_all};

fn signer(number: u8) -> Arc<EntityKey> {
    Arc::new(EntityKey::from_secret(&[number; 32]))
}

fn payloads(log: &Log) -> Vec<Vec<u8>> {
    let payload = |item| match item {
        Ok(EventItem::Event(event)) => event.payload().to_vec(),
        other => panic!("expected events only, found {other:?}"),
    };
    log.events(Start::Earliest).expect("readable").map(payload).collect()
}

#[test]
fn events_of_many_threads_share_batches_and_keep_each_threads_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), LogConfig::default()).expect("a new log");
    let writer = log.writer(signer(1)).expect("a writer");
    std::thread::scope(|scope| {
        for thread in 0..16_u8 {
            let writer = writer.clone();
            scope.spawn(move || {
                let mut last = None;
                for i in 0..50_u8 {
                    let ack = writer.append(&[thread, i]).expect("written");
                    assert!(ack.is_durable() && Some(ack.offset()) > last);
                    last = Some(ack.offset());
                }
            });
        }
    });
    let read = payloads(&log);
    assert_eq!(read.len(), 800);
    for thread in 0..16 {
        let of: Vec<u8> = read.iter().filter(|p| p[0] == thread).map(|p| p[1]).collect();
        assert!(of.iter().copied().eq(0..50), "{of:?}");
    }
    let metrics = log.metrics();
    assert!(metrics.batches < 800, "{metrics:?}: events share batches");
    assert_eq!(log.verify(&[], &[]).expect("readable").faults, []);
}

#[test]
fn key_ring_opens_what_earlier_starts_wrote_and_only_with_its_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |secret| Log::open(dir.path(), LogConfig::default().ring_secret(secret));
    for start in 0..3_u8 {
        let log = open([9; 32]).expect("opens");
        let writer = log.writer(signer(1)).expect("a writer");
        let _ack = writer.append(&[start]).expect("written");
        assert!(matches!(log.writer(signer(1)), Err(WriterError::Taken)));
    }
    let log = open([9; 32]).expect("opens");
    assert_eq!(payloads(&log), [[0], [1], [2]]);
    let Some(Ok(Found::Batch(first))) = log.read(Start::Earliest).expect("readable").next() else { panic!("a batch") };
    let key = net_channel::KeyId(first.header().key_id());
    log.remove_key(&first.header().origin(), key).expect("written");
    drop((log, first));
    assert!(matches!(open([8; 32]), Err(OpenError::Damaged { .. })), "another secret");
    let log = open([9; 32]).expect("opens");
    let all: Vec<_> = log.events(Start::Earliest).expect("readable").map(|item| item.expect("readable")).collect();
    assert!(matches!(all[0], EventItem::Sealed { why: SealedWhy::NoKey(id), .. } if id == key), "shredded: {all:?}");
    assert!(matches!(all[1..], [EventItem::Event(_), EventItem::Event(_)]));
    drop(log);
    let bytes = std::fs::read(dir.path().join("keys")).expect("the ring");
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        std::fs::write(dir.path().join("keys"), &bad).expect("writable");
        assert!(open([9; 32]).is_err(), "byte {at}");
    }
    // Without the secret nothing opens, and everything verifies.
    std::fs::write(dir.path().join("keys"), &bytes).expect("writable");
    let log = Log::open(dir.path(), LogConfig::default()).expect("opens");
    assert_eq!(log.verify(&[], &[]).expect("readable").faults, []);
    assert!(log.events(Start::Earliest).expect("readable").all(|i| matches!(i, Ok(EventItem::Sealed { .. }))));
}

#[test]
fn compaction_takes_superseded_bodies_and_leaves_chain_and_signatures() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = || LogConfig::default().ring_secret([9; 32]).segment_bytes(64 << 10).sync(SyncPolicy::None);
    let log = Log::open(dir.path(), config()).expect("a new log");
    let writer = log.writer(signer(1)).expect("a writer");
    let value = [7; 2000];
    for i in 0..120_u8 {
        let key = [i % 4];
        let event = NewEvent { payload: &value, key: Some(&key), ..NewEvent::default() };
        let _ack = writer.append(event).expect("written");
    }
    let _ack = writer.append(b"without a key").expect("written");
    let before = batches(&log).len();
    let mut old_reader = log.read(Start::Earliest).expect("readable");
    let old_first = old_reader.next().expect("one").expect("readable");
    let done = log.compact().expect("all opens");
    assert!(done.batches > 50 && done.segments >= 2 && done.bytes > 100_000, "{done:?}");
    let Found::Batch(old_first) = old_first else { panic!("a batch") };
    assert!(old_first.frame().len() > 2000, "what is lent out stays");
    let check = |log: &Log| {
        assert_eq!(batches(log).len(), before, "every batch's head is there");
        assert_eq!(log.verify(&[], &[]).expect("readable").faults, []);
        let mut compacted = 0;
        let mut kept = Vec::new();
        for item in log.events(Start::Earliest).expect("readable") {
            match item.expect("readable") {
                EventItem::Event(event) => kept.push(event.get().key.map(<[u8]>::to_vec)),
                EventItem::Compacted { .. } => compacted += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(compacted, done.batches);
        for key in 0..4_u8 {
            assert!(kept.contains(&Some(vec![key])), "the latest of each key stays");
        }
        assert_eq!(log.latest(&[2]).expect("readable").expect("there").offset(), 118);
        assert_eq!(log.scrub().expect("readable").holes, []);
    };
    check(&log);
    let newest = log.newest_events().expect("readable").filter_map(|item| match item {
        Ok(EventItem::Event(event)) => Some((event.get().key.map(<[u8]>::to_vec), event.offset())),
        _ => None,
    });
    let newest = newest.collect::<Vec<_>>();
    let expected =
        [(Some(vec![0]), 116), (Some(vec![1]), 117), (Some(vec![2]), 118), (Some(vec![3]), 119), (None, 120)];
    assert_eq!(newest, expected);
    assert_eq!(log.compact().expect("all opens").batches, 0, "nothing more to take");
    drop((writer, old_reader));
    log.close().expect("closed");
    let log = Log::open(dir.path(), config()).expect("opens");
    check(&log);
    drop(log);
    let log = Log::open(dir.path(), LogConfig::default().segment_bytes(64 << 10)).expect("opens");
    assert!(matches!(log.compact(), Err(net_redex::CompactError::Unreadable { .. })), "refused without the key");
}

/// Keyed events of 2,000 bytes; after compaction of the first segments only the newest of each key has a body.
fn keyed(log: &Log, count: u8) -> net_redex::Writer {
    let writer = log.writer(signer(1)).expect("a writer");
    for i in 0..count {
        let event = NewEvent { payload: &[7; 2000], key: Some(&[i % 4]), ..NewEvent::default() };
        let _ack = writer.append(event).expect("written");
    }
    writer
}

#[test]
fn bytes_that_compaction_freed_do_not_count_for_retention() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = LogConfig::default().segment_bytes(64 << 10).without_threads();
    let limit = 6 * (64 << 10);
    let log = Log::open(dir.path(), config.retention(Retention::default().bytes(limit))).expect("a new log");
    let writer = keyed(&log, 100);
    log.tend();
    assert_eq!(log.first_offset(), 0, "it just fits");
    assert!(log.compact().expect("all opens").segments >= 2);
    for i in 0..60_u8 {
        let event = NewEvent { payload: &[7; 2000], key: Some(&[100 + i]), ..NewEvent::default() };
        let _ack = writer.append(event).expect("written");
        log.tend();
    }
    assert_eq!(log.first_offset(), 0, "compaction has made room for these");
    let bytes: u64 = std::fs::read_dir(dir.path())
        .expect("readable")
        .map(|entry| entry.expect("readable"))
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".seg"))
        .map(|entry| entry.metadata().expect("readable").len())
        .sum();
    assert!(bytes <= limit, "{bytes}");
}

#[test]
fn retention_gives_up_whole_segments_while_a_reader_tails() {
    for retention in [
        Retention::default().events(50),
        Retention::default().bytes(200 << 10),
        Retention::default().age(Duration::from_nanos(50)),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let time = AtomicU64::new(1);
        let tick = move || time.fetch_add(1, Ordering::Relaxed);
        let config = config().segment_bytes(64 << 10).retention(retention).without_threads().clock(Clock::new(tick));
        let log = Log::open(dir.path(), config).expect("a new log");
        let mut origin = Origin::new(1);
        let mut behind = log.read(Start::Earliest).expect("readable");
        let mut tail = log.read(Start::Latest).expect("readable");
        for i in 0..200 {
            let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
            let Ok(Some(Found::Batch(batch))) = tail.next_found() else { panic!("the tail goes on") };
            assert_eq!(batch.offset(), i);
            log.tend();
        }
        let first = log.first_offset();
        assert!(first > 100, "{retention:?}: first {first}");
        let found = behind.next_found().expect("readable");
        assert!(matches!(found, Some(Found::Trimmed { first: f }) if f == first), "{found:?}");
        let Ok(Some(Found::Batch(batch))) = behind.next_found() else { panic!("it goes on behind") };
        assert_eq!(batch.offset(), first);
        let segments = std::fs::read_dir(dir.path())
            .expect("readable")
            .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().ends_with(".seg")));
        assert!(segments.count() <= 4);
        drop(log);
        let log = Log::open(dir.path(), crate::support::config().segment_bytes(64 << 10)).expect("opens");
        assert_eq!(log.first_offset(), first);
        assert_eq!(log.next_offset(), 200);
    }
}

#[test]
fn segment_that_never_fills_goes_when_it_is_too_old() {
    let dir = tempfile::tempdir().expect("a directory");
    let now = Arc::new(AtomicU64::new(1_000));
    let clock = now.clone();
    let config = || {
        let clock = clock.clone();
        let retention = Retention::default().age(Duration::from_nanos(100));
        config().retention(retention).without_threads().clock(Clock::new(move || clock.load(Ordering::Relaxed)))
    };
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let append = |origin: &mut Origin, log: &Log, at| {
        now.store(at, Ordering::Relaxed);
        let _ack = log.append(&origin.batch(&[b"x"])).wait().expect("room");
        log.tend();
    };
    append(&mut origin, &log, 1_000);
    append(&mut origin, &log, 1_090);
    assert_eq!((log.first_offset(), log.metrics().rolls), (0, 0), "nothing is too old");
    now.store(1_101, Ordering::Relaxed);
    log.tend();
    assert_eq!((log.first_offset(), log.metrics().rolls), (0, 1), "the youngest of the segment is not yet");
    now.store(1_191, Ordering::Relaxed);
    log.tend();
    assert_eq!((log.first_offset(), log.metrics().rolls), (2, 1));
    append(&mut origin, &log, 1_200);
    now.store(2_000, Ordering::Relaxed);
    log.tend();
    log.tend();
    assert_eq!((log.first_offset(), log.next_offset(), log.metrics().rolls), (3, 3, 2), "and then it is empty");
    append(&mut origin, &log, 2_000);
    drop(log);
    let log = Log::open(dir.path(), config()).expect("opens");
    assert_eq!((log.recovery().holes.len(), log.next_seq(&origin.short())), (0, Some(origin.next_seq())));
    assert!(batches(&log).iter().map(net_redex::Batch::offset).eq(3..4));
}

#[test]
fn rot_in_a_sealed_segment_is_found_without_being_read() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().expect("a directory");
    let config = || config().segment_bytes(64 << 10);
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    for _ in 0..40 {
        let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
    }
    drop(log);
    let path = dir.path().join("0000000000000000.seg");
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("there");
    file.write_all_at(&[0xaa], 4096 + 2000).expect("writable");
    let log = Log::open(dir.path(), config().scrub(Some(Duration::from_millis(1)))).expect("opens");
    // The log's own thread comes by.
    while log.holes().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(log.holes()[0].offsets, 0..1);
    assert!(log.metrics().scrubbed > 0);
}

#[test]
fn positions_by_offset_time_and_cursor_agree() {
    let dir = tempfile::tempdir().expect("a directory");
    let time = AtomicU64::new(0);
    let tick = move || time.fetch_add(10, Ordering::Relaxed);
    let config = config().segment_bytes(64 << 10).without_threads().clock(Clock::new(tick));
    let log = Log::open(dir.path(), config).expect("a new log");
    let (mut a, mut b) = (Origin::new(1), Origin::new(2));
    for i in 0..60 {
        let origin = if i % 3 == 0 { &mut a } else { &mut b };
        let _ack = log.append(&origin.batch(&[&[5; 2000], b"x"])).wait().expect("room");
    }
    let all = batches(&log);
    let first = |start| match log.read(start).expect("readable").next() {
        Some(Ok(Found::Batch(batch))) => Some(batch.offset()),
        None => None,
        other => panic!("{other:?}"),
    };
    for batch in &all {
        assert_eq!(first(Start::Offset(batch.offset())), Some(batch.offset()));
        assert_eq!(first(Start::Offset(batch.offset() + 1)), Some(batch.offset()), "it holds that event");
        assert_eq!(first(Start::Time(batch.time())), Some(batch.offset()));
        assert_eq!(first(Start::Time(batch.time() - 1)), Some(batch.offset()));
    }
    assert_eq!(first(Start::Time(u64::MAX)), None);
    assert_eq!(first(Start::Offset(1000)), None, "beyond the end, it waits");
    assert_eq!(first(Start::Latest), None);
    assert_eq!(log.find(&a.short(), 1021), Some(all[30].offset() + 1), "the eleventh batch of a");
    assert_eq!((log.find(&a.short(), 999), log.find(&a.short(), u64::MAX)), (None, None));
    log.add_origin(a.key.id()).expect("written");
    assert_eq!(log.cursor().iter().map(|(_, next)| next).collect::<Vec<_>>(), [a.next_seq()]);
    let pair = |origin: &Origin| Pair { channel: origin.channel.0, origin: *origin.key.id().as_bytes() };
    let mut cursor = Cursor::default();
    cursor.set(pair(&a), 1000 + 2 * 10);
    cursor.set(pair(&b), 1000 + 2 * 25);
    let read: Vec<_> = log.read(Start::Cursor(cursor)).expect("readable").collect();
    let expected = all.iter().filter(|batch| {
        let next = if batch.header().origin() == a.short() { 1020 } else { 1050 };
        batch.header().seq() >= next
    });
    let offsets = |found: &Result<Found, _>| match found {
        Ok(Found::Batch(batch)) => batch.offset(),
        other => panic!("{other:?}"),
    };
    assert!(read.iter().map(offsets).eq(expected.map(net_redex::Batch::offset)));
}

#[test]
fn place_of_another_log_is_refused() {
    let (one, two) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let one = Log::open(one.path(), config()).expect("a new log");
    let two = Log::open(two.path(), config()).expect("a new log");
    let place = one.read(Start::Earliest).expect("readable").place();
    assert!(one.read(Start::Place(place)).is_ok());
    assert!(matches!(two.read(Start::Place(place)), Err(net_redex::ReadError::OtherLog { .. })));
}

#[test]
fn append_if_refuses_another_next_seq() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let (first, second) = (origin.batch(&[b"1", b"2"]), origin.batch(&[b"3"]));
    assert!(matches!(log.append_if(7, &first).wait(), Err(AppendError::Conflict { next: 0 })));
    let _ack = log.append_if(0, &first).wait().expect("it is the first");
    assert!(matches!(log.append_if(0, &second).wait(), Err(AppendError::Conflict { next: 1002 })));
    assert!(matches!(log.append(&first).wait(), Err(AppendError::Duplicate { seq: 1000 })));
    let _ack = log.append_if(1002, &second).wait().expect("it is the next");
    assert_eq!(batches(&log).len(), 2);
}

#[test]
fn gap_that_is_filled_later_is_no_duplicate() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..60).map(|_| origin.batch(&[&[1; 3000]])).collect();
    for frame in frames.iter().enumerate().filter(|(i, _)| *i != 3).map(|(_, f)| f) {
        let _ack = log.append(frame).wait().expect("room");
    }
    let _ack = log.append(&frames[3]).wait().expect("it fills the gap");
    for frame in [&frames[3], &frames[2], &frames[59]] {
        assert!(matches!(log.append(frame).wait(), Err(AppendError::Duplicate { .. })));
    }
    assert_eq!(log.next_offset(), 60);
}

#[test]
fn tail_has_no_seam_between_history_and_what_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..300).map(|_| origin.batch(&[&[5; 2000]])).collect();
    let mut tail = log.read(Start::Earliest).expect("readable");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for frame in &frames {
                let _ack = log.append(frame).wait().expect("room");
            }
        });
        for i in 0..300 {
            let found = tail.wait_found(Duration::from_secs(60)).expect("readable");
            let Some(Found::Batch(batch)) = found else { panic!("{found:?}") };
            assert_eq!(batch.offset(), i);
        }
    });
}

#[test]
fn appends_and_tails_can_be_awaited_on_any_executor() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..50).map(|_| origin.batch(&[b"x"])).collect();
    let mut tail = log.read(Start::Latest).expect("readable");
    for (i, frame) in frames.iter().enumerate() {
        let ack = block_on(log.append(frame)).expect("room");
        assert_eq!((ack.offset(), ack.is_durable()), (i as u64, true));
        let found = block_on(tail.follow()).expect("readable");
        assert!(matches!(found, Found::Batch(batch) if batch.offset() == i as u64));
    }
    assert_eq!(read_all(&log).len(), 50);
}

#[test]
fn events_are_followed_from_history_into_what_is_written_blocking_and_awaited() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), LogConfig::default().segment_bytes(64 << 10)).expect("a new log");
    let writer = log.writer(signer(1)).expect("a writer");
    let write = |numbers: std::ops::Range<u16>| {
        for number in numbers {
            let _ack = writer.append(&number.to_le_bytes()).expect("written");
        }
    };
    write(0..100);
    let (mut blocking, mut awaited) =
        (log.events(Start::Earliest).expect("readable"), log.events(Start::Earliest).expect("readable"));
    std::thread::scope(|scope| {
        scope.spawn(|| write(100..300));
        for number in 0..300_u16 {
            let one = blocking.wait_item(Duration::from_secs(60)).expect("readable").expect("it comes");
            let other = block_on(awaited.follow()).expect("readable");
            for item in [one, other] {
                let EventItem::Event(event) = item else { panic!("{item:?}") };
                assert_eq!(event.payload(), number.to_le_bytes());
            }
        }
    });
    assert!(blocking.wait_item(Duration::ZERO).expect("readable").is_none());
}

#[test]
fn many_appends_that_one_task_awaits_are_all_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), config()).expect("a new log");
    let mut origin = Origin::new(1);
    let frames: Vec<_> = (0..200).map(|_| origin.batch(&[b"x"])).collect();
    let mut appends: Vec<_> = frames.iter().map(|frame| Some(Box::pin(log.append(frame)))).collect();
    let mut offsets = Vec::new();
    block_on(std::future::poll_fn(|context| {
        for slot in &mut appends {
            if let Some(append) = slot
                && let std::task::Poll::Ready(ack) = append.as_mut().poll(context)
            {
                offsets.push(ack.expect("room").offset());
                *slot = None;
            }
        }
        if appends.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }));
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(0..200));
}

/// The smallest executor: the thread sleeps until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn closing_while_others_append_keeps_every_acknowledgement() {
    for round in 0..10_u8 {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log::open(dir.path(), config().segment_bytes(64 << 10)).expect("a new log");
        let acknowledged = std::thread::scope(|scope| {
            let threads: Vec<_> = (1..6_u8)
                .map(|number| {
                    let log = log.clone();
                    scope.spawn(move || {
                        let mut origin = Origin::new(number);
                        let mut count = 0;
                        loop {
                            match log.append(&origin.batch(&[b"x"])).wait() {
                                Ok(_) => count += 1,
                                Err(AppendError::Closed) => return count,
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                    })
                })
                .collect();
            let mut tail = log.read(Start::Earliest).expect("readable");
            for _ in 0..=round * 5 {
                assert!(tail.wait_found(Duration::from_secs(60)).expect("readable").is_some());
            }
            log.close().expect("closed");
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        let log = Log::open(dir.path(), config()).expect("nobody holds it");
        assert_eq!(batches(&log).len(), acknowledged);
        assert_eq!(log.recovery(), &net_redex::Recovery::default());
    }
}

#[test]
fn log_without_syncs_holds_on_to_few_segments() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config().segment_bytes(64 << 10).sync(SyncPolicy::None).without_threads();
    let log = Log::open(dir.path(), config).expect("a new log");
    let mut origin = Origin::new(1);
    for _ in 0..40 * 17 {
        let _ack = log.append(&origin.batch(&[&[5; 3000]])).wait().expect("room");
    }
    let metrics = log.metrics();
    assert!(metrics.rolls >= 34, "{metrics:?}");
    assert!(metrics.syncs >= 17, "sealed segments are synced in bulk: {metrics:?}");
    assert_eq!(batches(&log).len(), 40 * 17);
}

#[test]
fn an_origin_with_many_keys_loses_its_oldest_and_no_other_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = Log::open(dir.path(), LogConfig::default().sync(SyncPolicy::Memory)).expect("a new log");
    let [greedy, other] = [[1; 32], [2; 32]].map(|secret| EntityKey::from_secret(&secret).id());
    let key = |n: u64| net_channel::SenderKey::new(std::array::from_fn(|i| n.to_le_bytes()[i % 8]));
    log.add_key(other, 1, key(u64::MAX)).expect("kept");
    for n in 1..=4_100 {
        log.add_key(greedy, n, key(n)).expect("kept");
    }
    let kept = log.keys(&greedy);
    assert_eq!((kept.len(), kept[0].0, kept.last().map(|(seq, _)| *seq)), (4_096, 5, Some(4_100)));
    assert_eq!(log.keys(&other).len(), 1);
}

/// A batch of all would be larger than a segment, and than several.
#[test]
fn many_events_at_once_fit_into_small_segments() {
    for segment_bytes in [LogConfig::SEGMENT_BYTES_MIN, 256 << 10] {
        let dir = tempfile::tempdir().expect("a directory");
        let config = LogConfig::default().sync(SyncPolicy::None).segment_bytes(segment_bytes);
        let log = Log::open(dir.path(), config).expect("a new log");
        let writer = log.writer(signer(1)).expect("a writer");
        let events: Vec<Vec<u8>> = (0..600_u32).map(|n| [&n.to_le_bytes()[..], &[7; 996]].concat()).collect();
        writer.append_all(&events).expect("written");
        assert_eq!(payloads(&log), events);
    }
}
