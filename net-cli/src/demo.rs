//! `net demo`: the tour. Several processes, a week of real earthquakes, and a check of everything that arrives.

mod attack;
mod checks;
mod child;
mod messages;
mod quakes;
mod report;
pub(crate) mod role;
mod tamper;
mod weather;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cli::Global;
use crate::demo::attack::Attack;
use crate::demo::child::Child;
use crate::demo::messages::{News, Order, Origins, RoleName, Seen, Setup};
use crate::demo::report::Report;
use crate::demo::tamper::Tampering;
use crate::failure::Failure;
use crate::host::interrupted;

/// A tour: real data through several processes, everything checked
///
/// Two processes publish 1,707 earthquakes on 12 channels, a third publishes an alert for each strong one, a fourth
/// subscribes to all of it and checks every event, a fifth comes late. They find each other by ticket on the loopback
/// interface, in a temporary directory. All of it goes through bad weather: the sockets lose, reorder and duplicate
/// datagrams, which links repair, and a quarter of its batches is taken from the process that checks, which gets them
/// back from their origins. The exit code says whether everything held.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  net demo\n  net demo --json\n  net demo --sabotage forge")]
pub(crate) struct Demo {
    /// Do something that must not go unnoticed: the demo fails then, and names the check that noticed it
    #[arg(long, value_name = "HOW")]
    sabotage: Option<Sabotage>,
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sabotage {
    /// Take one event away from what the consumer is handed
    Lose,
    /// Hand the consumer one event twice
    Twice,
    /// Hand the consumer two events of one origin in the wrong order
    Swap,
    /// Let a producer sign some of its batches with another key
    Forge,
    /// Let a producer send some of its batches without a signature
    Unsign,
}

impl Sabotage {
    fn attack(self) -> Option<Attack> {
        match self {
            Self::Forge => Some(Attack::Forge),
            Self::Unsign => Some(Attack::Unsign),
            Self::Lose | Self::Twice | Self::Swap => None,
        }
    }

    fn tampering(self) -> Option<Tampering> {
        match self {
            Self::Lose => Some(Tampering::Lose),
            Self::Twice => Some(Tampering::Twice),
            Self::Swap => Some(Tampering::Swap),
            Self::Forge | Self::Unsign => None,
        }
    }
}

/// Processes that publish earthquakes.
const PRODUCERS: usize = 2;
/// After this time the demo has failed, and its processes are ended.
const TIMEOUT: Duration = Duration::from_secs(55);

impl Demo {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let output = global.output();
        let directory = tempfile::Builder::new().prefix("net-demo-").tempdir()?;
        let tour = tokio::time::timeout(TIMEOUT, self.tour(directory.path(), &output));
        // Whichever way this ends, the processes go with the tour: dropping it ends them.
        let report = tokio::select! {
            biased;
            () = interrupted() => return Err(Failure::new("interrupted").next("`net demo` again")),
            report = tour => report,
        };
        let Ok(report) = report else {
            let message = format!("the demo did not end within {} seconds", TIMEOUT.as_secs());
            return Err(
                Failure::new(message).next("`net doctor` looks at the network; NET_LOG=debug shows what happens")
            );
        };
        let report = report?;
        if output.json() {
            output.record(&report)?;
        } else {
            report.print(&output)?;
        }
        Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn tour(&self, directory: &Path, output: &crate::output::Output) -> Result<Report, Failure> {
        let began = Instant::now();
        let mut seed = 0;
        let mut setup = |name: &str, role, tickets: &[String], origins: &Origins| {
            seed += 1;
            let (tickets, origins) = (tickets.to_vec(), origins.clone());
            Setup { role, dir: directory.join(name), tickets, origins, seed }
        };
        let (mut tickets, mut origins) = (Vec::new(), Origins::default());
        output.progress("starting the processes");

        let mut producers = Vec::new();
        for index in 0..PRODUCERS {
            // One of the producers is enough to be hostile.
            let attack = self.sabotage.and_then(Sabotage::attack).filter(|_| index == 0);
            let role = RoleName::Producer { index, of: PRODUCERS, attack };
            let mut child = Child::start(&setup(&format!("producer-{index}"), role, &tickets, &origins)).await?;
            let (origin, ticket) = child.ready().await?;
            origins.producers.push(origin);
            tickets.push(ticket);
            producers.push(child);
        }
        let mut alerter = Child::start(&setup("alerter", RoleName::Alerter, &tickets, &origins)).await?;
        let (origin, ticket) = alerter.ready().await?;
        origins.alerter = Some(origin);
        tickets.push(ticket);
        let role = RoleName::Consumer { tampering: self.sabotage.and_then(Sabotage::tampering) };
        let mut consumer = Child::start(&setup("consumer", role, &tickets, &origins)).await?;
        consumer.ready().await?;

        output.progress("publishing");
        for producer in &mut producers {
            producer.order(&Order::Go).await?;
        }
        let mut published = Vec::new();
        for producer in &mut producers {
            match producer.next().await? {
                News::Published(figures) => published.push(figures),
                other => return Err(child::unexpected(&other)),
            }
        }
        alerter.order(&Order::Finish).await?;
        let alerts = match alerter.next().await? {
            News::Alerted { alerts } => alerts,
            other => return Err(child::unexpected(&other)),
        };
        output.progress("checking");
        consumer.order(&Order::Finish).await?;
        let seen: Seen = match consumer.next().await? {
            News::Seen(seen) => seen,
            other => return Err(child::unexpected(&other)),
        };

        output.progress("replaying for a late subscriber");
        let mut late = Child::start(&setup("late", RoleName::Late, &tickets, &origins)).await?;
        late.ready().await?;
        let late_seen = match late.next().await? {
            News::Seen(seen) => seen,
            other => return Err(child::unexpected(&other)),
        };
        output.progress_done();

        let at_consumer = consumer.storm().await?;
        let mut everywhere = at_consumer;
        for child in producers.iter_mut().chain([&mut alerter, &mut late]) {
            everywhere += child.storm().await?;
        }
        let storms = (at_consumer, everywhere);
        Child::stop_all(producers.into_iter().chain([alerter, consumer, late])).await?;
        Ok(Report::new(&published, alerts, seen, late_seen, storms, self.sabotage, began.elapsed()))
    }
}
