//! Running other programs: quietly for their output, aloud, or aloud while reading along.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A cargo to be run in `dir`.
pub(crate) fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir);
    command
}

/// Runs it with our terminal and fails if it fails.
pub(crate) fn aloud(command: &mut Command) -> Result<()> {
    // On stderr, so that what the command itself prints can be piped on (`--json`).
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs it and gives what it wrote to stdout; what it wrote to stderr is in the error, if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("start {}", shown(command)))?;
    if !out.status.success() {
        bail!("{} failed ({}): {}", shown(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    String::from_utf8(out.stdout).with_context(|| format!("{} wrote something that is not UTF-8", shown(command)))
}

/// Runs it with stdout and stderr in one stream, and hands each line on. Gives its exit code, if it ended by itself.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<Option<i32>> {
    println!("$ {}", shown(command));
    let (reader, writer) = io::pipe().context("open a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("open a pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("start {}", shown(command)))?;
    // The command keeps its copies of the pipe's writing end; without this the reader would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).context("read what the program writes")? == 0 {
            break;
        }
        each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
    }
    Ok(child.wait().context("wait for the program")?.code())
}

/// Prints a line at once, also into a pipe.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Whoever reads may have gone (`| head`); that is no failure of what runs here.
    _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Is `cargo <subcommand>` there?
pub(crate) fn has(dir: &Path, subcommand: &str) -> bool {
    cargo(dir)
        .args([subcommand, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let mut words =
        vec![Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        if arg.contains([' ', '(', '|']) { format!("'{arg}'") } else { arg.into_owned() }
    }));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_from_both_streams_with_the_exit_code() {
        let mut seen = Vec::new();
        let code = lines(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 7"]), |line| {
            seen.push(line.to_owned());
        })
        .expect("sh starts");
        seen.sort();
        assert_eq!(seen, ["one", "two"]);
        assert_eq!(code, Some(7));
    }

    #[test]
    fn a_failing_command_is_an_error_that_says_what_it_wrote() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 1"])).expect_err("exit 1");
        assert!(error.to_string().contains("reason"), "{error}");
    }
}
