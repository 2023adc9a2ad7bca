//! One bulk stream over quinn: with net-transport's handshake and packets, and with rustls, in the same run.

#![forbid(unsafe_code)]

mod ends;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use net_bench::{Quartiles, pin, version_of};
use serde_json::json;

#[derive(Debug, Parser)]
#[command(name = "link", about = "Goodput of one bulk stream: ours against quinn with rustls and ChaCha20-Poly1305")]
struct Args {
    /// Pairs of runs; at least 7 for a figure that is quoted.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Bytes counted in each run, in MiB, after a warm-up of 64 MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    mib: u64,
    /// The largest datagram that either may find, in bytes.
    #[arg(long, default_value_t = 6500, value_parser = clap::value_parser!(u16).range(1200..=6500))]
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

/// Which crypto the link has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Peer,
}

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
                match role {
                    Role::Receive => receive(kind, &args).await,
                    Role::Send => send(kind, &args).await,
                }
            })
        }
        _ => compare(&args),
    }
}

/// Alternates runs of both and prints what came out.
fn compare(args: &Args) -> Result<()> {
    let (mut ours, mut peer, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        // Who goes first alternates, so that a machine that warms up or slows down favours neither.
        let order = if pair % 2 == 0 { [Kind::Ours, Kind::Peer] } else { [Kind::Peer, Kind::Ours] };
        for kind in order {
            let rate = one_run(kind, args)?;
            match kind {
                Kind::Ours => ours.push(rate),
                Kind::Peer => peer.push(rate),
            }
        }
        let (Some(us), Some(them)) = (ours.last(), peer.last()) else { bail!("a pair has two runs") };
        ratio.push(us / them);
        eprintln!("pair {}: ours {us:.0} MB/s, peer {them:.0} MB/s, ratio {:.3}", pair + 1, us / them);
    }
    let (all_ours, all_peer, all_ratio) = (Quartiles::of(&ours), Quartiles::of(&peer), Quartiles::of(&ratio));
    let cores = std::thread::available_parallelism()?.get();
    let commit = std::env::var("NET_COMMIT").unwrap_or_else(|_| "unknown".into());
    if args.json {
        let out = json!({
            "bench": "link", "unit": "MB/s", "commit": commit, "cores": cores, "mtu": args.mtu, "mib": args.mib,
            "quinn": version_of("quinn"), "quinn-proto": version_of("quinn-proto"), "rustls": version_of("rustls"),
            "ring": version_of("ring"),
            "ours": { "runs": ours, "of": all_ours.json() },
            "peer": { "runs": peer, "of": all_peer.json() },
            "ratio": { "runs": ratio, "of": all_ratio.json() },
        });
        println!("{out:#}");
    } else {
        println!(
            "link at {commit}: one stream, {} MiB counted at the receiver, MTU up to {}, {} pairs, {}",
            args.mib,
            args.mtu,
            args.pairs,
            if cores >= 2 { "a core for each process" } else { "both processes on one core" }
        );
        println!("ours   {all_ours} MB/s: Noise, ChaCha20-Poly1305, quinn {}", version_of("quinn"));
        println!(
            "peer   {all_peer} MB/s: rustls {} with ChaCha20-Poly1305 (ring), the same quinn",
            version_of("rustls")
        );
        println!("ratio  {all_ratio:.3} (median and quartiles)");
    }
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

/// A receiver and a sender; gives MB/s at the receiver.
fn one_run(kind: Kind, args: &Args) -> Result<f64> {
    let child = |role: &str, to: Option<&str>| -> Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        let kind = if kind == Kind::Ours { "ours" } else { "peer" };
        command.args(["--role", role, "--kind", kind, "--mib", &args.mib.to_string(), "--mtu", &args.mtu.to_string()]);
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
    let (bytes, nanos) = result.split_once(' ').context("the receiver says bytes and nanoseconds")?;
    let (bytes, nanos): (u64, u64) = (bytes.parse()?, nanos.parse()?);
    ensure!(sender.0.wait()?.success() && receiver.0.wait()?.success(), "a process of the run failed");
    ensure!(bytes == WARM_UP + (args.mib << 20), "the receiver got {bytes} bytes, which is not what was sent");
    // Bytes after the warm-up, per second, in units of 10^6.
    Ok((args.mib << 20) as f64 * 1e3 / nanos as f64)
}

async fn receive(kind: Kind, args: &Args) -> Result<()> {
    let (endpoint, proof) = ends::receiver(kind, args.mtu)?;
    say(&format!("{} {proof}", endpoint.local_addr()?))?;
    let connection = endpoint.accept().await.context("the endpoint is open")?.await?;
    let mut stream = connection.accept_uni().await?;
    let (mut bytes, mut began) = (0, None);
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        bytes += chunk.bytes.len() as u64;
        if began.is_none() && bytes >= WARM_UP {
            // What this chunk brought beyond the warm-up is counted although it came before: less than a window.
            began = Some(Instant::now());
        }
    }
    let nanos = began.context("the stream ended during the warm-up")?.elapsed().as_nanos();
    say(&format!("{bytes} {nanos}"))?;
    connection.close(0u8.into(), b"counted");
    endpoint.wait_idle().await;
    Ok(())
}

async fn send(kind: Kind, args: &Args) -> Result<()> {
    let to = args.to.as_deref().context("a sender is told where to")?;
    let (address, proof) = to.split_once(' ').context("address and proof")?;
    let address: SocketAddr = address.parse()?;
    let (endpoint, name) = ends::sender(kind, args.mtu, proof)?;
    let connection = endpoint.connect(address, name)?.await?;
    let mut stream = connection.open_uni().await?;
    let chunk = Bytes::from(vec![0x5a; CHUNK]);
    for _ in 0..(WARM_UP + (args.mib << 20)) / CHUNK as u64 {
        stream.write_chunk(chunk.clone()).await?;
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

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
