//! What a late subscriber gets: a million events of 256 bytes out of a producer's log, over a link, from another process;
//! then what is published live, without a seam; and all of it again after the producer was killed.
//!
//! Every batch is verified and opened, every event is looked at. `NET_REPLAY_EVENTS` makes it shorter.

#![expect(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use net::redex::{LogConfig, SyncPolicy};
use net::{Builder, From, Item, Node, Subscription};

const PAYLOAD_LEN: usize = 256;
const LIVE: u64 = 10_000;
const CHANNEL: &str = "replay";
const IDLE: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match std::env::var_os("NET_REPLAY_PRODUCER") {
        Some(dir) => runtime.block_on(produce(Path::new(&dir))),
        None => runtime.block_on(run()),
    }
}

fn events() -> u64 {
    std::env::var("NET_REPLAY_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000)
}

fn builder() -> Builder {
    Node::builder().mdns(false).listen("127.0.0.1:0".parse().expect("an address"))
}

fn payload(number: u64) -> [u8; PAYLOAD_LEN] {
    let mut payload = [0x5a; PAYLOAD_LEN];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

/// Publishes as many events as each line of the standard input says.
async fn produce(dir: &Path) -> Result<()> {
    let node = builder().dir(dir).start().await?;
    let config = LogConfig::default().sync(SyncPolicy::Interval(Duration::from_secs(1)));
    let channel = node.channel(CHANNEL).persist(config).open().await?;
    println!("{}", node.ticket());
    for line in std::io::stdin().lines() {
        let line = line?;
        let (from, to) = line.split_once(' ').ok_or("two numbers")?;
        let mut last = None;
        for number in from.parse()?..to.parse()? {
            last = Some(channel.publish(payload(number)).await?);
        }
        if let Some(last) = last {
            last.await?;
        }
        println!("published");
    }
    node.close().await;
    Ok(())
}

struct Producer {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Producer {
    fn start(dir: &Path) -> Result<(Self, net::Ticket)> {
        let mut child = Command::new(std::env::current_exe()?)
            .env("NET_REPLAY_PRODUCER", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("a pipe")?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a pipe")?);
        let mut ticket = String::new();
        lines.read_line(&mut ticket)?;
        Ok((Self { child, orders, lines }, ticket.trim().parse()?))
    }

    fn order(&mut self, from: u64, to: u64) -> Result<()> {
        Ok(writeln!(self.orders, "{from} {to}")?)
    }

    fn wait(&mut self) -> Result<()> {
        self.lines.read_line(&mut String::new())?;
        Ok(())
    }
}

/// Takes these events, each once and in order, and says how long that took from the first to the last.
async fn take(events: &mut Subscription, from: u64, to: u64) -> Result<Duration> {
    let (mut next, mut began) = (from, None);
    while next < to {
        let item = tokio::time::timeout(IDLE, events.next()).await.map_err(|_| format!("nothing after {next}"))?;
        match item.ok_or("closed")?? {
            Item::Event(event) => {
                began.get_or_insert_with(Instant::now);
                if event.payload() != payload(next) {
                    return Err(format!("another event where {next} was to come").into());
                }
                next += 1;
            }
            other => return Err(format!("{other} where {next} was to come").into()),
        }
    }
    Ok(began.map_or(Duration::ZERO, |began| began.elapsed()))
}

async fn run() -> Result<()> {
    let events = events();
    let dir = tempfile::tempdir()?;
    let (mut producer, mut ticket) = Producer::start(&dir.path().join("node"))?;
    let begin = Instant::now();
    producer.order(0, events)?;
    producer.wait()?;
    let rate = |time: Duration, events: u64| events as f64 / time.as_secs_f64() / 1e6;
    println!("published and stored     {:5.2} M events/s", rate(begin.elapsed(), events));
    let mut published = events;
    for round in ["first producer", "after kill -9  "] {
        for _ in 0..3 {
            let late = builder().ephemeral().ticket(ticket.clone()).start().await?;
            let mut subscription = late.subscribe(CHANNEL).from(From::Earliest).await?;
            let time = take(&mut subscription, 0, published).await?;
            producer.order(published, published + LIVE)?;
            take(&mut subscription, published, published + LIVE).await?;
            producer.wait()?;
            println!("replayed, {round}  {:5.2} M events/s, then {LIVE} live without a seam", rate(time, published));
            published += LIVE;
            late.close().await;
        }
        producer.child.kill()?;
        producer.child.wait()?;
        if round == "first producer" {
            (producer, ticket) = Producer::start(&dir.path().join("node"))?;
        }
    }
    Ok(())
}
