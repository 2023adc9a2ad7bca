//! What an acknowledgement from another node's disk costs: events of 256 bytes, 64 of them in flight, each awaited until a
//! keeper in another process says that it is stored and synced there.

#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use net::channel::Ack;
use net::redex::LogConfig;
use net::{Builder, Node};

const IN_FLIGHT: usize = 64;
const SPAN: Duration = Duration::from_secs(3);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match std::env::var_os("NET_REPLICATED_KEEPER") {
        Some(dir) => runtime.block_on(keep(Path::new(&dir))),
        None => runtime.block_on(run()),
    }
}

fn builder() -> Builder {
    Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"))
}

async fn keep(dir: &Path) -> Result<()> {
    let node = builder().dir(dir).start().await?;
    let _keeper = node.keep("**", LogConfig::default()).await?;
    println!("{}", node.ticket());
    // Until whoever started it has gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    node.close().await;
    Ok(())
}

async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut keeper = Command::new(std::env::current_exe()?)
        .env("NET_REPLICATED_KEEPER", dir.path().join("keeper"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ticket = String::new();
    BufReader::new(keeper.stdout.take().ok_or("a pipe")?).read_line(&mut ticket)?;
    let node = builder().dir(dir.path().join("producer")).ticket(ticket.trim().parse()?).start().await?;
    for persisted in [false, true] {
        let name = if persisted { "stored/here-too" } else { "stored/there" };
        let opening = node.channel(name).replicas(1);
        let opening = if persisted { opening.persist(LogConfig::default()) } else { opening };
        let channel = opening.open().await?;
        if !channel.wait_for_subscribers(1, Duration::from_secs(10)).await {
            return Err("the keeper did not come".into());
        }
        for _ in 0..3 {
            let begin = Instant::now();
            let mut writers = tokio::task::JoinSet::new();
            for _ in 0..IN_FLIGHT {
                let channel = channel.clone();
                writers.spawn(async move {
                    let mut took = Vec::new();
                    while begin.elapsed() < SPAN {
                        let start = Instant::now();
                        match channel.publish([0x5a; 256]).await?.await? {
                            Ack::Replicated { n: 1 } => took.push(start.elapsed()),
                            other => return Err(format!("{other:?}").into()),
                        }
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(took)
                });
            }
            let mut took = Vec::new();
            while let Some(writer) = writers.join_next().await {
                took.extend(writer??);
            }
            took.sort_unstable();
            let at = |part: usize| took[took.len() * part / 1000].as_micros();
            let rate = took.len() as f64 / begin.elapsed().as_secs_f64() / 1e3;
            println!("{name:<16} {rate:6.1} k events/s   p50 {:>5} µs   p99 {:>5} µs", at(500), at(990));
        }
    }
    node.close().await;
    drop(keeper.stdin.take());
    keeper.wait()?;
    Ok(())
}
