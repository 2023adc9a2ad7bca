//! What `net pub` publishes: one text, or the lines of a file or of the standard input.

use std::io::IsTerminal;

use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader, stdin};

use crate::failure::Failure;

/// The most bytes of one line; an event holds 1 MiB.
const LINE_LEN_MAX: usize = 1 << 20;

/// Where events come from.
pub(crate) enum Input {
    One(Option<Vec<u8>>),
    Lines { reader: Box<dyn AsyncBufRead + Send + Unpin>, number: u64, line: Vec<u8> },
}

impl Input {
    /// Opens what is named on the command line: a text, `@FILE`, or `-`; nothing means `-`.
    pub(crate) async fn open(text: Option<&str>) -> Result<Self, Failure> {
        let reader: Box<dyn AsyncBufRead + Send + Unpin> = match text {
            None | Some("-") => Box::new(BufReader::new(stdin())),
            Some(text) => match text.strip_prefix('@') {
                Some(path) => match File::open(path).await {
                    Ok(file) => Box::new(BufReader::with_capacity(64 << 10, file)),
                    Err(error) => {
                        let next =
                            "`net pub CHANNEL @FILE` publishes the lines of a file, `net pub CHANNEL TEXT` a text";
                        return Err(Failure::new(format!("cannot read {path}: {error}")).next(next));
                    }
                },
                None => return Ok(Self::One(Some(text.as_bytes().to_vec()))),
            },
        };
        Ok(Self::Lines { reader, number: 0, line: Vec::new() })
    }

    /// Whether a person types the lines.
    pub(crate) fn is_typed(text: Option<&str>) -> bool {
        text.is_none_or(|text| text == "-") && std::io::stdin().is_terminal()
    }

    /// The next payload, with the number of its line from 1, or nothing at the end. Empty lines are left out.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        match self {
            Self::One(text) => Ok(text.take().map(|text| (1, text))),
            Self::Lines { reader, number, line } => loop {
                let room = (LINE_LEN_MAX + 2).saturating_sub(line.len());
                reader.take(room as u64).read_until(b'\n', line).await.map_err(|error| {
                    Failure::new(format!("line {} cannot be read: {error}", *number + 1)).next(
                        "net pub CHANNEL @FILE publishes the lines of a file, net pub CHANNEL - those of its input",
                    )
                })?;
                if line.is_empty() {
                    return Ok(None);
                }
                let mut payload = std::mem::take(line);
                *number += 1;
                if payload.last() == Some(&b'\n') {
                    payload.pop();
                    if payload.last() == Some(&b'\r') {
                        payload.pop();
                    }
                }
                if payload.len() > LINE_LEN_MAX {
                    let message =
                        format!("line {number} has more than {LINE_LEN_MAX} bytes, the most that an event holds");
                    return Err(Failure::new(message).next("divide it, or publish a reference to it"));
                }
                if !payload.is_empty() {
                    return Ok(Some((*number, payload)));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &'static [u8]) -> Input {
        Input::Lines { reader: Box::new(bytes), number: 0, line: Vec::new() }
    }

    #[tokio::test]
    async fn lines_are_events_whatever_their_end() {
        let mut input = lines(b"a\r\n\nb\nlast");
        assert_eq!(input.next().await, Ok(Some((1, b"a".to_vec()))));
        assert_eq!(input.next().await, Ok(Some((3, b"b".to_vec()))));
        assert_eq!(input.next().await, Ok(Some((4, b"last".to_vec()))));
        assert_eq!(input.next().await, Ok(None));
    }

    #[tokio::test]
    async fn text_is_one_event() {
        let mut input = Input::open(Some("two\nlines")).await.expect("text needs nothing");
        assert_eq!(input.next().await, Ok(Some((1, b"two\nlines".to_vec()))));
        assert_eq!(input.next().await, Ok(None));
    }

    #[tokio::test]
    async fn line_that_no_event_holds_is_refused() {
        let endless = BufReader::new(tokio::io::repeat(b'a'));
        let mut input = Input::Lines { reader: Box::new(endless), number: 0, line: Vec::new() };
        assert!(input.next().await.is_err_and(|f| f.message.contains("line 1")));
    }
}
