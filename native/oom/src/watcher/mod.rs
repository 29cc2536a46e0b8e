//! The thread that looks at memory and tells when the level changes.
//!
//! [`Watcher::spawn`] takes the first sample on the calling thread, so a report exists from the
//! start, and then leaves the [`Source`] and the [`Sink`] to a new thread. `engine` judges
//! samples, without threads and with the time passed in; `rest` says when looks may become rare;
//! `thread` obeys the commands in its `inbox`; `report` holds the figures shared between the
//! threads.

mod engine;
mod inbox;
mod report;
mod rest;
mod sys;
mod thread;

use std::fmt;
use std::time::{Duration, Instant};

use crate::error::SourceError;
use crate::level::Hold;
use crate::pace::Pace;
use crate::watermarks::{TimeToExhaustion, Watermarks};

pub use report::{Report, Shared};
pub use thread::Watcher;

#[cfg(doc)]
use crate::reading::Source;

/// The options of a watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Config {
    pub watermarks: Watermarks,
    pub times: TimeToExhaustion,
    pub hold: Hold,
    pub pace: Pace,
}

/// A monotonic clock. Passed in, so tests need not wait.
pub trait Clock: Send {
    /// The time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The clock of the system, from its creation on.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The receiver of a watcher's messages. Called on the watcher's thread; must not block.
pub trait Sink: Send {
    /// The level differs from the level announced before (normal at the start).
    fn level_changed(&mut self, report: &Report) -> Result<(), SinkClosed>;

    /// The level is still critical, or will be very soon, and the previous tick has been
    /// acknowledged.
    fn tick(&mut self, report: &Report) -> Result<(), SinkClosed>;

    /// A source has a problem not reported before.
    fn problem(&mut self, error: &SourceError);

    /// The thread ends by a panic: nothing is watched any more.
    fn died(&mut self);
}

/// Nobody listens any more: the watcher ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkClosed;

impl fmt::Display for SinkClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody listens to the watcher any more")
    }
}

impl std::error::Error for SinkClosed {}

/// Commands to a running watcher. A sample follows each at once.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// The usage of this process as measured elsewhere.
    Feed(u64),
    /// Used bytes free inside the allocator, see [`crate::slack`].
    Slack(u64),
    /// Whether there are workers. True until told otherwise.
    Workers(bool),
    Reconfigure(Config),
    Sample,
    Stop,
}

#[cfg(test)]
mod testing;
