//! Why a connection or a stream was ended: the numbers on the wire. Table: `docs/spec/link.md`.

use std::fmt;

use quinn::VarInt;

/// Why a connection was closed by one of its ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CloseCode(pub(crate) u32);

impl CloseCode {
    /// The node's endpoint was closed by its owner.
    pub(crate) const CLOSED: Self = Self(0);
    /// Another connection took over, and this one is empty.
    pub(crate) const DRAINED: Self = Self(1);
    /// The other end was restarted and has a new connection.
    pub(crate) const REPLACED: Self = Self(2);
    /// No more neighbours are taken.
    pub(crate) const LINKS_MAX: Self = Self(3);
    /// Something was said that has no place there.
    pub(crate) const PROTOCOL: Self = Self(4);
    /// A lane has lost its framing.
    pub(crate) const FRAMING: Self = Self(5);
    /// No hello came in time, or one that cannot be read.
    pub(crate) const HELLO: Self = Self(6);
    /// A node has dialled itself.
    pub(crate) const MYSELF: Self = Self(7);
    /// The other end does not read its control stream.
    pub(crate) const CONTROL_OVERFLOW: Self = Self(8);
    /// Streams were still open when a drained connection had to end.
    pub(crate) const DRAIN_CUT: Self = Self(9);

    pub(crate) fn var(self) -> VarInt {
        VarInt::from_u32(self.0)
    }

    pub(crate) fn close(self, connection: &quinn::Connection) {
        // Closing again would hide why it was closed.
        if connection.close_reason().is_none() {
            connection.close(self.var(), self.text().as_bytes());
        }
    }

    /// Does this say that the other end has done something wrong?
    pub(crate) fn is_violation(self) -> bool {
        matches!(self, Self::PROTOCOL | Self::FRAMING | Self::HELLO | Self::CONTROL_OVERFLOW)
    }

    fn text(self) -> &'static str {
        match self {
            Self::CLOSED => "the node has left",
            Self::DRAINED => "another connection has taken over",
            Self::REPLACED => "the node was restarted",
            Self::LINKS_MAX => "the node has as many neighbours as it may have",
            Self::PROTOCOL => "the protocol of links was broken",
            Self::FRAMING => "a malformed frame",
            Self::HELLO => "no proper hello in time",
            Self::MYSELF => "a node cannot be its own neighbour",
            Self::CONTROL_OVERFLOW => "the control stream is not read",
            Self::DRAIN_CUT => "streams did not end in time",
            _ => "closed for a reason that this build does not know",
        }
    }

    /// Why a connection is no more, in words.
    pub(crate) fn explain(error: &quinn::ConnectionError) -> String {
        match Self::of(error) {
            Some(code) => code.text().to_owned(),
            None => error.to_string(),
        }
    }

    /// The code with which the other end has closed.
    pub(crate) fn of(error: &quinn::ConnectionError) -> Option<Self> {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Some(Self(u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX)))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.text())
    }
}

/// Stream code: nobody accepts the protocol.
pub(crate) const UNKNOWN_PROTOCOL: u32 = 0x10;
/// Stream code: the acceptor's queue is full.
pub(crate) const BUSY: u32 = 0x11;
/// Stream code: no prelude came in time, or one that cannot be read.
pub(crate) const BAD_PRELUDE: u32 = 0x12;
/// Stream code: a newer realtime frame of the pair is there, or nobody wants this one.
pub(crate) const SUPERSEDED: u32 = 0x13;
