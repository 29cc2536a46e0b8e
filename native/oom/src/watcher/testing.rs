//! A source and a sink for tests, each with a handle on the far end.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::SourceError;
use crate::event::Event;
use crate::level::Level;
use crate::reading::{Kind, Reading, Sample, Source};

use super::{Clock, Report, Sink, SinkClosed};

pub(super) const LIMIT: u64 = 1_000_000_000;

/// A clock that moves only when told to.
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
    /// The requested steps; the last step while the bell is up.
    steps: Vec<u64>,
    step: Option<u64>,
    /// No bell is available.
    mute: bool,
}

/// A source of one configured limit, and the test's handle on the source.
#[derive(Clone, Debug)]
pub(super) struct FakeSource(Arc<Mutex<Script>>, Option<Arc<Event>>);

impl Default for FakeSource {
    fn default() -> Self {
        Self(Arc::default(), Event::new().ok().map(Arc::new))
    }
}

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

    pub(super) fn mute(&self) {
        self.0.lock().mute = true;
    }

    /// The requested steps, each once while a bell was up.
    pub(super) fn steps(&self) -> Vec<u64> {
        self.0.lock().steps.clone()
    }

    pub(super) fn is_listening(&self) -> bool {
        self.0.lock().step.is_some()
    }

    pub(super) fn ring(&self) {
        if let Some(event) = &self.1 {
            event.ring();
        }
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

    fn listen(&mut self, step_bytes: u64) -> bool {
        let mut script = self.0.lock();
        if !script.mute && script.step.is_none() {
            script.step = Some(step_bytes);
            script.steps.push(step_bytes);
        }
        !script.mute
    }

    fn deafen(&mut self) {
        if let (Some(_), Some(event)) = (self.0.lock().step.take(), &self.1) {
            event.clear();
        }
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        let up = self.0.lock().step.is_some();
        self.1.as_ref().filter(|_| up).map(|event| event.fd())
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

/// A message to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Level(Level),
    Tick,
    Problem,
    Died,
}

/// A sink that passes every message on. Closed once the test drops the receiver.
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
