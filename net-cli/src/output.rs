//! What people and programs read: text on a terminal, JSON lines elsewhere if asked for.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::Failure;

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Out,
    Err,
}

/// How a piece of text stands out on a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    Dim,
    Name,
    Good,
    Bad,
    Strong,
}

/// Writes lines, with colours only where a person sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    out_colours: bool,
    err_colours: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            json,
            out_colours: wanted && io::stdout().is_terminal(),
            err_colours: wanted && io::stderr().is_terminal(),
        }
    }

    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// A line of the result, for people.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// A line of the result, for programs.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn record(&self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        out.flush()
    }

    /// Something beside the result that one may want to know.
    pub(crate) fn note(&self, text: impl Display) {
        self.beside("note", Look::Dim, text);
    }

    /// Something that is lost or wrong, whoever reads.
    pub(crate) fn warn(&self, text: impl Display) {
        self.beside("warning", Look::Bad, text);
    }

    fn beside(&self, kind: &str, look: Look, text: impl Display) {
        let line = if self.json {
            serde_json::json!({ kind: text.to_string() }).to_string()
        } else {
            self.paint(To::Err, look, text)
        };
        // Nobody is harmed if nobody can read it.
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Text that stands out where there are colours.
    pub(crate) fn paint(&self, to: To, look: Look, text: impl Display) -> String {
        let colours = match to {
            To::Out => self.out_colours,
            To::Err => self.err_colours,
        };
        if !colours {
            return text.to_string();
        }
        let style = match look {
            Look::Dim => Style::new().dimmed(),
            Look::Name => AnsiColor::Cyan.on_default(),
            Look::Good => AnsiColor::Green.on_default(),
            Look::Bad => AnsiColor::Red.on_default(),
            Look::Strong => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// Rewrites the one line that shows how far something has come, on a terminal.
    pub(crate) fn progress(&self, text: impl Display) {
        if io::stderr().is_terminal() && !self.json {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Takes that line away.
    pub(crate) fn progress_done(&self) {
        self.progress("");
    }
}

/// Prints why a command failed.
pub(crate) fn failure(failure: &Failure, json: bool) {
    let output = Output::new(json);
    let mut err = io::stderr().lock();
    let _ = if json {
        let next = failure.next.as_deref();
        writeln!(err, "{}", serde_json::json!({ "error": failure.message, "next": next }))
    } else {
        let head = output.paint(To::Err, Look::Bad, "error:");
        writeln!(err, "{head} {}", failure.message).and_then(|()| match &failure.next {
            Some(next) => writeln!(err, "  next: {next}"),
            None => Ok(()),
        })
    };
}

/// How a command ends that has printed what it found: well also if nobody wanted to read all of it.
pub(crate) fn printed(result: io::Result<()>, code: ExitCode) -> Result<ExitCode, Failure> {
    match result {
        Err(error) if !is_reader_gone(&error) => Err(error.into()),
        _ => Ok(code),
    }
}

/// Whether an error only says that the reader of our output has gone, as `net sub … | head -1` makes it.
pub(crate) fn is_reader_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
