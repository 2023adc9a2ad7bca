//! Streams of protocols above: quinn's, with errors that speak of links.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use quinn::VarInt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::codes::{BAD_PRELUDE, BUSY, CloseCode, UNKNOWN_PROTOCOL};

/// What is open on a connection, so that it can be drained.
#[derive(Debug, Default)]
pub(crate) struct OpenCount {
    count: AtomicUsize,
    zero: Notify,
}

/// Something that is open; closed when dropped.
#[derive(Debug)]
pub(crate) struct OpenGuard(Arc<OpenCount>);

impl OpenCount {
    pub(crate) fn open(self: &Arc<Self>) -> OpenGuard {
        self.count.fetch_add(1, Ordering::AcqRel);
        OpenGuard(self.clone())
    }

    /// Waits until nothing is open.
    pub(crate) async fn zero(&self) {
        loop {
            let zero = self.zero.notified();
            let mut zero = pin!(zero);
            zero.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            zero.await;
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.zero.notify_waiters();
        }
    }
}

/// Why a stream of a protocol does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Nobody at the other node accepts the protocol.
    #[error("the node does not accept this protocol")]
    UnknownProtocol,
    /// The other node has too many streams of the protocol waiting; try again later.
    #[error("the node has too many streams of this protocol waiting, try again later")]
    Busy,
    /// The other end did not understand how the stream was opened, or it took too long.
    #[error("the node did not understand how the stream was opened")]
    BadPrelude,
    /// The other end has stopped or reset the stream with a code of the protocol's own.
    #[error("the other end has ended the stream with code {0}")]
    Ended(u64),
    /// The stream ended before as many bytes came as were wanted.
    #[error("the stream ended after {0} of the bytes wanted")]
    FinishedEarly(usize),
    /// More bytes came than were allowed.
    #[error("the stream is longer than allowed")]
    TooLong,
    /// This end has already finished, stopped or reset the stream.
    #[error("the stream is closed at this end")]
    Closed,
    /// The link is gone.
    #[error("the link is gone: {0}")]
    LinkLost(String),
}

impl StreamError {
    fn ended(code: VarInt) -> Self {
        match u32::try_from(code.into_inner()) {
            Ok(UNKNOWN_PROTOCOL) => Self::UnknownProtocol,
            Ok(BUSY) => Self::Busy,
            Ok(BAD_PRELUDE) => Self::BadPrelude,
            _ => Self::Ended(code.into_inner() >> CODE_SHIFT),
        }
    }
}

/// Codes of protocols are sent shifted by 8 bits, so that they cannot be taken for ours.
const CODE_SHIFT: u32 = 8;

fn code(code: u32) -> VarInt {
    VarInt::from_u64(u64::from(code) << CODE_SHIFT).expect("40 bits fit into 62")
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::LinkLost(CloseCode::explain(&error))
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::ended(code),
            quinn::WriteError::ConnectionLost(error) => error.into(),
            quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::ended(code),
            quinn::ReadError::ConnectionLost(error) => error.into(),
            quinn::ReadError::ClosedStream
            | quinn::ReadError::IllegalOrderedRead
            | quinn::ReadError::ZeroRttRejected => Self::Closed,
        }
    }
}

impl From<StreamError> for std::io::Error {
    fn from(error: StreamError) -> Self {
        Self::other(error)
    }
}

/// The sending half of a stream. Dropping it finishes the stream; what was written is still delivered.
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    open: Option<OpenGuard>,
}

impl SendStream {
    pub(crate) fn new(inner: quinn::SendStream, open: OpenGuard) -> Self {
        Self { inner, open: Some(open) }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream; part of the bytes may have been sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of the bytes may have been written.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        Ok(self.inner.write_all(bytes).await?)
    }

    /// Writes all of `bytes` without copying them.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream; part of the bytes may have been sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of the bytes may have been written.
    pub async fn write_chunk(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        Ok(self.inner.write_chunk(bytes).await?)
    }

    /// Writes all chunks without copying them; they are empty afterwards.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream; part of the bytes may have been sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: part of the bytes may have been written.
    pub async fn write_all_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), StreamError> {
        Ok(self.inner.write_all_chunks(chunks).await?)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// [`StreamError::Closed`] if that or `reset` was said before.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.inner.finish().map_err(|_| StreamError::Closed)
    }

    /// Gives up what has not been delivered, and tells the other end with a code of the protocol's own.
    ///
    /// # Errors
    /// [`StreamError::Closed`] if the stream has been reset or everything was delivered.
    pub fn reset(&mut self, error_code: u32) -> Result<(), StreamError> {
        self.inner.reset(code(error_code)).map_err(|_| StreamError::Closed)
    }

    /// Waits until the other end has received everything after [`SendStream::finish`] (nothing is returned), or wants no
    /// more.
    ///
    /// # Errors
    /// [`StreamError`] if the other end has stopped the stream or the link is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stopped(&self) -> Result<(), StreamError> {
        match self.inner.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(StreamError::ended(code)),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Closed),
        }
    }

    /// Which of the link's streams goes first: higher numbers before lower ones; 2 is where frames of normal priority and
    /// new streams are.
    pub fn set_priority(&self, priority: i32) {
        // A stream that is closed needs none.
        let _ = self.inner.set_priority(priority);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // The connection may be drained meanwhile: it stays until what was written has been acknowledged.
        let _ = self.inner.finish();
        let mut acknowledged = Box::pin(self.inner.stopped());
        if acknowledged.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
            && let (Some(open), Ok(runtime)) = (self.open.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                let _ = acknowledged.await;
                drop(open);
            });
        }
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.get_mut().inner).poll_write(cx, buf);
        written.map_err(|error| StreamError::from(error).into())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.get_mut().finish().map_err(Into::into))
    }
}

/// The receiving half of a stream. Dropping it tells the other end that no more is wanted.
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    _open: OpenGuard,
}

impl RecvStream {
    pub(crate) fn new(inner: quinn::RecvStream, open: OpenGuard) -> Self {
        Self { inner, _open: open }
    }

    /// Reads some bytes into `buf`; nothing at the end of the stream.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, StreamError> {
        Ok(self.inner.read(buf).await?)
    }

    /// Reads exactly as many bytes as `buf` holds.
    ///
    /// # Errors
    /// [`StreamError::FinishedEarly`] if the stream ends before, otherwise as [`RecvStream::read`].
    ///
    /// # Cancel safety
    /// Not cancel safe: bytes that were read are lost.
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), StreamError> {
        self.inner.read_exact(buf).await.map_err(|error| match error {
            quinn::ReadExactError::FinishedEarly(read) => StreamError::FinishedEarly(read),
            quinn::ReadExactError::ReadError(error) => error.into(),
        })
    }

    /// The next bytes, at most `max`, without copying them; nothing at the end of the stream.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        Ok(self.inner.read_chunk(max, true).await?.map(|chunk| chunk.bytes))
    }

    /// Fills `bufs` with the next pieces without copying them, and says how many; nothing at the end of the stream.
    ///
    /// # Errors
    /// [`StreamError`] when the other end or the link has ended the stream.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, StreamError> {
        Ok(self.inner.read_chunks(bufs).await?)
    }

    /// Everything up to the end of the stream, at most `limit` bytes.
    ///
    /// # Errors
    /// [`StreamError::TooLong`] over the limit, otherwise as [`RecvStream::read`].
    ///
    /// # Cancel safety
    /// Not cancel safe: bytes that were read are lost.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, StreamError> {
        self.inner.read_to_end(limit).await.map_err(|error| match error {
            quinn::ReadToEndError::TooLong => StreamError::TooLong,
            quinn::ReadToEndError::Read(error) => error.into(),
        })
    }

    /// Tells the other end that no more is wanted, with a code of the protocol's own.
    ///
    /// # Errors
    /// [`StreamError::Closed`] if the stream is over or was stopped before.
    pub fn stop(&mut self, error_code: u32) -> Result<(), StreamError> {
        self.inner.stop(code(error_code)).map_err(|_| StreamError::Closed)
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let read = self.get_mut().inner.poll_read_buf(cx, buf);
        read.map_err(|error| StreamError::from(error).into())
    }
}
