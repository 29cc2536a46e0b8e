//! A file of the kernel, kept open and read from its start at every sample.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::SourceError;

/// Larger than any file read at every sample: `memory.stat` and `meminfo` have 1 to 3 KiB.
pub(super) const BUFFER_BYTES: usize = 8 << 10;

/// State shared by the sources during a look: the buffer, and the first problem.
#[derive(Debug)]
pub(super) struct Look {
    buffer: Box<[u8]>,
    problem: Option<SourceError>,
    /// A formerly readable file is unreadable now.
    pub(super) lost: bool,
}

impl Look {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into(),
            problem: None,
            lost: false,
        }
    }

    /// Keeps the problem unless a problem is already waiting; returns whether it was kept.
    pub(super) fn note(&mut self, problem: SourceError) -> bool {
        let free = self.problem.is_none();
        if free {
            self.problem = Some(problem);
        }
        free
    }

    pub(super) fn take_problem(&mut self) -> Option<SourceError> {
        self.problem.take()
    }
}

#[derive(Debug)]
enum Handle {
    /// To be opened at the next read.
    Closed,
    Open(File),
    /// Could not be opened or read; tried again after the next `refresh`.
    Missing,
}

#[derive(Debug)]
pub(super) struct KernelFile {
    path: Arc<Path>,
    handle: Handle,
    /// The last read gave a figure.
    good: bool,
    /// The present trouble has been reported.
    reported: bool,
}

impl KernelFile {
    /// Opens nothing before the first read: unneeded files cost no descriptor.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: path.into(),
            handle: Handle::Closed,
            good: false,
            reported: false,
        }
    }

    pub(super) fn path(&self) -> Arc<Path> {
        Arc::clone(&self.path)
    }

    /// Whether the file does not exist, which need not be wrong: not every kernel has every file.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.handle, Handle::Missing)
    }

    /// Reads the file and lets `parse` find the figure. Notes a problem in `look`, once.
    pub(super) fn get<T>(
        &mut self,
        look: &mut Look,
        expected: &'static str,
        parse: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<T> {
        match self.read(&mut look.buffer) {
            Ok(Some(bytes)) => {
                let figure = parse(bytes);
                self.good = figure.is_some();
                if figure.is_none() {
                    let path = self.path.to_path_buf();
                    self.report(look, SourceError::Malformed { path, expected });
                }
                figure
            }
            Ok(None) => None,
            Err(error) => {
                self.handle = Handle::Missing;
                let was_good = std::mem::take(&mut self.good);
                look.lost |= was_good;
                if was_good || !is_absence(&error) {
                    let path = self.path.to_path_buf();
                    self.report(look, SourceError::Io { path, error });
                }
                None
            }
        }
    }

    /// To be called now and then: retries missing files, closes replaced files.
    pub(super) fn refresh(&mut self) {
        if self.good {
            self.reported = false;
        }
        let stale = match &self.handle {
            Handle::Closed => false,
            Handle::Missing => true,
            // Kernel files answer ENODEV once gone. Files of a fake tree keep their last content,
            // with no name left. A file without a figure may belong to a mount that covered the
            // right file for a while.
            Handle::Open(file) => {
                !self.good || file.metadata().map_or(true, |data| data.nlink() == 0)
            }
        };
        if stale {
            self.handle = Handle::Closed;
        }
    }

    fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        if let Handle::Closed = self.handle {
            self.handle = Handle::Open(File::open(&self.path)?);
        }
        let Handle::Open(file) = &self.handle else {
            return Ok(None);
        };
        loop {
            match file.read_at(buffer, 0) {
                Ok(count) => return Ok(buffer.get(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn report(&mut self, look: &mut Look, problem: SourceError) {
        if !self.reported {
            self.reported = look.note(problem);
        }
    }
}

/// Not there, or there and switched off (PSI answers EOPNOTSUPP under `psi=0`).
fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTDIR))
}
