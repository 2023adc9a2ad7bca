//! JSON lines of bounded length.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter,
};

/// The most bytes of one line: an event of 1 MiB whose text needs an escape for every other byte, and its frame.
pub(crate) const LINE_LEN_MAX: usize = 4 << 20;

/// Reads values, one a line.
#[derive(Debug)]
pub(crate) struct LineReader<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, reader), line: Vec::new() }
    }

    /// The next value, or nothing at the end.
    ///
    /// # Errors
    /// A line that is too long or not of this type, or what the socket suffers. After an error nothing more is read.
    ///
    /// # Cancel safety
    /// Cancel-safe: a line that has come in part stays until the rest has come.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        if !read_line(&mut self.reader, &mut self.line).await? {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.line);
        self.line.clear();
        value.map(Some).map_err(io::Error::from)
    }

    /// Whether another line may be there without waiting.
    pub(crate) fn has_more(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

/// Appends to `line` until it is whole, without its end; false at the end of the input.
pub(crate) async fn read_line<R: AsyncBufRead + Unpin>(reader: &mut R, line: &mut Vec<u8>) -> io::Result<bool> {
    let room = (LINE_LEN_MAX + 1).saturating_sub(line.len());
    let mut limited = reader.take(room as u64);
    limited.read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => {
            line.pop();
            Ok(true)
        }
        _ if line.len() > LINE_LEN_MAX => Err(io::Error::new(io::ErrorKind::InvalidData, "line too long")),
        // A last line without an end is cut off, not whole.
        _ => Ok(false),
    }
}

/// Writes values, one a line.
#[derive(Debug)]
pub(crate) struct LineWriter<W> {
    writer: BufWriter<W>,
}

impl<W: AsyncWrite + Unpin> LineWriter<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer: BufWriter::with_capacity(64 << 10, writer) }
    }

    /// Writes a value; [`LineWriter::flush`] makes sure that it goes.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(crate) async fn put(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.writer.flush().await
    }

    /// Writes a value and sends it.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(crate) async fn send(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.put(value).await?;
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_and_in_order() {
        let (a, b) = tokio::io::duplex(16);
        let mut writer = LineWriter::new(a);
        let written = tokio::spawn(async move {
            for n in 0..100u32 {
                writer.put(&(n, "x".repeat(50))).await?;
            }
            writer.flush().await
        });
        let mut reader = LineReader::new(b);
        for n in 0..100 {
            let (got, text): (u32, String) = reader.next().await.expect("a value").expect("not the end");
            assert_eq!((got, text.len()), (n, 50));
        }
        assert!(reader.next::<u32>().await.expect("the end is no error").is_none());
        written.await.expect("no panic").expect("written");
    }

    #[tokio::test]
    async fn endless_line_is_refused_without_being_kept() {
        let endless = tokio::io::repeat(b'a');
        let mut reader = LineReader::new(endless);
        assert!(reader.next::<String>().await.is_err());
        assert!(reader.line.len() <= LINE_LEN_MAX + 1);
    }

    #[tokio::test]
    async fn cut_off_and_foreign_lines_are_no_values() {
        let mut reader = LineReader::new(&b"{\"a\":1}\n{\"a\":"[..]);
        let value: Option<serde_json::Value> = reader.next().await.expect("a value");
        assert!(value.is_some());
        assert!(reader.next::<serde_json::Value>().await.expect("cut off").is_none());
        assert!(LineReader::new(&b"GET / HTTP/1.1\n"[..]).next::<serde_json::Value>().await.is_err());
    }
}
