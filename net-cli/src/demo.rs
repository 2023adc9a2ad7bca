//! `net demo`: the tour. Several processes, a week of real earthquakes, and a check of everything that arrives.

mod attack;
mod checks;
mod child;
mod digest;
mod messages;
mod offline;
mod quakes;
mod report;
pub(crate) mod role;
mod tamper;
mod weather;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::cli::Global;
use crate::demo::attack::Attack;
use crate::demo::child::Child;
use crate::demo::messages::{News, Order, Origins, RoleName, Setup};
use crate::demo::report::{Comeback, Report, Run};
use crate::demo::tamper::Tampering;
use crate::failure::Failure;
use crate::host::interrupted;
use crate::output::Output;

/// A tour: real data through several processes, everything checked
///
/// Two processes publish 1,707 earthquakes on 12 channels, a third publishes an alert for each strong one, a fourth
/// subscribes to all of it and checks every event, a fifth comes late. Then one of the two is killed (SIGKILL), its logs
/// are verified offline with public keys only, it is started again in its directory, and two more replay a network of which
/// its disk has half: twice the same bytes as before. They find each other by ticket on the loopback interface, in a
/// temporary directory. All of it goes through bad weather: the sockets lose, reorder and duplicate datagrams, which links
/// repair, and a quarter of its batches is taken from the process that checks, which gets them back from their origins. The
/// exit code says whether everything held.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  net demo\n  net demo --json\n  net demo --sabotage forge\n  net demo --sabotage rot"
)]
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
    /// Flip a byte in a log of the producer that was killed, before it is verified
    Rot,
}

impl Sabotage {
    fn attack(self) -> Option<Attack> {
        match self {
            Self::Forge => Some(Attack::Forge),
            Self::Unsign => Some(Attack::Unsign),
            Self::Lose | Self::Twice | Self::Swap | Self::Rot => None,
        }
    }

    fn tampering(self) -> Option<Tampering> {
        match self {
            Self::Lose => Some(Tampering::Lose),
            Self::Twice => Some(Tampering::Twice),
            Self::Swap => Some(Tampering::Swap),
            Self::Forge | Self::Unsign | Self::Rot => None,
        }
    }
}

/// Processes that publish earthquakes.
const PRODUCERS: usize = 2;
/// The network of the late subscriber.
const LATE_NETWORK: &str = "ak";
/// The network that is replayed when a producer has come back: most alerts are on its channel.
const REPLAYED_NETWORK: &str = "us";
const REPLAYS: usize = 2;
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

    async fn tour(&self, directory: &Path, output: &Output) -> Result<Report, Failure> {
        let began = Instant::now();
        let mut stage = Stage::new(directory);
        output.progress("starting the processes");
        let mut producers = Vec::new();
        for index in 0..PRODUCERS {
            // One of the producers is enough to be hostile.
            let attack = self.sabotage.and_then(Sabotage::attack).filter(|_| index == 0);
            let role = RoleName::Producer { index, of: PRODUCERS, attack };
            let (child, origin) = stage.publisher(&producer_name(index), role).await?;
            stage.origins.producers.push(origin);
            producers.push(child);
        }
        let (mut alerter, origin) = stage.publisher("alerter", RoleName::Alerter).await?;
        stage.origins.alerter = Some(origin);
        let role = RoleName::Consumer { tampering: self.sabotage.and_then(Sabotage::tampering) };
        let mut consumer = stage.start("consumer", role).await?;
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
        let seen = consumer.seen().await?;

        output.progress("replaying for a late subscriber");
        let mut late = stage.start("late", RoleName::Late { network: LATE_NETWORK.to_owned() }).await?;
        late.ready().await?;
        let replayed = late.seen().await?;
        let at_consumer = consumer.storm().await?;
        let mut everywhere = at_consumer;
        for child in producers.iter_mut().chain([&mut alerter, &mut late]) {
            everywhere += child.storm().await?;
        }
        let run = Run { published, alerts, seen, late: replayed, at_consumer, everywhere };

        let killed = producers.pop().ok_or_else(|| Failure::new("there is no producer"))?;
        let (returned, comeback) = self.kill(killed, &mut stage, output).await?;
        output.progress_done();
        Child::stop_all(producers.into_iter().chain([alerter, consumer, late, returned])).await?;
        Ok(Report::new(run, comeback, self.sabotage, began.elapsed()))
    }

    /// Kills the last of the producers, looks at what it has left on the disk, starts it again there, and has two late
    /// subscribers replay a network of which half is to be had from that disk only.
    async fn kill(&self, killed: Child, stage: &mut Stage, output: &Output) -> Result<(Child, Comeback), Failure> {
        let index = PRODUCERS - 1;
        let (name, origin) = (producer_name(index), stage.origins.producers[index].clone());
        output.progress("killing a producer, and verifying its logs");
        killed.kill().await?;
        let (dir, rots) = (stage.directory.join(&name), self.sabotage == Some(Sabotage::Rot));
        let look = move || {
            if rots {
                offline::rot(&dir, &format!("quakes/{REPLAYED_NETWORK}"))?;
            }
            offline::verify(&dir, &origin)
        };
        let verified = tokio::task::spawn_blocking(look).await.map_err(|error| Failure::new(error.to_string()))??;

        output.progress("starting it again, and replaying twice");
        // Its ticket is of a process that is no more.
        stage.tickets.remove(index);
        let (returned, _) = stage.publisher(&name, RoleName::Returned { index, of: PRODUCERS }).await?;
        let mut replaying = Vec::new();
        for n in 1..=REPLAYS {
            let role = RoleName::Late { network: REPLAYED_NETWORK.to_owned() };
            replaying.push(stage.start(&format!("replay-{n}"), role).await?);
        }
        let mut replays = Vec::new();
        for child in &mut replaying {
            child.ready().await?;
            replays.push(child.seen().await?);
        }
        Child::stop_all(replaying.into_iter()).await?;
        Ok((returned, Comeback { verified, channel: format!("quakes/{REPLAYED_NETWORK}"), replays }))
    }
}

fn producer_name(index: usize) -> String {
    format!("producer-{index}")
}

/// What the next process is told.
struct Stage {
    directory: PathBuf,
    /// Of the processes that publish.
    tickets: Vec<String>,
    origins: Origins,
    seed: u64,
}

impl Stage {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), tickets: Vec::new(), origins: Origins::default(), seed: 0 }
    }

    async fn start(&mut self, name: &str, role: RoleName) -> Result<Child, Failure> {
        self.seed += 1;
        let (tickets, origins) = (self.tickets.clone(), self.origins.clone());
        Child::start(&Setup { role, dir: self.directory.join(name), tickets, origins, seed: self.seed }).await
    }

    /// Starts a process that publishes, for those that come after it; and its origin.
    async fn publisher(&mut self, name: &str, role: RoleName) -> Result<(Child, String), Failure> {
        let mut child = self.start(name, role).await?;
        let (origin, ticket) = child.ready().await?;
        self.tickets.push(ticket);
        Ok((child, origin))
    }
}
