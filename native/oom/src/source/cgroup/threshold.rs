//! A threshold of usage at which the kernel rings (`cgroup.event_control` of v1; see
//! Documentation/admin-guide/cgroup-v1/memory.rst, section 9).
//!
//! The kernel compares usage with its thresholds each 128 pages a CPU charges or gives back, and
//! signals every passed threshold, up or down. Registering a threshold waits for a grace period of
//! RCU (5 to 16 ms here), so a separate thread registers, and the watcher looks at its usual pace
//! meanwhile. Closing the event removes the threshold.
//!
//! Where the files cannot be opened or written no threshold exists, and no problem is reported.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::event::Event;

/// Time until the next attempt after a failure: a descriptor may have been missing.
const AGAIN: Duration = Duration::from_secs(60);

/// Enough for a path and two calls.
const STACK_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Threshold {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Off,
    Refused {
        at: Instant,
        usage: Arc<Path>,
    },
    Registering {
        thread: JoinHandle<io::Result<()>>,
        set: Set,
    },
    On(Set),
}

/// A registered threshold, or a threshold being registered.
#[derive(Debug)]
struct Set {
    event: Arc<Event>,
    /// The usage file of the threshold.
    usage: Arc<Path>,
    at_bytes: u64,
    step_bytes: u64,
}

impl Set {
    /// Whether usage is so far below the threshold, that a nearer threshold would be better.
    fn is_far_from(&self, usage_bytes: u64) -> bool {
        usage_bytes.saturating_add(self.step_bytes.saturating_mul(3)) < self.at_bytes
    }
}

impl Threshold {
    /// Ensures a threshold on this file `step_bytes` above `usage_bytes`, or not much farther
    /// away. Returns whether the threshold is registered. Read usage after [`Threshold::settle`]:
    /// a threshold passed before its registration does not signal on the way up.
    pub(super) fn set(&mut self, usage: &Arc<Path>, usage_bytes: u64, step_bytes: u64) -> bool {
        match &self.state {
            State::On(set) if *set.usage != **usage || set.is_far_from(usage_bytes) => {}
            State::On(set) if set.at_bytes <= usage_bytes => {}
            State::On(_) => return true,
            State::Registering { .. } => return false,
            State::Refused { at, usage: refused }
                if **refused == **usage && at.elapsed() < AGAIN =>
            {
                return false;
            }
            State::Off | State::Refused { .. } => {}
        }
        self.register(usage, usage_bytes.saturating_add(step_bytes), step_bytes);
        false
    }

    /// Removes the threshold. A threshold still being registered is removed later.
    pub(super) fn clear(&mut self) {
        self.settle();
        if let State::On(_) = self.state {
            self.state = State::Off;
        }
    }

    /// A descriptor, readable once usage has passed the threshold.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::On(set) => Some(set.event.fd()),
            _ => None,
        }
    }

    fn register(&mut self, usage: &Arc<Path>, at_bytes: u64, step_bytes: u64) {
        let started = Event::new().and_then(|event| {
            let event = Arc::new(event);
            let (its_event, its_usage) = (Arc::clone(&event), Arc::clone(usage));
            let thread = Builder::new()
                .name("oom_threshold".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || register(&its_event, &its_usage, at_bytes))?;
            Ok((thread, event))
        });
        self.state = match started {
            Ok((thread, event)) => State::Registering {
                thread,
                set: Set {
                    event,
                    usage: Arc::clone(usage),
                    at_bytes,
                    step_bytes,
                },
            },
            Err(_) => State::refused(usage),
        };
    }

    /// Takes the result of a finished registration.
    pub(super) fn settle(&mut self) {
        if matches!(&self.state, State::Registering { thread, .. } if thread.is_finished()) {
            self.join();
        }
    }

    fn join(&mut self) {
        if let State::Registering { thread, set } = std::mem::take(&mut self.state) {
            self.state = match thread.join() {
                Ok(Ok(())) => State::On(set),
                _ => State::refused(&set.usage),
            };
        }
    }
}

impl Drop for Threshold {
    /// The thread must not outlive the library containing its code.
    fn drop(&mut self) {
        self.join();
    }
}

impl State {
    fn refused(usage: &Arc<Path>) -> Self {
        Self::Refused {
            at: Instant::now(),
            usage: Arc::clone(usage),
        }
    }
}

fn register(event: &Event, usage: &Path, at_bytes: u64) -> io::Result<()> {
    let directory = usage.parent().map(PathBuf::from).unwrap_or_default();
    let mut control = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(directory.join("cgroup.event_control"))?;
    let usage = File::open(usage)?;
    let line = format!(
        "{} {} {at_bytes}",
        event.fd().as_raw_fd(),
        usage.as_raw_fd()
    );
    control.write_all(line.as_bytes())
}
