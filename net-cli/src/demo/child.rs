//! A process of the demo, from the outside.

use crate::child;
use crate::demo::messages::{News, Order, Seen, Setup};
use crate::demo::weather::Storm;
use crate::failure::Failure;

/// A process of the demo. It ends when its input does, and is killed when this is dropped.
pub(crate) struct Child(child::Child);

impl Child {
    pub(crate) async fn start(setup: &Setup) -> Result<Self, Failure> {
        Ok(Self(child::Child::start("the demo", &["demo-role"], setup).await?))
    }

    pub(crate) async fn order(&mut self, order: &Order) -> Result<(), Failure> {
        self.0.order(order).await
    }

    pub(crate) async fn next(&mut self) -> Result<News, Failure> {
        match self.0.next().await? {
            News::Failed { message } => Err(Failure::new(format!("a process of the demo failed: {message}"))
                .next("`net doctor` looks at the network")),
            news => Ok(news),
        }
    }

    /// Waits until it is linked; its origin and its ticket.
    pub(crate) async fn ready(&mut self) -> Result<(String, String), Failure> {
        match self.next().await? {
            News::Ready { origin, ticket } => Ok((origin, ticket)),
            other => Err(unexpected(&other)),
        }
    }

    /// What it has seen.
    pub(crate) async fn seen(&mut self) -> Result<Seen, Failure> {
        match self.next().await? {
            News::Seen(seen) => Ok(seen),
            other => Err(unexpected(&other)),
        }
    }

    /// What the weather was on it.
    pub(crate) async fn storm(&mut self) -> Result<Storm, Failure> {
        self.order(&Order::Tell).await?;
        match self.next().await? {
            News::Storm(storm) => Ok(storm),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends it as `kill -9` does: it has no time to write anything.
    pub(crate) async fn kill(self) -> Result<(), Failure> {
        self.0.kill().await
    }

    /// Ends them and waits until they have drained.
    pub(crate) async fn stop_all(children: impl Iterator<Item = Self>) -> Result<(), Failure> {
        child::Child::stop_all(children.map(|child| child.0)).await
    }
}

pub(crate) fn unexpected(news: &News) -> Failure {
    Failure::new(format!("a process of the demo is out of step: {news:?}"))
}
