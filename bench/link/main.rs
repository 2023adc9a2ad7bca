//! One bulk stream: over an endpoint of net-transport, over quinn with its crypto, and over quinn with rustls, in the
//! same run.

#![forbid(unsafe_code)]

mod ends;
mod report;
mod through;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use net_bench::{Quartiles, cpu_time, pin, version_of};

use crate::report::Machine;

#[derive(Debug, Parser)]
#[command(name = "link", about = "Goodput of one bulk stream: ours against quinn with rustls and the same cipher")]
struct Args {
    /// Rounds, each with one run of everyone; at least 7 for a figure that is quoted.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Bytes counted in each run, in MiB, after a warm-up of 64 MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib: u64,
    /// The largest datagram that quinn may find, in bytes. An endpoint of ours finds up to 6500, so with less it is left
    /// out.
    #[arg(long, default_value_t = ENDPOINT_MTU, value_parser = clap::value_parser!(u16).range(1200..=6500))]
    mtu: u16,
    /// Every run, as JSON.
    #[arg(long)]
    json: bool,
    /// What a child process does.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true)]
    kind: Option<Kind>,
    /// What the receiver said of itself.
    #[arg(long, hide = true)]
    to: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Send,
    Receive,
}

/// What the stream goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// An endpoint of net-transport.
    Ours,
    /// quinn with net-transport's handshake and packets, and nothing else of it.
    Bare,
    /// quinn with rustls.
    Peer,
}

impl Kind {
    /// Its name, as a child process is given it.
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bare => "bare",
            Self::Peer => "peer",
        }
    }

    fn says(self) -> String {
        match self {
            Self::Ours => "net_transport::Endpoint, a stream of `open_bi`".to_owned(),
            Self::Bare => format!("quinn {} with its Noise and packets", version_of("quinn")),
            Self::Peer => {
                format!("the same quinn with rustls {} and the same cipher (ring)", version_of("rustls"))
            }
        }
    }
}

/// The datagrams that an endpoint of net-transport finds, in bytes.
const ENDPOINT_MTU: u16 = 6500;
/// Bytes before the clock starts: congestion control and MTU discovery have settled by then.
const WARM_UP: u64 = 64 << 20;
/// Bytes of one write.
const CHUNK: usize = 64 << 10;

fn main() -> Result<()> {
    let args = Args::parse();
    match (args.role, args.kind) {
        (Some(role), Some(kind)) => {
            // One core each; on a machine with one core both share it, which `compare` says.
            pin(match role {
                Role::Send => 0,
                Role::Receive => 1,
            })?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                match (role, kind) {
                    (Role::Receive, Kind::Ours) => through::receive().await,
                    (Role::Receive, _) => receive(kind, &args).await,
                    (Role::Send, Kind::Ours) => through::send(target(&args)?, &args).await,
                    (Role::Send, _) => send(kind, &args).await,
                }?;
                if role == Role::Send { say(&cpu_time().as_nanos().to_string()) } else { Ok(()) }
            })
        }
        _ => compare(&args),
    }
}

/// Where a sender is told to send to.
fn target(args: &Args) -> Result<&str> {
    args.to.as_deref().context("a sender is told where to")
}

/// Everything that one kind's runs gave.
struct Row {
    kind: Kind,
    /// Of each round.
    runs: Vec<Run>,
    /// Rate against the peer's of the same round.
    ratios: Vec<f64>,
    /// The same by the time that the busier of the two processes took of its core, which others that want the core do not
    /// change: what the rate would be, were the machine quiet.
    core_ratios: Vec<f64>,
}

impl Row {
    fn of(&self, what: impl Fn(&Run) -> f64) -> Quartiles {
        Quartiles::of(&self.runs.iter().map(what).collect::<Vec<_>>())
    }
}

/// Alternates runs of everyone and prints what came out.
fn compare(args: &Args) -> Result<()> {
    let kinds: &[Kind] =
        if args.mtu == ENDPOINT_MTU { &[Kind::Ours, Kind::Bare, Kind::Peer] } else { &[Kind::Bare, Kind::Peer] };
    let mut rows: Vec<Row> = kinds
        .iter()
        .map(|kind| Row { kind: *kind, runs: Vec::new(), ratios: Vec::new(), core_ratios: Vec::new() })
        .collect();
    let mut machine = Machine::now()?;
    for round in 0..args.pairs {
        // Who goes first changes, so that a machine that warms up or slows down favours nobody.
        for turn in 0..rows.len() {
            let row = (turn + round as usize) % rows.len();
            let run = one_run(rows[row].kind, args)?;
            rows[row].runs.push(run);
        }
        let peer = rows.iter().find(|row| row.kind == Kind::Peer).and_then(|row| row.runs.last()).copied();
        let peer = peer.context("every round has a run of the peer")?;
        let mut line = format!("round {}:", round + 1);
        for row in &mut rows {
            let run = *row.runs.last().context("every round has a run of everyone")?;
            let Run { rate, send_cpu, receive_cpu } = run;
            row.ratios.push(rate / peer.rate);
            row.core_ratios.push(peer.busier() / run.busier());
            line += &format!(
                " {} {rate:.0} MB/s ({:.3}), {send_cpu:.0} + {receive_cpu:.0} ns/KB;",
                row.kind.name(),
                rate / peer.rate
            );
        }
        eprintln!("{line}");
    }
    machine.ended();
    if args.json {
        println!("{:#}", report::as_json(&rows, &machine, args));
        return Ok(());
    }
    let table = report::as_table(&rows, &machine, args)?;
    let kept = report::keep(&table)?;
    println!("{table}");
    eprintln!("kept in {}", kept.display());
    Ok(())
}

/// A child that is ended when it is dropped, so that a failed run leaves none behind.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// What one run gave.
#[derive(Clone, Copy)]
struct Run {
    /// MB/s at the receiver.
    rate: f64,
    /// Nanoseconds of a core that the sender took for each KB, warm-up and handshake included.
    send_cpu: f64,
    /// Nanoseconds of a core that the receiver took for each KB.
    receive_cpu: f64,
}

impl Run {
    /// Nanoseconds of a core for each KB of the process that took more.
    fn busier(&self) -> f64 {
        self.send_cpu.max(self.receive_cpu)
    }
}

/// A receiver and a sender.
fn one_run(kind: Kind, args: &Args) -> Result<Run> {
    let child = |role: &str, to: Option<&str>| -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "--role",
            role,
            "--kind",
            kind.name(),
            "--mib",
            &args.mib.to_string(),
            "--mtu",
            &args.mtu.to_string(),
        ]);
        if let Some(to) = to {
            command.args(["--to", to]);
        }
        Ok(Process(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start a process")?))
    };
    let mut receiver = child("receive", None)?;
    let mut said = BufReader::new(receiver.0.stdout.take().context("stdout is piped")?).lines();
    let mut next = || said.next().context("the receiver ended early")?.context("read what the receiver says");
    let to = next()?;
    let mut sender = child("send", Some(&to))?;
    let result = next()?;
    let mut numbers = result.split(' ').map(str::parse::<u64>);
    let mut number = || numbers.next().context("the receiver says bytes and two times")?.context("in numbers");
    let (bytes, nanos, receive_nanos) = (number()?, number()?, number()?);
    let mut sent = BufReader::new(sender.0.stdout.take().context("stdout is piped")?).lines();
    let sent = sent.next().context("the sender ended early")?.context("read what the sender says")?;
    let send_nanos: u64 = sent.parse().context("the sender says a time")?;
    ensure!(sender.0.wait()?.success() && receiver.0.wait()?.success(), "a process of the run failed");
    ensure!(bytes == WARM_UP + (args.mib << 20), "the receiver got {bytes} bytes, which is not what was sent");
    // Bytes after the warm-up, per second, in units of 10^6.
    let counted = (args.mib << 20) as f64;
    Ok(Run {
        rate: counted * 1e3 / nanos as f64,
        send_cpu: send_nanos as f64 * 1e3 / bytes as f64,
        receive_cpu: receive_nanos as f64 * 1e3 / counted,
    })
}

async fn receive(kind: Kind, args: &Args) -> Result<()> {
    let (endpoint, proof) = ends::receiver(kind, args.mtu)?;
    say(&format!("{} {proof}", endpoint.local_addr()?))?;
    let connection = endpoint.accept().await.context("the endpoint is open")?.await?;
    let mut stream = connection.accept_uni().await?;
    let mut count = Count::default();
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        count.add(chunk.bytes.len());
    }
    count.say()?;
    connection.close(0u8.into(), b"counted");
    endpoint.wait_idle().await;
    Ok(())
}

async fn send(kind: Kind, args: &Args) -> Result<()> {
    let (address, proof) = target(args)?.split_once(' ').context("address and proof")?;
    let address: SocketAddr = address.parse()?;
    let (endpoint, name) = ends::sender(kind, args.mtu, proof)?;
    let connection = endpoint.connect(address, name)?.await?;
    let mut stream = connection.open_uni().await?;
    for chunk in chunks(args) {
        stream.write_chunk(chunk).await?;
    }
    stream.finish()?;
    // The receiver closes when it has counted.
    connection.closed().await;
    // What was found says whether the comparison is the one that was asked for.
    eprintln!(
        "{kind:?}: MTU {}, {} packets lost",
        connection.stats().path.current_mtu,
        connection.stats().path.lost_packets
    );
    endpoint.wait_idle().await;
    Ok(())
}

/// What a sender sends: the warm-up and what is counted.
fn chunks(args: &Args) -> impl Iterator<Item = Bytes> {
    let count = (WARM_UP + (args.mib << 20)) / CHUNK as u64;
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    (0..count).map(move |_| chunk.clone())
}

/// Counts what a receiver gets.
#[derive(Default)]
struct Count {
    bytes: u64,
    /// When the warm-up was over, and what this process had used of its core by then.
    began: Option<(Instant, Duration)>,
}

impl Count {
    fn add(&mut self, len: usize) {
        self.bytes += len as u64;
        if self.began.is_none() && self.bytes >= WARM_UP {
            // What this chunk brought beyond the warm-up is counted although it came before: less than a window.
            self.began = Some((Instant::now(), cpu_time()));
        }
    }

    /// Tells the parent.
    fn say(&self) -> Result<()> {
        let (began, used) = self.began.context("the stream ended during the warm-up")?;
        let (nanos, cpu_nanos) = (began.elapsed().as_nanos(), (cpu_time() - used).as_nanos());
        say(&format!("{} {nanos} {cpu_nanos}", self.bytes))
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
