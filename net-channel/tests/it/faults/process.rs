//! The processes of these tests: how they are started, what they do, and the lines in which they tell it.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_channel::core::{Cursor, From, SeqRange};
use net_channel::{Ack, Bus, BusConfig, Channel, Item, OpenGate, Receipt};
use net_transport::{Endpoint, EndpointConfig, Mesh, MeshId, NodeKeys, Psk, Seed, Ticket, Weather};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

/// Whatever is waited for comes within this time, or the test fails.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of an event.
pub(super) const EVENT_LEN: usize = 256;
/// The reliable channel of every test.
pub(super) const RELIABLE: &str = "faults/reliable";
/// The realtime channel, where there is one.
pub(super) const REALTIME: &str = "faults/realtime";

/// What a process does.
#[derive(Clone, Debug, Default)]
pub(super) struct Role {
    /// Publishes so many events on each of its channels at `rate`, and then stays; none: subscribes.
    pub(super) publish: Option<u64>,
    /// Events a second on each channel.
    pub(super) rate: u64,
    /// On [`REALTIME`] as well.
    pub(super) realtime: bool,
    /// The node's key.
    pub(super) key: u8,
    /// A ticket of the test's node.
    pub(super) ticket: String,
    /// Where seqs are kept from being used again.
    pub(super) dir: PathBuf,
    /// Where a subscriber begins; empty: at the earliest event.
    pub(super) cursor: String,
    /// The seed of its weather; none: fine.
    pub(super) weather: Option<u64>,
}

/// A process, and what it says. It goes with the test, however that ends.
pub(super) struct Life {
    child: Child,
    pub(super) lines: mpsc::UnboundedReceiver<(Instant, Said)>,
}

/// A line of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// `Ack::Sent` with at least one link.
    Sent { channel: String, seq: u64 },
    /// All has been published and acknowledged.
    Done { datagrams_lost: u64 },
    /// Events were handed out, and the cursor behind them.
    Got { range: SeqRange, cursor: String },
    /// Events were said to be missing.
    Excused { range: SeqRange, why: String },
}

const VARIABLE: &str = "NET_TEST_FAULTS";
const MARK: &str = "> ";

impl Life {
    pub(super) fn start(role: &Role) -> Self {
        let mut child = Command::new(env::current_exe().expect("this test's own program"))
            .args(["--exact", "faults::a_process", "--nocapture"])
            .env(VARIABLE, role.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(said) = line.split(MARK).nth(1).and_then(Said::parse) {
                    let _ = sender.send((Instant::now(), said));
                }
            }
        });
        Self { child, lines }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("our own child");
    }

    /// Kills it with signal 9 and gives what it had said.
    pub(super) async fn kill(mut self) -> Vec<(Instant, Said)> {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
        let mut rest = Vec::new();
        while let Some(line) = self.lines.recv().await {
            rest.push(line);
        }
        rest
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Role {
    fn to_text(&self) -> String {
        let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        let dir = self.dir.to_str().expect("a path of text");
        let (publish, weather) = (number(self.publish), number(self.weather));
        let Self { rate, realtime, key, ticket, cursor, .. } = self;
        format!("{publish}\n{rate}\n{realtime}\n{key}\n{ticket}\n{dir}\n{cursor}\n{weather}")
    }

    fn of_this_process() -> Option<Self> {
        let text = env::var(VARIABLE).ok()?;
        let mut parts = text.split('\n').map(str::to_owned);
        let mut part = || parts.next().expect("eight parts");
        Some(Self {
            publish: part().parse().ok(),
            rate: part().parse().expect("a number"),
            realtime: part().parse().expect("yes or no"),
            key: part().parse().expect("a number"),
            ticket: part(),
            dir: part().into(),
            cursor: part(),
            weather: part().parse().ok(),
        })
    }
}

impl Said {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let text = |at: usize| words.get(at).map(|word| (*word).to_owned());
        let range = || Some(SeqRange { from: number(1)?, to: number(2)? });
        Some(match *words.first()? {
            "sent" => Self::Sent { channel: text(1)?, seq: number(2)? },
            "done" => Self::Done { datagrams_lost: number(1)? },
            "got" => Self::Got { range: range()?, cursor: text(3)? },
            "excused" => Self::Excused { range: range()?, why: text(3)? },
            _ => return None,
        })
    }
}

/// Says a line in one write, past what the test program captures. What is torn by a kill is no line.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{MARK}{line}\n").as_bytes()).and_then(|()| out.flush());
}

pub(super) async fn node(key: u8, known: &str, floor: Option<PathBuf>, weather: Option<u64>) -> (Endpoint, Bus) {
    let mesh = Mesh::new(MeshId([5; 32]), 0, Psk::new([6; 32]));
    let keys = NodeKeys::from_seed(&Seed::new([key; 32]));
    let gate = Arc::new(OpenGate::new(mesh.id()));
    let mut config = EndpointConfig::listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    if let Ok(ticket) = known.parse::<Ticket>() {
        config.known = ticket.peers;
    }
    config.weather = weather.map(|seed| Weather { loss: 0.05, reorder: 0.02, duplicate: 0.01, batches: 0.0, seed });
    let (endpoint, inbox) = Endpoint::bind(keys.clone(), mesh, gate, config).await.expect("bind");
    let mut config = BusConfig::new(Arc::new(keys));
    config.floor = floor;
    (endpoint.clone(), Bus::start(endpoint, inbox, config).await.expect("start"))
}

/// What a process of these tests does. In the test's own process, which has no role, nothing.
pub(super) async fn play() {
    let Some(role) = Role::of_this_process() else { return };
    // The end of its input is the end of the test, whichever way that ended.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let floor = (!role.dir.as_os_str().is_empty()).then(|| role.dir.join("floor"));
    let (endpoint, bus) = node(role.key, &role.ticket, floor, role.weather).await;
    match role.publish {
        Some(events) => publish(&role, events, &endpoint, &bus).await,
        None => subscribe(&role, &bus).await,
    }
    std::future::pending().await
}

async fn publish(role: &Role, events: u64, endpoint: &Endpoint, bus: &Bus) {
    let mut channels = vec![bus.channel(RELIABLE).open().await.expect("open")];
    if role.realtime {
        channels.push(bus.channel(REALTIME).realtime().open().await.expect("open"));
    }
    let (receipts, mut acks) = mpsc::unbounded_channel::<(String, Receipt)>();
    let told = tokio::spawn(async move {
        while let Some((channel, receipt)) = acks.recv().await {
            if let Some(seq) = sent(receipt).await {
                say(&format!("sent {channel} {seq}"));
            }
        }
    });
    for channel in &channels {
        assert!(channel.wait_for_subscribers(1, DEADLINE).await, "nobody has subscribed");
    }
    paced(&channels, role.rate, events, |channel, receipt| {
        let _ = receipts.send((channel.name().to_string(), receipt));
    })
    .await;
    drop(receipts);
    told.await.expect("it only tells");
    say(&format!("done {}", endpoint.metrics().weather_lost));
    // What was lost of a realtime channel is told when the next event comes, so the last one needs others behind it.
    paced(&channels[1..], role.rate, u64::MAX, |_, _| {}).await;
}

/// The seq of an event that is in the queue of a link.
pub(super) async fn sent(receipt: Receipt) -> Option<u64> {
    let Ack::Sent { links } = receipt.clone().await.expect("sealed") else { return None };
    let dot = receipt.dot().await.expect("sealed");
    (links > 0).then_some(dot.seq)
}

/// Publishes so many events on each channel, so many a second.
pub(super) async fn paced(channels: &[Channel], rate: u64, events: u64, mut each: impl FnMut(&Channel, Receipt)) {
    let began = tokio::time::Instant::now();
    for n in 0..events {
        // What is late is caught up with, so that the rate holds on the whole.
        tokio::time::sleep_until(began + Duration::from_micros(n * 1_000_000 / rate)).await;
        for channel in channels {
            each(channel, channel.publish([7; EVENT_LEN]).await.expect("publish"));
        }
    }
}

async fn subscribe(role: &Role, bus: &Bus) {
    let from = role.cursor.parse::<Cursor>().map_or(From::Earliest, From::Cursor);
    let mut events = bus.subscribe(RELIABLE).from(from).await.expect("subscribe");
    let mut run: Option<Run> = None;
    loop {
        let item = match events.try_next() {
            Some(item) => item,
            None => {
                run.take().iter().for_each(Run::tell);
                events.next().await.expect("open").expect("fine")
            }
        };
        match item {
            Item::Event(event) => {
                let seq = event.seq();
                if run.as_ref().is_some_and(|run| run.range.to != seq || run.range.len() >= RUN_MAX) {
                    run.take().iter().for_each(Run::tell);
                }
                let from = run.as_ref().map_or(seq, |run| run.range.from);
                run = Some(Run { range: SeqRange { from, to: seq + 1 }, behind: events.cursor() });
            }
            other => {
                run.take().iter().for_each(Run::tell);
                let (range, why) = excuse(&other);
                say(&format!("excused {} {} {why}", range.from, range.to));
            }
        }
    }
}

/// Events that were handed out and are not told yet.
struct Run {
    range: SeqRange,
    /// Where the subscription stands behind them.
    behind: Cursor,
}

const RUN_MAX: u64 = 100;

impl Run {
    fn tell(&self) {
        say(&format!("got {} {} {}", self.range.from, self.range.to, self.behind));
    }
}

/// What an item that is no event says of events.
pub(super) fn excuse(item: &Item) -> (SeqRange, &'static str) {
    match item {
        Item::Gap(gap) => (gap.range, "gap"),
        Item::Restart(restart) => (SeqRange { from: restart.last_seen + 1, to: restart.incarnation }, "restart"),
        other => panic!("{other}"),
    }
}

/// Anonymous memory of a process, in bytes.
pub(super) fn memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() << 10
}
