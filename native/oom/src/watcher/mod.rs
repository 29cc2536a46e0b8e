//! The thread that looks at memory and says when the level changes.
//!
//! [`Watcher::spawn`] takes the first sample on the calling thread, so that there is a report
//! from the start, and then leaves the [`Source`] and the [`Sink`] to a thread of their own.
//! What a sample means is decided in `engine`, without threads and with the time passed in;
//! `rest` says when looks may become rare; `thread` obeys what it finds in its `inbox`; `report` is
//! what both sides of it read.

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

/// Everything that can be chosen about a watcher.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Config {
    pub watermarks: Watermarks,
    pub times: TimeToExhaustion,
    pub hold: Hold,
    pub pace: Pace,
}

/// A monotonic clock. Passed in, so that tests need not wait.
pub trait Clock: Send {
    /// The time since some fixed moment.
    fn now(&self) -> Duration;
}

/// The clock of the system, from the moment it was made.
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

/// Where a watcher says what it sees. Called on the watcher's thread; must not block.
pub trait Sink: Send {
    /// The level is another than the one said before, which was normal to begin with.
    fn level_changed(&mut self, report: &Report) -> Result<(), SinkClosed>;

    /// The level is still critical, or will be very soon, and the previous tick has been
    /// acknowledged.
    fn tick(&mut self, report: &Report) -> Result<(), SinkClosed>;

    /// A source has a problem it had not reported before.
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

/// What a watcher can be told while it runs. Each is followed by a sample at once.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Our own usage as measured elsewhere.
    Feed(u64),
    /// How much of what we use is free inside the allocator, see [`crate::slack`].
    Slack(u64),
    /// Whether there are workers. It is taken for granted until this says otherwise.
    Workers(bool),
    Reconfigure(Config),
    Sample,
    Stop,
}

#[cfg(test)]
mod testing;
