//! The one error type. Every message names the two things that disagree and what to do about it.

use std::path::{Path, PathBuf};

use crate::image::Reject;
use crate::msg::CdrError;

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can stop a command, a start-up or a frame. `main` prints the chain and picks the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A YAML file that does not parse into its struct (unknown key, wrong type, missing key).
    #[error("{}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Line, column and key.
        source: serde_yaml::Error,
    },
    /// A file whose content is not what its kind promises (cut short, wrong magic, lying lengths).
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A setting outside what is allowed.
    #[error("`{key}` is {value}, allowed: {allowed}")]
    Setting {
        /// The key as written in the file or on the command line.
        key: String,
        /// The value found.
        value: String,
        /// The range or list of values allowed, and what to do.
        allowed: String,
    },
    /// Several settings that are wrong, each as it would be told alone.
    #[error("{}", .0.iter().map(Error::chain).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A tensor that is missing, left over, of another shape or of another type than the architecture says.
    #[error("{}: `{tensor}` is {found}, expected {expected}", path.display())]
    Tensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's key.
        tensor: String,
        /// Shape and type found, or `missing`.
        found: String,
        /// Shape and type expected, or `no such tensor`.
        expected: String,
    },
    /// This frame cannot be processed; the next one may.
    #[error("image refused ({name}): {0}", name = .0.name())]
    Frame(#[from] Reject),
    /// The node was told not to segment.
    #[error("switched off by ~/enable")]
    Disabled,
    /// Frames take too long, whatever is left out.
    #[error("frames take longer than budget_ms, even those of the segmentor alone; a pause")]
    TooSlow,
    /// The node is not in the state in which it segments.
    #[error("the node is not active: ros2 lifecycle set <node> configure, then activate")]
    Inactive,
    /// A message that is not the CDR it should be.
    #[error(transparent)]
    Cdr(#[from] CdrError),
    /// libtorch failed while doing `what`.
    #[error("{what}: {problem}")]
    Torch {
        /// The operation of ours.
        what: &'static str,
        /// The first line of libtorch's message.
        problem: String,
    },
    /// The network's result has pixels that are not numbers; it must not be published.
    #[error(
        "{what} is not a finite number in {bad} of {of} pixels; the weights or the device are broken"
    )]
    NotFinite {
        /// The score.
        what: &'static str,
        /// Pixels that are NaN or infinite.
        bad: i64,
        /// All pixels.
        of: usize,
    },
    /// The network does not answer known pictures as it did; no mask of it is to be trusted.
    #[error("self-test: {0}; the weights or the device are broken")]
    SelfTest(String),
    /// Our own code failed on a frame.
    #[error("a defect of this program: {problem}")]
    Panicked {
        /// The text of the panic.
        problem: String,
    },
    /// The ROS 2 side failed while doing `what`.
    #[error("{what}: {problem}")]
    Ros {
        /// The operation of ours, with the topic.
        what: String,
        /// What ros2-client or RustDDS said.
        problem: String,
    },
}

impl Error {
    /// Wraps an I/O error with the file it is about; for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// A file whose content is wrong: `problem` says what was found and what was expected.
    pub fn bad_file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::BadFile { path: path.as_ref().to_path_buf(), problem: problem.into() }
    }

    /// A setting outside its range.
    pub fn setting(
        key: impl Into<String>,
        value: &(impl ToString + ?Sized),
        allowed: impl Into<String>,
    ) -> Self {
        Self::Setting { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }

    /// The exit code of a running node that ends because of it, see `main.rs`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Torch { .. } | Self::NotFinite { .. } | Self::SelfTest(_) => 71,
            Self::Setting { .. } => 78,
            _ => 70,
        }
    }

    /// The whole chain on one line, `a: b: c`, for the user's eye.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        text
    }
}
