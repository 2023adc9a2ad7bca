//! Real processes on bad sockets, killed and stopped: nothing is lost untold, nothing comes twice.
//!
//! Each test has a small budget; with `NET_FAULTS=full` it has that of the promise (`cargo xtask e2e faults`).

mod ledger;
mod process;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ledger::{Ledger, median_and_worst};
use net_channel::core::{From, SeqRange};
use net_channel::{Channel, Item, Subscription};
use process::{DEADLINE, Life, REALTIME, RELIABLE, Role, Said, excuse, memory_of, node, paced, play, sent};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;

const RATE: u64 = 1_000;

/// Runs in the processes that the tests start; in the tests' own it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process() {
    play().await;
}

fn is_full() -> bool {
    std::env::var_os("NET_FAULTS").is_some_and(|value| value == "full")
}

fn budget<T>(small: T, full: T) -> T {
    if is_full() { full } else { small }
}

/// A line of the table that `cargo xtask e2e faults` prints at its end.
#[allow(clippy::print_stdout, reason = "figures are what these tests are for")]
fn figure(what: &str, figures: &str) {
    println!("faults: {what:<28} {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_in_bad_weather_deliver_all_that_is_reliable() {
    let events = budget(5, 300) * RATE;
    let (endpoint, bus) = node(1, "", None, Some(1)).await;
    let mut items = bus.subscribe("faults/*").from(From::Earliest).await.expect("subscribe");
    let mut child = Life::start(&Role {
        publish: Some(events),
        rate: RATE,
        realtime: true,
        key: 2,
        ticket: endpoint.ticket().to_string(),
        weather: Some(2),
        ..Role::default()
    });
    let (mut reliable, mut realtime) = (Ledger::default(), Ledger::default());
    let (mut sent_reliable, mut sent_realtime): (Vec<u64>, Vec<u64>) = Default::default();
    let mut lost_there = None;
    let over = |ledger: &Ledger, sent: &[u64]| sent.last().is_some_and(|last| ledger.covers(*last));
    while lost_there.is_none() || !over(&reliable, &sent_reliable) || !over(&realtime, &sent_realtime) {
        let next = async {
            tokio::select! {
                biased;
                item = items.next() => take(&mut reliable, &mut realtime, &item.expect("open").expect("fine")),
                line = child.lines.recv() => match line.expect("it lives").1 {
                    Said::Sent { channel, seq } if channel == RELIABLE => sent_reliable.push(seq),
                    Said::Sent { seq, .. } => sent_realtime.push(seq),
                    Said::Done { datagrams_lost } => lost_there = Some(datagrams_lost),
                    other => panic!("{other:?}"),
                },
            }
        };
        timeout(DEADLINE, next).await.expect("nothing stalls");
    }
    let lost_here = endpoint.metrics().weather_lost;
    let lost_there = lost_there.expect("told above");
    let (lost_realtime, untold_realtime) = realtime.lost(&sent_realtime);
    let came_realtime = sent_realtime.len() as u64 - lost_realtime;
    figure(
        "bad weather, reliable",
        &format!(
            "{} of {events} events in order, {} gaps, {} twice, longest pause {:?}; {lost_there} + {lost_here} datagrams lost",
            reliable.events(),
            reliable.gaps,
            reliable.duplicates(),
            reliable.longest_pause
        ),
    );
    figure(
        "bad weather, realtime",
        &format!(
            "{came_realtime} of {events} events, {lost_realtime} in gaps, {} twice, longest pause {:?}",
            realtime.duplicates(),
            realtime.longest_pause
        ),
    );
    assert!(lost_here > 0 && lost_there > 0, "the weather was fine");
    assert_eq!(
        (sent_reliable.len() as u64, reliable.events(), reliable.gaps, reliable.restarts),
        (events, events, 0, 0)
    );
    assert!(reliable.in_order() && realtime.in_order());
    assert_eq!((reliable.duplicates(), realtime.duplicates()), (0, 0));
    assert!(came_realtime * 10 >= events * 9, "{came_realtime} of {events}");
    assert_eq!(untold_realtime, 0, "what was lost in realtime is told");
}

fn take(reliable: &mut Ledger, realtime: &mut Ledger, item: &Item) {
    let channel = match item {
        Item::Event(event) => event.channel(),
        Item::Gap(gap) => &gap.source.channel,
        Item::Restart(restart) => &restart.source.channel,
        other => panic!("{other}"),
    };
    let ledger = if channel.as_str() == REALTIME { realtime } else { reliable };
    note(ledger, item);
}

fn note(ledger: &mut Ledger, item: &Item) {
    match item {
        Item::Event(event) => ledger.got(SeqRange { from: event.seq(), to: event.seq() + 1 }, Instant::now()),
        other => {
            let (range, why) = excuse(other);
            ledger.excuse(range, why);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_publisher_loses_nothing_untold() {
    let (kills, life) = (budget(2, 10), budget(300, RATE));
    let dir = tempfile::tempdir().expect("a directory");
    let (endpoint, bus) = node(1, "", None, None).await;
    let mut items = bus.subscribe(RELIABLE).from(From::Earliest).await.expect("subscribe");
    let mut role = Role {
        publish: Some(u64::MAX),
        rate: RATE,
        key: 2,
        ticket: endpoint.ticket().to_string(),
        dir: dir.path().to_owned(),
        ..Role::default()
    };
    let mut ledger = Ledger::default();
    let (mut acknowledged, mut resumed): (Vec<u64>, Vec<Duration>) = Default::default();
    let mut incarnation = 0;
    let mut began = Instant::now();
    for n in 0..=kills {
        if n == kills {
            role.publish = Some(life);
        }
        let mut child = Life::start(&role);
        let before = incarnation;
        let mut seen = 0;
        while seen < life {
            let item = timeout(DEADLINE, items.next()).await.expect("in time").expect("open").expect("fine");
            note(&mut ledger, &item);
            let Item::Event(event) = item else { continue };
            let of = event.batch().open().seal().incarnation();
            if of > before && seen == 0 && n > 0 {
                resumed.push(began.elapsed());
            }
            seen += u64::from(of > before);
            incarnation = incarnation.max(of);
        }
        began = Instant::now();
        if n == kills {
            until_done(&mut child, &mut acknowledged).await;
        }
        acknowledged.extend(child.kill().await.into_iter().filter_map(seq_sent));
    }
    let last = *acknowledged.last().expect("events were acknowledged");
    until_covered(&mut items, &mut ledger, last).await;
    killed("kill -9 of the publisher", kills, &ledger, &acknowledged, &mut resumed);
    assert_eq!(ledger.restarts, kills, "each restart is told");
}

fn seq_sent((_, said): (Instant, Said)) -> Option<u64> {
    match said {
        Said::Sent { seq, .. } => Some(seq),
        _ => None,
    }
}

async fn until_done(child: &mut Life, acknowledged: &mut Vec<u64>) {
    loop {
        let line = timeout(DEADLINE, child.lines.recv()).await.expect("in time").expect("it lives");
        match line.1 {
            Said::Done { .. } => return,
            _ => acknowledged.extend(seq_sent(line)),
        }
    }
}

async fn until_covered(items: &mut Subscription, ledger: &mut Ledger, last: u64) {
    while !ledger.covers(last) {
        note(ledger, &timeout(DEADLINE, items.next()).await.expect("in time").expect("open").expect("fine"));
    }
}

/// What holds after kills, and the figures.
fn killed(what: &str, kills: u64, ledger: &Ledger, acknowledged: &[u64], resumed: &mut [Duration]) {
    let ((lost, untold), (median, worst)) = (ledger.lost(acknowledged), median_and_worst(resumed));
    figure(
        what,
        &format!(
            "{kills} kills: {} events delivered, {} acknowledged, {lost} of them lost, {untold} untold, {} twice; resumes \
         in {median:.0?} (median), {worst:.0?} (worst)",
            ledger.events(),
            acknowledged.len(),
            ledger.duplicates()
        ),
    );
    assert_eq!((untold, ledger.duplicates()), (0, 0));
}

/// Publishes until it is told to stop; then gives the seqs that were acknowledged.
fn publisher(channel: Channel, rate: u64) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Vec<u64>>) {
    let (stop, mut stopped) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        let (receipts, mut acks) = mpsc::unbounded_channel();
        let acknowledged = tokio::spawn(async move {
            let mut seqs = Vec::new();
            while let Some(receipt) = acks.recv().await {
                seqs.extend(sent(receipt).await);
            }
            seqs
        });
        let channels = [channel];
        tokio::select! {
            biased;
            _ = stopped.recv() => {}
            () = paced(&channels, rate, u64::MAX, |_, receipt| drop(receipts.send(receipt))) => {}
        }
        drop(receipts);
        acknowledged.await.expect("it only waits")
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_subscriber_goes_on_where_it_stood() {
    let (kills, life) = (budget(2, 10), budget(300, RATE));
    let (endpoint, bus) = node(1, "", None, None).await;
    let channel = bus.channel(RELIABLE).open().await.expect("open");
    let mut role = Role { key: 2, ticket: endpoint.ticket().to_string(), ..Role::default() };
    let mut ledger = Ledger::default();
    let mut resumed = Vec::new();
    let mut child = Life::start(&role);
    assert!(channel.wait_for_subscribers(1, DEADLINE).await, "it has subscribed");
    let (stop, publishing) = publisher(channel, RATE);
    for _ in 0..kills {
        let mut seen = 0;
        while seen < life {
            let line = timeout(DEADLINE, child.lines.recv()).await.expect("in time").expect("it lives");
            seen += heard(&mut ledger, &mut role.cursor, line);
        }
        for line in child.kill().await {
            heard(&mut ledger, &mut role.cursor, line);
        }
        let killed = Instant::now();
        child = Life::start(&role);
        let line = timeout(DEADLINE, child.lines.recv()).await.expect("in time").expect("it lives");
        resumed.push(killed.elapsed());
        heard(&mut ledger, &mut role.cursor, line);
    }
    drop(stop);
    let acknowledged = timeout(DEADLINE, publishing).await.expect("nobody holds it up").expect("it publishes");
    let last = *acknowledged.last().expect("events were acknowledged");
    while !ledger.covers(last) {
        let line = timeout(DEADLINE, child.lines.recv()).await.expect("in time").expect("it lives");
        heard(&mut ledger, &mut role.cursor, line);
    }
    killed("kill -9 of the subscriber", kills, &ledger, &acknowledged, &mut resumed);
}

/// Notes what a subscriber said: its lines are what it has done, and its cursor is kept with them, so that a kill
/// between the two cannot come. Gives how many events it said.
fn heard(ledger: &mut Ledger, cursor: &mut String, (at, said): (Instant, Said)) -> u64 {
    match said {
        Said::Got { range, cursor: behind } => {
            ledger.got(range, at);
            *cursor = behind;
            range.len()
        }
        Said::Excused { range, why } => {
            ledger.excuse(range, &why);
            0
        }
        other => panic!("{other:?}"),
    }
}

const SUBSCRIBERS: u8 = 4;
/// So many that a subscriber that stands still for ten seconds falls behind what its link's queue holds.
const FAN_RATE: u64 = 5_000;
/// Documented: the cache of a channel, the events that wait to be sealed, and for each link its queue of one priority
/// and what the other end has not acknowledged.
const PUBLISHER_BYTES_MAX: u64 = (16 + 4 + SUBSCRIBERS as u64 * (4 + 8)) << 20;
/// Documented: the inbox of the links, what waits for what is before it, what waits for the application.
const SUBSCRIBER_BYTES_MAX: u64 = (16 + 16 + 8) << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_subscriber_costs_the_others_nothing_and_catches_up() {
    let window = Duration::from_secs(budget(3, 10));
    let (endpoint, bus) = node(1, "", None, None).await;
    let channel = bus.channel(RELIABLE).open().await.expect("open");
    let ticket = endpoint.ticket().to_string();
    let start = |n| Watched::start(&Role { key: 2 + n, ticket: ticket.clone(), ..Role::default() });
    let watched: Vec<Watched> = (0..SUBSCRIBERS).map(start).collect();
    assert!(channel.wait_for_subscribers(SUBSCRIBERS.into(), DEADLINE).await, "all have subscribed");
    let pids: Vec<u32> = std::iter::once(std::process::id()).chain(watched.iter().map(|w| w.pid)).collect();
    let idle: Vec<u64> = pids.iter().map(|pid| memory_of(*pid)).collect();
    let mut most = idle.clone();
    let (stopped, others) = watched.split_first().expect("four");

    let (stop, publishing) = publisher(channel.clone(), FAN_RATE);
    // What is measured is what comes in a time, so time is what is waited for.
    watch(&pids, &mut most, Duration::from_secs(1)).await;
    let at_first = events_of(others);
    watch(&pids, &mut most, window).await;
    let at_stop = events_of(others);
    others.iter().for_each(|w| w.lock().longest_pause = Duration::ZERO);
    stopped.signal(Signal::STOP);
    watch(&pids, &mut most, window).await;
    let at_cont = events_of(others);
    let pause = others.iter().map(|w| w.lock().longest_pause).max().unwrap_or_default();
    stopped.signal(Signal::CONT);
    watch(&pids, &mut most, window / 3).await;
    drop(stop);
    let acknowledged = timeout(DEADLINE, publishing).await.expect("nobody holds it up").expect("it publishes");
    let last = *acknowledged.last().expect("events were acknowledged");
    let caught_up = async {
        while !watched.iter().all(|w| w.lock().covers(last)) {
            watch(&pids, &mut most, Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, caught_up).await.expect("all catch up or are told their gaps");

    let (before, during) = (at_stop - at_first, at_cont - at_stop);
    let ratio = during as f64 / before as f64;
    let grown: Vec<u64> = most.iter().zip(&idle).map(|(most, idle)| most.saturating_sub(*idle)).collect();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let seconds = window.as_secs();
    figure(
        "one of four stopped",
        &format!(
            "for {seconds} s at {FAN_RATE} events/s: the others got {:.0} events/s before, {:.0} while ({ratio:.3}), longest \
         pause {pause:.0?}",
            before as f64 / 3.0 / window.as_secs_f64(),
            during as f64 / 3.0 / window.as_secs_f64()
        ),
    );
    let behind = {
        let ledger = stopped.lock();
        let (lost, untold) = ledger.lost(&acknowledged);
        let (came, twice, sent) = (ledger.events(), ledger.duplicates(), acknowledged.len());
        format!("caught up: {came} of {sent} events, {lost} in gaps, {untold} untold, {twice} twice")
    };
    figure("the stopped one", &behind);
    let subscribers = grown[1..].iter().max().copied().unwrap_or_default();
    figure(
        "memory, grown by at most",
        &format!(
            "publisher {:.1} MiB of {:.0}, subscribers {:.1} MiB of {:.0} (anonymous; from {:.1} and {:.1} MiB)",
            mib(grown[0]),
            mib(PUBLISHER_BYTES_MAX),
            mib(subscribers),
            mib(SUBSCRIBER_BYTES_MAX),
            mib(idle[0]),
            mib(idle[1])
        ),
    );
    for w in &watched {
        let ledger = w.lock();
        assert_eq!((ledger.lost(&acknowledged).1, ledger.duplicates()), (0, 0));
    }
    assert!(others.iter().all(|w| w.lock().gaps == 0), "nobody else lost anything");
    assert!(grown[0] <= PUBLISHER_BYTES_MAX && subscribers <= SUBSCRIBER_BYTES_MAX, "{grown:?}");
    if is_full() {
        assert!(ratio >= 0.95, "{ratio}");
    }
}

fn events_of(watched: &[Watched]) -> u64 {
    watched.iter().map(|w| w.lock().events()).sum()
}

/// Looks at the memory of processes for a while.
async fn watch(pids: &[u32], most: &mut [u64], time: Duration) {
    let until = tokio::time::Instant::now() + time;
    loop {
        for (most, pid) in most.iter_mut().zip(pids) {
            *most = (*most).max(memory_of(*pid));
        }
        let now = tokio::time::Instant::now();
        if now >= until {
            return;
        }
        tokio::time::sleep_until(until.min(now + Duration::from_millis(100))).await;
    }
}

/// A subscriber whose lines are read as they come.
struct Watched {
    pid: u32,
    ledger: Arc<Mutex<Ledger>>,
    life: Life,
}

impl Watched {
    fn start(role: &Role) -> Self {
        let mut life = Life::start(role);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (_, none) = mpsc::unbounded_channel();
        let (mut lines, noted) = (std::mem::replace(&mut life.lines, none), ledger.clone());
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                heard(&mut noted.lock().expect("no panic"), &mut String::new(), line);
            }
        });
        Self { pid: life.pid(), ledger, life }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no panic")
    }

    fn signal(&self, signal: Signal) {
        self.life.signal(signal);
    }
}
