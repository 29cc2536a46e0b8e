//! Errors of the sources, each with the path of the file.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a file gave no figure.
#[derive(Debug)]
pub enum SourceError {
    /// The file could not be opened or read.
    Io { path: PathBuf, error: io::Error },
    /// The file was read and did not match its format.
    Malformed {
        path: PathBuf,
        expected: &'static str,
    },
    /// The process was moved to another cgroup, so different limits apply from now on.
    Moved { path: PathBuf, cgroup: String },
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::Malformed { path, expected } => {
                write!(f, "{}: expected {expected}", path.display())
            }
            Self::Moved { path, cgroup } => {
                write!(f, "{}: moved to cgroup {cgroup}", path.display())
            }
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::Malformed { .. } | Self::Moved { .. } => None,
        }
    }
}
