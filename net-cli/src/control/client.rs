//! The asking end of a control connection.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use crate::control::lines::{LineReader, LineWriter};
use crate::control::protocol::{Feed, Opening, Reply, Request, VERSION};
use crate::failure::Failure;

/// A stream to the node: a socket to another process, or a pipe within this one.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One request and what is answered.
pub(crate) struct Connection {
    answers: Answers,
    feeds: Feeds,
}

/// What is answered.
pub(crate) struct Answers {
    reader: LineReader<ReadHalf<Box<dyn Stream>>>,
}

/// What follows the request.
pub(crate) struct Feeds {
    writer: LineWriter<WriteHalf<Box<dyn Stream>>>,
}

impl Connection {
    /// Sends the request; nothing if the node is gone.
    pub(crate) async fn open(stream: Box<dyn Stream>, request: Request) -> Option<Self> {
        let (read, write) = tokio::io::split(stream);
        let mut feeds = Feeds { writer: LineWriter::new(write) };
        feeds.writer.send(&Opening { version: VERSION, request }).await.ok()?;
        Some(Self { answers: Answers { reader: LineReader::new(read) }, feeds })
    }

    /// The next answer, or nothing if the node is gone.
    ///
    /// # Errors
    /// What the node refuses, and what is no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>, Failure> {
        self.answers.next().await
    }

    pub(crate) fn split(self) -> (Answers, Feeds) {
        (self.answers, self.feeds)
    }
}

impl Answers {
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>, Failure> {
        match self.reader.next().await {
            Ok(Some(Reply::Refused { message, next, usage })) => Err(Failure { message, next, usage }),
            Ok(reply) => Ok(reply),
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData || error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Err(Failure::new(format!(
                    "the node of this directory answers what this program does not know: {error}"
                ))
                .next("stop that process, so that one of this version takes its place"))
            }
            // A connection that breaks says that the node is gone.
            Err(_) => Ok(None),
        }
    }
}

impl Feeds {
    /// Whether it went; false if the node is gone.
    pub(crate) async fn put(&mut self, feed: &Feed) -> bool {
        self.writer.put(feed).await.is_ok()
    }

    pub(crate) async fn flush(&mut self) -> bool {
        self.writer.flush().await.is_ok()
    }
}
