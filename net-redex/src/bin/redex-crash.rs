//! Kills a process that writes with many threads, again and again, and holds what is left against a ledger.
//!
//! `redex-crash [--rounds N] [--threads N] [--dir DIR]`. The writer is a process of its own; after each
//! acknowledgement it writes who and what to its standard output, which this process reads: the ledger. Then it is
//! killed at some moment, the log is opened, and each acknowledged event must be there once and in order.
//!
//! This proves that nothing acknowledged sits in the process's memory. It proves nothing about fdatasync, since the
//! system's memory survives the process: that is what the simulated disk is for.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports to whoever started it")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use net_identity::EntityKey;
use net_redex::{EventItem, Log, LogConfig, Start};

/// One entry of the ledger, and one event: round, thread, number.
type Entry = [u32; 3];
const ENTRY_LEN: usize = 12;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1));
    let number = |name: &str, default: u32| value(name).map_or(default, |text| text.parse().unwrap_or(default));
    let threads = number("--threads", 64);
    if let Some(round) = value("--write") {
        write(Path::new(value("--dir").map_or(".", String::as_str)), round.parse().unwrap_or(0), threads);
    }
    let dir = value("--dir").map_or_else(|| std::env::temp_dir().join("redex-crash"), PathBuf::from);
    match run(&dir, number("--rounds", 1000), threads, number("--seed", 1)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("redex-crash: {what}");
            ExitCode::FAILURE
        }
    }
}

fn config() -> LogConfig {
    // Small segments, so that rolling is interrupted as well.
    LogConfig::default().ring_secret([3; 32]).segment_bytes(256 << 10)
}

/// The process that is killed.
fn write(dir: &Path, round: u32, threads: u32) -> ! {
    let log = Log::open(dir, config()).expect("the log opens after every kill");
    let writer = log.writer(Arc::new(EntityKey::from_secret(&[1; 32]))).expect("a writer");
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let writer = writer.clone();
            scope.spawn(move || {
                for number in 0.. {
                    let entry = encode([round, thread, number]);
                    let ack = writer.append(&entry).expect("written");
                    assert!(ack.is_durable());
                    // One call of less than a pipe's unit: it is there whole or not at all.
                    std::io::stdout().lock().write_all(&entry).expect("the ledger is read");
                    std::io::stdout().lock().flush().expect("the ledger is read");
                }
            });
        }
    });
    unreachable!("threads write until they are killed")
}

fn run(dir: &Path, rounds: u32, threads: u32, seed: u32) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let _ = std::fs::remove_dir_all(dir);
    let mut ledger: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let (mut acknowledged, mut torn) = (0, 0);
    let mut random = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for round in 0..rounds {
        let mut child = Command::new(&program)
            .args(["--write", &round.to_string(), "--threads", &threads.to_string(), "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lives = Duration::from_micros(3_000 + random % 60_000);
        let mut pipe = child.stdout.take().ok_or("no ledger")?;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        });
        std::thread::sleep(lives);
        child.kill().map_err(|error| error.to_string())?;
        child.wait().map_err(|error| error.to_string())?;
        let bytes = reader.join().map_err(|_| "the ledger was not read")?.map_err(|error| error.to_string())?;
        for entry in bytes.chunks_exact(ENTRY_LEN).map(decode) {
            acknowledged += 1;
            let next = ledger.entry((entry[0], entry[1])).or_default();
            *next = (*next).max(entry[2] + 1);
        }
        // Every so often all that is there is compared; reading all of it each time would be the square of the work.
        if round % 25 == 24 || round + 1 == rounds {
            torn += u64::from(check(dir, &ledger)?);
        }
    }
    let log = Log::open(dir, config()).map_err(|error| error.to_string())?;
    let stored = log.next_offset();
    let verification = log.verify(&[], &[]).map_err(|error| error.to_string())?;
    if let Some(fault) = verification.faults.first() {
        return Err(format!("verification finds: {fault}"));
    }
    Ok(format!(
        "{rounds} kills with {threads} writers: {acknowledged} events acknowledged, {stored} stored; lost 0, twice 0, \
         out of order 0; {torn} torn tails seen; chain and signatures verified"
    ))
}

/// Compares the log with the ledger; says whether a torn tail was cut.
fn check(dir: &Path, ledger: &BTreeMap<(u32, u32), u32>) -> Result<bool, String> {
    let log = Log::open(dir, config()).map_err(|error| format!("{error:?}"))?;
    let torn = log.recovery().torn.is_some();
    if !log.recovery().holes.is_empty() {
        return Err(format!("holes: {:?}", log.recovery().holes));
    }
    let mut next: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for item in log.events(Start::Earliest).map_err(|error| error.to_string())? {
        let event = match item.map_err(|error| error.to_string())? {
            EventItem::Event(event) => event,
            other => return Err(format!("not an event: {other:?}")),
        };
        let entry = decode(event.payload());
        let next = next.entry((entry[0], entry[1])).or_default();
        if entry[2] != *next {
            return Err(format!("round {} thread {}: event {} where {next} belongs", entry[0], entry[1], entry[2]));
        }
        *next += 1;
    }
    for (who, acknowledged) in ledger {
        let stored = next.get(who).copied().unwrap_or(0);
        if stored < *acknowledged {
            return Err(format!("{who:?}: {acknowledged} events acknowledged, {stored} stored"));
        }
        if stored > *acknowledged + 1 {
            return Err(format!("{who:?}: more than one event beyond the {acknowledged} acknowledged: {stored}"));
        }
    }
    Ok(torn)
}

fn encode(entry: Entry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    for (bytes, number) in bytes.chunks_exact_mut(4).zip(entry) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Entry {
    let number = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| bytes.get(4 * i + j).copied().unwrap_or(0)));
    [number(0), number(1), number(2)]
}
