//! Processes of `net` and what they print.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// What does not happen within this time does not happen. It is never waited for in vain when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

/// A place for state directories, gone when it is dropped.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("net-e2e-").tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node { dir: self.path().join(name), home: self.path().to_owned() }
    }
}

/// A state directory, and the commands that are typed for it.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    home: PathBuf,
}

/// What a command that has ended has said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As it was typed.
    pub(crate) what: String,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Its standard output, if it has done what was asked.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }
}

impl Node {
    /// The command with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_net"));
        command
            .args(args)
            .env("NET_DIR", &self.dir)
            .env("NET_LISTEN", "127.0.0.1:0")
            .env("NET_NO_MDNS", "1")
            .env("HOME", &self.home)
            .env("XDG_STATE_HOME", &self.home)
            .env_remove("NET_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Running::spawn(self.command(args)).end()
    }

    /// Starts it.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running::spawn(self.command(args))
    }

    /// Starts it with an input to write to.
    pub(crate) fn start_fed(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        Running::spawn(command)
    }

    /// Starts `net sub` and waits until it has subscribed.
    pub(crate) fn subscribe(&self, args: &[&str]) -> Running {
        let mut sub = self.start(&[&["sub"], args].concat());
        sub.wait_for_err("subscribed to");
        sub
    }

    /// Starts `net up` and waits until it is up.
    pub(crate) fn up(&self) -> Running {
        let mut up = self.start(&["up"]);
        up.wait_for("is up");
        up
    }

    /// Asks until it is linked to somebody.
    pub(crate) fn wait_for_link(&self) {
        until("there is a link", || self.run(&["peers", "--json"]).ok().contains("\"linked\":true"));
    }

    pub(crate) fn ticket(&self) -> String {
        self.run(&["ticket"]).ok().trim().to_owned()
    }

    pub(crate) fn join(&self, ticket: &str) {
        self.run(&["join", ticket]).ok();
    }
}

/// A command as one would type it. Tickets are secrets, and long.
fn typed(command: &Command) -> String {
    let dir =
        command.get_envs().find(|(name, _)| *name == "NET_DIR").and_then(|(_, value)| Path::new(value?).file_name());
    let dir = dir.map(|dir| dir.to_string_lossy().into_owned()).filter(|dir| dir != "a" && dir.len() < 20);
    let mut words: Vec<String> = dir.map(|dir| format!("NET_DIR={dir}")).into_iter().collect();
    words.push("net".to_owned());
    words.extend(command.get_args().map(|arg| match arg.to_string_lossy() {
        arg if arg.starts_with("net1") && arg.len() > 40 => "TICKET".to_owned(),
        arg if arg.is_empty() || arg.contains([' ', '*', '"', '{', '!']) => format!("'{arg}'"),
        arg => arg.into_owned(),
    }));
    words.join(" ")
}

enum Line {
    Out(String),
    Err(String),
}

/// A command that runs. It is killed when it is dropped.
pub(crate) struct Running {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    out: Vec<String>,
    err: Vec<String>,
    /// Lines of the output that have been waited for.
    out_seen: usize,
    err_seen: usize,
    what: String,
}

impl Running {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let what = typed(&command);
        println!("$ {what}");
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary is there");
        let (sender, lines) = channel();
        let out = BufReader::new(process.stdout.take().expect("piped"));
        let err = BufReader::new(process.stderr.take().expect("piped"));
        let sender_err = sender.clone();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| sender.send(Line::Out(l))));
        std::thread::spawn(move || err.lines().map_while(Result::ok).try_for_each(|l| sender_err.send(Line::Err(l))));
        let stdin = process.stdin.take();
        Self { process, stdin, lines, out: vec![], err: vec![], out_seen: 0, err_seen: 0, what }
    }

    /// Takes what has come; false at the end of the output or of the time.
    fn take(&mut self, deadline: Instant) -> Result<(), RecvTimeoutError> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))? {
            Line::Out(line) => self.out.push(line),
            Line::Err(line) => self.err.push(line),
        }
        Ok(())
    }

    /// Waits for a line of the output with this in it, after those that were waited for before.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            while let Some(line) = self.out.get(self.out_seen) {
                self.out_seen += 1;
                if line.contains(part) {
                    return line.clone();
                }
            }
            if let Err(why) = self.take(deadline) {
                panic!("`{}` did not print {part:?} ({why}): {:?} {:?}", self.what, self.out, self.err);
            }
        }
    }

    /// Waits for a line of the output with this in it, wherever it stands.
    #[track_caller]
    pub(crate) fn wait_for_anywhere(&mut self, part: &str) -> String {
        self.out_seen = 0;
        self.wait_for(part)
    }

    /// Waits until so many lines of output have come.
    #[track_caller]
    pub(crate) fn wait_for_lines(&mut self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.out.len() < count {
            if let Err(why) = self.take(deadline) {
                panic!("`{}` printed {} of {count} lines ({why}): {:?}", self.what, self.out.len(), self.err);
            }
        }
    }

    /// Waits for a line of the error output with this in it, after those that were waited for before.
    #[track_caller]
    pub(crate) fn wait_for_err(&mut self, part: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            while let Some(line) = self.err.get(self.err_seen) {
                self.err_seen += 1;
                if line.contains(part) {
                    return line.clone();
                }
            }
            if let Err(why) = self.take(deadline) {
                panic!("`{}` did not say {part:?} ({why}): {:?} {:?}", self.what, self.out, self.err);
            }
        }
    }

    pub(crate) fn feed(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("started with an input");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("it reads");
    }

    pub(crate) fn end_of_input(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// As by `kill -9`, waited for.
    pub(crate) fn kill(mut self) {
        self.kill_now();
    }

    /// As by `kill -9`, waited for; what it has printed is still there.
    pub(crate) fn kill_now(&mut self) {
        println!("$ kill -9  # {}", self.what);
        self.signal(Signal::KILL);
        self.process.wait().expect("it was started");
    }

    /// Ends it as Ctrl-C in a service manager does, and gives all that it has printed.
    #[track_caller]
    pub(crate) fn terminated(self) -> String {
        self.signal(Signal::TERM);
        self.end().ok()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.take(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("`{}` did not end: {:?} {:?}", self.what, self.out, self.err)
                }
            }
        }
        let code = self.process.wait().expect("it was started").code();
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect();
        Ended { what: self.what.clone(), code, out: text(&self.out), err: text(&self.err) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        std::thread::yield_now();
    }
}

/// It failed with this code, said this, and pointed to that.
#[track_caller]
pub(crate) fn check(ended: &Ended, code: i32, says: &str, next: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.err.contains(says), "it should say {says:?}: {ended:?}");
    assert!(ended.err.contains(next), "it should point to {next:?}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    assert_eq!(ended.out, "", "nothing but results goes to the standard output");
    // Counted by `cargo xtask e2e cli`.
    println!("wrong use: {} -> {code}, says {says:?}, points to {next:?}", ended.what);
}
