//! Channels and subscriptions of values instead of bytes.

use std::marker::PhantomData;
use std::time::Duration;

use crate::bus::{Channel, PublishError, Receipt, SubscribeError, Subscription};
use crate::codec::{Codec, CodecError};
use crate::core::Item;
use crate::{Event, Publish};

/// A [`Channel`] whose payloads are values of `T` in the format `C`.
#[derive(Debug)]
pub struct TypedChannel<T, C> {
    channel: Channel,
    types: PhantomData<fn(T) -> C>,
}

/// A [`Subscription`] whose payloads are read as values of `T` in the format `C`.
#[derive(Debug)]
pub struct TypedSubscription<T, C> {
    subscription: Subscription,
    types: PhantomData<fn() -> (T, C)>,
}

/// What a typed subscription delivers.
#[derive(Debug)]
pub enum TypedItem<T> {
    /// An event and its value.
    Event(Event, T),
    /// An event whose payload is no such value. It counts as delivered.
    Undecodable(Event, CodecError),
    /// What is not an event.
    Other(Item),
}

/// Why a value was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishValueError {
    /// The value cannot be encoded.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The event was not taken.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Channel {
    /// This channel for values of `T` in the format `C`, for example `channel.typed::<Quake, Postcard>()`.
    #[must_use]
    pub fn typed<T, C: Codec<T>>(&self) -> TypedChannel<T, C> {
        TypedChannel { channel: self.clone(), types: PhantomData }
    }
}

impl Subscription {
    /// This subscription with payloads read as values of `T` in the format `C`.
    #[must_use]
    pub fn typed<T, C: Codec<T>>(self) -> TypedSubscription<T, C> {
        TypedSubscription { subscription: self, types: PhantomData }
    }
}

impl<T, C: Codec<T>> TypedChannel<T, C> {
    /// Publishes a value. See [`Channel::publish`].
    ///
    /// # Errors
    /// [`PublishValueError`].
    ///
    /// # Cancel safety
    /// Cancelled while it waits, the value is not queued.
    pub async fn publish(&self, value: &T) -> Result<Receipt, PublishValueError> {
        let mut payload = Vec::new();
        C::encode(value, &mut payload)?;
        Ok(self.channel.publish_with(Publish::new(&payload)).await?)
    }

    /// The channel of bytes below.
    #[must_use]
    pub fn bytes(&self) -> &Channel {
        &self.channel
    }

    /// See [`Channel::wait_for_subscribers`].
    pub async fn wait_for_subscribers(&self, n: usize, timeout: Duration) -> bool {
        self.channel.wait_for_subscribers(n, timeout).await
    }
}

impl<T, C: Codec<T>> TypedSubscription<T, C> {
    /// The next item. See [`Subscription::next`].
    ///
    /// # Errors
    /// [`SubscribeError`] when the subscription cannot go on.
    ///
    /// # Cancel safety
    /// Cancel-safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<TypedItem<T>, SubscribeError>> {
        Some(self.subscription.next().await?.map(|item| match item {
            Item::Event(event) => match C::decode(&event.payload_bytes()) {
                Ok(value) => TypedItem::Event(event, value),
                Err(error) => TypedItem::Undecodable(event, error),
            },
            other => TypedItem::Other(other),
        }))
    }

    /// The subscription of bytes below.
    #[must_use]
    pub fn bytes(&self) -> &Subscription {
        &self.subscription
    }
}
