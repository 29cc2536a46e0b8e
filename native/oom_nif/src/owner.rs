//! The sink sending messages to the owner of the watcher.

use std::time::Duration;

use oom::error::SourceError;
use oom::watcher::{Report, Sink, SinkClosed};
use rustler::{Atom, Encoder, LocalPid, OwnedEnv};

use crate::atoms;
use crate::report::ReportMap;

/// Sends `{:oom_watch, kind, payload}`. Lives on the watcher's thread, outside of the VM's
/// management, so `send_and_clear` may be used.
pub(crate) struct Owner {
    pid: LocalPid,
    /// Reused, so a message costs no allocation of an environment.
    env: OwnedEnv,
}

impl Owner {
    pub(crate) fn new(pid: LocalPid) -> Self {
        Self {
            pid,
            env: OwnedEnv::new(),
        }
    }

    fn send(&mut self, kind: Atom, payload: impl Encoder) -> Result<(), SinkClosed> {
        self.env
            .send_and_clear(&self.pid, |env| {
                (atoms::oom_watch(), kind, payload).encode(env)
            })
            .map_err(|_| SinkClosed)
    }
}

impl Sink for Owner {
    fn level_changed(&mut self, report: &Report) -> Result<(), SinkClosed> {
        self.send(atoms::level(), ReportMap::new(report, Duration::ZERO))
    }

    fn tick(&mut self, report: &Report) -> Result<(), SinkClosed> {
        self.send(atoms::tick(), ReportMap::new(report, Duration::ZERO))
    }

    fn problem(&mut self, error: &SourceError) {
        // A closed owner is noticed with the next important message, and by its monitor.
        let _ = self.send(atoms::problem(), error.to_string());
    }

    fn died(&mut self) {
        let _ = self.send(atoms::down(), "the watcher's thread panicked");
    }
}
