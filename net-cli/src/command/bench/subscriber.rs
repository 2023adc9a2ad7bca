//! A subscriber of `net bench`, from the inside: a process of its own that counts.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use net::transport::Ticket;
use net::{Item, Subscription};
use tokio::io::{Stdin, Stdout, stdin, stdout};

use super::mesh::{CHANNEL, News, Published, Setup, node, now_ns};
use super::tally::{Outcome, Tally};
use crate::control::lines::{LineReader, LineWriter};
use crate::failure::{Failure, chain};

/// A process of `net bench`; it is told what to do on its standard input
#[derive(Debug, Args)]
pub(crate) struct Subscriber {}

/// After so long without any event, what is missing does not come.
const QUIET: Duration = Duration::from_secs(10);

type Orders = LineReader<Stdin>;
type Reports = LineWriter<Stdout>;

impl Subscriber {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let (mut orders, mut reports) = (LineReader::new(stdin()), LineWriter::new(stdout()));
        let Some(setup) = orders.next::<Setup>().await? else {
            return Err(Failure::usage("this command is a part of `net bench`").next("`net bench pub`"));
        };
        match play(&setup, &mut orders, &mut reports).await {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(failure) => {
                // The other process says it; if it has gone, nobody wants to know.
                let _ = reports.send(&News::Failed { message: failure.message }).await;
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

async fn play(setup: &Setup, orders: &mut Orders, reports: &mut Reports) -> Result<(), Failure> {
    let ticket: Ticket = setup.ticket.parse().map_err(|error| Failure::new(chain(&error)))?;
    let node = node().ticket(ticket).start().await?;
    let mut events = node.subscribe(CHANNEL).await.map_err(|error| Failure::new(chain(&error)))?;
    reports.send(&News::Subscribed).await?;
    let Some(tally) = count(setup, &mut events, orders).await? else { return Ok(()) };
    let outcome: Outcome = tally.finish(node.bus().counters().await.unverified);
    reports.send(&News::Ended(outcome)).await?;
    // Whoever reads it ends this.
    let _ = orders.next::<Published>().await;
    node.close().await;
    Ok(())
}

/// Counts until all has come, or what is missing does not come; nothing if the other process has gone.
async fn count(setup: &Setup, events: &mut Subscription, orders: &mut Orders) -> Result<Option<Tally>, Failure> {
    let mut tally = Tally::new(setup.size, setup.timed_from);
    let mut published = None;
    loop {
        while let Some(item) = events.try_next() {
            take(&mut tally, &item);
        }
        tally.drained(now_ns());
        if published.is_some_and(|published| tally.received() >= published) {
            return Ok(Some(tally));
        }
        tokio::select! {
            biased;
            order = orders.next::<Published>() => match order? {
                Some(order) => published = Some(order.events),
                None => return Ok(None),
            },
            item = events.next() => match item {
                Some(item) => take(&mut tally, &item.map_err(|error| Failure::new(chain(&error)))?),
                None => return Err(Failure::new("the node was closed")),
            },
            () = tokio::time::sleep(QUIET), if published.is_some() => return Ok(Some(tally)),
        }
    }
}

fn take(tally: &mut Tally, item: &Item) {
    match item {
        Item::Event(event) => tally.take(event.payload(), now_ns),
        // A gap, a restart, what does not open: a run with any of them does not count.
        other => tally.told(other),
    }
}
