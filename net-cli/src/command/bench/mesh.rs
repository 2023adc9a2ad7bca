//! A publisher in this process and subscribers in others: a mesh on the loopback interface that nobody else is in.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::{Channel, Node};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::tally::Outcome;
use crate::child::Child;
use crate::failure::{Failure, chain};

/// The channel that everybody uses.
pub(super) const CHANNEL: &str = "bench/events";
/// How long subscribers may take to be there.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long they may take for what is still on its way when all has been published: they give up before.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The first line to a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) ticket: String,
    /// Bytes of an event.
    pub(super) size: usize,
    /// From which event on latencies are measured, if they are.
    pub(super) timed_from: Option<u64>,
}

/// Everything has been published. The end of a subscriber's input ends it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) events: u64,
}

/// Lines from a subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum News {
    Subscribed,
    Ended(Outcome),
    Failed { message: String },
}

/// A node that keeps nothing on disk and that only this machine reaches.
pub(super) fn node() -> net::Builder {
    Node::builder().ephemeral().mdns(false).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// Nanoseconds of the clock that all processes of this machine share.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// The publisher, and the processes that subscribe. Dropped, it ends them.
pub(super) struct Stage {
    node: Node,
    channel: Channel,
    subscribers: JoinSet<Result<(Child, Outcome), Failure>>,
    /// How many events there were, when all have been published.
    published: watch::Sender<Option<u64>>,
}

/// What went through.
pub(super) struct Run {
    pub(super) published: u64,
    /// Of each subscriber.
    pub(super) outcomes: Vec<Outcome>,
}

impl Stage {
    /// Starts everybody, and waits until all have subscribed.
    ///
    /// # Errors
    /// [`Failure`] if a node or a process does not start, or does not find the publisher in time.
    pub(super) async fn start(subscribers: usize, size: usize, timed_from: Option<u64>) -> Result<Self, Failure> {
        let node = node().start().await?;
        let channel = node.channel(CHANNEL).open().await.map_err(|error| Failure::new(chain(&error)))?;
        let setup = Setup { ticket: node.ticket().to_string(), size, timed_from };
        let mut children = Vec::new();
        for _ in 0..subscribers {
            children.push(Child::start("the benchmark", &["bench-subscriber"], &setup).await?);
        }
        let mut stage = Self { node, channel, subscribers: JoinSet::new(), published: watch::Sender::new(None) };
        for mut child in children {
            match within(JOIN_TIMEOUT, child.next()).await? {
                News::Subscribed => stage.subscribers.spawn(follow(child, stage.published.subscribe())),
                other => return Err(unexpected(other)),
            };
        }
        if stage.channel.wait_for_subscribers(subscribers, JOIN_TIMEOUT).await {
            return Ok(stage);
        }
        let message = format!("{} of {subscribers} subscribers came", stage.channel.subscribers().len());
        Err(Failure::new(message).next("`net doctor` looks at the network"))
    }

    /// Publishes, takes what each subscriber has counted, and ends all.
    ///
    /// # Errors
    /// What `publish` says; [`Failure`] if a subscriber has ended, or what it has had does not count: it says why.
    pub(super) async fn run(
        mut self,
        publish: impl AsyncFnOnce(&Channel) -> Result<u64, Failure>,
    ) -> Result<Run, Failure> {
        let published = tokio::select! {
            biased;
            // Nobody is done yet.
            Some(ended) = self.subscribers.join_next() => return Err(joined(ended).err().unwrap_or_else(out_of_step)),
            published = publish(&self.channel) => published?,
        };
        self.published.send_replace(Some(published));
        let (mut children, mut outcomes) = (Vec::new(), Vec::new());
        while let Some(ended) = self.subscribers.join_next().await {
            let (child, outcome) = joined(ended)?;
            children.push(child);
            outcomes.push(outcome);
        }
        within(DRAIN_TIMEOUT, Child::stop_all(children.into_iter())).await?;
        self.node.close().await;
        check(&outcomes, published)?;
        Ok(Run { published, outcomes })
    }
}

/// A subscriber, until it has said what it counted.
async fn follow(mut child: Child, mut published: watch::Receiver<Option<u64>>) -> Result<(Child, Outcome), Failure> {
    let events = tokio::select! {
        biased;
        news = child.next() => return Err(unexpected(news?)),
        published = published.wait_for(Option::is_some) => published.ok().and_then(|published| *published),
    };
    child.order(&Published { events: events.ok_or_else(out_of_step)? }).await?;
    match within(DRAIN_TIMEOUT, child.next()).await? {
        News::Ended(outcome) => Ok((child, outcome)),
        other => Err(unexpected(other)),
    }
}

fn joined<T>(ended: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    ended.unwrap_or_else(|error| Err(Failure::new(error.to_string())))
}

fn out_of_step() -> Failure {
    Failure::new("a process of the benchmark is out of step")
}

/// Whether the figures count.
fn check(outcomes: &[Outcome], published: u64) -> Result<(), Failure> {
    let fault = outcomes.iter().find_map(|outcome| outcome.fault(published).map(|fault| (outcome, fault)));
    let Some((outcome, fault)) = fault else { return Ok(()) };
    // Who is alone is waited for; of several, who is much slower than the others is not.
    let next = if outcomes.len() > 1 && outcome.told.is_some() {
        "a subscriber that is much slower than the others misses events, and is told: fewer --subscribers, larger events, \
         or nothing else on this machine"
    } else {
        "the same command again; if it stays so, it is a fault of `net`: NET_LOG=debug shows what happens"
    };
    Err(Failure::new(format!("this run is not valid and has no figures: {fault}")).next(next))
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
        let message = format!("a process of the benchmark said nothing for {} seconds", time.as_secs());
        Err(Failure::new(message).next("`net doctor` looks at the network; NET_LOG=debug shows what happens"))
    })
}

fn unexpected(news: News) -> Failure {
    match news {
        News::Failed { message } => Failure::new(format!("a process of the benchmark failed: {message}"))
            .next("`net doctor` looks at the network"),
        News::Subscribed | News::Ended(_) => out_of_step(),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn run_with_a_fault_in_one_subscriber_fails_and_says_why() {
        let well = Outcome { received: 3, ..Outcome::default() };
        assert_eq!(check(&[well.clone(), well.clone()], 3), Ok(()));
        let gap = Outcome { received: 2, skipped: 1, ..Outcome::default() };
        let failure = check(&[well, gap], 3).expect_err("one is missing");
        assert!(failure.message.ends_with("2 of 3 events arrived, 1 skipped"), "{failure:?}");
        assert_eq!(format!("{:?}", failure.exit_code()), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn slow_one_of_several_is_told_from_a_fault() {
        let slow = Outcome { received: 2, told: Some("a gap".to_owned()), ..Outcome::default() };
        let next = |outcomes: &[Outcome]| check(outcomes, 3).expect_err("one is missing").next.expect("what to do");
        assert!(next(&[slow.clone(), slow.clone()]).contains("fewer --subscribers"));
        assert!(next(&[slow]).contains("a fault of `net`"));
    }
}
