//! What the log reaches on this machine, beside a bare loop on the same disk in the same run.
//!
//! `cargo bench -p net-redex -- [always|group|none|replay|reopen] [--dir DIR] [--gib N]`; each figure is the median of
//! interleaved rounds. `reopen` needs 10 GiB of disk if `--gib` does not say less.

#![allow(clippy::print_stdout, reason = "a benchmark reports to whoever started it")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use net_channel::{BatchBuilder, BatchHash, Hlc, SealParams, SenderKey};
use net_identity::EntityKey;
use net_redex::{EventItem, Found, Log, LogConfig, Start, SyncPolicy};

const PAYLOAD_LEN: usize = 256;
/// With its 20 bytes of framing, 256 of these are a batch of some 64 KiB.
const IN_BATCH_LEN: usize = 232;

fn main() {
    let dir = argument("--dir").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/bench-redex"));
    if let Some(gib) = argument("--fill") {
        fill(&dir, gib.parse().expect("a number of GiB"));
    }
    let name = std::env::args().nth(1).filter(|arg| !arg.starts_with("--")).unwrap_or_default();
    std::fs::create_dir_all(&dir).expect("a directory for the benchmark");
    type Bench = fn(&Path);
    let all: [(&str, Bench); 5] =
        [("always", always), ("group", group), ("none", none), ("replay", replay), ("reopen", reopen)];
    for (bench, run) in all {
        if bench.starts_with(&name) {
            run(&dir);
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn fresh(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One writer, each event alone on the disk, against pwrite and fdatasync of as many bytes.
fn always(dir: &Path) {
    let path = fresh(dir, "always");
    let log = Log::open(&path, LogConfig::default().sync(SyncPolicy::Always)).expect("a log");
    let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
    let mut origin = Frames::new(2, &log);
    let file = std::fs::File::create(dir.join("bare")).expect("a file");
    file.write_all_at(&vec![0; 32 << 20], 0).expect("room");
    file.sync_all().expect("a sync");
    let (mut bare_at, payload) = (0, [5; PAYLOAD_LEN]);
    let mut micros = [const { Vec::new() }; 4];
    const PER_ROUND: u32 = 100;
    for round in 0..15 {
        let frames: Vec<Vec<u8>> = (0..PER_ROUND).map(|_| origin.batch(1)).collect();
        let mut measure = |which: usize, run: &mut dyn FnMut(u32)| {
            let start = Instant::now();
            (0..PER_ROUND).for_each(run);
            if round > 0 {
                micros[which].push(start.elapsed().as_secs_f64() * 1e6 / f64::from(PER_ROUND));
            }
        };
        let record = vec![5; 640];
        measure(0, &mut |_| {
            file.write_all_at(&payload, bare_at).expect("room");
            file.sync_data().expect("a sync");
            bare_at += PAYLOAD_LEN as u64;
        });
        measure(1, &mut |_| {
            let _ack = writer.append(&payload).expect("written");
        });
        measure(2, &mut |i| {
            let _ack = log.append(&frames[i as usize]).wait().expect("written");
        });
        measure(3, &mut |_| {
            file.write_all_at(&record, bare_at).expect("room");
            file.sync_data().expect("a sync");
            bare_at += 640;
        });
    }
    let [bare, signed, unsigned, bare_record] = micros.map(median);
    println!("always, 1 writer, 256 B: bare loop {bare:.1} µs, bare loop of a record's bytes {bare_record:.1} µs");
    println!(
        "  signed event {signed:.1} µs, ratio {:.3}; batch that is signed already {unsigned:.1} µs, ratio {:.3}",
        signed / bare,
        unsigned / bare
    );
}

/// Many threads, each waiting for its event to be on the disk, one signature for each batch that forms.
fn group(dir: &Path) {
    for writers in [1, 16, 64, 256] {
        let mut rates = Vec::new();
        let mut per_group = 0.0;
        for round in 0..5 {
            let path = fresh(dir, "group");
            let log = Log::open(&path, LogConfig::default()).expect("a log");
            let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
            let each = if writers == 1 { 1000 } else { 60_000 / writers };
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..writers {
                    scope.spawn(|| {
                        for _ in 0..each {
                            let ack = writer.append(&[5; PAYLOAD_LEN]).expect("written");
                            assert!(ack.is_durable());
                        }
                    });
                }
            });
            if round > 0 {
                rates.push((writers * each) as f64 / start.elapsed().as_secs_f64());
                per_group = log.metrics().events as f64 / log.metrics().syncs as f64;
            }
        }
        println!(
            "group, {writers} writers, 256 B: {:.0} durable signed events/s, {per_group:.1} a sync",
            median(rates)
        );
    }
}

/// Batches of 256 events, no sync.
fn none(dir: &Path) {
    let (mut plain, mut signed) = (Vec::new(), Vec::new());
    const BATCHES: usize = 2000;
    for round in 0..5 {
        let log = Log::open(fresh(dir, "none"), LogConfig::default().sync(SyncPolicy::None)).expect("a log");
        let mut origin = Frames::new(2, &log);
        let frames: Vec<Vec<u8>> = (0..BATCHES).map(|_| origin.batch(256)).collect();
        let start = Instant::now();
        for frame in &frames {
            let _ack = log.append(frame).wait().expect("written");
        }
        let rate = (BATCHES * 256) as f64 / start.elapsed().as_secs_f64();
        drop(log);
        let log = Log::open(fresh(dir, "none"), LogConfig::default().sync(SyncPolicy::None)).expect("a log");
        let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
        let payload = [5; IN_BATCH_LEN];
        let start = Instant::now();
        for _ in 0..BATCHES {
            writer.append_all(std::iter::repeat_n(&payload, 256)).expect("written");
        }
        if round > 0 {
            plain.push(rate);
            signed.push((BATCHES * 256) as f64 / start.elapsed().as_secs_f64());
        }
    }
    println!(
        "none, batches of 256: {:.2} M events/s checksummed, {:.2} M sealed and signed",
        median(plain) / 1e6,
        median(signed) / 1e6
    );
}

/// From a warm mapping: with checksums, and with signatures and opened bodies.
fn replay(dir: &Path) {
    let log = Log::open(fresh(dir, "replay"), LogConfig::default().sync(SyncPolicy::None)).expect("a log");
    let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
    for _ in 0..4000 {
        writer.append_all(std::iter::repeat_n(&[5; IN_BATCH_LEN], 256)).expect("written");
    }
    let (mut crc, mut verified) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let start = Instant::now();
        let mut events = 0;
        for found in log.read(Start::Earliest).expect("readable") {
            let Found::Batch(batch) = found.expect("readable") else { panic!("damage") };
            events += u64::from(batch.header().events());
        }
        let rate = events as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut bytes: u64 = 0;
        for item in log.events(Start::Earliest).expect("readable") {
            let EventItem::Event(event) = item.expect("readable") else { panic!("damage") };
            bytes += event.payload().len() as u64;
        }
        assert_eq!(bytes, events * IN_BATCH_LEN as u64);
        if round > 0 {
            crc.push(rate);
            verified.push(events as f64 / start.elapsed().as_secs_f64());
        }
    }
    println!(
        "replay, warm: {:.1} M events/s with checksums, {:.2} M verified and opened",
        median(crc) / 1e6,
        median(verified) / 1e6
    );
}

/// Opening a long log whose process was killed, and reading all of it: time, and anonymous memory.
fn reopen(dir: &Path) {
    let path = fresh(dir, "reopen");
    let gib = argument("--gib").map_or(10, |gib| gib.parse().expect("a number of GiB"));
    let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--fill", &gib.to_string(), "--dir"])
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut ready = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("it says when it is done");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let segments: Vec<PathBuf> = std::fs::read_dir(&path)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    let bytes: u64 = segments.iter().map(|path| path.metadata().expect("there").len()).sum();
    println!("reopen, {:.2} GiB in {} segments, killed:", bytes as f64 / (1_u64 << 30) as f64, segments.len());
    for (what, cold) in [("as it was left", false), ("closed before, warm", false), ("closed before, cold", true)] {
        if cold {
            for path in &segments {
                let file = std::fs::File::open(path).expect("there");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is advice");
            }
        }
        let start = Instant::now();
        let log = Log::open(&path, LogConfig::default()).expect("opened");
        let opened = start.elapsed();
        println!("  {what}: {:.1} ms, {} batches replayed", opened.as_secs_f64() * 1e3, log.recovery().replayed);
        assert_eq!(log.recovery().holes, []);
        log.close().expect("closed");
    }
    let log = Log::open(&path, LogConfig::default()).expect("opened");
    let (mut peak, mut events, start) = (0, 0_u64, Instant::now());
    for (i, found) in log.read(Start::Earliest).expect("readable").enumerate() {
        let Found::Batch(batch) = found.expect("readable") else { panic!("damage") };
        events += u64::from(batch.header().events());
        if i % 64 == 0 {
            peak = peak.max(anonymous_bytes());
        }
    }
    println!(
        "  replay of all of it: {:.1} M events/s with checksums, at most {:.1} MiB of anonymous memory",
        events as f64 / start.elapsed().as_secs_f64() / 1e6,
        peak as f64 / f64::from(1 << 20)
    );
}

/// The process that is killed.
fn fill(dir: &Path, gib: u64) -> ! {
    let log = Log::open(dir, LogConfig::default().sync(SyncPolicy::None)).expect("a log");
    let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
    let append = |batches| {
        for _ in 0..batches {
            writer.append_all(std::iter::repeat_n(&[5; IN_BATCH_LEN], 256)).expect("written");
        }
    };
    while log.metrics().bytes < gib << 30 {
        append(1024);
        log.sync().expect("synced");
    }
    log.tend();
    // The tail that opening has to read.
    append(50);
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn argument(name: &str) -> Option<String> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1)
}

/// Batches of one origin, made ahead.
struct Frames {
    key: EntityKey,
    sender_key: SenderKey,
    next: u64,
    prev: BatchHash,
    log: Log,
}

impl Frames {
    fn new(number: u8, log: &Log) -> Self {
        let key = EntityKey::from_secret(&[number; 32]);
        Self { key, sender_key: SenderKey::new([number; 32]), next: 1, prev: BatchHash::ZERO, log: log.clone() }
    }

    fn batch(&mut self, events: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for _ in 0..events {
            builder.push(&[5; IN_BATCH_LEN], None, &[], Hlc::new(1, 0)).expect("it fits");
        }
        let sealed = builder.seal(&SealParams {
            incarnation: 1,
            prev: self.prev,
            ..SealParams::first(&self.log.mesh(), &self.log.channel(), &self.key, &self.sender_key, self.next, [1; 16])
        });
        let sealed = sealed.expect("the key is here");
        (self.next, self.prev) = (self.next + events, sealed.hash());
        sealed.frame().to_vec()
    }
}
