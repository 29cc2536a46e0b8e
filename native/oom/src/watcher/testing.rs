//! A source and a sink that tests hold the other end of.

use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::SourceError;
use crate::level::Level;
use crate::reading::{Kind, Reading, Sample, Source};

use super::{Clock, Report, Sink, SinkClosed};

pub(super) const LIMIT: u64 = 1_000_000_000;

/// The clock that moves when told to.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeClock(Arc<Mutex<Duration>>);

impl FakeClock {
    pub(super) fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        *self.0.lock()
    }
}

#[derive(Debug, Default)]
struct Script {
    used: Option<u64>,
    problems: usize,
    panics: bool,
}

/// A source of one configured limit, and the test's hold on it.
#[derive(Clone, Debug, Default)]
pub(super) struct FakeSource(Arc<Mutex<Script>>);

impl FakeSource {
    pub(super) fn using(used: u64) -> Self {
        let source = Self::default();
        source.set(Some(used));
        source
    }

    pub(super) fn set(&self, used: Option<u64>) {
        self.0.lock().used = used;
    }

    pub(super) fn have_problem(&self) {
        self.0.lock().problems += 1;
    }

    pub(super) fn panic_next(&self) {
        self.0.lock().panics = true;
    }
}

impl Source for FakeSource {
    fn sample(&mut self) -> Sample {
        let script = self.0.lock();
        #[allow(clippy::panic)]
        if script.panics {
            panic!("as the test asked");
        }
        let binding = script.used.map(|used| Reading {
            kind: Kind::Configured,
            limit_bytes: LIMIT,
            usage_bytes: used,
            reclaimable_bytes: 0,
            working_set_bytes: used,
            file: None,
            cgroup: None,
        });
        Sample {
            binding,
            rss_bytes: script.used,
            ..Sample::default()
        }
    }

    fn feed(&mut self, usage_bytes: u64) {
        self.set(Some(usage_bytes));
    }

    fn take_problem(&mut self) -> Option<SourceError> {
        let mut script = self.0.lock();
        script.problems = script.problems.checked_sub(1)?;
        Some(SourceError::Malformed {
            path: PathBuf::from("/fake"),
            expected: "a figure",
        })
    }
}

/// What a sink was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Level(Level),
    Tick,
    Problem,
    Died,
}

/// A sink that passes on what it is told; closed once the test drops the other end.
#[derive(Debug)]
pub(super) struct FakeSink(Sender<Told>);

pub(super) fn sink() -> (FakeSink, Receiver<Told>) {
    let (told, heard) = channel();
    (FakeSink(told), heard)
}

impl Sink for FakeSink {
    fn level_changed(&mut self, report: &Report) -> Result<(), SinkClosed> {
        self.0
            .send(Told::Level(report.level))
            .map_err(|_| SinkClosed)
    }

    fn tick(&mut self, _report: &Report) -> Result<(), SinkClosed> {
        self.0.send(Told::Tick).map_err(|_| SinkClosed)
    }

    fn problem(&mut self, _error: &SourceError) {
        let _ = self.0.send(Told::Problem);
    }

    fn died(&mut self) {
        let _ = self.0.send(Told::Died);
    }
}
