//! Why a command failed, and which command to try next.

use std::process::ExitCode;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is wrong, lower case, without full stop.
    pub(crate) message: String,
    /// What to do about it: a command, or a sentence with one in backticks.
    pub(crate) next: Option<String>,
    /// Whether the command was given wrongly (exit code 2), rather than carried out in vain (1).
    pub(crate) usage: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), next: None, usage: false }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(message) }
    }

    pub(crate) fn next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

/// An error with all its sources, as one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some errors repeat their source in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

impl From<net::state::StateError> for Failure {
    fn from(error: net::state::StateError) -> Self {
        use net::identity::secret_file::SecretFileError;
        use net::state::StateError;
        let next = match &error {
            StateError::NoHome => "give a directory: `net --dir DIRECTORY …`, or set NET_DIR".to_owned(),
            StateError::Mode { path, .. } => format!("`chmod 700 {}`", path.display()),
            StateError::File(SecretFileError::Mode { path, .. }) => format!("`chmod 600 {}`", path.display()),
            StateError::Damaged { path, .. } => {
                format!("`mv {0} {0}.damaged`, then the same command again", path.display())
            }
            StateError::NotADirectory(_) => "choose another place: `net --dir DIRECTORY …`".to_owned(),
            StateError::Locked { .. } => "wait until that process ends, or stop it".to_owned(),
            _ => "`net doctor` looks at the directory and the network".to_owned(),
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<net::StartError> for Failure {
    fn from(error: net::StartError) -> Self {
        match error {
            net::StartError::State(error) => error.into(),
            net::StartError::OtherMesh { .. } => Self::new(chain(&error))
                .next("`net --dir OTHER join TICKET`, or `net join --replace TICKET` to leave the present mesh"),
            net::StartError::Bind(_) => Self::new(chain(&error))
                .next("another address: `--listen 0.0.0.0:0`; `net doctor` looks at the network"),
            error => Self::new(chain(&error)).next("`net doctor` looks at the directory and the network"),
        }
    }
}

impl From<net::channel::CursorFileError> for Failure {
    fn from(error: net::channel::CursorFileError) -> Self {
        use net::channel::CursorFileError;
        match &error {
            CursorFileError::InUse(name) => {
                Self::new(format!("another `net sub --resume {name}` runs on this directory"))
                    .next("wait until it ends, or choose another name")
            }
            CursorFileError::Damaged(path) => Self::new(format!("{} is damaged", path.display()))
                .next(format!("`rm {}`, and say with --from where to begin", path.display())),
            CursorFileError::Name(_) => Self::usage(chain(&error)).next("a name, for example `--resume billing`"),
            _ => Self::new(chain(&error)).next("`net doctor` looks at the directory"),
        }
    }
}

impl From<net::channel::FilterError> for Failure {
    fn from(error: net::channel::FilterError) -> Self {
        let mut message = format!("not a filter: {error}");
        for line in error.pointer().lines() {
            message.push_str("\n  ");
            message.push_str(line);
        }
        Self::usage(message).next("filters look like 'mag > 4 && place.contains(\"Alaska\")': `net sub --help`")
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}
