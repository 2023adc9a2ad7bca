//! A process of the demo, from the inside.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use net::channel::Ack;
use net::redex::LogConfig;
use net::transport::Ticket;
use net::{Channel, From, Item, Node, Publish, Subscription};
use tokio::io::{Stdin, Stdout, stdin, stdout};
use tokio::time::Instant;

use crate::control::lines::{LineReader, LineWriter};
use crate::control::server::linked;
use crate::demo::attack::HostileSigner;
use crate::demo::checks::{ALERT_HEADER, Checker};
use crate::demo::messages::{News, Order, Published, RoleName, Setup};
use crate::demo::quakes::{self, Quake};
use crate::demo::tamper::{Tamper, Tampering};
use crate::demo::weather::{Storm, weather_of};
use crate::failure::{Failure, chain};

/// A process of `net demo`; it is told what to do on its standard input
#[derive(Debug, Args)]
pub(crate) struct Role {}

/// How long links may take.
const LINK_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);
/// How long subscribers may take to acknowledge what a producer has published.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that subscribe to what the producers publish: the one who answers and the one who checks.
const SUBSCRIBERS: usize = 2;
/// A subscriber that has everything waits so long for something that should not come.
const QUIET_AFTER_ALL: Duration = Duration::from_millis(300);
/// A subscriber that lacks something waits so long for it: longer than the bus takes to name what cannot be had, which is 5 s.
const QUIET_WHEN_MISSING: Duration = Duration::from_secs(7);

type Orders = LineReader<Stdin>;
type Reports = LineWriter<Stdout>;

impl Role {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let (mut orders, mut reports) = (LineReader::new(stdin()), LineWriter::new(stdout()));
        let Some(setup) = orders.next::<Setup>().await? else {
            return Err(Failure::usage("this command is a part of `net demo`").next("`net demo`"));
        };
        if let Err(failure) = play(setup, &mut orders, &mut reports).await {
            let _ = reports.send(&News::Failed { message: failure.message.clone() }).await;
            return Err(failure);
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn play(setup: Setup, orders: &mut Orders, reports: &mut Reports) -> Result<(), Failure> {
    let node = start(&setup).await?;
    let work = async {
        // Who subscribes goes on doing so to the end: what it has is acknowledged a moment after it was handed out.
        let _subscribed = match setup.role.clone() {
            RoleName::Producer { index, of, .. } => {
                produce(&node, index, of, orders, reports).await?;
                None
            }
            RoleName::Returned { index, of } => {
                let _channels = open(&node, &quakes_of(index, of)).await?;
                ready(&node, reports).await?;
                None
            }
            RoleName::Alerter => Some(alert(&node, orders, reports).await?),
            RoleName::Consumer { tampering } => {
                let checker = Checker::new(setup.origins.clone(), |_| true);
                Some(consume(&node, "quakes/*", checker, tampering, orders, reports).await?)
            }
            RoleName::Late { network } => {
                let checker = Checker::new(setup.origins.clone(), |quake| quake.network == network);
                Some(consume(&node, &format!("quakes/{network}"), checker, None, orders, reports).await?)
            }
        };
        // The end of the orders is the end of the demo, whether it stops or was killed.
        while let Some(order) = orders.next::<Order>().await? {
            if let Order::Tell = order {
                reports.send(&News::Storm(Storm::of(&node).await)).await?;
            }
        }
        Ok::<_, Failure>(())
    };
    let result = work.await;
    node.close().await;
    result
}

/// Starts the node and waits until it is linked to everybody it was told of.
async fn start(setup: &Setup) -> Result<Node, Failure> {
    let here = "127.0.0.1:0".parse().expect("an address");
    let mut builder =
        Node::builder().dir(&setup.dir).listen(here).mdns(false).weather(weather_of(&setup.role, setup.seed));
    if let RoleName::Producer { attack: Some(attack), .. } = setup.role {
        builder = builder.signer(Arc::new(HostileSigner::new(attack)));
    }
    let parse = |text: &String| text.parse::<Ticket>().map_err(|error| Failure::new(error.to_string()));
    let tickets = setup.tickets.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = tickets.first() {
        builder = builder.ticket(first.clone());
    }
    let node = builder.start().await?;
    for peer in tickets.iter().skip(1).flat_map(|ticket| &ticket.peers) {
        node.endpoint().add_peer(peer.clone());
    }
    let deadline = Instant::now() + LINK_TIMEOUT;
    while linked(&node) < tickets.len() {
        if Instant::now() > deadline {
            let message = format!("{} of {} links came up", linked(&node), tickets.len());
            node.close().await;
            return Err(Failure::new(message));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(node)
}

async fn ready(node: &Node, reports: &mut Reports) -> Result<(), Failure> {
    let (origin, ticket) = (node.bus().origin().to_string(), node.ticket().to_string());
    Ok(reports.send(&News::Ready { origin, ticket }).await?)
}

fn broken(error: impl std::error::Error + 'static) -> Failure {
    Failure::new(chain(&error))
}

/// Every `of`th earthquake, beginning with `index`.
fn quakes_of(index: usize, of: usize) -> Vec<Quake> {
    Quake::all().into_iter().skip(index).step_by(of).collect()
}

/// Opens the channels of these earthquakes, each with a log in the process's directory.
async fn open(node: &Node, quakes: &[Quake]) -> Result<HashMap<String, Channel>, Failure> {
    let mut channels = HashMap::new();
    for quake in quakes {
        if let Entry::Vacant(entry) = channels.entry(quake.channel()) {
            let channel = node.channel(entry.key()).persist(LogConfig::default()).open().await.map_err(broken)?;
            entry.insert(channel);
        }
    }
    Ok(channels)
}

async fn produce(
    node: &Node,
    index: usize,
    of: usize,
    orders: &mut Orders,
    reports: &mut Reports,
) -> Result<(), Failure> {
    let quakes = quakes_of(index, of);
    let channels = open(node, &quakes).await?;
    ready(node, reports).await?;
    if orders.next::<Order>().await?.is_none() {
        return Ok(());
    }
    for channel in channels.values() {
        // If they do not come, the figures below say so.
        channel.wait_for_subscribers(SUBSCRIBERS, LINK_TIMEOUT).await;
    }
    let began = Instant::now();
    let mut receipts = Vec::new();
    for quake in &quakes {
        receipts.push(channels[&quake.channel()].publish(quake.line).await.map_err(broken)?);
    }
    for channel in channels.values() {
        channel.flush().await;
    }
    let publishing_us = micros(began.elapsed());
    let mut durable = 0;
    for receipt in receipts {
        durable += u64::from(matches!(receipt.await.map_err(broken)?, Ack::Durable { .. }));
    }
    let mut unacknowledged = 0;
    for channel in channels.values() {
        let left = DELIVERY_TIMEOUT.saturating_sub(began.elapsed());
        let delivered = channel.wait_for_delivery(left).await;
        unacknowledged += u64::from(delivered.complete < SUBSCRIBERS);
    }
    let acknowledged_us = micros(began.elapsed());
    let (events, channels) = (quakes.len() as u64, channels.len() as u64);
    let published = Published { events, channels, durable, unacknowledged, publishing_us, acknowledged_us };
    Ok(reports.send(&News::Published(published)).await?)
}

/// Publishes an alert for each strong earthquake, on the same channel and with the earthquake as its cause.
async fn alert(node: &Node, orders: &mut Orders, reports: &mut Reports) -> Result<Subscription, Failure> {
    let mut events = node.subscribe("quakes/*").from(From::Earliest).await.map_err(broken)?;
    ready(node, reports).await?;
    let all = Quake::all().len() as u64;
    let (mut handled, mut alerts) = (0, 0);
    let mut finishing = Finishing::new(false);
    while handled < all {
        let event = match finishing.next(&mut events, orders, false).await? {
            None => break,
            Some(Item::Event(event)) => event,
            Some(item) => {
                handled += passed_over(&item);
                continue;
            }
        };
        // Its own alerts come back to it, as to every subscriber.
        if event.origin() == node.bus().origin() {
            continue;
        }
        // What comes late was counted when a gap named it.
        handled += u64::from(!event.late());
        let Some((id, magnitude)) = quakes::read(event.payload()) else { continue };
        if quakes::is_strong(magnitude) {
            let text = serde_json::json!({ "alert": id, "mag": magnitude }).to_string();
            let channel = node.channel(event.channel().as_str()).open().await.map_err(broken)?;
            let publish = Publish::new(&text).header(ALERT_HEADER, &id).after([event.as_parent()]);
            // Sealed before the next earthquake is looked at: so this one is the newest cause, and not one of several.
            channel.publish_with(publish).await.map_err(broken)?.await.map_err(broken)?;
            alerts += 1;
        }
    }
    reports.send(&News::Alerted { alerts }).await?;
    Ok(events)
}

/// Subscribes from the earliest event on and checks what comes.
async fn consume(
    node: &Node,
    pattern: &str,
    mut checker: Checker,
    tampering: Option<Tampering>,
    orders: &mut Orders,
    reports: &mut Reports,
) -> Result<Subscription, Failure> {
    let late = pattern != "quakes/*";
    let mut events = node.subscribe(pattern).from(From::Earliest).await.map_err(broken)?;
    ready(node, reports).await?;
    let mut tamper = Tamper::new(tampering);
    let mut finishing = Finishing::new(late);
    let (mut came, mut first, mut last) = (0, None, Instant::now());
    while let Some(item) = finishing.next(&mut events, orders, came >= checker.expected()).await? {
        let now = Instant::now();
        (first, last) = (first.or(Some(now)), now);
        came += match &item {
            Item::Event(event) => u64::from(!event.late()),
            item => passed_over(item),
        };
        tamper.pass(item).iter().for_each(|item| checker.take(item));
    }
    let unverified = node.bus().counters().await.unverified;
    let receiving_us = first.map_or(0, |first| micros(last.duration_since(first)));
    reports.send(&News::Seen(checker.finish(unverified, receiving_us))).await?;
    Ok(events)
}

/// Events that an item says will not come, or not in their place.
fn passed_over(item: &Item) -> u64 {
    match item {
        Item::Gap(gap) if gap.before.is_none() => gap.range.len(),
        Item::Sealed(sealed) => sealed.range.len(),
        _ => 0,
    }
}

/// When a subscriber stops waiting.
struct Finishing {
    /// Everything has been published.
    told: bool,
    last: Instant,
}

impl Finishing {
    fn new(told: bool) -> Self {
        Self { told, last: Instant::now() }
    }

    /// The next item, or nothing when there will be none: it has been quiet for a while after all that was expected has
    /// come (`complete`), or after everything has been published.
    async fn next(
        &mut self,
        events: &mut Subscription,
        orders: &mut Orders,
        complete: bool,
    ) -> Result<Option<Item>, Failure> {
        loop {
            let quiet = match (complete, self.told) {
                (true, _) => Some(QUIET_AFTER_ALL),
                (false, true) => Some(QUIET_WHEN_MISSING),
                (false, false) => None,
            };
            tokio::select! {
                biased;
                item = events.next() => {
                    self.last = Instant::now();
                    return match item {
                        Some(item) => item.map(Some).map_err(broken),
                        None => Err(Failure::new("the node was closed")),
                    };
                }
                order = orders.next::<Order>(), if !self.told => match order? {
                    Some(_) => (self.told, self.last) = (true, Instant::now()),
                    None => return Ok(None),
                },
                () = sleep_after(self.last, quiet) => return Ok(None),
            }
        }
    }
}

async fn sleep_after(last: Instant, quiet: Option<Duration>) {
    match quiet {
        Some(quiet) => tokio::time::sleep_until(last + quiet).await,
        None => std::future::pending().await,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
